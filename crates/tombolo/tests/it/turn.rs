//! `tombolo turn`.

use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use serde_json::json;

use crate::command::{start, turn};

/// A Binding request (RFC 8489 §5) with nothing in it.
const BINDING: [u8; 20] = [
    0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12,
];

fn is_answered(server: SocketAddr) -> bool {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    socket.send_to(&BINDING, server).unwrap();
    let mut reply = [0; 1500];
    let (_, from) = socket.recv_from(&mut reply).unwrap();
    from == server && reply[..2] == [1, 1] && reply[8..20] == BINDING[8..20]
}

#[tokio::test]
async fn the_first_line_says_where_the_server_is_and_then_it_is_there() {
    let listen = ["--listen", "127.0.0.1:0", "--listen", "127.0.0.1:0"];
    let more = ["--relay-ip", "127.0.0.1", "--shards", "2"];
    let (mut server, ready) = turn(&[&listen[..], &more].concat()).await;
    assert_eq!(ready["relay"], json!(["127.0.0.1"]));
    assert_eq!(ready["io"], "sockets");
    assert_eq!(ready["shards"], 2);
    let address: SocketAddr = ready["listen"][0].as_str().unwrap().parse().unwrap();
    assert!(is_answered(address));
    TcpStream::connect(address).unwrap();
    server.terminate();
    let ended = server.ended().await;
    assert_eq!(ended.status, Some(0), "{}", ended.complaints);
    UdpSocket::bind(address).expect("the port is free again");
}

#[tokio::test]
async fn what_cannot_be_served_is_a_failure_that_says_why() {
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let cases: [(&[&str], i32, &str); 7] = [
        (&["--listen", &taken], 1, "is in use"),
        (&["--listen", "0.0.0.0:0"], 1, "relay"),
        (
            &["--listen", "example.org:3478"],
            2,
            "names are not looked up",
        ),
        (
            &["--listen", "127.0.0.1:0", "--secret", ""],
            1,
            "empty secret",
        ),
        (
            &["--listen", "127.0.0.1:0", "--user", "hunter2"],
            1,
            "NAME:PASSWORD",
        ),
        (
            &[
                "--listen",
                "127.0.0.1:0",
                "--tls",
                "/nonexistent",
                "/nonexistent",
            ],
            1,
            "/nonexistent",
        ),
        (&[], 2, "--listen"),
    ];
    for (args, status, says) in cases {
        let ended = start(&[&["turn"], args].concat()).ended().await;
        assert_eq!(ended.status, Some(status), "{args:?}");
        assert!(ended.complaints.contains(says), "{}", ended.complaints);
        assert!(ended.lines.is_empty(), "{:?}", ended.lines);
        assert!(!ended.complaints.contains("hunter2"), "a secret is shown");
    }
}
