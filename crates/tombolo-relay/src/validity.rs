//! When a certificate is good, and who is told where it is not.

use std::{fmt, time::Duration};

use rustls::pki_types::CertificateDer;
use tokio::time::sleep;
use tracing::warn;
use x509_cert::{
    Certificate,
    der::{DateTime, Decode as _},
};

use crate::{Certificates, shard::unix_now};

/// When a certificate is good, in time since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Validity {
    pub(crate) not_before: Duration,
    pub(crate) not_after: Duration,
}

/// What is wrong with that, or will be soon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Complaint {
    Expired(Duration),
    Early(Duration),
    Expiring(Duration),
}

impl Validity {
    /// `None` where the certificate does not say so in a way that is understood.
    pub(crate) fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let certificate = Certificate::from_der(certificate).ok()?;
        let validity = certificate.tbs_certificate().validity();
        Some(Self {
            not_before: validity.not_before.to_unix_duration(),
            not_after: validity.not_after.to_unix_duration(),
        })
    }

    /// How long before its end it should have been renewed.
    fn soon(&self) -> Duration {
        let lifetime = self.not_after.saturating_sub(self.not_before);
        SOON.min(lifetime / 3)
    }

    pub(crate) fn complaint(&self, now: Duration) -> Option<Complaint> {
        if now > self.not_after {
            Some(Complaint::Expired(self.not_after))
        } else if now < self.not_before {
            Some(Complaint::Early(self.not_before))
        } else if self.not_after - now < self.soon() {
            Some(Complaint::Expiring(self.not_after))
        } else {
            None
        }
    }
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, time, so) = match self {
            Self::Expired(time) => ("expired on", time, ", so that clients refuse it"),
            Self::Early(time) => ("is not valid before", time, ", so that clients refuse it"),
            Self::Expiring(time) => ("expires on", time, ""),
        };
        match DateTime::from_unix_duration(*time) {
            Ok(time) => write!(f, "the certificate {what} {time}{so}"),
            Err(_) => write!(f, "the certificate {what} {} s{so}", time.as_secs()),
        }
    }
}

/// Says what an operator should do something about.
pub(crate) fn warn_of(certificates: &Certificates) {
    if let Some(complaint) = complaint(certificates, unix_now()) {
        warn!("{complaint} (tls)");
    }
}

/// Says so each day; whoever starts this has said it.
pub(crate) async fn watch(certificates: Certificates, tell: impl Fn(&Certificates)) {
    loop {
        sleep(DAY).await;
        tell(&certificates);
    }
}

fn complaint(certificates: &Certificates, now: Duration) -> Option<Complaint> {
    certificates.validity()?.complaint(now)
}

const DAY: Duration = Duration::from_hours(24);
/// Renewed ones usually come a month before the end; of those that are good for days only, with a third of
/// that left.
const SOON: Duration = Duration::from_hours(14 * 24);

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use rcgen::{CertificateParams, KeyPair, date_time_ymd};
    use rustls::pki_types::PrivatePkcs8KeyDer;

    use super::*;

    #[test]
    fn a_certificate_that_clients_refuse_or_will_soon_is_complained_of_with_the_time() {
        let certificates = from_2026_to_2027();
        for (now, says) in [
            (
                JANUARY_2026 - DAY,
                Some(
                    "the certificate is not valid before 2026-01-01T00:00:00Z, so that clients refuse it",
                ),
            ),
            (JANUARY_2026, None),
            (JANUARY_2027 - 14 * DAY, None),
            (
                JANUARY_2027 - 13 * DAY,
                Some("the certificate expires on 2027-01-01T00:00:00Z"),
            ),
            (
                JANUARY_2027 + DAY,
                Some("the certificate expired on 2027-01-01T00:00:00Z, so that clients refuse it"),
            ),
        ] {
            let complaint = complaint(&certificates, now).map(|complaint| complaint.to_string());
            assert_eq!(complaint.as_deref(), says);
        }
    }

    #[test]
    fn a_certificate_of_six_days_is_complained_of_in_the_last_two() {
        let validity = Validity {
            not_before: JANUARY_2026,
            not_after: JANUARY_2026 + 6 * DAY,
        };
        let expiring = Complaint::Expiring(validity.not_after);
        for (days, complaint) in [(0, None), (4, None), (5, Some(expiring))] {
            assert_eq!(validity.complaint(JANUARY_2026 + days * DAY), complaint);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_looked_at_each_day_as_it_is_then() {
        let seen = RefCell::new(Vec::new());
        let tell = |certificates: &Certificates| seen.borrow_mut().push(certificates.validity());
        let certificates = from_2026_to_2027();
        let first = certificates.validity();
        let mut watching = std::pin::pin!(watch(certificates.clone(), tell));
        let some_days = tokio::time::timeout(DAY * 5 / 2, watching.as_mut());
        some_days.await.expect_err("it goes on");
        assert_eq!(*seen.borrow(), [first, first]);
        let made = rcgen::generate_simple_self_signed(["a.example".to_owned()]).expect("valid");
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let another = Certificates::new(vec![made.cert.der().clone()], key.into()).expect("good");
        certificates.replace(&another);
        let one_more = tokio::time::timeout(DAY, watching.as_mut());
        one_more.await.expect_err("it goes on");
        assert_eq!(*seen.borrow(), [first, first, another.validity()]);
    }

    fn from_2026_to_2027() -> Certificates {
        let mut params = CertificateParams::new(["a.example".to_owned()]).expect("a name");
        params.not_before = date_time_ymd(2026, 1, 1);
        params.not_after = date_time_ymd(2027, 1, 1);
        let key = KeyPair::generate().expect("there is entropy");
        let certificate = params.self_signed(&key).expect("it is complete");
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        Certificates::new(vec![certificate.der().clone()], key.into()).expect("they are good")
    }

    const JANUARY_2026: Duration = Duration::from_secs(1_767_225_600);
    const JANUARY_2027: Duration = Duration::from_secs(1_798_761_600);
}
