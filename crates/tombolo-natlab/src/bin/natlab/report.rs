//! What came of many runs.

use serde_json::{Value, json};
use tombolo_natlab::scenario::{Limits, PeerSummary, Run, RunError, Scenario};

/// All runs of one scenario.
pub(crate) struct Tally<'a> {
    pub(crate) scenario: &'a Scenario,
    pub(crate) runs: Vec<Result<Run, RunError>>,
}

impl Tally<'_> {
    fn completed(&self) -> impl Iterator<Item = &Run> {
        self.runs.iter().filter_map(|run| run.as_ref().ok())
    }

    fn good_runs(&self) -> usize {
        self.runs.iter().filter(|run| is_good(run)).count()
    }

    /// Whether all runs and medians are as expected.
    pub(crate) fn is_good(&self) -> bool {
        self.good_runs() == self.runs.len() && self.exceeded().is_empty()
    }

    /// The median over both devices of all runs, milliseconds.
    fn median(&self, of: impl Fn(&PeerSummary) -> Option<f64>) -> Option<f64> {
        median(
            self.completed()
                .flat_map(|run| &run.peers)
                .filter_map(|peer| peer.summary().and_then(&of))
                .collect(),
        )
    }

    fn first_byte_ms(&self) -> Option<f64> {
        median(self.completed().filter_map(Run::first_byte_ms).collect())
    }

    fn direct_ms(&self) -> Option<f64> {
        median(self.completed().filter_map(Run::direct_ms).collect())
    }

    fn longest_gap_ms(&self) -> Option<f64> {
        self.median(|summary| summary.longest_gap_ms)
    }

    fn rtt_ms(&self) -> Option<f64> {
        self.median(|summary| summary.rtt_ms.and_then(|rtt| rtt.p50))
    }

    fn took_s(&self) -> Option<f64> {
        median(self.completed().map(|run| run.took.as_secs_f64()).collect())
    }

    fn relay_again_ms(&self) -> Option<f64> {
        median(self.completed().filter_map(Run::relay_again_ms).collect())
    }

    fn direct_again_ms(&self) -> Option<f64> {
        median(self.completed().filter_map(Run::direct_again_ms).collect())
    }

    /// Bounds that the medians are over.
    fn exceeded(&self) -> Vec<String> {
        let Limits {
            first_byte_ms,
            direct_ms,
            relay_again_ms,
            direct_again_ms,
            ..
        } = self.scenario.limits;
        let mut exceeded = Vec::new();
        for (what, limit, measured) in [
            ("first byte", first_byte_ms, self.first_byte_ms()),
            ("direct path", direct_ms, self.direct_ms()),
            ("relay again", relay_again_ms, self.relay_again_ms()),
            ("direct again", direct_again_ms, self.direct_again_ms()),
        ] {
            let Some(limit) = limit else { continue };
            match measured {
                None => exceeded.push(format!("{what} was not measured")),
                Some(measured) if measured > limit => {
                    exceeded.push(format!("{what} {measured:.1} ms is over {limit:.1} ms"));
                }
                Some(_) => {}
            }
        }
        exceeded
    }

    fn failures(&self) -> Vec<String> {
        let mut failures: Vec<String> = Vec::new();
        for (index, run) in self.runs.iter().enumerate() {
            match run {
                Ok(run) => failures.extend(
                    run.failures
                        .iter()
                        .map(|failure| format!("run {index}: {failure}")),
                ),
                Err(error) => failures.push(format!("run {index}: {error}")),
            }
        }
        failures.extend(self.exceeded());
        failures
    }

    fn outcomes(&self) -> String {
        let mut outcomes: Vec<String> = self
            .runs
            .iter()
            .map(|run| run.as_ref().ok().and_then(Run::outcome))
            .map(|outcome| outcome.map_or_else(|| "nothing".to_owned(), |got| got.to_string()))
            .collect();
        outcomes.sort();
        outcomes.dedup();
        outcomes.join("/")
    }

    /// The figures of this scenario.
    pub(crate) fn to_json(&self) -> Value {
        json!({
            "name": self.scenario.name,
            "expect": self.scenario.expect.to_string(),
            "got": self.outcomes(),
            "runs": self.runs.len(),
            "good": self.good_runs(),
            "first_byte_ms": self.first_byte_ms(),
            "direct_ms": self.direct_ms(),
            "rtt_ms": self.rtt_ms(),
            "longest_gap_ms": self.longest_gap_ms(),
            "relay_again_ms": self.relay_again_ms(),
            "direct_again_ms": self.direct_again_ms(),
            "took_s": self.took_s(),
            "failures": self.failures(),
        })
    }
}

/// Prints one line for each scenario, and what failed.
pub(crate) fn print_table(tallies: &[Tally<'_>]) {
    println!(
        "{:<40} {:<9} {:<9} {:>7} {:>9} {:>9} {:>7} {:>7} {:>7} {:>7}",
        "scenario",
        "expect",
        "got",
        "good",
        "1st byte",
        "direct",
        "rtt",
        "gap",
        "relayed",
        "healed"
    );
    let ms =
        |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1}"));
    for tally in tallies {
        println!(
            "{:<40} {:<9} {:<9} {:>7} {:>9} {:>9} {:>7} {:>7} {:>7} {:>7}",
            tally.scenario.name,
            tally.scenario.expect,
            tally.outcomes(),
            format!("{}/{}", tally.good_runs(), tally.runs.len()),
            ms(tally.first_byte_ms()),
            ms(tally.direct_ms()),
            ms(tally.rtt_ms()),
            ms(tally.longest_gap_ms()),
            ms(tally.relay_again_ms()),
            ms(tally.direct_again_ms()),
        );
        for failure in tally.failures() {
            println!("    {failure}");
        }
    }
    let good = tallies.iter().filter(|tally| tally.is_good()).count();
    println!(
        "{good} of {} scenarios as expected; times are medians in milliseconds",
        tallies.len()
    );
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() % 2 {
        1 => values.get(middle).copied(),
        _ => Some((values.get(middle.checked_sub(1)?)? + values.get(middle)?) / 2.0),
    }
}

/// Whether a run could be made and was as expected.
pub(crate) fn is_good(result: &Result<Run, RunError>) -> bool {
    result.as_ref().is_ok_and(Run::is_as_expected)
}
