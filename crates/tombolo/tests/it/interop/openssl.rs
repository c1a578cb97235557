//! OpenSSL's client, over DTLS and TLS.

use std::net::SocketAddr;
use std::process::Stdio;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

use super::{PATIENCE, Server, is_installed};

#[tokio::test]
async fn openssl_is_answered_over_dtls() {
    assert_answered("127.0.0.1", "-dtls1_2").await;
}

#[tokio::test]
async fn openssl_is_answered_over_dtls_and_ipv6() {
    assert_answered("::1", "-dtls1_2").await;
}

#[tokio::test]
async fn openssl_is_answered_over_tls_on_the_same_port() {
    for version in ["-tls1_2", "-tls1_3"] {
        assert_answered("127.0.0.1", version).await;
    }
}

/// Has the client send a Binding request and waits for the answer, which names it.
async fn assert_answered(ip: &str, version: &str) {
    if !is_installed("openssl") {
        return;
    }
    let server = Server::start(ip, &[]).await;
    let mut client = Command::new("openssl")
        .args(["s_client", version, "-quiet", "-connect"])
        .arg(server.plain.to_string())
        .arg("-CAfile")
        .arg(&server.certificate)
        .arg("-verify_return_error")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut stdin = client.stdin.take().unwrap();
    stdin.write_all(BINDING_REQUEST).await.unwrap();
    let address: SocketAddr = server.plain;
    let mut answer = vec![0; if address.is_ipv4() { 32 } else { 44 }];
    let mut stdout = client.stdout.take().unwrap();
    let read = stdout.read_exact(&mut answer);
    let read = tokio::time::timeout(PATIENCE, read).await;
    read.expect("it is answered").unwrap();
    assert_eq!(answer[..2], [0x01, 0x01], "{answer:?}");
    assert_eq!(answer[4..20], BINDING_REQUEST[4..], "{answer:?}");
    client.kill().await.unwrap();
    server.stop().await;
}

const BINDING_REQUEST: &[u8] = &[
    0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12,
];
