//! What a relay has counted, as OpenMetrics text (version 1.0.0), for Prometheus and its like.
//!
//! Labels have few values: shards, realms of the configuration, and reasons; never users, clients or peers.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use tombolo_turn::server::Usage;

use crate::{RelayStats, ShardStats, StreamStats};

use MetricKind::{Counter, Gauge};

/// The content type of [`RelayStats::to_open_metrics`].
pub const OPEN_METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Whether a number only grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// It does.
    Counter,
    /// It says how many there are now.
    Gauge,
}

/// A family of metrics with one value for each shard.
type Family = (
    &'static str,
    MetricKind,
    &'static str,
    fn(&ShardStats) -> u64,
);

impl RelayStats {
    /// Writes all counters and gauges, ended by `# EOF`.
    #[must_use]
    pub fn to_open_metrics(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = self.write_open_metrics(&mut text);
        text
    }

    fn write_open_metrics(&self, text: &mut String) -> fmt::Result {
        for (name, kind, help, value) in SHARD_FAMILIES {
            head(text, name, *kind, help)?;
            for shard in &self.shards {
                let label = format!("shard=\"{}\"", shard.shard.0);
                sample(text, name, *kind, &label, value(shard))?;
            }
        }
        let name = "tombolo_relay_silent_shards";
        head(text, name, Gauge, "Shards that have not told in time.")?;
        sample(text, name, Gauge, "", self.silent_shards as u64)?;
        // A sum without one of them would fall, which for a counter means that it began anew.
        if self.silent_shards == 0 {
            self.write_realms(text)?;
            self.write_refusals(text)?;
        }
        self.write_hook(text)?;
        if let Some(expires) = self.certificate_expires {
            let name = "tombolo_certificate_expires_seconds";
            head(
                text,
                name,
                Gauge,
                "When the certificate expires, in unix time.",
            )?;
            sample(text, name, Gauge, "", expires.as_secs())?;
        }
        for (name, kind, help, value) in STREAM_FAMILIES {
            head(text, name, *kind, help)?;
            sample(text, name, *kind, "", value(&self.streams))?;
        }
        text.write_str("# EOF\n")
    }

    fn write_realms(&self, text: &mut String) -> fmt::Result {
        for (name, help, value) in REALM_FAMILIES {
            head(text, name, Gauge, help)?;
            let mut count_by_realm = BTreeMap::new();
            for shard in &self.shards {
                for (realm, usage) in &shard.usage_by_realm {
                    *count_by_realm.entry(realm).or_insert(0) += value(usage);
                }
            }
            for (realm, count) in count_by_realm {
                let labels = format!("realm=\"{}\"", escaped(realm));
                sample(text, name, Gauge, &labels, count)?;
            }
        }
        Ok(())
    }

    fn write_refusals(&self, text: &mut String) -> fmt::Result {
        let name = "tombolo_turn_refusals";
        head(
            text,
            name,
            Counter,
            "What was refused, by reason and the error code of the reply, 0 where there is none.",
        )?;
        let Some(first) = self.shards.first() else {
            return Ok(());
        };
        for (refusal, _) in first.turn.refusals() {
            let count = self.shards.iter().map(|shard| shard.turn.refused(refusal));
            let code = refusal.code().unwrap_or(0);
            let labels = format!("reason=\"{refusal}\",code=\"{code}\"");
            sample(text, name, Counter, &labels, count.sum())?;
        }
        Ok(())
    }
}

