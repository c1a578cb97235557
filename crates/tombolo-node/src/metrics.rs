//! What a node has counted, as OpenMetrics text: its relay's counters, then those of the other parts.
//!
//! Labels have few values: codes, reasons, transports; never users, rooms or devices.

use std::collections::BTreeMap;

use tombolo_relay::MetricKind::{Counter, Gauge};
use tombolo_relay::{MetricKind, write_family};
use tombolo_wire::v1::ErrorCode;

use crate::node::Stats;

/// A family of metrics with one value.
type Family = (&'static str, MetricKind, &'static str, fn(&Stats) -> u64);

impl Stats {
    /// Writes all counters and gauges as OpenMetrics text, ended by `# EOF`; see
    /// [`OPEN_METRICS_TYPE`](tombolo_relay::OPEN_METRICS_TYPE).
    #[must_use]
    pub fn to_open_metrics(&self) -> String {
        let mut text = self.relay.to_open_metrics();
        text.truncate(text.trim_end_matches(END).len());
        for (name, kind, help, value) in FAMILIES {
            let value = (String::new(), value(self));
            write_family(&mut text, (name, *kind, help), [value]);
        }
        self.write_labelled(&mut text);
        self.write_hooks(&mut text);
        text.push_str(END);
        text
    }

    fn write_labelled(&self, text: &mut String) {
        let (gateway, services) = (&self.gateway, &self.services);
        let sessions = [
            ("quic", gateway.sessions_quic),
            ("websocket", gateway.sessions_websocket),
        ];
        write_family(
            text,
            (
                "tombolo_gateway_connections",
                Gauge,
                "Connections with a session, by transport.",
            ),
            sessions.map(|(transport, count)| (label("transport", transport), count)),
        );
        for (name, help, by_code) in [
            (
                "tombolo_gateway_rejected",
                "Connections refused or ended, by the code that the device was told.",
                &gateway.rejected,
            ),
            (
                "tombolo_services_refused",
                "What was refused to devices, by the code that they were told.",
                &services.refused,
            ),
        ] {
            let by_code = by_code.iter();
            let samples = by_code.map(|(code, count)| (label("code", code_name(*code)), *count));
            write_family(text, (name, Counter, help), samples);
        }
        for (name, help, by_reason) in [
            (
                "tombolo_services_resumes_refused",
                "Devices that could not go on with their session, by reason.",
                &services.resumes_refused,
            ),
            (
                "tombolo_cluster_frames_refused",
                "Frames of other nodes that were refused, by reason.",
                &services.cluster.frames_refused,
            ),
            (
                "tombolo_fields_refused",
                "What was refused to devices in fields, by reason.",
                &services.fields.refused,
            ),
        ] {
            write_family(text, (name, Counter, help), reasons(by_reason));
        }
        let seal = &self.seal;
        let refused = [
            ("unsealed", seal.unsealed),
            ("other key", seal.other_key),
            ("forged", seal.forged),
            ("untimely", seal.untimely),
            ("replayed", seal.replayed),
            ("too many", seal.too_many),
        ];
        write_family(
            text,
            (
                "tombolo_cluster_seals_refused",
                Counter,
                "Messages on the bus that were refused for their seal, by reason.",
            ),
            refused.map(|(reason, count)| (label("reason", reason), count)),
        );
    }

    fn write_hooks(&self, text: &mut String) {
        let answers = self.hooks.count_by_outcome.iter();
        let answers = answers.map(|((question, outcome), count)| {
            let question = label("question", question.as_str());
            let outcome = label("outcome", outcome.as_str());
            (format!("{question},{outcome}"), *count)
        });
        write_family(
            text,
            (
                "tombolo_hooks_questions",
                Counter,
                "Questions for the game's server, by what they were and what became of them.",
            ),
            answers,
        );
    }
}

fn label(name: &str, value: &str) -> String {
    format!("{name}=\"{value}\"")
}

fn reasons(count_by_reason: &BTreeMap<String, u64>) -> impl Iterator<Item = (String, u64)> {
    let counts = count_by_reason.iter();
    counts.map(|(reason, count)| (format!("reason=\"{reason}\""), *count))
}

/// As the contract has it, without what all codes begin with.
fn code_name(code: ErrorCode) -> &'static str {
    let name = code.as_str_name();
    name.strip_prefix("ERROR_CODE_").unwrap_or(name)
}

const END: &str = "# EOF\n";

