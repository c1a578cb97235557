//! Rules of the project that no other tool checks: each one fails here when it is broken.

mod crates;
mod documents;
mod exceptions;
mod hash_maps;
mod lexer;
mod manifests;
mod paths;
mod policy;
mod purity;
mod size;
mod source;
#[cfg(test)]
mod tests;
mod unsafe_code;
mod workspace;

use std::fmt;
use std::path::Path;

use anyhow::bail;

use self::exceptions::Exceptions;
use self::policy::Policy;
use self::workspace::Workspace;

/// Checks the repository at `root` and prints what breaks a rule.
///
/// # Errors
/// When a rule is broken or the workspace cannot be read.
pub(crate) fn run(root: &Path) -> anyhow::Result<()> {
    let violations = check(root, &Policy::tombolo())?;
    for violation in &violations {
        println!("{violation}");
    }
    if !violations.is_empty() {
        bail!(
            "{} violations; what may break a size rule is listed, with its reason, in {EXCEPTIONS}",
            violations.len()
        );
    }
    Ok(())
}

/// What breaks a rule in the repository at `root`, in order of place.
fn check(root: &Path, policy: &Policy) -> anyhow::Result<Vec<Violation>> {
    let workspace = Workspace::read(root)?;
    let mut exceptions = Exceptions::new(policy.exceptions);
    let mut violations = Vec::new();
    crates::check(&workspace, policy, &mut violations);
    manifests::check(&workspace, &mut violations);
    for package in &workspace.packages {
        let is_core = policy.is_core(&package.name);
        for source in &package.sources {
            size::check(source, &mut exceptions, &mut violations);
            unsafe_code::check(source, policy, &mut violations);
            if is_core {
                purity::check(source, &mut violations);
                hash_maps::check(source, &mut violations);
            }
        }
        unsafe_code::check_roots(package, policy, &mut violations);
    }
    documents::check(&workspace, &mut violations);
    exceptions.report_unused(&mut violations);
    violations.sort();
    Ok(violations)
}

/// One place that breaks one rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Violation {
    /// From the root of the repository.
    path: String,
    /// From 1; 0 when the whole file is meant.
    line: usize,
    rule: Rule,
    /// What is wrong and what to do.
    message: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            path,
            line,
            rule,
            message,
        } = self;
        match line {
            0 => write!(f, "{path}: {rule}: {message}"),
            line => write!(f, "{path}:{line}: {rule}: {message}"),
        }
    }
}

/// The rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rule {
    /// Layers 0 and 1 read no clock, entropy, socket, file or environment and start no thread.
    Purity,
    /// A crate depends only on layers below it.
    Direction,
    /// No file over the limit.
    LongFile,
    /// No function over the limit.
    LongFunction,
    /// Unsafe code only where it is allowed.
    Unsafe,
    /// Every crate takes the workspace's lints.
    Lints,
    /// Layers 0 and 1 don't iterate over maps without an order.
    HashOrder,
    /// Documents are short and name every crate.
    Documents,
    /// Tests run or say why they cannot: `#[ignore]` would be silent.
    Ignored,
    /// The list of exceptions holds only what is needed.
    Exception,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Purity => "purity",
            Self::Direction => "direction",
            Self::LongFile => "long file",
            Self::LongFunction => "long function",
            Self::Unsafe => "unsafe",
            Self::Lints => "lints",
            Self::HashOrder => "hash order",
            Self::Documents => "documents",
            Self::Ignored => "ignored test",
            Self::Exception => "exception",
        })
    }
}

const EXCEPTIONS: &str = "xtask/src/tidy/exceptions.rs";
