//! Round-trip times, smoothed as in RFC 6298 §2.

use std::time::Duration;

/// A smoothed RTT. Every check has its own transaction, so no sample is ambiguous.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rtt {
    smoothed: Option<Duration>,
    variation: Duration,
    samples: u32,
}

impl Rtt {
    pub(crate) fn on_sample(&mut self, sample: Duration) {
        self.samples = self.samples.saturating_add(1);
        let Some(smoothed) = self.smoothed else {
            self.smoothed = Some(sample);
            self.variation = sample / 2;
            return;
        };
        self.variation = (self.variation * 3 + smoothed.abs_diff(sample)) / 4;
        self.smoothed = Some((smoothed * 7 + sample) / 8);
    }

    /// `None` until the first sample.
    pub(crate) fn smoothed(&self) -> Option<Duration> {
        self.smoothed
    }

    pub(crate) fn samples(&self) -> u32 {
        self.samples
    }

    /// How long an answer may reasonably take; `None` until the first sample.
    pub(crate) fn patience(&self) -> Option<Duration> {
        self.smoothed.map(|smoothed| smoothed + self.variation * 4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_sample_counts_fully_and_later_ones_an_eighth() {
        let mut rtt = Rtt::default();
        assert_eq!(rtt.smoothed(), None);
        rtt.on_sample(Duration::from_millis(80));
        assert_eq!(rtt.smoothed(), Some(Duration::from_millis(80)));
        assert_eq!(rtt.patience(), Some(Duration::from_millis(240)));
        rtt.on_sample(Duration::from_millis(160));
        assert_eq!(rtt.smoothed(), Some(Duration::from_millis(90)));
        assert_eq!(rtt.samples(), 2);
    }
}
