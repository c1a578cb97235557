//! The PROXY header: however much of it has come, it says the same, and never more than there is.

use std::net::SocketAddr;

use tombolo_relay::ProxyHeader;

/// Parses `data`, and every beginning of it.
pub fn run(data: &[u8]) {
    let whole = ProxyHeader::parse(data);
    if let Ok(Some((said, length))) = whole {
        assert!(length <= data.len().min(BYTES_MAX));
        assert_eq!(
            ProxyHeader::parse(&data[..length]),
            Ok(Some((said, length)))
        );
        for end in 0..length {
            assert_eq!(ProxyHeader::parse(&data[..end]), Ok(None), "{end} bytes");
        }
        if let ProxyHeader::Proxied { client, server } = said {
            check(client);
            assert_eq!(server.ip(), server.ip().to_canonical());
        }
    }
    for end in 0..data.len().min(BYTES_MAX) {
        // What is a header stays one.
        if let Ok(Some(known)) = ProxyHeader::parse(&data[..end]) {
            assert_eq!(whole, Ok(Some(known)), "after {end} bytes");
            break;
        }
    }
    assert!(
        data.len() < BYTES_MAX || whole != Ok(None),
        "nobody waits for ever"
    );
}

fn check(client: SocketAddr) {
    assert!(!client.ip().is_unspecified() && !client.ip().is_multicast());
    assert_eq!(client.ip(), client.ip().to_canonical());
    assert_ne!(client.port(), 0);
}

/// The longest header.
const BYTES_MAX: usize = 1024;
