//! How much of the machine this process takes.

use std::time::{Duration, Instant};

/// Measures what this process takes of all cores. Where nobody tells, it takes nothing.
#[derive(Default)]
pub(crate) struct Cpu {
    last: Option<(Instant, Duration)>,
    permille: u32,
}

impl Cpu {
    /// What was taken in the last second or so, in thousandths of all cores.
    pub(crate) fn permille(&mut self, now: Instant, time: fn() -> Option<Duration>) -> u32 {
        let is_fresh = self
            .last
            .is_some_and(|(at, _)| now.saturating_duration_since(at).as_millis() < INTERVAL_MS);
        if is_fresh {
            return self.permille;
        }
        let Some(taken) = time() else {
            return 0;
        };
        if let Some((at, before)) = self.last {
            let elapsed = now.saturating_duration_since(at).as_millis();
            self.permille = permille(taken.saturating_sub(before), elapsed, cores());
        }
        self.last = Some((now, taken));
        self.permille
    }
}

fn permille(taken: Duration, elapsed_ms: u128, cores: u128) -> u32 {
    let permille = taken.as_millis() * 1000 / (elapsed_ms * cores).max(1);
    u32::try_from(permille.min(1000)).unwrap_or(1000)
}

fn cores() -> u128 {
    std::thread::available_parallelism().map_or(1, |cores| cores.get() as u128)
}

/// How much processor time this process has taken, where the system tells.
pub(crate) fn cpu_time() -> Option<Duration> {
    parse_time(&std::fs::read_to_string("/proc/self/stat").ok()?)
}

/// User and system time: the 14th and 15th field of proc_pid_stat(5). The second field is a name in
/// brackets that may hold anything.
fn parse_time(stat: &str) -> Option<Duration> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    let ticks = user.checked_add(system)?;
    Some(Duration::from_millis(ticks.checked_mul(TICK_MS)?))
}

/// The kernel's USER_HZ is 100 on every platform that Linux tells it to programs of.
const TICK_MS: u64 = 10;

const INTERVAL_MS: u128 = 1_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_a_process_took_is_read_although_its_name_has_brackets() {
        let stat = "7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 30 12 0 0 20 0";
        assert_eq!(parse_time(stat), Some(Duration::from_millis(420)));
        assert_eq!(parse_time("7 (a) S 1 2"), None);
        assert_eq!(parse_time(""), None);
    }

    #[test]
    fn one_busy_core_of_two_is_half() {
        assert_eq!(permille(Duration::from_secs(1), 1_000, 2), 500);
        assert_eq!(permille(Duration::from_secs(10), 1_000, 2), 1_000);
        assert_eq!(permille(Duration::ZERO, 0, 0), 0);
    }
}
