//! Files and functions stay short enough to read at once.

use super::exceptions::Exceptions;
use super::source::Source;
use super::{Rule, Violation};

pub(super) fn check(source: &Source, exceptions: &mut Exceptions, violations: &mut Vec<Violation>) {
    let mut report = |line, rule, message| {
        violations.push(Violation {
            path: source.path.clone(),
            line,
            rule,
            message,
        });
    };
    let lines = source.production_lines();
    if lines > FILE_LINES_MAX && !exceptions.allow(Rule::LongFile, &source.path) {
        report(
            0,
            Rule::LongFile,
            format!("{lines} lines of code, the limit is {FILE_LINES_MAX}"),
        );
    }
    for function in source.functions() {
        let at = format!("{}::{}", source.path, function.name);
        if function.lines > FUNCTION_LINES_MAX && !exceptions.allow(Rule::LongFunction, &at) {
            let (name, lines) = (function.name, function.lines);
            let message =
                format!("`{name}` has {lines} lines of code, the limit is {FUNCTION_LINES_MAX}");
            report(function.line, Rule::LongFunction, message);
        }
    }
}

/// Lines with code outside of tests; comments and empty lines don't count.
pub(super) const FILE_LINES_MAX: usize = 600;

/// Lines with code from `fn` to the closing brace.
pub(super) const FUNCTION_LINES_MAX: usize = 70;
