//! The last things that happened on this thread, to be read when a promise was broken.

use std::cell::RefCell;
use std::collections::VecDeque;

use tokio::time::Instant;

thread_local! {
    static TRACE: RefCell<(Option<Instant>, VecDeque<String>)> = const { RefCell::new((None, VecDeque::new())) };
}

/// Begins anew.
pub(crate) fn begin() {
    TRACE.with_borrow_mut(|trace| *trace = (Some(Instant::now()), VecDeque::new()));
}

/// Notes that something happened.
pub(crate) fn note(what: String) {
    TRACE.with_borrow_mut(|(begun, lines)| {
        let since = begun.map(|begun| begun.elapsed()).unwrap_or_default();
        if lines.len() == LINES_MAX {
            lines.pop_front();
        }
        lines.push_back(format!("  {:9.3} {what}", since.as_secs_f64()));
    });
}

/// The lines that are kept.
pub(crate) fn lines() -> String {
    TRACE.with_borrow(|(_, lines)| lines.iter().cloned().collect::<Vec<_>>().join("\n"))
}

const LINES_MAX: usize = 200;
