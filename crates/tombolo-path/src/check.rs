//! Connectivity checks on the wire. See RFC 8445 §7.

use std::net::SocketAddr;

use tombolo_stun::{
    AttributeType, Class, ErrorCode, IceControlled, IceControlling, Key, Message, MessageWriter,
    Method, Priority, TransactionId, UnknownAttributes, Username, XorMappedAddress,
};

use crate::canonical;

/// The sender's role with its tie-breaker. See RFC 8445 §6.1.1 and §7.1.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Controlling(u64),
    Controlled(u64),
}

/// A well-formed Binding message with a right fingerprint; nothing in it is authenticated yet.
pub(crate) enum Inbound<'a> {
    /// A check.
    Request(Request<'a>),
    /// The answer to a check: success.
    Success(Success<'a>),
    /// The answer to a check: an error.
    Error(Failure<'a>),
    /// A keepalive, which asks for nothing. See RFC 8445 §11.
    Indication,
}

impl<'a> Inbound<'a> {
    /// Parses a datagram; `None` when it breaks a rule.
    pub(crate) fn parse(data: &'a [u8]) -> Option<Self> {
        let message = Message::decode(data).ok()?;
        if message.method() != Method::BINDING {
            return None;
        }
        match message.class() {
            Class::Request => {
                // 1. A check carries a fingerprint. See RFC 8445 §7.1.
                message.check_fingerprint().ok()?;
                Request::parse(message).map(Self::Request)
            }
            Class::Success => Success::parse(message).map(Self::Success),
            Class::Error => Failure::parse(message).map(Self::Error),
            Class::Indication => Some(Self::Indication),
        }
    }
}

/// A check that arrived.
pub(crate) struct Request<'a> {
    pub(crate) message: Message<'a>,
    /// The part of the username before the colon: the receiver's fragment.
    pub(crate) local_ufrag: &'a str,
    /// The part after the colon: the sender's fragment.
    pub(crate) remote_ufrag: &'a str,
}

impl<'a> Request<'a> {
    fn parse(message: Message<'a>) -> Option<Self> {
        let username = message.required::<Username<'a>>().ok()?;
        let (local_ufrag, remote_ufrag) = username.as_str().split_once(':')?;
        Some(Self {
            message,
            local_ufrag,
            remote_ufrag,
        })
    }

    /// Reads what an authenticated check says; `Err` holds the code of the error answer.
    pub(crate) fn body(&self) -> Result<RequestBody, u16> {
        const BAD: u16 = ErrorCode::BAD_REQUEST;
        let message = &self.message;
        if message.unknown_required(KNOWN_IN_REQUESTS).next().is_some() {
            return Err(ErrorCode::UNKNOWN_ATTRIBUTE);
        }
        let controlling = message.attribute::<IceControlling>().map_err(|_| BAD)?;
        let controlled = message.attribute::<IceControlled>().map_err(|_| BAD)?;
        let role = match (controlling, controlled) {
            (Some(IceControlling(tie)), None) => Role::Controlling(tie),
            (None, Some(IceControlled(tie))) => Role::Controlled(tie),
            _ => return Err(BAD),
        };
        let Priority(priority) = message.required::<Priority>().map_err(|_| BAD)?;
        let nominates = message.has(AttributeType::USE_CANDIDATE);
        Ok(RequestBody {
            role,
            priority,
            nominates,
        })
    }
}

/// What an authenticated check says.
pub(crate) struct RequestBody {
    pub(crate) role: Role,
    /// Of the peer-reflexive candidate that the check may reveal.
    pub(crate) priority: u32,
    /// USE-CANDIDATE is there. See RFC 8445 §7.3.1.5.
    pub(crate) nominates: bool,
}

/// A success answer that arrived.
pub(crate) struct Success<'a> {
    pub(crate) message: Message<'a>,
    pub(crate) id: TransactionId,
    /// Our address as the peer saw it.
    pub(crate) mapped: SocketAddr,
}

