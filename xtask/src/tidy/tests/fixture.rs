//! A small workspace in a temporary folder that keeps all rules, until a test breaks one.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::tidy::exceptions::Exception;
use crate::tidy::policy::{Edge, Policy};
use crate::tidy::{Rule, Violation, check};

/// The workspace; its folder goes with it.
pub(super) struct Fixture {
    root: PathBuf,
    policy: Policy,
}

impl Fixture {
    pub(super) fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("tombolo-tidy-{}-{count}", std::process::id());
        let fixture = Self {
            root: std::env::temp_dir().join(name),
            policy: policy(),
        };
        let manifest =
            "[workspace]\nresolver = \"3\"\nmembers = [\"crates/*\"]\n[workspace.lints]\n";
        let mut fixture = fixture
            .write("Cargo.toml", manifest)
            .write("README.md", "Read me.\n");
        for name in MEMBERS {
            fixture = fixture.member(name);
        }
        fixture
    }

    /// Adds a crate and names it in ARCHITECTURE.md.
    pub(super) fn member(self, name: &str) -> Self {
        let level = if name == "tombolo-relay" {
            "deny"
        } else {
            "forbid"
        };
        let library = format!("//! A crate.\n#![{level}(unsafe_code)]\n");
        let manifest = format!(
            "[package]\nname = \"{name}\"\nedition = \"2024\"\n\n[lints]\nworkspace = true\n\n\
             [dev-dependencies]\n\n[dependencies]\n"
        );
        self.write(&format!("crates/{name}/Cargo.toml"), &manifest)
            .write(&format!("crates/{name}/src/lib.rs"), &library)
            .append("ARCHITECTURE.md", &format!("`{name}`\n"))
    }

    pub(super) fn without(self, name: &str) -> Self {
        std::fs::remove_dir_all(self.root.join("crates").join(name)).unwrap();
        self
    }

    pub(super) fn write(self, path: &str, text: &str) -> Self {
        let path = self.root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
        self
    }

    pub(super) fn append(self, path: &str, text: &str) -> Self {
        let before = std::fs::read_to_string(self.root.join(path)).unwrap_or_default();
        self.write(path, &(before + text))
    }

    pub(super) fn replace(self, path: &str, from: &str, to: &str) -> Self {
        let before = std::fs::read_to_string(self.root.join(path)).unwrap();
        assert!(before.contains(from), "{path} has no {from:?}");
        self.write(path, &before.replace(from, to))
    }

    /// Adds a line to the crate's dependencies.
    pub(super) fn depend(self, name: &str, line: &str) -> Self {
        self.append(&format!("crates/{name}/Cargo.toml"), &format!("{line}\n"))
    }

    pub(super) fn depend_for_tests(self, name: &str, line: &str) -> Self {
        let (section, path) = ("[dev-dependencies]\n", format!("crates/{name}/Cargo.toml"));
        self.replace(&path, section, &format!("{section}{line}\n"))
    }

    pub(super) fn depend_on_member(self, from: &str, to: &str) -> Self {
        self.depend(from, &format!("{to} = {{ path = \"../{to}\" }}"))
    }

    pub(super) fn depend_on_member_for_tests(self, from: &str, to: &str) -> Self {
        self.depend_for_tests(from, &format!("{to} = {{ path = \"../{to}\" }}"))
    }

    pub(super) fn with_exceptions(mut self, exceptions: &'static [Exception]) -> Self {
        self.policy.exceptions = exceptions;
        self
    }

    /// Allows [`EDGE`] for tests.
    pub(super) fn with_edge(mut self) -> Self {
        self.policy.edges = &[Edge {
            from: EDGE.0,
            to: EDGE.1,
            tests_only: true,
            reason: "a test",
        }];
        self
    }

    pub(super) fn check(&self) -> Vec<Violation> {
        check(&self.root, &self.policy).unwrap()
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.root);
    }
}

/// That many lines of statements.
pub(super) fn lines(count: usize) -> String {
    "    f();\n".repeat(count)
}

fn policy() -> Policy {
    Policy {
        layers: &[
            &["tombolo-stun", "tombolo-wire"],
            &["tombolo-turn", "tombolo-path"],
            &["tombolo-relay", "tombolo-gateway"],
        ],
        worlds: &["tombolo-sim", "tombolo-natlab"],
        edges: &[],
        exceptions: &[],
        ..Policy::tombolo()
    }
}

/// Two crates of one layer.
pub(super) const EDGE: (&str, &str) = ("tombolo-relay", "tombolo-gateway");

pub(super) const LONG_FILE: &[Exception] = &[Exception {
    rule: Rule::LongFile,
    at: "crates/tombolo-relay/src/long.rs",
    reason: "a test",
}];

pub(super) const LONG_FUNCTION: &[Exception] = &[Exception {
    rule: Rule::LongFunction,
    at: "crates/tombolo-relay/src/long.rs::long",
    reason: "a test",
}];

const MEMBERS: [&str; 8] = [
    "tombolo-stun",
    "tombolo-wire",
    "tombolo-turn",
    "tombolo-path",
    "tombolo-relay",
    "tombolo-gateway",
    "tombolo-sim",
    "tombolo-natlab",
];
