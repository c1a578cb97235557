//! The rules of the matchmaker's pools: one file for each, or a table of the node's file.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use tombolo_node::MatchPool;

/// Reads the rules in the tables `[[pool]]` of a node's file.
///
/// # Errors
/// Names the line and column, and what is wrong there.
pub(crate) fn tables(text: &str) -> anyhow::Result<Vec<MatchPool>> {
    let pools = MatchPool::parse_tables(text, "pool")?;
    let mut names = BTreeSet::new();
    for pool in &pools {
        let name = pool.name();
        anyhow::ensure!(names.insert(name), "there are two pools of the name {name}");
    }
    Ok(pools)
}

/// Reads the rules in files, and in all `.toml` and `.json` files of folders; beside those that are known.
///
/// # Errors
/// Names the file, the line and column, and what is wrong there.
pub(crate) fn load(paths: &[PathBuf], mut pools: Vec<MatchPool>) -> anyhow::Result<Vec<MatchPool>> {
    let names = pools.iter().map(|pool| pool.name().to_owned());
    let mut names: BTreeSet<_> = names.collect();
    for path in paths {
        for file in files(path)? {
            let pool = read(&file).with_context(|| file.display().to_string())?;
            anyhow::ensure!(
                names.insert(pool.name().to_owned()),
                "{}: there is another pool of the name {}",
                file.display(),
                pool.name()
            );
            pools.push(pool);
        }
    }
    Ok(pools)
}

/// The file itself, or those of the folder, by name.
fn files(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let cannot = || format!("{}: cannot read it", path.display());
    let mut files = Vec::new();
    for entry in path.read_dir().with_context(cannot)? {
        let file = entry.with_context(cannot)?.path();
        let extension = file.extension().and_then(|extension| extension.to_str());
        if matches!(extension, Some("toml" | "json")) {
            files.push(file);
        }
    }
    anyhow::ensure!(!files.is_empty(), "{}: no rules in it", path.display());
    files.sort();
    Ok(files)
}

fn read(file: &Path) -> anyhow::Result<MatchPool> {
    let text = std::fs::read_to_string(file).context("cannot read it")?;
    Ok(MatchPool::parse(&text)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_in_files_and_folders_are_read_and_complaints_name_the_place() {
        let folder = std::env::temp_dir().join(format!("tombolo-pools-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("is writable");
        let _remove = Remove(&folder);
        let write = |name: &str, text: &str| {
            let path = folder.join(name);
            std::fs::write(&path, text).expect("is writable");
            path
        };
        let duel = "name = \"duel\"\nplayers = { min = 2, max = 2 }\n";
        let one = write("a.toml", duel);
        write("b.json", r#"{"name":"b","players":{"min":2,"max":4}}"#);
        write("notes.txt", "nothing");
        let all = load(std::slice::from_ref(&folder), Vec::new()).expect("are right");
        let names: Vec<_> = all.iter().map(MatchPool::name).collect();
        assert_eq!(names, ["duel", "b"]);

        let twice = load(&[folder.clone(), one], Vec::new()).expect_err("twice");
        assert!(twice.to_string().contains("duel"), "{twice}");
        write("c.toml", &duel.replace("min = 2", "min = 5"));
        let wrong = load(std::slice::from_ref(&folder), Vec::new()).expect_err("never");
        let wrong = format!("{wrong:#}");
        assert!(wrong.contains("c.toml: line 2, column "), "{wrong}");
    }

    #[test]
    fn a_table_is_a_pool_and_complaints_name_its_place() {
        let text = "port = 1\n[[pool]]\nname = \"a\"\nplayers = { min = 2, max = 4 }\n";
        let one = tables(text).expect("is right");
        assert_eq!(one[0].name(), "a");
        assert_eq!(tables("port = 1").expect("has none"), []);
        let wrong = tables(&text.replace("min = 2", "min = 5")).expect_err("never");
        assert!(wrong.to_string().starts_with("line 4, column "), "{wrong}");
        let twice = [text, &text.replace("port = 1", "")].concat();
        let twice = tables(&twice).expect_err("twice");
        assert!(twice.to_string().contains("two pools"), "{twice}");
    }

    /// Takes the folder away, however the test ends.
    struct Remove<'a>(&'a Path);

    impl Drop for Remove<'_> {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(self.0);
        }
    }
}
