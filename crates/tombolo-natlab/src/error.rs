use std::io;

/// Why a lab could not be built or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LabError {
    /// A tool that the lab needs could not be started.
    #[error("cannot run {tool}")]
    Tool {
        /// The program's name.
        tool: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A tool refused what it was given.
    #[error("{tool} refused in namespace {space}: {message}")]
    Refused {
        /// The program's name.
        tool: &'static str,
        /// The namespace it ran in.
        space: String,
        /// The program's standard error.
        message: String,
    },
    /// A namespace could not be opened or entered, or something inside it failed.
    #[error("cannot {action} in namespace {space}")]
    Namespace {
        /// What was attempted, as a verb.
        action: &'static str,
        /// The namespace.
        space: String,
        /// What the system said.
        source: io::Error,
    },
    /// No site of that name is in this lab.
    #[error("no site {0:?} in this lab")]
    UnknownSite(String),
    /// The site has no device of that number.
    #[error("site {site:?} has no device {device}")]
    UnknownDevice {
        /// The site's name.
        site: String,
        /// The number asked for, from 0.
        device: usize,
    },
    /// The lab that was asked for cannot be laid out.
    #[error("cannot lay out site {site:?}: {reason}")]
    Layout {
        /// The site's name.
        site: String,
        /// What is wrong with it.
        reason: &'static str,
    },
}