impl RelayStats {
    fn write_hook(&self, text: &mut String) -> fmt::Result {
        let hook = &self.hook;
        for (name, help, value) in [
            (
                "tombolo_relay_hook_questions",
                "Questions about users.",
                hook.asked,
            ),
            (
                "tombolo_relay_hook_admitted",
                "Users that the hook knows.",
                hook.admitted,
            ),
            (
                "tombolo_relay_hook_refused",
                "Users that the hook refused.",
                hook.refused,
            ),
        ] {
            head(text, name, Counter, help)?;
            sample(text, name, Counter, "", value)?;
        }
        let name = "tombolo_relay_hook_failures";
        head(
            text,
            name,
            Counter,
            "Questions without an answer, by reason.",
        )?;
        for (failure, count) in hook.failures() {
            sample(text, name, Counter, &format!("reason=\"{failure}\""), count)?;
        }
        Ok(())
    }
}

/// Writes a family of metrics: labels as OpenMetrics has them, without braces, and values. Ends with no
/// `# EOF`.
pub fn write_family(
    text: &mut String,
    (name, kind, help): (&str, MetricKind, &str),
    samples: impl IntoIterator<Item = (String, u64)>,
) {
    // Writing to a string cannot fail.
    let _ = head(text, name, kind, help);
    for (labels, value) in samples {
        let _ = sample(text, name, kind, &labels, value);
    }
}

/// A value of a label that the operator chose.
fn escaped(value: &str) -> String {
    let value = value.replace('\\', "\\\\").replace('"', "\\\"");
    value.replace('\n', "\\n")
}

fn head(text: &mut String, name: &str, kind: MetricKind, help: &str) -> fmt::Result {
    let kind = match kind {
        Counter => "counter",
        Gauge => "gauge",
    };
    writeln!(text, "# TYPE {name} {kind}\n# HELP {name} {help}")
}

fn sample(
    text: &mut String,
    name: &str,
    kind: MetricKind,
    labels: &str,
    value: u64,
) -> fmt::Result {
    let suffix = match kind {
        Counter => "_total",
        Gauge => "",
    };
    if labels.is_empty() {
        return writeln!(text, "{name}{suffix} {value}");
    }
    writeln!(text, "{name}{suffix}{{{labels}}} {value}")
}

