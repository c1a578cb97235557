//! Flags go before the file, where both say something.

use super::file::{File, Nats};
use crate::cli::ServeArgs;
use crate::turn::file::Network;

/// Puts flags in place of what the file says, keys of tokens beside those of the file.
pub(super) fn with_flags(mut file: File, args: &ServeArgs) -> anyhow::Result<File> {
    fn replace<T: Clone>(value: &mut Option<T>, given: &Option<T>) {
        if given.is_some() {
            value.clone_from(given);
        }
    }
    replace(&mut file.name, &args.name);
    replace(&mut file.region, &args.region);
    replace(&mut file.spread_from, &args.spread_from);
    replace(&mut file.public, &args.public);
    replace(&mut file.host, &args.host);
    replace(&mut file.port, &args.port);
    replace(&mut file.turn_port, &args.turn_port);
    replace(&mut file.turns_port, &args.turns_port);
    replace(&mut file.metrics, &args.metrics);
    replace(&mut file.admin, &args.admin);
    replace(&mut file.drain_timeout, &args.drain_timeout);
    if !args.listen.is_empty() {
        file.listen.clone_from(&args.listen);
    }
    if !args.allow_peer.is_empty() {
        let parse = |text: &String| {
            let network: Result<Network, _> = text.parse();
            network.map_err(|wrong| anyhow::anyhow!("--allow-peer {text}: {wrong}"))
        };
        let networks: Result<_, _> = args.allow_peer.iter().map(parse).collect();
        file.relay.peers.allow = networks?;
    }
    if let Some([certificate, key]) = args.tls.as_deref() {
        file.tls.certificate = Some(certificate.clone());
        file.tls.key = Some(key.clone());
    }
    file.tls.pin |= args.pin;
    if !args.pools.is_empty() {
        file.pools.clone_from(&args.pools);
    }
    for (name, path) in &args.token_key {
        let given = args.token_key.iter().filter(|(given, _)| given == name);
        anyhow::ensure!(given.count() == 1, "--token-key {name}: given twice");
        file.token_keys.insert(name.clone(), path.clone());
    }
    if args.data.is_some() {
        file.data.clone_from(&args.data);
        file.nats = Nats::default();
    }
    let given = &args.nats;
    if !given.nats.is_empty() {
        file.nats.servers.clone_from(&given.nats);
        file.data = None;
    }
    replace(&mut file.nats.replicas, &given.nats_replicas);
    replace(&mut file.nats.prefix, &given.nats_prefix);
    replace(&mut file.nats.ca, &given.nats_ca);
    if given.nats_creds.is_some() || given.nats_nkey.is_some() || given.nats_secret.is_some() {
        file.nats.creds.clone_from(&given.nats_creds);
        file.nats.nkey.clone_from(&given.nats_nkey);
        file.nats.secret.clone_from(&given.nats_secret);
    }
    if !given.nats_seal.is_empty() {
        file.nats.seal.clone_from(&given.nats_seal);
    }
    if let Some([certificate, key]) = given.nats_cert.as_deref() {
        file.nats.certificate = Some(certificate.clone());
        file.nats.key = Some(key.clone());
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::super::settings::tests::args;
    use super::*;
    use crate::config_text;

    #[test]
    fn flags_go_before_the_file() {
        let text = "port = 1\nname = 'a'\nlisten = ['192.0.2.1']\ndata = 'd'\n\
            [nats]\n[relay.peers]\nallow = ['10.0.0.0/8']\n";
        let file: File = config_text::parse(text).expect("it is right");
        let flags = args(&[
            "--port=2",
            "--listen=192.0.2.2",
            "--allow-peer=127.0.0.0/8",
            "--nats=nats://192.0.2.3",
            "--nats-replicas=1",
        ]);
        let file = with_flags(file, &flags).expect("it is right");
        assert_eq!((file.port, file.name.as_deref()), (Some(2), Some("a")));
        assert_eq!(
            file.listen,
            ["192.0.2.2".parse::<std::net::IpAddr>().expect("an IP")]
        );
        assert_eq!(file.relay.peers.allow[0].to_string(), "127.0.0.0/8");
        assert_eq!((file.data, file.nats.replicas), (None, Some(1)));
    }
}
