//! Lets a test say that it cannot run here, and why, instead of passing silently.

use std::env;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::thread;

use crate::means::{Means, check, reexec_in_user_namespace};

/// Goes on when a lab can be run here; otherwise reports why not and returns from the test.
///
/// Without root's rights the test is run again in a user namespace of its own, and its outcome is
/// this test's. A test that is skipped prints `skipped: REASON` on standard error, and appends
/// `TEST: REASON` to the file that `TOMBOLO_SKIP_FILE` names.
#[macro_export]
macro_rules! require {
    () => {
        if !$crate::is_lab_possible_here() {
            return;
        }
    };
}

/// Does the work of [`require!`](macro@crate::require): whether the test that calls goes on.
///
/// # Panics
/// When the test failed inside the user namespace.
pub fn is_lab_possible_here() -> bool {
    match check() {
        Ok(Means::Direct) => true,
        Ok(Means::UserNamespace) => {
            let test = test_name();
            let args = ["--exact", test.as_str(), "--nocapture", "--test-threads=1"];
            match reexec_in_user_namespace(args) {
                Ok(status) => assert!(status.success(), "{test} failed in the user namespace"),
                Err(error) => skip(&error.to_string()),
            }
            false
        }
        Err(missing) => {
            skip(&missing.to_string());
            false
        }
    }
}

/// Reports that the calling test cannot run here.
pub fn skip(reason: &str) {
    let mut stderr = io::stderr().lock();
    // A test that cannot even report goes on to be counted as passed; the file is the record.
    let _ = writeln!(stderr, "skipped: {reason}");
    if let Some(path) = env::var_os("TOMBOLO_SKIP_FILE") {
        let line = format!("{}: {reason}\n", test_name());
        let written = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .and_then(|mut file| file.write_all(line.as_bytes()));
        if let Err(error) = written {
            let _ = writeln!(stderr, "cannot write to TOMBOLO_SKIP_FILE: {error}");
        }
    }
}

/// The test harness names the thread of a test after it.
fn test_name() -> String {
    thread::current().name().unwrap_or("test").to_owned()
}
