//! The subjects of a field's cells.
//!
//! A cell's name is a path: the place of its whole, then which part of that it is, and so on. Nodes split
//! cells as they see them, and need not agree: who speaks uses the cell as it is split there; who listens
//! hears all parts of a cell, and what is said of the wholes that it is a part of.

use tombolo_engine::{Key, KeyError, Pattern};
use tombolo_field::{CellId, Dimensions};
use tombolo_wire::FieldId;

/// Where one speaks of a cell.
pub(super) fn of_cell(
    field: &FieldId,
    dimensions: Dimensions,
    cell: CellId,
) -> Result<Key, KeyError> {
    let path = path(field, dimensions, cell);
    Key::new(path.iter().map(String::as_str).chain([HERE]))
}

/// Where one hears of a cell and of its parts.
pub(super) fn under_cell(
    field: &FieldId,
    dimensions: Dimensions,
    cell: CellId,
) -> Result<Pattern, KeyError> {
    let path = path(field, dimensions, cell);
    Key::new(path.iter().map(String::as_str)).map(Pattern::Under)
}

/// Where one hears of all cells.
pub(super) fn under_field(field: &FieldId, dimensions: Dimensions) -> Result<Pattern, KeyError> {
    Key::new([FIELD, field.as_str(), count(dimensions)]).map(Pattern::Under)
}

fn path(field: &FieldId, dimensions: Dimensions, cell: CellId) -> Vec<String> {
    let whole = cell.lifted(0).at.map(|at| at.to_string());
    let mut path = vec![
        FIELD.to_owned(),
        field.to_string(),
        count(dimensions).to_owned(),
    ];
    path.extend(whole);
    path.extend((1..=cell.level).map(|level| cell.lifted(level).part().to_string()));
    path
}

fn count(dimensions: Dimensions) -> &'static str {
    match dimensions {
        Dimensions::Two => "2",
        Dimensions::Three => "3",
    }
}

/// The first token.
const FIELD: &str = "field";

/// The last one, so that a cell's subject is under the cell.
const HERE: &str = "at";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_under_its_wholes_and_under_nothing_else() {
        let field = FieldId::parse("plaza.1").unwrap();
        let part = CellId {
            level: 3,
            at: [-11, 6, 0],
        };
        let subject = of_cell(&field, Dimensions::Two, part).unwrap();
        assert_eq!(subject.as_str(), "field.plaza=1.2.-2.0.0.3.2.1.at");
        for level in 0..=3 {
            let whole = part.lifted(level);
            let under = under_cell(&field, Dimensions::Two, whole).unwrap();
            assert!(under.matches(&subject), "{whole}");
            let beside = CellId {
                at: [whole.at[0] + 1, whole.at[1], 0],
                ..whole
            };
            let under = under_cell(&field, Dimensions::Two, beside).unwrap();
            assert!(!under.matches(&subject), "{beside}");
        }
        let all = under_field(&field, Dimensions::Two).unwrap();
        assert!(all.matches(&subject));
        let other = under_field(&field, Dimensions::Three).unwrap();
        assert!(!other.matches(&subject));
    }

    #[test]
    fn the_longest_subject_is_a_key() {
        let field = FieldId::parse(&"f".repeat(tombolo_wire::FIELD_BYTES_MAX)).unwrap();
        let cell = CellId {
            level: tombolo_field::LEVELS_MAX,
            at: [i64::MIN; 3],
        };
        assert!(of_cell(&field, Dimensions::Three, cell).is_ok());
    }
}
