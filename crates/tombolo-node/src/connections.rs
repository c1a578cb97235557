//! How many connections a node takes, and how fast.

use tombolo_gateway::Limits;

use crate::error::StartError;
use crate::sessions::SessionConfig;

/// How many connections a node takes, and how fast; see
/// [`NodeBuilder::connections`](crate::NodeBuilder::connections). A source is an IPv4 address or an IPv6 /56.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ConnectionConfig {
    /// Over QUIC and TCP, HTTP requests included; `None` for as many as there may be sessions and
    /// connections without one.
    pub connections_max: Option<usize>,
    /// Of those, from one source.
    pub per_source_max: usize,
    /// Connections without a session: handshakes, HTTP requests, devices that say no `Hello` yet. For a
    /// newcomer beyond, the oldest one is closed of the network that has most of them.
    pub opening_max: usize,
    /// Of those, from one source; four times as many from an IPv4 /24 or an IPv6 /48.
    pub opening_per_source_max: usize,
    /// Handshakes begun in a second; four times as many at once after a pause. An IPv4 /16 or an IPv6 /40
    /// has half of them. `None` for 2,000 for each core that there is at the start.
    pub handshakes_per_second: Option<u32>,
    /// Of those, from one source; four times as many from an IPv4 /24 or an IPv6 /48.
    pub handshakes_per_second_per_source: u32,
}

impl ConnectionConfig {
    /// Whether all sessions find a connection.
    ///
    /// # Errors
    /// Says how many do not.
    pub(crate) fn check(&self, sessions: &SessionConfig) -> Result<(), StartError> {
        match self.connections_max {
            Some(connections) if connections < sessions.sessions_max => {
                Err(StartError::Connections {
                    connections,
                    sessions: sessions.sessions_max,
                })
            }
            Some(_) | None => Ok(()),
        }
    }

    pub(crate) fn apply(&self, limits: &mut Limits, sessions: &SessionConfig) {
        let needed = sessions.sessions_max.saturating_add(self.opening_max);
        limits.connections_max = self.connections_max.unwrap_or(needed);
        limits.connections_per_prefix_max = self.per_source_max;
        limits.opening_max = self.opening_max;
        limits.opening_per_prefix_max = self.opening_per_source_max;
        if let Some(handshakes) = self.handshakes_per_second {
            limits.handshakes_per_second_max = handshakes;
        }
        limits.handshakes_per_second_per_prefix_max = self.handshakes_per_second_per_source;
    }
}

impl Default for ConnectionConfig {
    fn default() -> Self {
        let limits = Limits::default();
        Self {
            connections_max: None,
            per_source_max: limits.connections_per_prefix_max,
            opening_max: limits.opening_max,
            opening_per_source_max: limits.opening_per_prefix_max,
            handshakes_per_second: None,
            handshakes_per_second_per_source: limits.handshakes_per_second_per_prefix_max,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_is_as_the_gateway_has_it() {
        let (before, mut after) = (Limits::default(), Limits::default());
        ConnectionConfig::default().apply(&mut after, &SessionConfig::default());
        assert_eq!(before, after);
    }

    #[test]
    fn a_machine_that_gets_other_cores_has_no_other_configuration() {
        assert_eq!(ConnectionConfig::default().handshakes_per_second, None);
    }

    #[test]
    fn there_is_a_connection_for_each_session() {
        let sessions = SessionConfig {
            sessions_max: 200_000,
            ..SessionConfig::default()
        };
        let mut limits = Limits::default();
        let mut connections = ConnectionConfig::default();
        connections.check(&sessions).expect("they follow");
        connections.apply(&mut limits, &sessions);
        assert!(limits.connections_max > sessions.sessions_max);
        connections.connections_max = Some(199_999);
        let error = connections.check(&sessions).expect_err("one finds none");
        let error = error.to_string();
        assert!(
            error.contains("199999") && error.contains("200000"),
            "{error}"
        );
    }
}
