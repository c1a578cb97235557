//! `tombolo groups`: which groups a user is in.

use serde::Serialize;
use tombolo_client::Device;

use crate::cli::GroupsArgs;
use crate::output::{self, Style};

#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Event<'a> {
    Group {
        name: &'a str,
        title: &'a str,
        role: &'a str,
    },
}

/// Lists all of them, by name.
pub(crate) async fn run(args: GroupsArgs) -> anyhow::Result<()> {
    let mut builder = Device::builder(&args.server);
    if let Some(token) = &args.who.token {
        builder = builder.token(token);
    } else if let Some(user) = &args.who.user {
        builder = builder.development_user(user);
    }
    let device = builder.connect().await?;
    let result = list(&device, Style::of(args.json)).await;
    device.close().await;
    result
}

async fn list(device: &Device, style: Style) -> anyhow::Result<()> {
    let mut after = None;
    loop {
        let page = device.groups().list(after.as_ref()).await?;
        for group in &page.groups {
            let (name, title, role) = (group.name.as_str(), &group.title, &group.role);
            match style {
                Style::Json => output::json(&Event::Group { name, title, role })?,
                // What people have named must not control a terminal.
                Style::Person => output::line_of_text(&format!(
                    "{name:<32} {:<16} {}",
                    role.escape_debug(),
                    title.escape_debug()
                ))?,
            }
        }
        after = page.next;
        if after.is_none() {
            return Ok(());
        }
    }
}
