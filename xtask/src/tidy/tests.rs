//! Each rule fails when it is broken: small workspaces on disk, checked as the real one is.

mod fixture;

use self::fixture::{Fixture, LONG_FILE, LONG_FUNCTION, lines};
use super::{Rule, Violation};

#[test]
fn a_workspace_that_keeps_the_rules_passes() {
    assert_eq!(Fixture::new().check(), []);
}

#[test]
fn a_clock_in_a_core_fails() {
    for code in [
        "pub fn f() { let _ = std::time::Instant::now(); }",
        "use std::time::Instant;\npub fn f() { let _ = Instant::now(); }",
        "use std::time::Instant as Clock;\npub fn f() { let _ = Clock::now(); }",
        "use std::time;\npub fn f() { let _ = time::SystemTime::now(); }",
        "pub fn f() { let _ = <std::time::Instant>::now(); }",
        "pub fn f() -> fn() -> std::time::Instant { std::time::Instant::now }",
        "pub fn f(at: std::time::Instant) { let _ = at.elapsed(); }",
    ] {
        fails_in_core(code, Rule::Purity, "reads a clock");
    }
}

#[test]
fn a_socket_in_a_core_fails() {
    for code in [
        "use std::net::UdpSocket;",
        "use std::{io, net::{SocketAddr, TcpStream}};",
        "pub fn f() { let _ = std::net::TcpListener::bind(\"[::]:0\"); }",
        "use std::net::*;\npub fn f(_: &UdpSocket) {}",
        "pub fn f() { let _ = socket2::Type::DGRAM; }",
    ] {
        fails_in_core(code, Rule::Purity, "is a socket");
    }
}

#[test]
fn a_thread_in_a_core_fails() {
    for code in [
        "pub fn f() { std::thread::spawn(|| {}); }",
        "use std::thread;",
        "pub fn f() { let _ = ..std::thread::available_parallelism(); }",
        "use std::{thread as t, time};\npub fn f() { t::yield_now(); }",
    ] {
        fails_in_core(code, Rule::Purity, "threads or tasks");
    }
}

#[test]
fn tokio_in_a_core_fails() {
    fails_in_core(
        "pub fn f() { tokio::spawn(async {}); }",
        Rule::Purity,
        "threads or tasks",
    );
    let fixture = Fixture::new().depend("tombolo-turn", "tokio = \"1\"");
    fails(
        &fixture,
        "crates/tombolo-turn/Cargo.toml",
        Rule::Purity,
        "may not depend on `tokio`",
    );
}

#[test]
fn files_processes_and_the_environment_in_a_core_fail() {
    for code in [
        "pub fn f() { let _ = std::fs::read(\"x\"); }",
        "use std::process::Command;",
        "pub fn f() { let _ = std::env::var(\"X\"); }",
        "use std::*;",
    ] {
        fails_in_core(code, Rule::Purity, "reaches for");
    }
}

#[test]
fn entropy_in_a_core_fails() {
    for code in [
        "pub fn f() { let _ = rand::rng(); }",
        "use rand::rngs::OsRng;",
        "use rand::rngs::SysRng;",
        "pub fn f() { let _ = rand::thread_rng(); }",
        "pub fn f(b: &mut [u8]) { let _ = getrandom::fill(b); }",
    ] {
        fails_in_core(code, Rule::Purity, "entropy");
    }
    for rand in [
        "rand = \"0.10\"",
        "rand = { version = \"0.10\", default-features = false, features = [\"sys_rng\"] }",
    ] {
        let fixture = Fixture::new().depend("tombolo-turn", rand);
        fails(
            &fixture,
            "crates/tombolo-turn/Cargo.toml",
            Rule::Purity,
            "entropy",
        );
    }
}

#[test]
fn words_in_comments_strings_and_tests_are_allowed() {
    let code = "//! No tokio, no `Instant::now`.\n/* std::thread */\npub const A: &str = \"UdpSocket\";\n\
        pub struct S { pub elapsed: u8 }\nimpl S { pub fn f(&self) -> u8 { self.elapsed } }\n\
        #[cfg(test)]\nmod tests { #[test]\nfn f() { let _ = std::time::Instant::now(); } }\n\
        #[cfg(test)]\nmod lab;\n";
    let fixture = Fixture::new()
        .append("crates/tombolo-turn/src/lib.rs", code)
        .write("crates/tombolo-turn/src/lab.rs", "use std::thread;\n")
        .write(
            "crates/tombolo-turn/tests/it/main.rs",
            "use std::net::UdpSocket;\n",
        )
        .depend_for_tests("tombolo-turn", "tokio = \"1\"")
        .depend(
            "tombolo-turn",
            "rand = { version = \"0.10\", default-features = false }",
        );
    assert_eq!(fixture.check(), []);
}

