use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

/// Bounds what sources get that have proven nothing, not even that the address is theirs.
///
/// Each source network has a bucket of bytes. A request puts its own length in, a reply takes its
/// length out, and time fills the bucket up. So a flood from forged addresses gets, beyond the
/// bucket, at most the bytes out that it sends in. Networks share buckets by chance, under a
/// secret that makes the chance unpredictable; memory is fixed.
pub(super) struct Budget {
    buckets: Box<[Bucket]>,
    secret: [u8; 32],
    bytes_max: u32,
}

#[derive(Clone, Copy)]
struct Bucket {
    bytes: u32,
    filled: Instant,
}

impl Budget {
    pub(super) fn new(now: Instant, secret: [u8; 32], bytes_max: u32) -> Self {
        let full = Bucket {
            bytes: bytes_max,
            filled: now,
        };
        Self {
            buckets: vec![full; BUCKETS].into_boxed_slice(),
            secret,
            bytes_max,
        }
    }

    /// Takes a reply's length out; `false`, and nothing taken, if there is not enough.
    pub(super) fn spend(
        &mut self,
        now: Instant,
        source: SocketAddr,
        request_bytes: usize,
        reply_bytes: usize,
    ) -> bool {
        let index = self.index(source.ip());
        let bytes_max = self.bytes_max;
        let Some(bucket) = self.buckets.get_mut(index) else {
            return false;
        };
        let elapsed = now.saturating_duration_since(bucket.filled).as_millis();
        let elapsed = u64::try_from(elapsed).unwrap_or(u64::MAX).min(1000);
        let gained = elapsed * u64::from(bytes_max) / 1000;
        if gained > 0 {
            bucket.filled = now;
        }
        let available = u64::from(bucket.bytes) + gained + request_bytes as u64;
        let left = available.checked_sub(reply_bytes as u64);
        let kept = left.unwrap_or(available).min(u64::from(bytes_max));
        bucket.bytes = u32::try_from(kept).unwrap_or(bytes_max);
        left.is_some()
    }

    /// Finds the bucket of the source's network: IPv4 /24, IPv6 /48.
    fn index(&self, ip: IpAddr) -> usize {
        let mut hasher = DefaultHasher::new();
        self.secret.hash(&mut hasher);
        match ip.to_canonical() {
            IpAddr::V4(ip) => (ip.to_bits() >> 8).hash(&mut hasher),
            IpAddr::V6(ip) => (ip.to_bits() >> 80).hash(&mut hasher),
        }
        (hasher.finish() % BUCKETS as u64) as usize
    }
}

const BUCKETS: usize = 4096;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_flood_gets_no_more_than_it_sends_once_its_bucket_is_empty() {
        let now = Instant::now();
        let mut budget = Budget::new(now, [1; 32], 1000);
        let (mut sent, mut got) = (0, 0);
        for port in 0..1000 {
            sent += 20;
            if budget.spend(now, SocketAddr::from(([192, 0, 2, 7], port)), 20, 60) {
                got += 60;
            }
        }
        assert!(got <= sent + 1000, "{got} bytes for {sent}");
        assert!(
            got > sent / 2,
            "honest clients of the network are still answered"
        );
    }

    #[test]
    fn time_fills_the_bucket_and_other_networks_have_their_own() {
        let now = Instant::now();
        let mut budget = Budget::new(now, [1; 32], 100);
        let source = SocketAddr::from(([192, 0, 2, 7], 1));
        assert!(budget.spend(now, source, 0, 100));
        assert!(!budget.spend(now, source, 0, 10));
        assert!(budget.spend(now, SocketAddr::from(([198, 51, 100, 7], 1)), 0, 100));
        assert!(budget.spend(now + Duration::from_secs(1), source, 0, 100));
    }
}
