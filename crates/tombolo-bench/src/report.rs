//! Medians, ratios and goals: as a table for people, as JSON for programs.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::measure::{Kind, Sample};
use crate::rows::{Goal, Limit, Row};
use crate::subject::Subject;

/// What has been measured of one row: a sample for each subject and round. A run that failed has none,
/// and its reason.
#[derive(Default)]
pub(crate) struct Results {
    rounds: Vec<BTreeMap<Subject, Sample>>,
    pub(crate) failures: Vec<String>,
    /// Subjects that could not run here, with the reason.
    pub(crate) missing: BTreeMap<Subject, String>,
}

impl Results {
    pub(crate) fn add(&mut self, round: usize, subject: Subject, sample: Sample) {
        if self.rounds.len() <= round {
            self.rounds.resize_with(round + 1, BTreeMap::new);
        }
        self.rounds[round].insert(subject, sample);
    }

    /// The figures of all rounds.
    fn figures(&self, subject: Subject, key: &str) -> Vec<f64> {
        let samples = self.rounds.iter().filter_map(|round| round.get(&subject));
        samples
            .filter_map(|sample| sample.get(key).copied())
            .collect()
    }

    /// The ratios of the rounds in which both ran.
    fn ratios(&self, of: Subject, against: Subject, key: &str) -> Vec<f64> {
        let figure =
            |round: &BTreeMap<Subject, Sample>, subject| round.get(&subject)?.get(key).copied();
        let both = self
            .rounds
            .iter()
            .filter_map(|round| Some((figure(round, of)?, figure(round, against)?)));
        both.map(|(of, against)| of / against).collect()
    }

    fn values(&self, goal: &Goal) -> Vec<f64> {
        match goal.against {
            Some(against) => self.ratios(goal.of, against, goal.key),
            None => self.figures(goal.of, goal.key),
        }
    }
}

/// How one goal stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Met,
    Missed,
    /// Its subjects did not run.
    Unknown,
}

pub(crate) fn verdict(goal: &Goal, results: &Results) -> Verdict {
    match median(&results.values(goal)) {
        Some(value) if goal.limit.holds(value) => Verdict::Met,
        Some(_) => Verdict::Missed,
        None => Verdict::Unknown,
    }
}

/// A row as people read it; goals are part of it where figures count.
pub(crate) fn table(row: &Row, results: &Results, kind: Kind) -> String {
    let mut text = format!("{}: {}\n", row.id, row.what);
    for subject in row.subjects {
        if let Some(reason) = results.missing.get(subject) {
            let _ = writeln!(text, "  {subject:<8} not run: {reason}");
            continue;
        }
        let figures = results.figures(*subject, row.metric.key);
        let Some(middle) = median(&figures) else {
            continue;
        };
        let (least, most) = range(&figures);
        let _ = write!(
            text,
            "  {subject:<8} {} {} [{} - {}]",
            number(middle),
            row.metric.unit,
            number(least),
            number(most)
        );
        for key in results
            .keys(*subject)
            .into_iter()
            .filter(|key| *key != row.metric.key)
        {
            let value = median(&results.figures(*subject, key)).unwrap_or(f64::NAN);
            let _ = write!(text, "  {key} {}", number(value));
        }
        text.push('\n');
    }
    let goals = if kind == Kind::Full { row.goals } else { &[] };
    for goal in goals {
        let values = results.values(goal);
        let Some(middle) = median(&values) else {
            continue;
        };
        let (least, most) = range(&values);
        let mark = if goal.limit.holds(middle) {
            "ok  "
        } else {
            "FAIL"
        };
        let _ = writeln!(
            text,
            "  {mark} {}: {} [{} - {}], asked {}",
            name(goal),
            number(middle),
            number(least),
            number(most),
            asked(goal.limit)
        );
    }
    for failure in &results.failures {
        let _ = writeln!(text, "  FAIL {failure}");
    }
    text
}

