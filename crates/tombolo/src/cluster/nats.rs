//! NATS servers for development: three that replicate, or one.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use tokio::process::Command;

use super::place::{Place, free_ports};

/// One server.
pub(super) struct Server {
    pub(super) name: String,
    pub(super) url: String,
    config: PathBuf,
}

/// The server's program: the one that is given, or is in the PATH, or was installed for the tests.
pub(super) fn program(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(path) = given {
        anyhow::ensure!(
            path.is_file(),
            "{}: there is no such program",
            path.display()
        );
        return Ok(path.to_owned());
    }
    let folders = std::env::var_os("PATH");
    let folders: Vec<_> = folders.iter().flat_map(std::env::split_paths).collect();
    let in_path = folders.iter().map(|folder| folder.join(PROGRAM));
    let installed = installed();
    let mut all = installed.iter().cloned().chain(in_path);
    all.find(|path| path.is_file()).context(
        "there is no nats-server: run scripts/install-nats.sh, or install NATS 2.12 or later and name \
         its program with --nats-server",
    )
}

/// Where `scripts/install-nats.sh` puts it: beside this program, or in the target folder here.
fn installed() -> Vec<PathBuf> {
    let exe = std::env::current_exe().ok();
    let beside = exe.as_deref().and_then(Path::parent).and_then(Path::parent);
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let here = Path::new("target");
    let targets = [beside, target.as_deref(), Some(here)];
    let targets = targets.into_iter().flatten();
    targets
        .map(|target| target.join("nats").join(PROGRAM))
        .collect()
}

/// Writes the configurations of servers that form a cluster, or of one alone.
pub(super) fn configure(place: &Place, ip: IpAddr, count: u16) -> anyhow::Result<Vec<Server>> {
    let ports = free_ports(ip, 2 * usize::from(count))?;
    let pairs: Vec<_> = ports.chunks_exact(2).collect();
    let routes: Vec<_> = pairs
        .iter()
        .map(|pair| format!("nats://{}", SocketAddr::new(ip, pair[1])))
        .collect();
    let mut servers = Vec::new();
    for (number, pair) in (1..).zip(&pairs) {
        let name = format!("nats-{number}");
        let address = SocketAddr::new(ip, pair[0]);
        let mut text = format!(
            "server_name: {name}\nlisten: \"{address}\"\njetstream {{ store_dir: {:?} }}\n",
            place.folder().join(&name)
        );
        if count > 1 {
            let at = SocketAddr::new(ip, pair[1]);
            text += &format!("cluster {{ name: tombolo, listen: \"{at}\", routes: {routes:?} }}\n");
        }
        let config = place.folder().join(format!("{name}.conf"));
        fs::write(&config, text)
            .with_context(|| format!("{}: cannot write it", config.display()))?;
        servers.push(Server {
            name,
            url: format!("nats://{address}"),
            config,
        });
    }
    Ok(servers)
}

/// How a server is started. Where the system has `setpriv`, it does not outlive this process, however
/// that ends.
pub(super) fn command(program: &Path, server: &Server) -> Command {
    let setpriv = Path::new("/usr/bin/setpriv");
    let mut command = if setpriv.is_file() {
        let mut command = Command::new(setpriv);
        command.args(["--pdeathsig", "KILL"]).arg(program);
        command
    } else {
        Command::new(program)
    };
    command.arg("-c").arg(&server.config);
    command
}

const PROGRAM: &str = "nats-server";