#[test]
fn drivers_may_do_what_cores_may_not() {
    let code = "use std::thread;\npub fn f() { let _ = std::time::Instant::now(); }";
    let fixture = Fixture::new().append("crates/tombolo-relay/src/lib.rs", code);
    assert_eq!(fixture.depend("tombolo-relay", "tokio = \"1\"").check(), []);
}

#[test]
fn a_dependency_against_the_layers_fails() {
    for (from, to) in [
        ("tombolo-stun", "tombolo-turn"),
        ("tombolo-turn", "tombolo-relay"),
        ("tombolo-stun", "tombolo-wire"),
        ("tombolo-turn", "tombolo-path"),
    ] {
        let manifest = format!("crates/{from}/Cargo.toml");
        let fixture = Fixture::new().depend_on_member(from, to);
        fails(&fixture, &manifest, Rule::Direction, "only on layers below");
        let fixture = Fixture::new().depend_on_member_for_tests(from, to);
        fails(&fixture, &manifest, Rule::Direction, "only on layers below");
    }
}

#[test]
fn a_dependency_on_a_test_world_fails_except_for_tests() {
    let fixture = Fixture::new().depend_on_member("tombolo-relay", "tombolo-sim");
    fails(
        &fixture,
        "crates/tombolo-relay/Cargo.toml",
        Rule::Direction,
        "a test world",
    );
    let fixture = Fixture::new().depend_on_member_for_tests("tombolo-relay", "tombolo-sim");
    assert_eq!(fixture.check(), []);
}

#[test]
fn an_edge_for_tests_only_is_no_edge_for_others() {
    let (from, to) = fixture::EDGE;
    assert_eq!(
        Fixture::new()
            .depend_on_member_for_tests(from, to)
            .with_edge()
            .check(),
        []
    );
    let fixture = Fixture::new().depend_on_member(from, to).with_edge();
    fails(
        &fixture,
        "crates/tombolo-relay/Cargo.toml",
        Rule::Direction,
        "only on layers below",
    );
    fails(
        &Fixture::new().with_edge(),
        super::crates::POLICY,
        Rule::Direction,
        "any more",
    );
}

#[test]
fn a_crate_in_no_layer_fails() {
    let fixture = Fixture::new().member("tombolo-new");
    fails(
        &fixture,
        "crates/tombolo-new/Cargo.toml",
        Rule::Direction,
        "is in no layer",
    );
}

#[test]
fn a_layer_without_its_crate_fails() {
    let fixture = Fixture::new().without("tombolo-path");
    fails(
        &fixture,
        super::crates::POLICY,
        Rule::Direction,
        "`tombolo-path` does not exist",
    );
}

#[test]
fn a_long_function_fails_unless_it_is_an_exception() {
    let path = "crates/tombolo-relay/src/long.rs";
    let long = format!("pub fn long() {{\n{}}}\n", lines(69));
    let fixture = Fixture::new().write(path, &long);
    fails(&fixture, path, Rule::LongFunction, "`long` has 71 lines");
    assert_eq!(fixture.with_exceptions(LONG_FUNCTION).check(), []);

    let short = format!("pub fn long() {{\n// why\n\n{}}}\n", lines(68));
    assert_eq!(Fixture::new().write(path, &short).check(), []);
    let test = format!("#[test]\nfn long() {{\n{}}}\n", lines(100));
    assert_eq!(Fixture::new().write(path, &test).check(), []);
}

#[test]
fn a_long_file_fails_unless_it_is_an_exception() {
    let path = "crates/tombolo-relay/src/long.rs";
    let long = "pub const A: u8 = 1;\n".repeat(601);
    let fixture = Fixture::new().write(path, &long);
    fails(&fixture, path, Rule::LongFile, "601 lines of code");
    assert_eq!(fixture.with_exceptions(LONG_FILE).check(), []);

    let commented = "// why\npub const A: u8 = 1;\n\n".repeat(600);
    let tests = format!(
        "#[cfg(test)]\nmod tests {{\n{}}}\n",
        "const A: u8 = 1;\n".repeat(600)
    );
    assert_eq!(
        Fixture::new().write(path, &(commented + &tests)).check(),
        []
    );
}

#[test]
fn an_exception_that_nothing_needs_fails() {
    let fixture = Fixture::new().with_exceptions(LONG_FILE);
    fails(
        &fixture,
        super::EXCEPTIONS,
        Rule::Exception,
        "is not needed any more",
    );
}

