//! What happens in the story on this thread, to be read when a promise was broken.

use std::cell::RefCell;

use super::surroundings::story_time;

thread_local! {
    /// `None` while nobody wants to know.
    static LINES: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

/// From now on everything is kept.
pub(crate) fn begin() {
    LINES.set(Some(Vec::new()));
}

/// Notes that something happened, if that is kept.
pub(crate) fn note(what: impl FnOnce() -> String) {
    LINES.with_borrow_mut(|lines| {
        if let Some(lines) = lines {
            lines.push(format!("  {:9.3} {}", story_time().as_secs_f64(), what()));
        }
    });
}

/// All that was kept.
pub(crate) fn end() -> Vec<String> {
    LINES.take().unwrap_or_default()
}
