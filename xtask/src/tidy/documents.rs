//! The first documents stay short, and the map names every crate.

use super::workspace::{Document, Workspace};
use super::{Rule, Violation};

pub(super) fn check(workspace: &Workspace, violations: &mut Vec<Violation>) {
    for document in &workspace.documents {
        for message in complaints(document, workspace) {
            let path = document.path.to_owned();
            violations.push(Violation {
                path,
                line: 0,
                rule: Rule::Documents,
                message,
            });
        }
    }
}

fn complaints(document: &Document, workspace: &Workspace) -> Vec<String> {
    let lines = document.text.lines().count();
    if lines == 0 {
        return vec!["is missing".to_owned()];
    }
    let (lines_max, names_crates) = match document.path {
        "ARCHITECTURE.md" => (ARCHITECTURE_LINES_MAX, true),
        _ => (README_LINES_MAX, false),
    };
    let too_long = (lines > lines_max).then(|| format!("{lines} lines, the limit is {lines_max}"));
    let unnamed = workspace.packages.iter().filter_map(|package| {
        let folder = package.folder.rsplit('/').next().unwrap_or_default();
        let is_named = document.text.contains(&format!("`{folder}`"));
        (names_crates && !is_named).then(|| format!("does not name `{folder}`"))
    });
    too_long.into_iter().chain(unnamed).collect()
}

const ARCHITECTURE_LINES_MAX: usize = 250;

/// Two screens.
const README_LINES_MAX: usize = 120;
