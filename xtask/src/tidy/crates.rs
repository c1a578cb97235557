//! Which crate may depend on which: the layers, the test worlds, and what the cores may not use.

use super::policy::Policy;
use super::workspace::{Dependency, Package, Workspace};
use super::{Rule, Violation};

pub(super) fn check(workspace: &Workspace, policy: &Policy, violations: &mut Vec<Violation>) {
    let members = &workspace.packages;
    let packages = || members.iter().filter(|package| package.name != "xtask");
    for package in packages() {
        let mut report = |rule, message| {
            violations.push(Violation {
                path: package.manifest_path(),
                line: 0,
                rule,
                message,
            });
        };
        if policy.layer(&package.name).is_none() && !policy.is_world(&package.name) {
            let message = format!("`{}` is in no layer; add it to {POLICY}", package.name);
            report(Rule::Direction, message);
        }
        for dependency in &package.dependencies {
            if members.iter().any(|member| member.name == dependency.name) {
                if let Some(message) = wrong_direction(package, dependency, policy) {
                    report(Rule::Direction, message);
                }
            } else if policy.is_core(&package.name)
                && !dependency.is_dev
                && let Some(message) = impure(dependency)
            {
                report(Rule::Purity, message);
            }
        }
    }
    check_policy(&packages().collect::<Vec<_>>(), policy, violations);
}

/// Why `package` may not depend on `dependency`, another crate of the workspace.
fn wrong_direction(package: &Package, dependency: &Dependency, policy: &Policy) -> Option<String> {
    let (from, to) = (package.name.as_str(), dependency.name.as_str());
    let is_listed = policy
        .edges
        .iter()
        .any(|edge| edge.from == from && edge.to == to && (dependency.is_dev || !edge.tests_only));
    if is_listed {
        return None;
    }
    if policy.is_world(to) {
        return (!dependency.is_dev).then(|| {
            format!("`{from}` may not depend on `{to}`, a test world, but for its own tests")
        });
    }
    let from_layer = match policy.layer(from) {
        Some(layer) => layer,
        None if policy.is_world(from) => return None,
        None => policy.layers.len(),
    };
    let to_layer = policy.layer(to).unwrap_or(policy.layers.len());
    (to_layer >= from_layer).then(|| {
        format!("`{from}` (layer {from_layer}) may not depend on `{to}` (layer {to_layer}), only on layers below")
    })
}

/// Why a core may not depend on a crate from outside.
fn impure(dependency: &Dependency) -> Option<String> {
    let name = dependency.name.as_str();
    if IMPURE_CRATES.contains(&name) {
        return Some(format!(
            "a core may not depend on `{name}`: sockets, tasks and entropy live in drivers"
        ));
    }
    if name != "rand" {
        return None;
    }
    let entropy = ["sys_rng", "thread_rng"];
    let takes_entropy = dependency.has_default_features
        || dependency
            .features
            .iter()
            .any(|feature| entropy.contains(&feature.as_str()));
    takes_entropy.then(|| {
        "a core may use `rand` only without the system's entropy: \
         `default-features = false`, no `sys_rng`, no `thread_rng`"
            .to_owned()
    })
}

/// Entries of the policy that match nothing.
fn check_policy(packages: &[&Package], policy: &Policy, violations: &mut Vec<Violation>) {
    let mut report = |message| {
        violations.push(Violation {
            path: POLICY.to_owned(),
            line: 0,
            rule: Rule::Direction,
            message,
        });
    };
    for name in policy.layers.iter().copied().flatten().chain(policy.worlds) {
        if !packages.iter().any(|package| package.name == *name) {
            report(format!("`{name}` does not exist"));
        }
    }
    for edge in policy.edges {
        let is_used = packages.iter().any(|package| {
            package.name == edge.from
                && package
                    .dependencies
                    .iter()
                    .any(|dependency| dependency.name == edge.to)
        });
        if !is_used {
            report(format!(
                "`{}` does not depend on `{}` any more",
                edge.from, edge.to
            ));
        }
    }
}

pub(super) const POLICY: &str = "xtask/src/tidy/policy.rs";

/// Crates that bring sockets, threads, files, clocks or entropy.
const IMPURE_CRATES: [&str; 36] = [
    "async-io",
    "async-std",
    "axum",
    "chrono",
    "crossbeam",
    "fastrand",
    "futures",
    "getrandom",
    "h2",
    "hyper",
    "hyper-util",
    "if-addrs",
    "libc",
    "mio",
    "nix",
    "noq",
    "noq-proto",
    "noq-udp",
    "num_cpus",
    "polling",
    "quinn",
    "quinn-udp",
    "rayon",
    "reqwest",
    "ring",
    "rustix",
    "rustls",
    "smol",
    "socket2",
    "tokio",
    "tokio-rustls",
    "tokio-tungstenite",
    "tokio-util",
    "tungstenite",
    "web-time",
    "windows-sys",
];
