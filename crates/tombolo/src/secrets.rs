//! Files with secrets, and who else on this machine may read them.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use tracing::warn;

/// Says of each file with secrets that everybody on this machine may read, that it is one, and how it is closed.
pub(crate) fn warn_of_open(files: &[PathBuf]) {
    for path in files.iter().filter(|path| is_open(path)) {
        let path = path.display();
        warn!("{path}: everybody on this machine may read the secrets in it: chmod 600 {path}");
    }
}

/// Whether everybody may read a file, and come to it.
fn is_open(path: &Path) -> bool {
    let path = path.canonicalize();
    path.is_ok_and(|path| path.is_file() && has(&path, OTHERS_READ) && is_reachable(&path))
}

/// Whether everybody may enter all folders in which something is.
fn is_reachable(path: &Path) -> bool {
    let mut folders = path.ancestors().skip(1);
    folders.all(|folder| has(folder, OTHERS_ENTER))
}

fn has(path: &Path, bit: u32) -> bool {
    let found = fs::metadata(path);
    found.is_ok_and(|found| found.permissions().mode() & bit != 0)
}

const OTHERS_READ: u32 = 0o004;
const OTHERS_ENTER: u32 = 0o001;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_open_when_everybody_may_read_it_and_come_to_it() {
        let folder = std::env::temp_dir().join(format!("tombolo-open-{}", std::process::id()));
        fs::create_dir(&folder).expect("is writable");
        let file = folder.join("a.key");
        fs::write(&file, "secret").expect("is writable");
        // Where even that is not so, everything in it is closed.
        let is_reachable = folder.canonicalize().is_ok_and(|path| is_reachable(&path));
        let set = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("is ours");
        };
        for (of_folder, of_file, open) in [
            (0o755, 0o644, true),
            (0o711, 0o604, true),
            (0o755, 0o600, false),
            (0o755, 0o640, false),
            (0o700, 0o644, false),
            (0o750, 0o666, false),
        ] {
            set(&folder, of_folder);
            set(&file, of_file);
            assert_eq!(
                is_open(&file),
                open && is_reachable,
                "{of_folder:o} {of_file:o}"
            );
        }
        fs::remove_dir_all(&folder).expect("is ours");
        assert!(!is_open(&file), "it is not there");
    }
}
