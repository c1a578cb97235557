//! OpenSSL's client, over DTLS and TLS.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

use super::{PATIENCE, Server, is_installed, run};
use crate::command::start;
use crate::folder::Folder;

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

/// The suite that RFC 8489 §6.2.3 wants of all.
#[tokio::test]
async fn openssl_is_answered_over_tls_with_an_rsa_key() {
    if !is_installed("openssl") {
        return;
    }
    let folder = Folder::new("interop-rsa");
    let (certificate, key) = rsa(&folder).await;
    let pair = (certificate.clone().into(), key.into());
    let server = Server::start_with("127.0.0.1", pair, &[]).await;
    let suite = ["-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"];
    assert_server_answers(server, &suite, certificate.as_ref()).await;
}

#[tokio::test]
async fn an_import_says_that_an_rsa_key_gives_no_dtls() {
    if !is_installed("openssl") {
        return;
    }
    let folder = Folder::new("import-rsa");
    let (certificate, key) = rsa(&folder).await;
    let conf = format!("listening-ip=127.0.0.1\ncert={certificate}\npkey={key}\n");
    for (conf, is_told) in [(format!("{conf}no-dtls\n"), false), (conf, true)] {
        let conf = folder.write("turnserver.conf", &conf);
        let ended = start(&["turn", "--import", &conf, "--json"]).ended().await;
        let mut notes = ended.events.iter().filter(|event| event["event"] == "note");
        let is_it =
            |note: &serde_json::Value| note["text"].to_string().contains("no DTLS with this pkey");
        assert_eq!(notes.any(is_it), is_told, "{:?}", ended.events);
    }
}

/// Makes a certificate with an RSA key.
async fn rsa(folder: &Folder) -> (String, String) {
    let (certificate, key) = (folder.path("rsa-cert.pem"), folder.path("rsa-key.pem"));
    let mut make = Command::new("openssl");
    make.args([
        "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
    ]);
    make.args([
        "-subj",
        "/CN=127.0.0.1",
        "-addext",
        "subjectAltName=IP:127.0.0.1",
    ]);
    make.args(["-keyout", &key, "-out", &certificate]);
    run(make).await;
    (certificate, key)
}

async fn assert_answered(ip: &str, version: &str) {
    if !is_installed("openssl") {
        return;
    }
    let server = Server::start(ip, &[]).await;
    let certificate = server.certificate.clone();
    assert_server_answers(server, &[version], &certificate).await;
}

/// Has the client send a Binding request and waits for the answer, which names it.
async fn assert_server_answers(server: Server, how: &[&str], certificate: &Path) {
    let mut client = Command::new("openssl")
        .arg("s_client")
        .args(how)
        .args(["-quiet", "-connect"])
        .arg(server.plain.to_string())
        .arg("-CAfile")
        .arg(certificate)
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
