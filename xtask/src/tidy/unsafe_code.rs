//! `unsafe` stays where it is allowed, and tests are not switched off.

use super::policy::Policy;
use super::source::Source;
use super::workspace::Package;
use super::{Rule, Violation};

pub(super) fn check(source: &Source, policy: &Policy, violations: &mut Vec<Violation>) {
    let mut report = |line, rule, message: &str| {
        let (path, message) = (source.path.clone(), message.to_owned());
        violations.push(Violation {
            path,
            line,
            rule,
            message,
        });
    };
    let is_allowed = policy.unsafe_paths.iter().any(|allowed| {
        source
            .path
            .strip_prefix(allowed)
            .is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
    });
    for (at, token) in source.tokens.iter().enumerate() {
        if token.is_word("unsafe") && !is_allowed {
            report(
                token.line,
                Rule::Unsafe,
                "unsafe code has its own module, and this is not it",
            );
        }
        if token.is_word("ignore")
            && at >= 2
            && source.tokens[at - 1].is_mark("[")
            && source.tokens[at - 2].is_mark("#")
        {
            let message = "a test runs, or says through `TOMBOLO_SKIP_FILE` why it cannot";
            report(token.line, Rule::Ignored, message);
        }
    }
}

/// Every library and program states that it holds no unsafe code.
pub(super) fn check_roots(package: &Package, policy: &Policy, violations: &mut Vec<Violation>) {
    let level = if policy.unsafe_crates.contains(&package.name.as_str()) {
        "deny"
    } else {
        "forbid"
    };
    let attribute = format!("#![{level}(unsafe_code)]");
    for source in package
        .sources
        .iter()
        .filter(|source| package.roots.contains(&source.path))
    {
        let words = ["#", "!", "[", level, "(", "unsafe_code", ")", "]"];
        let is_stated = source.tokens.windows(words.len()).any(|tokens| {
            tokens
                .iter()
                .zip(words)
                .all(|(token, word)| token.text == word)
        });
        if !is_stated {
            violations.push(Violation {
                path: source.path.clone(),
                line: 0,
                rule: Rule::Unsafe,
                message: format!("the crate lacks `{attribute}`"),
            });
        }
    }
}