impl<'a> Success<'a> {
    fn parse(message: Message<'a>) -> Option<Self> {
        if message.unknown_required(KNOWN_IN_ANSWERS).next().is_some() {
            return None;
        }
        let XorMappedAddress(mapped) = message.required().ok()?;
        Some(Self {
            message,
            id: message.transaction_id(),
            mapped: canonical(mapped),
        })
    }
}

/// An error answer that arrived.
pub(crate) struct Failure<'a> {
    pub(crate) message: Message<'a>,
    pub(crate) id: TransactionId,
    pub(crate) code: u16,
}

impl<'a> Failure<'a> {
    fn parse(message: Message<'a>) -> Option<Self> {
        let code = message.required::<ErrorCode<'a>>().ok()?.code();
        Some(Self {
            message,
            id: message.transaction_id(),
            code,
        })
    }
}

/// Writes a check. See RFC 8445 §7.2.2.
pub(crate) fn write_check(
    id: TransactionId,
    username: Username<'_>,
    priority: u32,
    role: Role,
    key: &Key,
) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(MESSAGE_BYTES_TYPICAL);
    let mut writer = MessageWriter::new(&mut bytes, Class::Request, Method::BINDING, id);
    writer.attribute(&username).attribute(&Priority(priority));
    match role {
        Role::Controlling(tie) => writer.attribute(&IceControlling(tie)),
        Role::Controlled(tie) => writer.attribute(&IceControlled(tie)),
    };
    writer.integrity(key).fingerprint();
    bytes
}

/// Which integrity attribute protects a check; the answer has the same. See RFC 8489 §9.1.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seal {
    Sha1,
    Sha256,
}

impl Seal {
    pub(crate) fn of(request: &Message<'_>) -> Self {
        if request.has_integrity_sha256() {
            Self::Sha256
        } else {
            Self::Sha1
        }
    }

    fn write(self, writer: &mut MessageWriter<'_>, key: &Key) {
        match self {
            Self::Sha1 => writer.integrity(key),
            Self::Sha256 => writer.integrity_sha256(key),
        };
    }
}

/// Writes a success answer that tells the sender its address.
pub(crate) fn write_success(
    id: TransactionId,
    mapped: SocketAddr,
    seal: Seal,
    key: &Key,
) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(MESSAGE_BYTES_TYPICAL);
    let mut writer = MessageWriter::new(&mut bytes, Class::Success, Method::BINDING, id);
    writer.attribute(&XorMappedAddress(mapped));
    seal.write(&mut writer, key);
    writer.fingerprint();
    bytes
}

/// Writes an error answer, authenticated when a key is given. See RFC 8489 §6.3.1 and §9.1.3.
pub(crate) fn write_error(
    request: &Message<'_>,
    code: u16,
    proof: Option<(Seal, &Key)>,
) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(MESSAGE_BYTES_TYPICAL);
    let id = request.transaction_id();
    let mut writer = MessageWriter::new(&mut bytes, Class::Error, Method::BINDING, id);
    let error = ErrorCode::new(code, "").expect("our own codes are in range");
    writer.attribute(&error);
    if code == ErrorCode::UNKNOWN_ATTRIBUTE {
        let unknown = request.unknown_required(KNOWN_IN_REQUESTS);
        let unknown: Vec<_> = unknown.take(UNKNOWN_LISTED_MAX).collect();
        writer.attribute(&UnknownAttributes::new(&unknown));
    }
    if let Some((seal, key)) = proof {
        seal.write(&mut writer, key);
    }
    writer.fingerprint();
    bytes
}

const KNOWN_IN_REQUESTS: &[AttributeType] = &[
    AttributeType::USERNAME,
    AttributeType::PRIORITY,
    AttributeType::USE_CANDIDATE,
];
const KNOWN_IN_ANSWERS: &[AttributeType] = &[
    AttributeType::XOR_MAPPED_ADDRESS,
    AttributeType::MAPPED_ADDRESS,
];
const UNKNOWN_LISTED_MAX: usize = 8;
const MESSAGE_BYTES_TYPICAL: usize = 128;