/// A row as programs read it.
pub(crate) fn value(row: &Row, results: &Results) -> Value {
    let subjects = row.subjects.iter().map(|subject| {
        let medians = results.keys(*subject).into_iter().map(|key| {
            (
                key.to_owned(),
                json!(median(&results.figures(*subject, key))),
            )
        });
        (subject.name().to_owned(), Value::Object(medians.collect()))
    });
    let rounds = results.rounds.iter().map(|round| {
        let samples = round
            .iter()
            .map(|(subject, sample)| (subject.name().to_owned(), json!(sample)));
        Value::Object(samples.collect())
    });
    let goals = row.goals.iter().map(|goal| {
        let values = results.values(goal);
        json!({
            "goal": name(goal),
            "asked": asked(goal.limit),
            "median": median(&values),
            "rounds": values,
            "verdict": match verdict(goal, results) {
                Verdict::Met => "met",
                Verdict::Missed => "missed",
                Verdict::Unknown => "unknown",
            },
        })
    });
    let missing = results
        .missing
        .iter()
        .map(|(subject, reason)| (subject.name().to_owned(), json!(reason)));
    json!({
        "row": row.id,
        "what": row.what,
        "medians": Value::Object(subjects.collect()),
        "goals": goals.collect::<Vec<_>>(),
        "rounds": rounds.collect::<Vec<_>>(),
        "failures": results.failures,
        "missing": Value::Object(missing.collect()),
    })
}

impl Results {
    /// All metrics that a subject has.
    fn keys(&self, subject: Subject) -> Vec<&'static str> {
        let sample = self.rounds.iter().find_map(|round| round.get(&subject));
        sample
            .map(|sample| sample.keys().copied().collect())
            .unwrap_or_default()
    }
}

fn name(goal: &Goal) -> String {
    let what = format!("{} {}", goal.of, goal.key);
    match goal.against {
        Some(against) => format!("{what} / {against}"),
        None => what,
    }
}

fn asked(limit: Limit) -> String {
    match limit {
        Limit::AtMost(limit) => format!("<= {limit}"),
        Limit::AtLeast(limit) => format!(">= {limit}"),
    }
}

/// `None` of nothing.
fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(sorted[middle]),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}

fn range(values: &[f64]) -> (f64, f64) {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    (least, most)
}

/// Three digits or so.
fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 1000.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::ROWS;

    #[test]
    fn a_ratio_is_taken_within_each_round_before_the_median() {
        let mut results = Results::default();
        // The machine was slow in the second round, for both.
        for (round, (coturn, sockets)) in [(8.0, 4.0), (80.0, 60.0), (8.0, 6.5)]
            .into_iter()
            .enumerate()
        {
            results.add(round, Subject::Coturn, Sample::from([("cpu_us", coturn)]));
            results.add(round, Subject::Sockets, Sample::from([("cpu_us", sockets)]));
        }
        assert_eq!(
            median(&results.ratios(Subject::Sockets, Subject::Coturn, "cpu_us")),
            Some(0.75)
        );
        let goal = &ROWS[0].goals[0];
        assert_eq!(verdict(goal, &results), Verdict::Met);
        results.add(3, Subject::Coturn, Sample::from([("cpu_us", 8.0)]));
        assert_eq!(
            results
                .ratios(Subject::Sockets, Subject::Coturn, "cpu_us")
                .len(),
            3
        );
    }

    #[test]
    fn a_goal_that_is_missed_is_said_to_be() {
        let mut results = Results::default();
        results.add(0, Subject::Coturn, Sample::from([("cpu_us", 8.0)]));
        results.add(0, Subject::Sockets, Sample::from([("cpu_us", 7.0)]));
        assert_eq!(verdict(&ROWS[0].goals[0], &results), Verdict::Missed);
        assert_eq!(verdict(&ROWS[0].goals[1], &results), Verdict::Unknown);
        let text = table(&ROWS[0], &results, Kind::Full);
        assert!(
            text.contains("FAIL sockets cpu_us / coturn: 0.88"),
            "{text}"
        );
    }

    #[test]
    fn each_row_has_a_name_of_its_own_and_goals_for_its_subjects() {
        let mut ids: Vec<_> = ROWS.iter().map(|row| row.id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), ROWS.len());
        for row in ROWS {
            for goal in row.goals {
                assert!(row.subjects.contains(&goal.of), "{}", row.id);
                assert!(
                    goal.against
                        .is_none_or(|against| row.subjects.contains(&against)),
                    "{}",
                    row.id
                );
            }
        }
    }
}
