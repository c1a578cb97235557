//! Where a node is, as one text.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};

/// The port when a URL has none.
pub const PORT_DEFAULT: u16 = 8443;

/// `tombolo://HOST:PORT?pin=PIN`: all that a device needs to find and recognise a node.
///
/// With a pin exactly that certificate is accepted; without one the web PKI decides.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServerUrl {
    host: String,
    /// UDP and TCP port of the gateway.
    pub port: u16,
    /// The certificate to accept, whoever signed it.
    pub pin: Option<CertificatePin>,
}

/// SHA-256 of a certificate's DER.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CertificatePin(pub [u8; 32]);

/// Why a text is no [`ServerUrl`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UrlError {
    /// The text does not begin with `tombolo://`.
    #[error("a server URL begins with tombolo://")]
    Scheme,
    /// The host is no IP address (IPv6 in brackets) and no DNS name.
    #[error("host is neither an IP address nor a DNS name")]
    Host,
    /// The port is no number from 1 to 65535.
    #[error("port must be a number from 1 to 65535")]
    Port,
    /// The pin is not 32 bytes in unpadded base64url.
    #[error("pin must be 32 bytes in unpadded base64url")]
    Pin,
    /// Something follows that a server URL does not have.
    #[error("a server URL has a host, a port and at most a pin")]
    Excess,
}

impl ServerUrl {
    /// Names a node by an IP address.
    #[must_use]
    pub fn from_ip(ip: IpAddr, port: u16, pin: Option<CertificatePin>) -> Self {
        Self {
            host: ip.to_canonical().to_string(),
            port,
            pin,
        }
    }

    /// Names a node by an IP address (IPv6 without brackets) or a DNS name.
    ///
    /// # Errors
    /// When the host is neither, or the port is 0.
    pub fn new(host: &str, port: u16, pin: Option<CertificatePin>) -> Result<Self, UrlError> {
        if port == 0 {
            return Err(UrlError::Port);
        }
        if host.parse::<IpAddr>().is_err() && !is_dns_name(host) {
            return Err(UrlError::Host);
        }
        Ok(Self {
            host: host.to_owned(),
            port,
            pin,
        })
    }

    /// The IP address (IPv6 without brackets) or DNS name.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The host when it is an IP address.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    /// `HOST:PORT` as URLs and HTTP's `Host` have it, IPv6 in brackets.
    #[must_use]
    pub fn authority(&self) -> String {
        if self.host.parse::<Ipv6Addr>().is_ok() {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for ServerUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let rest = text.strip_prefix(SCHEME).ok_or(UrlError::Scheme)?;
        let (authority, query) = match rest.split_once('?') {
            Some((authority, query)) => (authority, Some(query)),
            None => (rest, None),
        };
        let authority = authority.strip_suffix('/').unwrap_or(authority);
        if authority.contains(['/', '#']) {
            return Err(UrlError::Excess);
        }
        let pin = match query {
            None => None,
            Some(query) => Some(
                query
                    .strip_prefix("pin=")
                    .ok_or(UrlError::Excess)?
                    .parse()?,
            ),
        };
        let (host, port) = split_authority(authority)?;
        Self::new(host, port, pin)
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}", self.authority())?;
        match &self.pin {
            Some(pin) => write!(f, "?pin={pin}"),
            None => Ok(()),
        }
    }
}

impl CertificatePin {
    /// The pin of a certificate in DER.
    #[must_use]
    pub fn of(certificate_der: &[u8]) -> Self {
        Self(Sha256::digest(certificate_der).into())
    }
}

impl FromStr for CertificatePin {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| UrlError::Pin)?;
        Ok(Self(bytes.try_into().map_err(|_| UrlError::Pin)?))
    }
}

impl fmt::Display for CertificatePin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for CertificatePin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CertificatePin({self})")
    }
}

fn split_authority(authority: &str) -> Result<(&str, u16), UrlError> {
    let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
        let (host, port) = rest.split_once(']').ok_or(UrlError::Host)?;
        host.parse::<Ipv6Addr>().map_err(|_| UrlError::Host)?;
        (
            host,
            if port.is_empty() {
                None
            } else {
                port.strip_prefix(':').or(Some(""))
            },
        )
    } else {
        match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        }
    };
    let port = match port {
        None => PORT_DEFAULT,
        Some(text) if text.bytes().all(|b| b.is_ascii_digit()) => {
            text.parse().map_err(|_| UrlError::Port)?
        }
        Some(_) => return Err(UrlError::Port),
    };
    Ok((host, port))
}

/// Letters, digits and hyphens in labels of 1 to 63 bytes, 253 bytes in all (RFC 1123 §2.1).
fn is_dns_name(host: &str) -> bool {
    host.len() <= 253
        && host.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        })
}

const SCHEME: &str = "tombolo://";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_come_back_as_they_were_printed() {
        let pin = CertificatePin::of(b"certificate");
        for text in [
            "tombolo://192.0.2.1:8443".to_owned(),
            "tombolo://node.example:1".to_owned(),
            format!("tombolo://[2001:db8::1]:65535?pin={pin}"),
        ] {
            assert_eq!(text.parse::<ServerUrl>().unwrap().to_string(), text);
        }
        let url: ServerUrl = "tombolo://[::1]/".parse().unwrap();
        assert_eq!(
            (url.host(), url.port, url.ip()),
            ("::1", 8443, Some([0, 0, 0, 0, 0, 0, 0, 1].into()))
        );
    }

    #[test]
    fn a_wrong_url_says_what_is_wrong() {
        let table = [
            ("https://192.0.2.1:8443", UrlError::Scheme),
            ("tombolo://", UrlError::Host),
            ("tombolo://:8443", UrlError::Host),
            ("tombolo://a b:8443", UrlError::Host),
            ("tombolo://user@host:8443", UrlError::Host),
            ("tombolo://[::1:8443", UrlError::Host),
            ("tombolo://[192.0.2.1]:8443", UrlError::Host),
            ("tombolo://[::1]8443", UrlError::Port),
            ("tombolo://::1", UrlError::Port),
            ("tombolo://host:", UrlError::Port),
            ("tombolo://host:0", UrlError::Port),
            ("tombolo://host:65536", UrlError::Port),
            ("tombolo://host:+1", UrlError::Port),
            ("tombolo://host:1/path", UrlError::Excess),
            ("tombolo://host:1?user=x", UrlError::Excess),
            ("tombolo://host:1?pin=", UrlError::Pin),
            ("tombolo://host:1?pin=AAAA", UrlError::Pin),
        ];
        for (text, error) in table {
            assert_eq!(text.parse::<ServerUrl>(), Err(error), "{text}");
        }
    }
}
