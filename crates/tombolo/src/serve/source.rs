//! Where settings come from, so that complaints can name the place.

use std::path::{Path, PathBuf};

use super::file::File;
use crate::config_text;

/// A file, or none.
#[derive(Clone, Debug, Default)]
pub(crate) struct Source {
    pub(super) path: Option<PathBuf>,
    pub(super) text: String,
}

impl Source {
    /// How complaints name a key: as a line of the file, or else as it would be in one.
    pub(super) fn place(&self, key: &[&str]) -> String {
        let name = key.join(".");
        match (&self.path, config_text::line_of(&self.text, key)) {
            (Some(path), Some(line)) => format!("{}: line {line}, {name}", path.display()),
            _ => name,
        }
    }

    /// How complaints name what is given by a flag, or by a key of the file.
    pub(super) fn origin(&self, key: &str, flag: &str, is_flag_given: bool) -> String {
        if is_flag_given || !self.has(&[key]) {
            return flag.to_owned();
        }
        self.place(&[key])
    }

    /// Names the place of a complaint in the file.
    pub(super) fn placed(&self, error: anyhow::Error) -> anyhow::Error {
        match &self.path {
            Some(path) => config_text::placed(error, path, &self.text),
            None => error,
        }
    }

    /// What complaints begin with that name the line themselves.
    pub(super) fn file(&self) -> String {
        let path = self.path.as_deref().unwrap_or_else(|| Path::new(""));
        path.display().to_string()
    }

    /// Whether the file names a key.
    pub(super) fn has(&self, key: &[&str]) -> bool {
        config_text::line_of(&self.text, key).is_some()
    }

    /// Sees relative paths from the file's folder.
    pub(super) fn resolve(&self, mut file: File) -> File {
        let folder = self.folder();
        let paths = [
            &mut file.admin,
            &mut file.data,
            &mut file.tls.certificate,
            &mut file.tls.key,
            &mut file.nats.creds,
            &mut file.nats.nkey,
            &mut file.nats.secret,
            &mut file.nats.ca,
            &mut file.nats.certificate,
            &mut file.nats.key,
        ];
        let keys = file.token_keys.values_mut().chain(&mut file.nats.seal);
        let more = keys.chain(&mut file.pools);
        for path in paths.into_iter().flatten().chain(more) {
            *path = folder.join(&*path);
        }
        file
    }

    pub(super) fn folder(&self) -> &Path {
        let folder = self.path.as_deref().and_then(Path::parent);
        folder.unwrap_or_else(|| Path::new(""))
    }
}
