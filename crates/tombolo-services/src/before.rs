//! What nodes of the release before wrote: `tests/kept`.

use std::fmt::Debug;
use std::path::PathBuf;

use prost::Message;

/// Checks that this release reads a message of the release before as it reads its own, and loses nothing of it.
pub(crate) fn check<M, T>(name: &str, now: &M, read: impl Fn(&[u8]) -> Option<T>)
where
    M: Message + Default,
    T: Debug + PartialEq,
{
    let now = now.encode_to_vec();
    let before = kept(name, &now);
    let again = M::decode(before.as_slice()).unwrap();
    assert_eq!(again.encode_to_vec(), before, "something is lost of {name}");
    let is_read = read(&before);
    assert!(is_read.is_some(), "{name} is refused");
    assert_eq!(is_read, read(&now), "{name}: {OTHER_MEANING}");
}

/// What the release before wrote; with `TOMBOLO_KEEP` set, what this one does is kept first.
pub(crate) fn kept(name: &str, now: &[u8]) -> Vec<u8> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/kept");
    if std::env::var_os("TOMBOLO_KEEP").is_some() {
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(name), now).unwrap();
    }
    std::fs::read(folder.join(name)).unwrap()
}

pub(crate) const OTHER_MEANING: &str = "it is read otherwise than the release before meant it, so it needs a greater VERSION; \
                                        before there is a release, keep it anew (CONTRIBUTING.md)";
