//! What may be longer than the limits, and why. An entry that is not needed any more fails too.

use std::collections::BTreeSet;

use super::{Rule, Violation};

/// One file or function that may be over its limit.
#[derive(Debug)]
pub(super) struct Exception {
    /// [`Rule::LongFile`] or [`Rule::LongFunction`].
    pub(super) rule: Rule,
    /// `path/to/file.rs`, or `path/to/file.rs::function`.
    pub(super) at: &'static str,
    /// One sentence.
    pub(super) reason: &'static str,
}

/// The project's exceptions.
pub(super) const EXCEPTIONS: &[Exception] = &[Exception {
    rule: Rule::LongFile,
    at: "crates/tombolo-wire/src/generated.rs",
    reason: "generated from the contract, which is read instead",
}];

/// Keeps count of which exceptions were needed.
pub(super) struct Exceptions {
    all: &'static [Exception],
    /// Indices of `all`.
    used: BTreeSet<usize>,
}

impl Exceptions {
    pub(super) fn new(all: &'static [Exception]) -> Self {
        Self {
            all,
            used: BTreeSet::new(),
        }
    }

    /// Whether `at` may break `rule`.
    pub(super) fn allow(&mut self, rule: Rule, at: &str) -> bool {
        let found = self
            .all
            .iter()
            .position(|exception| exception.rule == rule && exception.at == at);
        self.used.extend(found);
        found.is_some()
    }

    pub(super) fn report_unused(&self, violations: &mut Vec<Violation>) {
        for (index, exception) in self.all.iter().enumerate() {
            let message = match exception {
                Exception { reason: "", .. } => "has no reason",
                _ if !self.used.contains(&index) => "is not needed any more; remove it",
                _ => continue,
            };
            violations.push(Violation {
                path: super::EXCEPTIONS.to_owned(),
                line: 0,
                rule: Rule::Exception,
                message: format!("`{}` for {} {message}", exception.at, exception.rule),
            });
        }
    }
}