#[rustfmt::skip] // It is a table.
const SHARD_FAMILIES: &[Family] = &[
    ("tombolo_turn_messages", Counter, "Requests and indications that were decoded.", |s| s.turn.messages),
    ("tombolo_turn_replies", Counter, "Replies queued for clients.", |s| s.turn.replies),
    ("tombolo_turn_bindings", Counter, "Binding requests answered.", |s| s.turn.bindings),
    ("tombolo_turn_allocations_created", Counter, "Allocations made.", |s| s.turn.allocations_created),
    ("tombolo_turn_allocations_expired", Counter, "Allocations that ended for lack of a refresh.", |s| s.turn.allocations_expired),
    ("tombolo_turn_allocations", Gauge, "Allocations that exist.", |s| s.turn.allocations),
    ("tombolo_turn_permissions", Gauge, "Permissions that count for the limits.", |s| s.usage.permissions.into()),
    ("tombolo_turn_channels", Gauge, "Channels that count for the limits.", |s| s.usage.channels.into()),
    ("tombolo_turn_peer_connections", Gauge, "TCP connections to peers that count for the limits.", |s| s.usage.connections.into()),
    ("tombolo_turn_bandwidth_bytes", Gauge, "Bytes per second that the allocations may have relayed in each direction, as far as that is bounded.", |s| s.usage.bandwidth),
    ("tombolo_turn_draining", Gauge, "1 while no new allocations are made.", |s| s.turn.draining),
    ("tombolo_turn_allocations_moved", Counter, "Allocations whose client moved to another address.", |s| s.turn.allocations_moved),
    ("tombolo_turn_icmp_errors", Counter, "ICMP errors passed on to clients.", |s| s.turn.icmp_errors),
    ("tombolo_turn_counted_requests_sent", Counter, "Requests that clients say they have sent, as far as they count them.", |s| s.turn.counted_requests_sent),
    ("tombolo_turn_counted_requests_received", Counter, "Those of them that came.", |s| s.turn.counted_requests_received),
    ("tombolo_turn_to_peer_packets", Counter, "Payloads relayed to peers.", |s| s.turn.to_peer_packets),
    ("tombolo_turn_to_peer_bytes", Counter, "Bytes of payloads relayed to peers.", |s| s.turn.to_peer_bytes),
    ("tombolo_turn_to_client_packets", Counter, "Payloads relayed to clients.", |s| s.turn.to_client_packets),
    ("tombolo_turn_to_client_bytes", Counter, "Bytes of payloads relayed to clients.", |s| s.turn.to_client_bytes),
    ("tombolo_relay_received_datagrams", Counter, "Datagrams received.", |s| s.io.received),
    ("tombolo_relay_sent_datagrams", Counter, "Datagrams sent.", |s| s.io.sent),
    ("tombolo_relay_congested_datagrams", Counter, "Datagrams dropped because a send buffer was full.", |s| s.io.congested),
    ("tombolo_relay_sent_in_trains_datagrams", Counter, "Datagrams sent together with others in one message.", |s| s.io.sent_in_trains),
    ("tombolo_relay_too_long_datagrams", Counter, "Datagrams that the kernel refused to send because they are too long for their way.", |s| s.io.too_long),
    ("tombolo_relay_unsendable_datagrams", Counter, "Datagrams that the kernel refused to send.", |s| s.io.unsendable),
    ("tombolo_relay_receive_errors", Counter, "Errors of receiving.", |s| s.io.receive_errors),
    ("tombolo_relay_handed_over_packets", Counter, "Packets between two allocations, handed over in memory.", |s| s.io.handed_over),
    ("tombolo_relay_lost_packets", Counter, "Packets and replies lost for other reasons: their connection has just ended, or there is no way for them.", |s| s.io.lost),
    ("tombolo_relay_handed_over_dropped_packets", Counter, "Packets to allocations of other shards, dropped because these had too much to do, and to relayed addresses that nobody has.", |s| s.io.handed_over_dropped),
    ("tombolo_relay_passed_on_packets", Counter, "Packets of clients whose allocation is on another shard, given to that one.", |s| s.io.passed_on),
    ("tombolo_relay_passed_on_dropped_packets", Counter, "Such packets that the other shard had no room for.", |s| s.io.passed_on_dropped),
    ("tombolo_relay_passed_on_closed_connections", Counter, "Connections over TCP and TLS closed since some of these were requests, which nobody repeats.", |s| s.io.passed_on_closed),
    ("tombolo_relay_stream_frames", Counter, "Frames from clients over TCP and TLS.", |s| s.io.stream_frames),
    ("tombolo_relay_stream_frames_dropped", Counter, "Frames dropped because a client over TCP or TLS reads too slowly.", |s| s.io.stream_frames_dropped),
    ("tombolo_relay_ports", Gauge, "Relay ports bound.", |s| s.io.relay_ports),
    ("tombolo_relay_port_errors", Counter, "Relay ports that could not be bound.", |s| s.io.relay_port_errors),
];

/// A family of metrics with one value for each realm.
type RealmFamily = (&'static str, &'static str, fn(&Usage) -> u64);

#[rustfmt::skip] // It is a table.
const REALM_FAMILIES: &[RealmFamily] = &[
    ("tombolo_turn_realm_allocations", "Allocations and reservations that exist, by realm.", |u| u.allocations.into()),
    ("tombolo_turn_realm_permissions", "Permissions that count for the limits, by realm.", |u| u.permissions.into()),
    ("tombolo_turn_realm_channels", "Channels that count for the limits, by realm.", |u| u.channels.into()),
    ("tombolo_turn_realm_peer_connections", "TCP connections to peers, by realm.", |u| u.connections.into()),
    ("tombolo_turn_realm_bandwidth_bytes", "Bytes per second that the allocations may have relayed in each direction, as far as that is bounded, by realm.", |u| u.bandwidth),
];

