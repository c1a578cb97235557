//! Tells events: as JSON for scripts, as lines for people.

use std::time::Instant;

use tombolo_client::LinkState;

use super::event::{Event, Summary, state_word, via_word};
use crate::output::{self, Style, json, line_of_text, printable};

/// Speaks for a device; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Speaker {
    style: Style,
    started: Instant,
}

impl Speaker {
    pub(crate) fn new(style: Style) -> Self {
        Self {
            style,
            started: Instant::now(),
        }
    }

    /// Tells an event. Without a listener there is nothing more to do, so the process ends.
    pub(crate) fn tell(&self, event: &Event) {
        let told = match self.style {
            Style::Json => json(event),
            Style::Person => self.tell_person(event),
        };
        if let Err(error) = told {
            output::end_unheard(error);
        }
    }

    /// Says on standard error what does not fit into events.
    pub(crate) fn complain(&self, what: &str) {
        output::complain_of(what);
    }

    fn tell_person(&self, event: &Event) -> std::io::Result<()> {
        if let Event::Summary { peers } = event {
            for (user, summary) in peers {
                line_of_text(&summary_text(user, summary))?;
            }
            return Ok(());
        }
        let seconds = self.started.elapsed().as_secs_f64();
        line_of_text(&format!("{seconds:8.3}  {}", line(event)))
    }
}

/// What a person is told.
fn line(event: &Event) -> String {
    printable(&sentence(event))
}

fn sentence(event: &Event) -> String {
    match event {
        Event::Session { node, transport } => format!("connected to {node} over {transport}"),
        Event::Nat {
            mapping,
            filtering,
            public,
        } => {
            let public: Vec<_> = public.iter().map(ToString::to_string).collect();
            let public = if public.is_empty() {
                "none".into()
            } else {
                public.join(", ")
            };
            format!("NAT: {mapping} mapping, {filtering} filtering; public {public}")
        }
        Event::Joined {
            room,
            code,
            members,
        } => {
            let code = code.as_ref().map(|code| format!(" (code {code})"));
            let members = members.join(", ");
            format!("in room {room}{}: {members}", code.unwrap_or_default())
        }
        Event::Left { user, reason } => format!("{user} is gone: {reason}"),
        Event::Said { .. } | Event::Room { .. } => room_line(event),
        Event::Peer { .. } => peer_line(event),
        Event::Recv { .. } => recv_line(event),
        Event::Why {
            user,
            verdict,
            detail,
        } => {
            format!("{user}: {} ({detail})", verdict.as_str())
        }
        Event::Summary { .. } => String::new(),
    }
}

/// What a person is told of a link.
pub(crate) fn peer_line(event: &Event) -> String {
    let Event::Peer {
        user,
        state,
        remote,
        rtt_ms,
        ..
    } = event
    else {
        return String::new();
    };
    let way = remote
        .map(|remote| format!(" via {remote}"))
        .unwrap_or_default();
    let rtt = rtt_ms
        .map(|rtt| format!(", {rtt:.1} ms round trip"))
        .unwrap_or_default();
    format!("{} {user}{way}{rtt}", state_mark(*state))
}

fn state_mark(state: LinkState) -> String {
    let mark = match state {
        LinkState::Connecting => "…",
        LinkState::Relayed => "◐",
        LinkState::Direct => "●",
        LinkState::Lost => "○",
    };
    format!("{mark} {}", state_word(state))
}

fn summary_text(user: &str, summary: &Summary) -> String {
    let ms = |value: Option<f64>| {
        value.map_or_else(|| "never".to_owned(), |value| format!("{value:.1} ms"))
    };
    format!(
        "{user}: {} sent; {} received, {} lost, {} duplicated, {} reordered; first byte {}, \
         direct {}, longest gap {}, round trip {}",
        summary.sent,
        summary.received,
        summary.lost,
        summary.duplicated,
        summary.reordered,
        ms(summary.first_byte_ms),
        ms(summary.direct_ms),
        ms(summary.longest_gap_ms),
        ms(summary.rtt_ms.p50),
    )
}

/// What a person is told of a message.
fn recv_line(event: &Event) -> String {
    let Event::Recv {
        user,
        seq,
        bytes,
        via,
        one_way_ms,
        text,
        ..
    } = event
    else {
        return String::new();
    };
    let number = seq.map(|seq| format!(" {seq}")).unwrap_or_default();
    let time = one_way_ms.map(|ms| format!(", {ms:.1} ms"));
    // Quoted: others must not control this terminal.
    let text = text.as_ref().map(|text| format!(": {text:?}"));
    format!(
        "{user} → message{number}, {bytes} bytes, {}{}{}",
        via_word(*via),
        time.unwrap_or_default(),
        text.unwrap_or_default()
    )
}

/// What a person is told of a room.
fn room_line(event: &Event) -> String {
    if let Event::Said { number, from, text } = event {
        let from = from.as_deref().unwrap_or("a server");
        return format!("{number}. {from}: {text}");
    }
    let Event::Room {
        what,
        by,
        about,
        detail,
    } = event
    else {
        return String::new();
    };
    let by = by.as_deref().map(|by| format!(" by {by}"));
    format!("room: {what} {about}{} {detail}", by.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_members_say_controls_no_terminal() {
        let said = Event::Said {
            number: 1,
            from: Some("mallory".to_owned()),
            text: "\x1b]0;mine\x07\x1b[2J\n   0.100  alice: hello".to_owned(),
        };
        let line = line(&said);
        assert!(!line.chars().any(char::is_control), "{line}");
        assert!(
            line.starts_with("1. mallory: ") && line.ends_with("alice: hello"),
            "{line}"
        );
    }
}