#[rustfmt::skip] // It is a table.
const FAMILIES: &[Family] = &[
    ("tombolo_gateway_attached", Counter, "Connections that got a session, new or resumed.", |s| s.gateway.attached),
    ("tombolo_gateway_refused_full", Counter, "Connections not taken: the gateway was full.", |s| s.gateway.refused_full),
    ("tombolo_gateway_refused_prefix_full", Counter, "Connections not taken: their source prefix had too many.", |s| s.gateway.refused_prefix_full),
    ("tombolo_gateway_accepts_failed", Counter, "How often the system gave no connection out, for want of descriptors mostly.", |s| s.gateway.accepts_failed),
    ("tombolo_gateway_refused_pace", Counter, "Connections not taken: all together began too many handshakes.", |s| s.gateway.refused_pace),
    ("tombolo_gateway_refused_prefix_pace", Counter, "Connections not taken: their source prefix, or a network around it, began too many handshakes.", |s| s.gateway.refused_prefix_pace),
    ("tombolo_gateway_displaced", Counter, "Connections without a session whose places newcomers got.", |s| s.gateway.displaced),
    ("tombolo_gateway_retries", Counter, "Clients sent back to prove their address first.", |s| s.gateway.retries),
    ("tombolo_gateway_handshakes_failed", Counter, "TLS or QUIC handshakes that failed.", |s| s.gateway.handshakes_failed),
    ("tombolo_gateway_hellos_late", Counter, "Connections that did not introduce themselves in time.", |s| s.gateway.hellos_late),
    ("tombolo_gateway_received_frames", Counter, "Frames from devices.", |s| s.gateway.frames_received),
    ("tombolo_gateway_sent_frames", Counter, "Frames to devices.", |s| s.gateway.frames_sent),
    ("tombolo_http_requests", Counter, "HTTP requests answered.", |s| s.gateway.http_requests),
    ("tombolo_http_errors", Counter, "HTTP requests answered with an error.", |s| s.gateway.http_errors),
    ("tombolo_api_requests", Counter, "Requests of game servers that their keys allowed.", |s| s.gateway.api_requests),
    ("tombolo_api_keys_refused", Counter, "Requests of game servers without a key that is known.", |s| s.gateway.api_keys_refused),
    ("tombolo_api_scopes_refused", Counter, "Requests of game servers that their keys do not allow.", |s| s.gateway.api_scopes_refused),
    ("tombolo_api_rates_refused", Counter, "Requests of game servers whose keys were used too often.", |s| s.gateway.api_rates_refused),
    ("tombolo_api_repetitions_refused", Counter, "Requests of game servers under a name that is used for another one.", |s| s.gateway.api_repetitions_refused),
    ("tombolo_services_sessions", Gauge, "Sessions, with and without a connection.", |s| whole(s.services.sessions)),
    ("tombolo_services_rooms", Gauge, "Rooms that this node has members in.", |s| whole(s.services.rooms)),
    ("tombolo_services_resumed", Counter, "Sessions that went on after their connection broke.", |s| s.services.resumed),
    ("tombolo_services_expired", Counter, "Sessions that nobody resumed in time.", |s| s.services.expired),
    ("tombolo_services_delivered", Counter, "Messages handed to a member's session.", |s| s.services.delivered),
    ("tombolo_services_directs", Counter, "Direct messages that devices here have sent.", |s| s.services.directs),
    ("tombolo_services_copies_failed", Counter, "Direct messages whose senders have got no copy.", |s| s.services.copies_failed),
    ("tombolo_services_rooms_crowded_out", Counter, "Rooms that were closed because there were too many that nobody was in.", |s| s.services.rooms_crowded_out),
    ("tombolo_services_logs_left", Counter, "Logs of closed rooms that are looked for later to be retired: too many waited for that.", |s| s.services.logs_left),
    ("tombolo_services_posts", Counter, "What devices here have said in groups.", |s| s.services.posts),
    ("tombolo_services_introduced", Counter, "Introductions handed to a member's session.", |s| s.services.introduced),
    ("tombolo_services_dropped", Counter, "Unreliable messages dropped because a connection was too slow.", |s| s.services.dropped),
    ("tombolo_services_coalesced", Counter, "Messages in whose place a newer value was sent.", |s| s.services.coalesced),
    ("tombolo_services_behind", Counter, "Sessions ended because their devices did not keep up.", |s| s.services.behind),
    ("tombolo_services_unread", Counter, "Reliable messages that devices had not acknowledged when their sessions ended.", |s| s.services.unread),
    ("tombolo_services_hooks_failed", Counter, "How often the game's own code failed, or took too long.", |s| s.services.hooks_failed),
    ("tombolo_services_listings_failed", Counter, "How often the engine did not take what is public about a room.", |s| s.services.listings_failed),
    ("tombolo_services_logs_panicked", Counter, "How often something about one log panicked: it began anew.", |s| s.services.logs_panicked),
    ("tombolo_services_sessions_panicked", Counter, "Sessions ended because what was done for them panicked.", |s| s.services.sessions_panicked),
    ("tombolo_services_items_panicked", Counter, "What others said and was refused because it panicked.", |s| s.services.items_panicked),
    ("tombolo_match_tickets", Counter, "Tickets that devices here have submitted to pools.", |s| s.services.tickets),
    ("tombolo_match_matched", Counter, "Matches that devices here were told of.", |s| s.services.matched),
    ("tombolo_match_claims_conflicted", Counter, "Claims that were made anew.", |s| s.services.claims_conflicted),
    ("tombolo_fields", Gauge, "Fields that this node has devices in.", |s| whole(s.services.fields.fields)),
    ("tombolo_fields_reports", Counter, "Reports of devices that were taken in.", |s| s.services.fields.reports),
    ("tombolo_fields_batches", Counter, "Batches handed to devices' sessions.", |s| s.services.fields.batches),
    ("tombolo_fields_deferred", Counter, "What devices were to be told and had to wait.", |s| s.services.fields.deferred),
    ("tombolo_fields_heard", Counter, "Reports of other nodes' devices that were taken in.", |s| s.services.fields.heard),
    ("tombolo_fields_bus_lost", Counter, "Messages to fields that the bus has lost.", |s| s.services.fields.bus_lost),
    ("tombolo_fields_panicked", Counter, "Fields whose task panicked: the sessions in them ended.", |s| s.services.fields.panicked),
    ("tombolo_cluster_sent_frames", Counter, "Frames handed to the bus.", |s| s.services.cluster.frames_sent),
    ("tombolo_cluster_failed_frames", Counter, "Frames that the bus did not take.", |s| s.services.cluster.frames_failed),
    ("tombolo_cluster_received_frames", Counter, "Frames of other nodes that were taken in.", |s| s.services.cluster.frames_received),
    ("tombolo_cluster_bus_lost", Counter, "Frames that the bus has lost.", |s| s.services.cluster.bus_lost),
    ("tombolo_cluster_repairs", Counter, "How often something was sent again, or found to be missing.", |s| s.services.cluster.repairs),
    ("tombolo_cluster_items_refused", Counter, "What other nodes said and was not believed.", |s| s.services.cluster.items_refused),
    ("tombolo_cluster_records_refused", Counter, "Records and heartbeats that were not understood.", |s| s.services.cluster.records_refused),
    ("tombolo_cluster_fenced", Counter, "How often the others have put this node out.", |s| s.services.cluster.fenced),
    ("tombolo_cluster_inherited", Counter, "Nodes that this one has put out.", |s| s.services.cluster.inherited),
    ("tombolo_cluster_sessions_given", Counter, "Sessions that went on over another node.", |s| s.services.cluster.sessions_given),
    ("tombolo_cluster_sessions_taken", Counter, "Sessions of other nodes that went on here.", |s| s.services.cluster.sessions_taken),
    ("tombolo_webhook_delivered", Counter, "Events that the webhook's server took.", |s| s.webhook.delivered),
    ("tombolo_webhook_given_up", Counter, "Events that it did not take however often they were posted.", |s| s.webhook.given_up),
    ("tombolo_webhook_dropped", Counter, "Events that found the queue full, or that had not been told when the node ended.", |s| s.webhook.dropped),
    ("tombolo_webhook_failures", Counter, "Posts that failed or were not answered in time.", |s| s.webhook.failures),
];