/// A family of metrics with one value.
type StreamFamily = (
    &'static str,
    MetricKind,
    &'static str,
    fn(&StreamStats) -> u64,
);

#[rustfmt::skip] // It is a table.
const STREAM_FAMILIES: &[StreamFamily] = &[
    ("tombolo_relay_connections_accepted", Counter, "TCP and TLS connections accepted.", |s| s.accepted),
    ("tombolo_relay_accept_errors", Counter, "Tries to accept a connection that failed: there are no descriptors left, most likely.", |s| s.accept_failed),
    ("tombolo_relay_connections", Gauge, "TCP and TLS connections that are open.", |s| s.open),
    ("tombolo_relay_connections_refused", Counter, "TCP and TLS connections closed at once because there were too many.", |s| s.refused),
    ("tombolo_relay_connections_displaced", Counter, "Connections without an allocation closed for newcomers.", |s| s.displaced),
    ("tombolo_relay_connections_joined", Counter, "Connections joined with one to a peer.", |s| s.joined),
    ("tombolo_relay_proxy_headers_malformed", Counter, "Connections closed because a trusted proxy did not say whose they are.", |s| s.proxy_malformed),
    ("tombolo_relay_proxy_headers_untrusted", Counter, "Connections closed because whom nobody trusts said whose they are.", |s| s.proxy_untrusted),
    ("tombolo_relay_plain_connections_refused", Counter, "Connections closed because they began without TLS, which alone is served over TCP.", |s| s.plain_tcp_refused),
    ("tombolo_relay_plain_datagrams_refused", Counter, "Datagrams dropped because they were none of DTLS, which alone is served over UDP.", |s| s.plain_udp_refused),
    ("tombolo_relay_handshakes", Gauge, "TLS and DTLS handshakes under way.", |s| s.handshakes),
    ("tombolo_relay_handshakes_refused", Counter, "Handshakes not begun because there were too many.", |s| s.handshakes_refused),
    ("tombolo_relay_tls_handshakes_failed", Counter, "TLS handshakes that failed.", |s| s.tls_failed),
    ("tombolo_relay_dtls_challenged", Counter, "First hellos of DTLS clients answered with a cookie.", |s| s.dtls_challenged),
    ("tombolo_relay_dtls_outdated", Counter, "Hellos of clients that speak DTLS 1.0 only.", |s| s.dtls_outdated),
    ("tombolo_relay_dtls_accepted", Counter, "DTLS associations begun by clients that brought the cookie back.", |s| s.dtls_accepted),
    ("tombolo_relay_dtls_failed", Counter, "DTLS handshakes, cookies and associations that failed.", |s| s.dtls_failed),
    ("tombolo_relay_handshakes_displaced", Counter, "TLS and DTLS handshakes given up for newcomers from other networks.", |s| s.handshakes_displaced),
    ("tombolo_relay_dtls_dropped", Counter, "Datagrams of DTLS that were dropped.", |s| s.dtls_dropped),
    ("tombolo_relay_dtls_congested", Counter, "Datagrams of DTLS dropped because a send buffer was full.", |s| s.dtls_congested),
    ("tombolo_relay_dtls_unsendable", Counter, "Datagrams of DTLS that could not be sent for other reasons.", |s| s.dtls_unsendable),
    ("tombolo_relay_icmp_dropped", Counter, "ICMP errors that were dropped.", |s| s.icmp_dropped),
    ("tombolo_relay_connections_timed_out", Counter, "Connections closed because no frame came in time.", |s| s.timed_out),
    ("tombolo_relay_connections_slow", Counter, "Connections closed because their client stopped reading.", |s| s.slow_readers),
    ("tombolo_relay_connections_malformed", Counter, "Connections closed because their bytes are not TURN.", |s| s.malformed),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use tombolo_turn::server::{Refusal, ShardIndex, Stats};

    use super::*;
    use crate::IoStats;

    /// Checks the grammar as far as it is used, and returns the samples.
    fn samples(text: &str) -> Vec<(String, u64)> {
        assert!(text.ends_with("# EOF\n"), "{text}");
        let mut families = BTreeSet::new();
        let mut family = ("", "");
        let mut samples = Vec::new();
        for line in text.trim_end_matches("# EOF\n").lines() {
            if let Some(declared) = line.strip_prefix("# TYPE ") {
                family = declared.split_once(' ').expect("a name and a type");
                assert!(families.insert(family.0.to_owned()), "{line}: twice");
            } else if let Some(help) = line.strip_prefix("# HELP ") {
                assert_eq!(help.split(' ').next(), Some(family.0), "{line}");
            } else {
                let (name, value) = line.rsplit_once(' ').expect("a name and a value");
                let bare = name.split('{').next().expect("there is a name");
                let suffix = if family.1 == "counter" { "_total" } else { "" };
                assert_eq!(bare, format!("{}{suffix}", family.0), "{line}");
                samples.push((name.to_owned(), value.parse().expect("a number")));
            }
        }
        samples
    }

    #[test]
    fn every_counter_of_every_shard_and_every_reason_is_there() {
        let mut stats = RelayStats::default();
        for (shard, count) in (0..).map(ShardIndex).zip([3_u32, 4]) {
            let io = IoStats {
                received: count.into(),
                ..IoStats::default()
            };
            let turn = Stats::default();
            let realm = "a \"realm\"\\\n".to_owned();
            let usage = Usage {
                allocations: count,
                permissions: count * 10,
                channels: count * 100,
                connections: count * 1000,
                bandwidth: u64::from(count) * 10_000,
            };
            let shard = ShardStats {
                shard,
                turn,
                io,
                usage,
                usage_by_realm: [(realm, usage)].into(),
            };
            stats.shards.push(shard);
        }
        stats.streams.open = 5;
        stats.certificate_expires = Some(Duration::from_secs(1_798_761_600));
        let samples = samples(&stats.to_open_metrics());
        let value = |name: &str| {
            let found = samples.iter().find(|(sample, _)| sample == name);
            found.map(|(_, value)| *value)
        };
        assert_eq!(
            value("tombolo_relay_received_datagrams_total{shard=\"1\"}"),
            Some(4)
        );
        assert_eq!(value("tombolo_relay_connections"), Some(5));
        let expires = value("tombolo_certificate_expires_seconds");
        assert_eq!(expires, Some(1_798_761_600));
        for (kind, sum, of_second) in [
            ("allocations", 7, None),
            ("permissions", 70, Some(40)),
            ("channels", 700, Some(400)),
            ("peer_connections", 7000, Some(4000)),
            ("bandwidth_bytes", 70_000, Some(40_000)),
        ] {
            let realm = r#"{realm="a \"realm\"\\\n"}"#;
            let name = format!("tombolo_turn_realm_{kind}{realm}");
            assert_eq!(value(&name), Some(sum), "{name}");
            if let Some(of_second) = of_second {
                let name = format!("tombolo_turn_{kind}{{shard=\"1\"}}");
                assert_eq!(value(&name), Some(of_second), "{name}");
            }
        }
        for refusal in Refusal::ALL {
            let code = refusal.code().unwrap_or(0);
            let name =
                format!("tombolo_turn_refusals_total{{reason=\"{refusal}\",code=\"{code}\"}}");
            assert_eq!(value(&name), Some(0), "{name}");
        }
        let names: BTreeSet<_> = samples.iter().map(|(name, _)| name).collect();
        assert_eq!(names.len(), samples.len(), "no sample is there twice");
    }

    #[test]
    fn reasons_need_no_escape() {
        for refusal in Refusal::ALL {
            let text = refusal.to_string();
            assert!(!text.contains(['"', '\\', '\n']), "{text}");
        }
    }
}
