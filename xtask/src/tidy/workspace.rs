//! The workspace: its packages from `cargo metadata`, and their sources.

use std::path::Path;

use anyhow::Context as _;
use serde_json::Value;

use super::source::Source;
use crate::metadata;

/// What the rules look at.
pub(super) struct Workspace {
    pub(super) packages: Vec<Package>,
    pub(super) documents: Vec<Document>,
}

/// A member of the workspace.
pub(super) struct Package {
    pub(super) name: String,
    /// From the root of the repository, as all paths here.
    pub(super) folder: String,
    pub(super) dependencies: Vec<Dependency>,
    /// The text of its `Cargo.toml`.
    pub(super) manifest: String,
    /// Where its libraries and programs begin.
    pub(super) roots: Vec<String>,
    pub(super) sources: Vec<Source>,
}

impl Package {
    pub(super) fn manifest_path(&self) -> String {
        format!("{}/Cargo.toml", self.folder)
    }
}

/// A dependency as its manifest states it.
pub(super) struct Dependency {
    pub(super) name: String,
    /// Needed by tests alone.
    pub(super) is_dev: bool,
    pub(super) has_default_features: bool,
    pub(super) features: Vec<String>,
}

/// A text beside the code; empty when it does not exist.
pub(super) struct Document {
    pub(super) path: &'static str,
    pub(super) text: String,
}

impl Workspace {
    /// Reads the workspace at `root`.
    pub(super) fn read(root: &Path) -> anyhow::Result<Self> {
        let metadata = metadata(root)?;
        let root = Path::new(text(&metadata["workspace_root"]));
        let packages = list(&metadata["packages"])
            .map(|package| read_package(root, package))
            .collect::<anyhow::Result<_>>()?;
        let documents = DOCUMENTS
            .into_iter()
            .map(|path| Document {
                path,
                text: std::fs::read_to_string(root.join(path)).unwrap_or_default(),
            })
            .collect();
        Ok(Self {
            packages,
            documents,
        })
    }
}

fn read_package(root: &Path, package: &Value) -> anyhow::Result<Package> {
    let manifest_path = Path::new(text(&package["manifest_path"]));
    let folder = manifest_path
        .parent()
        .context("a manifest is in a folder")?;
    let mut sources = Vec::new();
    for part in ["src", "tests", "benches", "examples"] {
        read_sources(root, &folder.join(part), &mut sources)?;
    }
    mark_test_modules(&mut sources);
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    let roots = list(&package["targets"])
        .filter(|target| list(&target["kind"]).any(|kind| matches!(text(kind), "lib" | "bin")))
        .map(|target| relative(root, Path::new(text(&target["src_path"]))))
        .collect::<anyhow::Result<_>>()?;
    Ok(Package {
        name: text(&package["name"]).to_owned(),
        folder: relative(root, folder)?,
        dependencies: list(&package["dependencies"])
            .map(read_dependency)
            .collect(),
        manifest: std::fs::read_to_string(manifest_path).context("read a manifest")?,
        roots,
        sources,
    })
}

fn read_dependency(dependency: &Value) -> Dependency {
    Dependency {
        name: text(&dependency["name"]).to_owned(),
        is_dev: text(&dependency["kind"]) == "dev",
        has_default_features: dependency["uses_default_features"] == true,
        features: list(&dependency["features"])
            .map(|feature| text(feature).to_owned())
            .collect(),
    }
}

fn read_sources(root: &Path, folder: &Path, sources: &mut Vec<Source>) -> anyhow::Result<()> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Ok(());
    };
    for entry in entries {
        let path = entry.context("read a folder")?.path();
        if path.is_dir() {
            read_sources(root, &path, sources)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).with_context(|| format!("read {path:?}"))?;
            sources.push(Source::new(relative(root, &path)?, &text));
        }
    }
    Ok(())
}

/// Modules that are declared for tests, and all below `tests` and its like, are test code.
fn mark_test_modules(sources: &mut [Source]) {
    let modules: Vec<_> = sources
        .iter()
        .flat_map(|source| source.test_modules.clone())
        .collect();
    for source in sources {
        let is_module = modules.iter().any(|module| {
            source
                .path
                .strip_prefix(module)
                .is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
        });
        if is_module || !source.path.contains("/src/") {
            source.make_test();
        }
    }
}

fn relative(root: &Path, path: &Path) -> anyhow::Result<String> {
    let path = path
        .strip_prefix(root)
        .context("a path is outside of the workspace")?;
    Ok(path.to_string_lossy().replace('\\', "/"))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// What [`super::documents`] looks at.
const DOCUMENTS: [&str; 2] = ["ARCHITECTURE.md", "README.md"];