fn whole(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_family_is_there_once_and_documented() {
        let mut stats = Stats::default();
        stats.services.sessions = 3;
        stats.gateway.sessions_quic = 2;
        stats.services.refused.insert(ErrorCode::Limit, 5);
        stats.seal.forged = 7;
        let text = stats.to_open_metrics();
        let docs = include_str!("../../../docs/node.md");
        let relay = stats.relay.to_open_metrics();
        let mut names = BTreeSet::new();
        for line in text.lines() {
            let Some(family) = line.strip_prefix("# TYPE ") else {
                continue;
            };
            let name = family.split(' ').next().unwrap_or_default();
            assert!(names.insert(name), "{name}: twice");
            let is_here =
                docs.contains(&format!("`{name}`")) || docs.contains(&format!("`{name}{{"));
            let is_the_relays = relay.contains(&format!("# TYPE {family}\n"));
            assert!(is_here || is_the_relays, "{name} is not documented");
        }
        for line in [
            "tombolo_services_sessions 3",
            "tombolo_gateway_connections{transport=\"quic\"} 2",
            "tombolo_services_refused_total{code=\"LIMIT\"} 5",
            "tombolo_cluster_seals_refused_total{reason=\"forged\"} 7",
            "tombolo_webhook_failures_total 0",
        ] {
            assert!(text.lines().any(|told| told == line), "{line}");
        }
        assert_eq!(text.matches(END).count(), 1);
        assert!(text.ends_with(END));
    }
}