#[test]
fn unsafe_code_fails_outside_of_its_module() {
    let code = "pub fn f() { unsafe { std::hint::unreachable_unchecked() } }\n";
    for path in [
        "crates/tombolo-relay/src/shard.rs",
        "crates/tombolo-stun/src/socket.rs",
    ] {
        fails(
            &Fixture::new().write(path, code),
            path,
            Rule::Unsafe,
            "its own module",
        );
    }
    for path in [
        "crates/tombolo-relay/src/socket.rs",
        "crates/tombolo-relay/src/socket/linux.rs",
    ] {
        assert_eq!(Fixture::new().write(path, code).check(), []);
    }
}

#[test]
fn a_crate_that_does_not_forbid_unsafe_code_fails() {
    let path = "crates/tombolo-stun/src/lib.rs";
    let fixture = Fixture::new().write(path, "//! A crate without `#![forbid(unsafe_code)]`.\n");
    fails(
        &fixture,
        path,
        Rule::Unsafe,
        "lacks `#![forbid(unsafe_code)]`",
    );
}

#[test]
fn a_crate_with_lints_of_its_own_fails() {
    let fixture = Fixture::new().replace(
        "crates/tombolo-stun/Cargo.toml",
        "[lints]\nworkspace = true\n",
        "",
    );
    fails(
        &fixture,
        "crates/tombolo-stun/Cargo.toml",
        Rule::Lints,
        "workspace = true",
    );
}

#[test]
fn iterating_over_a_hash_map_in_a_core_fails() {
    for code in [
        "use std::collections::HashMap;\npub fn f(by_id: &HashMap<u8, u8>) { for _ in by_id.values() {} }",
        "pub fn f() { let all = std::collections::HashSet::<u8>::new(); for _ in &all {} }",
        "use std::collections::HashMap;\npub struct S { by_id: HashMap<u8, u8> }\n\
            impl S { pub fn f(&mut self) { self.by_id.retain(|_, _| true); } }",
        "use std::collections::HashMap;\npub struct S { by_id: HashMap<u8, u8> }\n\
            impl S { pub fn f(&mut self) { for _ in &mut self.by_id {} } }",
    ] {
        fails_in_core(code, Rule::HashOrder, "no defined order");
    }
    let lookup = "use std::collections::HashMap;\n\
        pub fn f(by_id: &HashMap<u8, u8>) -> Option<&u8> { by_id.get(&1) }";
    let fixture = Fixture::new().append("crates/tombolo-turn/src/lib.rs", lookup);
    assert_eq!(fixture.check(), []);
}

#[test]
fn a_test_that_is_switched_off_fails() {
    let code = "#[cfg(test)] mod tests { #[test]\n#[ignore]\nfn a() {} }\n";
    fails_in_core(code, Rule::Ignored, "TOMBOLO_SKIP_FILE");
}

#[test]
fn documents_that_are_missing_or_long_or_forget_a_crate_fail() {
    let fixture = Fixture::new().write("README.md", &"a\n".repeat(121));
    fails(&fixture, "README.md", Rule::Documents, "the limit is 120");
    let fixture = Fixture::new().append("ARCHITECTURE.md", &"a\n".repeat(250));
    fails(
        &fixture,
        "ARCHITECTURE.md",
        Rule::Documents,
        "the limit is 250",
    );
    let fixture = Fixture::new().replace("ARCHITECTURE.md", "`tombolo-stun`", "the codec");
    fails(
        &fixture,
        "ARCHITECTURE.md",
        Rule::Documents,
        "does not name `tombolo-stun`",
    );
    let fixture = Fixture::new().write("README.md", "");
    fails(&fixture, "README.md", Rule::Documents, "is missing");
}

/// Code in the library of a core breaks one rule.
fn fails_in_core(code: &str, rule: Rule, message: &str) {
    let path = "crates/tombolo-turn/src/lib.rs";
    let violations = Fixture::new().append(path, code).check();
    assert!(!violations.is_empty(), "passed: {code}");
    let is_expected = |violation: &Violation| {
        violation.path == path && violation.rule == rule && violation.message.contains(message)
    };
    assert!(
        violations.iter().all(is_expected),
        "{code}\n{violations:#?}"
    );
}

/// The fixture breaks one rule in one place.
fn fails(fixture: &Fixture, path: &str, rule: Rule, message: &str) {
    let violations = fixture.check();
    let [violation] = violations.as_slice() else {
        panic!("not one violation: {violations:#?}")
    };
    assert_eq!((violation.path.as_str(), violation.rule), (path, rule));
    assert!(violation.message.contains(message), "{violation}");
}
