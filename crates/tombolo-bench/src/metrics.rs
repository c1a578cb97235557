//! What a server says of itself.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, ensure};

/// The samples of an OpenMetrics page, summed over their labels.
#[derive(Debug, Default)]
pub(crate) struct Metrics(BTreeMap<String, u64>);

impl Metrics {
    /// Asks the server at `address`.
    pub(crate) fn fetch(address: SocketAddr) -> anyhow::Result<Self> {
        let mut stream = TcpStream::connect(address).context("connect to the metrics")?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(
            stream,
            "GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
        )?;
        let mut reply = String::new();
        stream.read_to_string(&mut reply)?;
        let (head, body) = reply
            .split_once("\r\n\r\n")
            .context("a reply without a body")?;
        ensure!(
            head.starts_with("HTTP/1.1 200 "),
            "the metrics are refused: {head}"
        );
        Ok(Self::parse(body))
    }

    fn parse(text: &str) -> Self {
        let mut sums = BTreeMap::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((name, value)) = line.rsplit_once(' ') else {
                continue;
            };
            let name = name.split('{').next().unwrap_or(name);
            // What is not a sample, such as the length of a chunk, is no number behind a name.
            if let Ok(value) = value.parse::<u64>() {
                *sums.entry(name.to_owned()).or_default() += value;
            }
        }
        Self(sums)
    }

    /// Fails unless the metric has this value.
    pub(crate) fn expect(&self, name: &str, value: u64) -> anyhow::Result<()> {
        let found = self
            .0
            .get(name)
            .with_context(|| format!("the server has no {name}"))?;
        ensure!(*found == value, "{name} is {found}, and {value} is right");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_summed_over_shards_and_compared() {
        let metrics = Metrics::parse(
            "# TYPE a counter\na_total{shard=\"0\"} 3\na_total{shard=\"1\"} 4\nb 1\n# EOF\n",
        );
        assert!(metrics.expect("a_total", 7).is_ok());
        assert!(metrics.expect("b", 2).is_err());
        assert!(metrics.expect("c", 0).is_err());
    }
}
