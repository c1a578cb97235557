//! Every crate takes the workspace's lints.

use super::workspace::Workspace;
use super::{Rule, Violation};

pub(super) fn check(workspace: &Workspace, violations: &mut Vec<Violation>) {
    for package in &workspace.packages {
        if !inherits_lints(&package.manifest) {
            violations.push(Violation {
                path: package.manifest_path(),
                line: 0,
                rule: Rule::Lints,
                message: "add `[lints]` with `workspace = true`".to_owned(),
            });
        }
    }
}

fn inherits_lints(manifest: &str) -> bool {
    let mut section = "";
    manifest
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default().trim())
        .any(|line| {
            if line.starts_with('[') {
                section = line;
            }
            let line = line.replace(' ', "");
            match section {
                "[lints]" => line == "workspace=true",
                "" => line == "lints.workspace=true",
                _ => false,
            }
        })
}
