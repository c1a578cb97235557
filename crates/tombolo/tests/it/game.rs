//! A game's server in another language, as the documents show it, asked by a node.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use crate::command::start;
use crate::folder::Folder;

/// The server of the documents, at a port of its own.
struct Game(Child);

impl Game {
    /// The server, and where it is; nothing where no Python is.
    fn start(folder: &Folder) -> Option<(Self, String)> {
        let docs = include_str!("../../../../docs/webhooks.md");
        let example = docs
            .split("```python\n")
            .find(|text| text.contains("Game("))?;
        let example = example.split("```").next()?;
        let last = "ThreadingHTTPServer((\"127.0.0.1\", 8080), Game).serve_forever()";
        assert!(example.contains(last), "{example}");
        let any_port = "server = ThreadingHTTPServer((\"127.0.0.1\", 0), Game)\n\
                        print(server.server_port, flush=True)\nserver.serve_forever()";
        let path = folder.write("game.py", &example.replace(last, any_port));
        let mut python = Command::new("python3");
        python.arg(path).stdout(Stdio::piped());
        let mut child = python.stderr(Stdio::null()).spawn().ok()?;
        let output = child.stdout.take()?;
        let game = Self(child);
        let mut port = String::new();
        BufReader::new(output).read_line(&mut port).ok()?;
        let port: u16 = port.trim().parse().ok()?;
        Some((game, format!("http://127.0.0.1:{port}/hooks")))
    }
}

impl Drop for Game {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_server_in_python_lets_devices_in_or_tells_them_why_not() {
    let folder = Folder::new("game-in-python");
    let Some((_game, url)) = Game::start(&folder) else {
        tombolo_natlab::skip("python3 is missing");
        return;
    };
    for (key, room, says) in [
        (
            "a key of at least 16 bytes",
            "staff",
            "only for those who work here",
        ),
        ("a key of at least 16 bytes", "lobby", ""),
        (
            "another key of 16 bytes",
            "lobby",
            "does not answer as it should",
        ),
    ] {
        let hooks = format!(
            "listen = ['127.0.0.1']\nport = 0\nturn-port = 0\nturns-port = 0\n\
             [hooks]\nurl = '{url}'\nkey = '{key}'\nask = ['join']\ntimeout = 4\n"
        );
        let config = folder.write("node.toml", &hooks);
        let mut node = start(&["serve", "--json", "--dev", "--config", &config]);
        let ready = node.event("ready").await;
        let url = ready["url"].as_str().unwrap();
        let args = ["peer", "--server", url, "--user", "alice", "--room", room];
        let mut peer = start(&[&args[..], &["--json"]].concat());
        if says.is_empty() {
            peer.event("joined").await;
        } else {
            peer.complains(says).await;
        }
        peer.terminate();
        peer.ended().await;
        node.terminate();
        assert_eq!(node.ended().await.status, Some(0));
    }
}
