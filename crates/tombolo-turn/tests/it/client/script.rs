//! Replies as a server would write them.

use std::{net::SocketAddr, time::Duration};

use tombolo_stun::{
    AlternateDomain, AlternateServer, AttributeType, Class, Data, ErrorCode, Icmp, Key, Lifetime,
    Message, MessageWriter, Method, Nonce, PasswordAlgorithm, RawAttribute, Realm, TransactionId,
    Username, XorMappedAddress, XorPeerAddress, XorRelayedAddress,
};
use tombolo_turn::client::{Config, Family, Patience};
use tombolo_turn::server::Transport;

pub(super) struct Script {
    username: String,
    password: String,
    nonce: u32,
}

impl Script {
    pub(super) fn new() -> Self {
        Self::with_password("secret")
    }

    pub(super) fn with_password(password: &str) -> Self {
        Self {
            username: "alice".to_owned(),
            password: password.to_owned(),
            nonce: 0,
        }
    }

    pub(super) fn set_credentials(&mut self, username: &str, password: &str) {
        self.username = username.to_owned();
        self.password = password.to_owned();
    }

    pub(super) fn rotate_nonce(&mut self) {
        self.nonce += 1;
    }

    pub(super) fn is_signed(&self, request: &[u8]) -> bool {
        let message = message(request);
        let nonce = self.nonce();
        message.attribute::<Username<'_>>() == Ok(Username::new(&self.username).ok())
            && message.attribute::<Nonce<'_>>() == Ok(Nonce::new(&nonce).ok())
            && message.check_integrity(&self.key()).is_ok()
    }

    pub(super) fn challenge(&self, request: &[u8], code: u16) -> Vec<u8> {
        self.write(request, Class::Error, |writer| {
            let nonce = self.nonce();
            writer
                .attribute(&ErrorCode::new(code, "").expect("a code"))
                .attribute(&Realm::new(REALM).expect("it is short"))
                .attribute(&Nonce::new(&nonce).expect("it is short"));
        })
    }

    pub(super) fn allocated(&self, request: &[u8], lifetime: u32) -> Vec<u8> {
        self.write(request, Class::Success, |writer| {
            writer
                .attribute(&XorRelayedAddress(relayed()))
                .attribute(&XorMappedAddress(mapped()))
                .attribute(&Lifetime(lifetime))
                .integrity(&self.key());
        })
    }

    pub(super) fn refreshed(&self, request: &[u8], lifetime: u32) -> Vec<u8> {
        self.write(request, Class::Success, |writer| {
            writer.attribute(&Lifetime(lifetime)).integrity(&self.key());
        })
    }

    pub(super) fn success(&self, request: &[u8]) -> Vec<u8> {
        self.write(request, Class::Success, |writer| {
            writer.integrity(&self.key());
        })
    }

    pub(super) fn refusal(&self, request: &[u8], code: u16) -> Vec<u8> {
        self.write(request, Class::Error, |writer| {
            writer
                .attribute(&ErrorCode::new(code, "").expect("a code"))
                .integrity(&self.key());
        })
    }

    pub(super) fn unsigned_refusal(&self, request: &[u8], code: u16) -> Vec<u8> {
        self.write(request, Class::Error, |writer| {
            writer.attribute(&ErrorCode::new(code, "").expect("a code"));
        })
    }

    pub(super) fn redirection(&self, request: &[u8], server: &str, domain: &str) -> Vec<u8> {
        self.write(request, Class::Error, |writer| {
            writer
                .attribute(&ErrorCode::new(ErrorCode::TRY_ALTERNATE, "").expect("a code"))
                .attribute(&AlternateServer(server.parse().expect("a literal")))
                .attribute(&AlternateDomain::new(domain).expect("it is short"))
                .integrity(&self.key());
        })
    }

    /// A challenge with a list of password algorithms.
    pub(super) fn offer(&self, request: &[u8], nonce: &str, list: Option<&[u8]>) -> Vec<u8> {
        let raw = |kind, value| RawAttribute { kind, value };
        self.write(request, Class::Error, |writer| {
            writer
                .attribute(&ErrorCode::new(ErrorCode::UNAUTHENTICATED, "").expect("a code"))
                .attribute(&Realm::new(REALM).expect("it is short"))
                .attribute(&raw(AttributeType::NONCE, nonce.as_bytes()));
            if let Some(list) = list {
                writer.attribute(&raw(AttributeType::PASSWORD_ALGORITHMS, list));
            }
        })
    }

