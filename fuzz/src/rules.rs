//! What an operator and a device write: rules of a pool, in TOML or JSON, and queries. Whatever they
//! are, they are read, or refused with a place.

use tombolo_match::{Pool, Query, Rules};

/// Reads `data` as rules and as a query.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match Rules::parse(text) {
        Ok(rules) => drop(Pool::new(rules)),
        Err(error) => {
            let lines = text.split('\n').count();
            assert!(
                error.column > 0 && (1..=lines).contains(&error.line),
                "{error}"
            );
        }
    }
    if let Ok(query) = Query::parse(text) {
        assert_eq!(Query::parse(query.as_str()), Ok(query));
    }
}
