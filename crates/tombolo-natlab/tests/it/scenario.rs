//! The runner, with a stand-in for the program that tells what the test wants.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use tombolo_natlab::require;
use tombolo_natlab::scenario::{Expect, RunError, Runner, find};

/// A program in the place of `tombolo`, removed when dropped.
struct StandIn(PathBuf);

impl StandIn {
    /// Devices run `peer` with `$USER_ID`, `$OTHER` and the arguments.
    fn new(name: &str, serve: &str, peer: &str) -> Self {
        let path = std::env::temp_dir().join(format!("natlab-{}-{name}", std::process::id()));
        let script = format!(
            "#!/bin/sh\nif [ \"$1\" = serve ]; then\n{serve}\nfi\n\
             case \"$*\" in *'--user alice'*) USER_ID=alice OTHER=bob;; \
             *) USER_ID=bob OTHER=alice;; esac\n{peer}\n"
        );
        std::fs::write(&path, script).expect("written");
        let executable = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&path, executable).expect("made executable");
        Self(path)
    }

    fn run(&self, scenario: &str) -> Result<tombolo_natlab::scenario::Run, RunError> {
        Runner::new(&self.0).run(&find(scenario).expect("a scenario"))
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).expect("removed");
    }
}

const SERVE: &str = r#"echo '{"t":1,"event":"ready","url":"tombolo://192.0.2.10:8443?pin=x"}'
trap 'kill $!; exit 0' TERM
sleep 30 &
wait; exit 0"#;

fn peer(direct_ms: &str) -> String {
    format!(
        r#"echo '{{"t":1,"event":"session","node":"n","transport":"quic"}}'
printf '{{"t":2,"event":"summary","peers":{{"%s":{{"sent":50,"received":50,"lost":0,"duplicated":0,"reordered":0,"first_byte_ms":2.0,"direct_ms":{direct_ms},"longest_gap_ms":21.0,"rtt_ms":{{"p50":0.3,"p99":0.9}}}}}}}}\n' "$OTHER""#
    )
}

#[test]
fn devices_that_tell_of_a_direct_path_meet_the_expectation() {
    require!();
    let program = StandIn::new("direct", SERVE, &peer("12.5"));
    let run = program.run("no-nat--full-cone").expect("a run");
    assert!(run.is_as_expected(), "{:?}", run.failures);
    assert_eq!(run.outcome(), Some(Expect::Direct));
}

#[test]
fn a_device_that_never_was_direct_fails_the_expectation() {
    require!();
    let program = StandIn::new("relayed", SERVE, &peer("null"));
    let run = program.run("no-nat--full-cone").expect("a run");
    assert_eq!(run.failures, ["alice: never direct", "bob: never direct"]);
    let run = program.run("symmetric--symmetric").expect("a run");
    assert!(run.is_as_expected(), "{:?}", run.failures);
}

#[test]
fn a_device_of_an_ipv6_only_site_gets_the_nodes_ipv6_url() {
    require!();
    let check =
        "case \"$*\" in *'tombolo://[2001:db8:ffff::10]:8443?pin=x'*) ;; *) exit 3;; esac\n";
    let program = StandIn::new("v6", SERVE, &format!("{check}{}", peer("1.0")));
    let run = program.run("ipv6-only").expect("a run");
    assert!(run.is_as_expected(), "{:?}", run.failures);
}

#[test]
fn a_device_that_breaks_down_is_told_with_its_last_words() {
    require!();
    let program = StandIn::new("broken", SERVE, "echo 'no such server' >&2; exit 1");
    let run = program.run("same-nat").expect("a run");
    assert!(
        run.failures[0].contains("no such server"),
        "{:?}",
        run.failures
    );
    assert_eq!(run.outcome(), None);
}

#[test]
fn a_node_that_is_not_ready_is_an_error_with_its_last_words() {
    require!();
    let program = StandIn::new("unready", "echo 'port taken' >&2; exit 1", "exit 1");
    let error = program.run("same-nat").expect_err("no run");
    assert!(
        matches!(&error, RunError::Node { said } if said.contains("port taken")),
        "{error}"
    );
}

#[test]
fn a_cut_is_made_once_both_are_direct_and_its_consequences_are_timed() {
    require!();
    let peer = r#"say() { echo "{\"t\":$(date +%s.%N),\"event\":$1}"; }
say "\"peer\",\"user\":\"$OTHER\",\"state\":\"connecting\""
say "\"recv\",\"user\":\"$OTHER\",\"seq\":1,\"via\":\"relay\""
say "\"peer\",\"user\":\"$OTHER\",\"state\":\"direct\""
sleep 2
say "\"recv\",\"user\":\"$OTHER\",\"seq\":2,\"via\":\"relay\""
sleep 2
say "\"peer\",\"user\":\"$OTHER\",\"state\":\"direct\""
say "\"summary\",\"peers\":{\"$OTHER\":{\"sent\":900,\"received\":900,\"direct_ms\":1.0}}""#;
    let program = StandIn::new("cut", SERVE, peer);
    let run = program.run("timing-cut-without-delay").expect("a run");
    assert!(run.is_as_expected(), "{:?}", run.failures);
    // The cut is a second after both were direct, and healed two seconds later.
    let relay_again = run.relay_again_ms().expect("measured");
    assert!((500.0..1500.0).contains(&relay_again), "{relay_again}");
    let direct_again = run.direct_again_ms().expect("measured");
    assert!((500.0..1500.0).contains(&direct_again), "{direct_again}");
    assert!(run.first_byte_ms().is_some_and(|ms| ms < 500.0), "{run:?}");
    assert!(run.direct_ms().is_some_and(|ms| ms < 500.0), "{run:?}");
}