    pub(super) fn refusal_with_nonce(&self, request: &[u8], nonce: &str) -> Vec<u8> {
        self.write(request, Class::Error, |writer| {
            writer
                .attribute(&ErrorCode::new(ErrorCode::FORBIDDEN, "").expect("a code"))
                .attribute(&Nonce::new(nonce).expect("it is short"))
                .integrity(&self.key());
        })
    }

    pub(super) fn allocated_at(&self, request: &[u8], relayed: SocketAddr) -> Vec<u8> {
        self.write(request, Class::Success, |writer| {
            writer
                .attribute(&XorRelayedAddress(relayed))
                .attribute(&XorMappedAddress(mapped()))
                .integrity(&self.key());
        })
    }

    pub(super) fn allocated_for_sha256(&self, request: &[u8], relayed: SocketAddr) -> Vec<u8> {
        self.write(request, Class::Success, |writer| {
            writer
                .attribute(&XorRelayedAddress(relayed))
                .attribute(&XorMappedAddress(mapped()))
                .integrity_sha256(&self.key_of(PasswordAlgorithm::Sha256));
        })
    }

    pub(super) fn allocated_with_unknown(&self, request: &[u8]) -> Vec<u8> {
        self.write(request, Class::Success, |writer| {
            writer
                .attribute(&RawAttribute {
                    kind: AttributeType(0x7f00),
                    value: b"",
                })
                .attribute(&XorRelayedAddress(relayed()))
                .attribute(&XorMappedAddress(mapped()))
                .integrity(&self.key());
        })
    }

    pub(super) fn key_of(&self, algorithm: PasswordAlgorithm) -> Key {
        match algorithm {
            PasswordAlgorithm::Sha256 => {
                Key::long_term_sha256(&self.username, REALM, &self.password)
            }
            PasswordAlgorithm::Md5 | _ => self.key(),
        }
    }

    pub(super) fn data_indication(&self, peer: SocketAddr, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        MessageWriter::new(
            &mut bytes,
            Class::Indication,
            Method::DATA,
            TransactionId([3; 12]),
        )
        .attribute(&XorPeerAddress(peer))
        .attribute(&Data(payload));
        bytes
    }

    pub(super) fn icmp_indication(&self, peer: SocketAddr) -> Vec<u8> {
        let (class, id) = (Class::Indication, TransactionId([4; 12]));
        let mut bytes = Vec::new();
        MessageWriter::new(&mut bytes, class, Method::DATA, id)
            .attribute(&XorPeerAddress(peer))
            .attribute(&Icmp {
                icmp_type: 3,
                icmp_code: 3,
                error_data: [0; 4],
            });
        bytes
    }

    fn write(
        &self,
        request: &[u8],
        class: Class,
        attributes: impl FnOnce(&mut MessageWriter<'_>),
    ) -> Vec<u8> {
        let request = message(request);
        let mut bytes = Vec::new();
        let id = request.transaction_id();
        let mut writer = MessageWriter::new(&mut bytes, class, request.method(), id);
        attributes(&mut writer);
        bytes
    }

    fn nonce(&self) -> String {
        format!("nonce {}", self.nonce)
    }

    fn key(&self) -> Key {
        Key::long_term(&self.username, REALM, &self.password)
    }
}

pub(super) fn message(bytes: &[u8]) -> Message<'_> {
    Message::decode(bytes).expect("the client sends well-formed messages")
}

pub(super) fn relayed() -> SocketAddr {
    "192.0.2.1:50000".parse().expect("a literal")
}

pub(super) fn mapped() -> SocketAddr {
    "198.51.100.1:6000".parse().expect("a literal")
}

pub(super) fn config(transport: Transport) -> Config {
    Config {
        server: "192.0.2.1:3478".parse().expect("a literal"),
        transport,
        username: "alice".to_owned(),
        password: "secret".to_owned(),
        family: Family::V4,
        lifetime: Duration::from_secs(600),
        patience: Patience::default(),
    }
}

const REALM: &str = "tombolo";
