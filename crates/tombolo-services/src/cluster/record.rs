//! What the directory and heartbeats say of a node: parsed once, as it comes.

use std::net::IpAddr;

use bytes::Bytes;
use prost::Message as _;
use tombolo_wire::NodeId;

use super::VERSION;
use super::generated as wire;

/// A node, as its record in the directory has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) name: NodeId,
    /// Which of its lives.
    pub(crate) epoch: u64,
    /// Which process wrote it, at random: two of one name must not take each other's life for theirs.
    pub(crate) process: u64,
    pub(crate) state: State,
    /// Where devices connect; empty when that is not known.
    pub(crate) url: String,
    pub(crate) region: String,
    pub(crate) release: String,
    /// From where it relays.
    pub(crate) relay_ips: Vec<IpAddr>,
    pub(crate) load: Load,
    /// Who fenced it, and in which of its lives.
    pub(crate) heir: Option<(NodeId, u64)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Alive,
    /// Takes no newcomers.
    Draining,
    /// Out of the cluster; its heir is not done yet.
    Fenced,
    /// Gone, with nothing left to do.
    Gone,
}

/// How much a node has to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Load {
    pub(crate) sessions: u32,
    pub(crate) sessions_max: u32,
    /// Of all cores, in thousandths.
    pub(crate) cpu_permille: u32,
}

/// What every node says several times a second.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Heartbeat {
    pub(crate) from: NodeId,
    pub(crate) epoch: u64,
    pub(crate) state: State,
    pub(crate) load: Load,
    /// Who is to answer with a heartbeat of its own.
    pub(crate) asks: Option<NodeId>,
}

/// Bytes are no record or heartbeat, or of another version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadRecord;

impl State {
    /// Whether the node is in the cluster.
    pub(crate) fn is_up(self) -> bool {
        matches!(self, Self::Alive | Self::Draining)
    }

    fn on_wire(self) -> wire::NodeState {
        match self {
            Self::Alive => wire::NodeState::Alive,
            Self::Draining => wire::NodeState::Draining,
            Self::Fenced => wire::NodeState::Fenced,
            Self::Gone => wire::NodeState::Gone,
        }
    }

    fn parse(state: wire::NodeState) -> Result<Self, BadRecord> {
        match state {
            wire::NodeState::Alive => Ok(Self::Alive),
            wire::NodeState::Draining => Ok(Self::Draining),
            wire::NodeState::Fenced => Ok(Self::Fenced),
            wire::NodeState::Gone => Ok(Self::Gone),
            wire::NodeState::Unspecified => Err(BadRecord),
        }
    }
}

impl Load {
    fn on_wire(self) -> wire::Load {
        wire::Load {
            sessions: self.sessions,
            sessions_max: self.sessions_max,
            cpu_permille: self.cpu_permille,
        }
    }

    fn parse(load: Option<wire::Load>) -> Self {
        load.map_or_else(Self::default, |load| Self {
            sessions: load.sessions,
            sessions_max: load.sessions_max,
            cpu_permille: load.cpu_permille,
        })
    }
}

impl Record {
    /// Of a node of which nothing else is known any more.
    pub(crate) fn lost(name: NodeId, epoch: u64) -> Self {
        Self {
            name,
            epoch,
            process: 0,
            state: State::Gone,
            url: String::new(),
            region: String::new(),
            release: String::new(),
            relay_ips: Vec::new(),
            load: Load::default(),
            heir: None,
        }
    }

    pub(crate) fn encode(&self) -> Bytes {
        let (heir, heir_epoch) = match &self.heir {
            Some((heir, epoch)) => (heir.to_string(), *epoch),
            None => (String::new(), 0),
        };
        wire::NodeRecord {
            version: VERSION,
            name: self.name.to_string(),
            epoch: self.epoch,
            process: self.process,
            state: self.state.on_wire().into(),
            url: self.url.clone(),
            region: self.region.clone(),
            release: self.release.clone(),
            relay_ips: self.relay_ips.iter().map(super::ip_on_wire).collect(),
            load: Some(self.load.on_wire()),
            heir,
            heir_epoch,
        }
        .encode_to_vec()
        .into()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, BadRecord> {
        let record = wire::NodeRecord::decode(bytes).map_err(|_| BadRecord)?;
        if record.version != VERSION
            || record.epoch == 0
            || record.epoch == u64::MAX
            || record.relay_ips.len() > super::RELAY_IPS_MAX
        {
            return Err(BadRecord);
        }
        let relay_ips = record.relay_ips.iter().map(super::parse_ip);
        let heir = match record.heir.as_str() {
            "" => None,
            heir => Some((parse_name(heir)?, record.heir_epoch)),
        };
        Ok(Self {
            state: State::parse(record.state())?,
            name: parse_name(&record.name)?,
            epoch: record.epoch,
            process: record.process,
            relay_ips: relay_ips.collect::<Option<_>>().ok_or(BadRecord)?,
            url: record.url,
            region: record.region,
            release: record.release,
            load: Load::parse(record.load),
            heir,
        })
    }
}

impl Heartbeat {
    pub(crate) fn encode(&self) -> Bytes {
        let asks = self.asks.as_ref().map(NodeId::to_string);
        wire::Heartbeat {
            version: VERSION,
            from: self.from.to_string(),
            epoch: self.epoch,
            state: self.state.on_wire().into(),
            load: Some(self.load.on_wire()),
            asks: asks.unwrap_or_default(),
        }
        .encode_to_vec()
        .into()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, BadRecord> {
        let beat = wire::Heartbeat::decode(bytes).map_err(|_| BadRecord)?;
        if beat.version != VERSION {
            return Err(BadRecord);
        }
        Ok(Self {
            state: State::parse(beat.state())?,
            from: parse_name(&beat.from)?,
            epoch: beat.epoch,
            load: Load::parse(beat.load),
            asks: match beat.asks.as_str() {
                "" => None,
                asks => Some(parse_name(asks)?),
            },
        })
    }
}

fn parse_name(name: &str) -> Result<NodeId, BadRecord> {
    NodeId::parse(name).map_err(|_| BadRecord)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    #[test]
    fn records_and_heartbeats_are_read_as_written_and_cut_ones_never_panic() {
        let (record, beat) = samples();
        let bytes = record.encode();
        assert_eq!(Record::decode(&bytes), Ok(record));
        let beaten = beat.encode();
        assert_eq!(Heartbeat::decode(&beaten), Ok(beat));
        for end in 0..bytes.len() {
            let _ = Record::decode(&bytes[..end]);
            let _ = Heartbeat::decode(&bytes[..end]);
        }
        assert_eq!(Record::decode(b""), Err(BadRecord));
        assert_eq!(Heartbeat::decode(b""), Err(BadRecord));
    }

    /// Each with something in all of its fields.
    pub(in crate::cluster) fn samples() -> (Record, Heartbeat) {
        let load = Load {
            sessions: 3,
            sessions_max: 10,
            cpu_permille: 250,
        };
        let name = NodeId::parse("node-1").unwrap();
        let record = Record {
            name: name.clone(),
            epoch: 7,
            process: 9,
            state: State::Fenced,
            url: "tombolo://192.0.2.1:8443".into(),
            region: "eu".into(),
            release: "0.1".into(),
            relay_ips: vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
            load,
            heir: Some((NodeId::parse("heir").unwrap(), 8)),
        };
        let beat = Heartbeat {
            from: name.clone(),
            epoch: 7,
            state: State::Draining,
            load,
            asks: Some(name),
        };
        (record, beat)
    }
}
