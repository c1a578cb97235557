//! `tombolo demo`, interrupted.

use crate::command::start;

/// Names of namespaces that a process has made.
fn namespaces(process: u32) -> Vec<String> {
    let names = std::fs::read_dir("/run/netns").into_iter().flatten();
    let names = names.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names
        .filter(|name| name.starts_with(&format!("tombolo-{process}-")))
        .collect()
}

#[test]
fn an_interrupted_demo_ends_well_and_leaves_no_namespaces() {
    tombolo_natlab::require!();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let mut demo = start(&["demo"]);
        let process = demo.id();
        demo.says("connect()").await;
        assert_eq!(namespaces(process).len(), 6);
        demo.signal("INT");
        let ended = demo.ended().await;
        assert_eq!(ended.status, Some(0), "{}", ended.complaints);
        assert_eq!(namespaces(process), [""; 0]);
        let is_over = ended.lines.iter().any(|line| line.contains("Summary"));
        assert!(!is_over, "it was interrupted before its end");
    });
}
