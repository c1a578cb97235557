//! `tombolo doctor`: what stands between this machine and its peers.

use tombolo_client::{CandidateKind, Device, NatReport};
use tombolo_path::{Filtering, Mapping};

use crate::cli::DoctorArgs;
use crate::output::{Style, json, line_of_text, ms};
use crate::peer::{Event, filtering_word, mapping_word};

/// The name under which a development node lets the doctor in.
const USER: &str = "doctor";

/// Examines the network between this machine and a node.
pub(crate) async fn run(args: DoctorArgs) -> anyhow::Result<()> {
    let builder = Device::builder(&args.server);
    let builder = match args.token {
        Some(token) => builder.token(token),
        None => builder.development_user(format!("{USER}-{}", std::process::id())),
    };
    let device = builder.connect().await?;
    let report = device.measure_nat().await?;
    match Style::of(args.json) {
        Style::Json => {
            let session = device.session();
            let transport = session.transport.as_str();
            json(&Event::Session {
                node: session.node,
                transport,
            })?;
            let behaviour = report.behaviour();
            json(&Event::Nat {
                mapping: mapping_word(behaviour.mapping),
                filtering: filtering_word(behaviour.filtering),
                public: report.public(),
            })?;
        }
        Style::Person => {
            for line in findings(&device, &report) {
                line_of_text(&line)?;
            }
        }
    }
    device.close().await;
    Ok(())
}

fn findings(device: &Device, report: &NatReport) -> Vec<String> {
    let session = device.session();
    let mut lines = vec![
        format!(
            "session     {} to {}",
            session.transport.as_str(),
            session.node
        ),
        format!(
            "UDP         {}",
            if report.udp { "works" } else { "blocked" }
        ),
    ];
    for (name, family) in [("IPv4", &report.v4), ("IPv6", &report.v6)] {
        if family.public.is_empty() {
            lines.push(format!("{name}        no answer"));
            continue;
        }
        let public: Vec<_> = family.public.iter().map(ToString::to_string).collect();
        lines.push(format!("{name}        public {}", public.join(", ")));
        lines.push(format!("  mapping   {}", mapping_word(family.mapping)));
        lines.push(format!("  filtering {}", filtering_word(family.filtering)));
        if let Some(preserving) = family.port_preserving {
            lines.push(format!(
                "  ports     {}",
                if preserving { "preserved" } else { "changed" }
            ));
        }
        if let Some(hairpinning) = family.hairpinning {
            lines.push(format!(
                "  hairpin   {}",
                if hairpinning { "yes" } else { "no" }
            ));
        }
        if let Some(rtt) = family.rtt {
            lines.push(format!("  to node   {:.1} ms round trip", ms(rtt)));
        }
    }
    let hosts: Vec<_> = device
        .candidates()
        .iter()
        .filter(|candidate| candidate.kind == CandidateKind::Host)
        .map(|candidate| candidate.address.ip().to_string())
        .collect();
    lines.push(format!("local       {}", hosts.join(", ")));
    lines.push(match device.relayed_address() {
        Some(address) => format!("relay       {address}"),
        None => "relay       none: direct paths only".to_owned(),
    });
    lines.push(format!("outlook     {}", outlook(report)));
    lines
}

/// What the behaviour means for direct connections.
fn outlook(report: &NatReport) -> &'static str {
    let behaviour = report.behaviour();
    if !behaviour.udp {
        return "always relayed over TLS: ask the network's operator to let UDP out";
    }
    match (behaviour.mapping, behaviour.filtering) {
        (Mapping::NoNat, _) => "direct to every peer that can send UDP",
        (
            Mapping::EndpointIndependent,
            Filtering::EndpointIndependent | Filtering::AddressDependent,
        ) => "direct to every peer that can send UDP",
        (Mapping::EndpointIndependent | Mapping::PortIndependent, _) => {
            "direct to most peers; relayed to those whose NAT maps each destination differently"
        }
        (Mapping::AddressDependent | Mapping::AddressAndPortDependent | Mapping::Dependent, _) => {
            "direct to peers without NAT or with a permissive one, relayed to others"
        }
        (Mapping::Unknown, _) => "not enough answers to tell; the relay always works",
    }
}
