//! The last lines of `cargo xtask test`.

use std::collections::BTreeSet;
use std::fmt;

use crate::parts::Outcome;

/// What passed, failed and was skipped.
#[derive(Debug, Default)]
pub(crate) struct Summary {
    passed: usize,
    /// Part and reason.
    failed: Vec<String>,
    /// Part or test, and reason; the same line said twice counts once.
    skipped: BTreeSet<String>,
}

impl Summary {
    pub(crate) fn add(&mut self, part: &str, outcome: Outcome) {
        match outcome {
            Outcome::Passed => self.passed += 1,
            Outcome::Failed(reason) => self.failed.push(format!("{part} ({reason})")),
            Outcome::Skipped(reason) => _ = self.skipped.insert(format!("{part} ({reason})")),
        }
    }

    /// Takes a line that a test wrote because it cannot run here.
    pub(crate) fn add_skipped_test(&mut self, line: &str) {
        if !line.trim().is_empty() {
            self.skipped.insert(line.trim().to_owned());
        }
    }

    pub(crate) fn has_failed(&self) -> bool {
        !self.failed.is_empty()
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            passed,
            failed,
            skipped,
        } = self;
        if !failed.is_empty() {
            writeln!(f, "failed: {}", failed.join("; "))?;
        }
        write!(
            f,
            "{passed} passed, {} failed, {} skipped",
            failed.len(),
            skipped.len()
        )?;
        if !skipped.is_empty() {
            let skipped: Vec<_> = skipped.iter().map(String::as_str).collect();
            write!(f, "\nskipped: {}", skipped.join("; "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passed_is_counted() {
        let mut summary = Summary::default();
        summary.add("a", Outcome::Passed);
        assert_eq!(summary.to_string(), "1 passed, 0 failed, 0 skipped");
        assert!(!summary.has_failed());
    }

    #[test]
    fn what_was_skipped_is_named_with_its_reason_in_the_last_line() {
        let mut summary = Summary::default();
        summary.add("a", Outcome::Passed);
        summary.add("lab", Outcome::Skipped("no nft".into()));
        summary.add_skipped_test("a test needs IPv6\n");
        summary.add_skipped_test("a test needs IPv6");
        summary.add_skipped_test("");
        assert_eq!(
            summary.to_string(),
            "1 passed, 0 failed, 2 skipped\nskipped: a test needs IPv6; lab (no nft)"
        );
    }

    #[test]
    fn what_failed_is_named_above_the_count() {
        let mut summary = Summary::default();
        summary.add("b", Outcome::Failed("exit status: 1".into()));
        assert_eq!(
            summary.to_string(),
            "failed: b (exit status: 1)\n0 passed, 1 failed, 0 skipped"
        );
        assert!(summary.has_failed());
    }
}
