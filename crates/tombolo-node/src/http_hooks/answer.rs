//! What the game's server answers, in JSON. What is not understood to the last word is no yes.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use tombolo_services::{
    COMMAND_PAYLOAD_BYTES_MAX, FieldPass, MatchName, MatchPlayer, MatchTicket, MatchValue, Reject,
};
use tombolo_wire::v1::ErrorCode;

use super::HookOutcome;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Answer {
    allow: Option<bool>,
    /// Why not.
    refuse: Option<String>,
    /// What devices and scripts go by.
    code: Option<String>,
    priority: Option<i8>,
    attributes: BTreeMap<String, BTreeMap<String, ValueBody>>,
    marks: Option<u64>,
    /// Classes of a field.
    puts: Option<BTreeSet<u8>>,
    text: Option<String>,
    base64: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum ValueBody {
    Text(String),
    Number(f64),
    List(BTreeSet<String>),
    Map(BTreeMap<String, f64>),
}

impl Answer {
    /// Reads an answer. A list is none, although it could be read by the order of the fields.
    pub(super) fn parse(json: &[u8]) -> Option<Self> {
        let is_object = json.trim_ascii_start().starts_with(b"{");
        is_object.then(|| serde_json::from_slice(json).ok())?
    }

    /// The refusal, if it is one.
    pub(super) fn refusal(&self) -> Option<Result<Reject, HookOutcome>> {
        if self.refuse.is_none() && self.allow != Some(false) {
            return None;
        }
        let code = match &self.code {
            Some(word) => code(word),
            None => Some(ErrorCode::NotPermitted),
        };
        let reason = self.refuse.as_deref().unwrap_or(NO_REASON);
        let refusal = code.map(|code| Reject {
            code,
            message: reason[..reason.floor_char_boundary(REASON_BYTES_MAX)].to_owned(),
            nodes: Vec::new(),
        });
        Some(refusal.ok_or(HookOutcome::Malformed))
    }

    /// For a question to which yes is all that there is to say.
    pub(super) fn into_yes(self) -> Option<()> {
        let is_plain = self.priority.is_none() && self.attributes.is_empty();
        (self.is_yes() && is_plain && !self.is_of_field()).then_some(())
    }

    /// As what a device comes into a field; what is not said stays as it was.
    pub(super) fn into_pass(self, before: FieldPass) -> Option<FieldPass> {
        let is_plain = self.priority.is_none() && self.attributes.is_empty();
        (self.is_yes() && is_plain).then(|| FieldPass {
            marks: self.marks.unwrap_or(before.marks),
            puts: self.puts.or(before.puts),
        })
    }

    /// The ticket as the game has it.
    pub(super) fn into_ticket(self, mut ticket: MatchTicket) -> Option<MatchTicket> {
        if !self.is_yes() || self.is_of_field() {
            return None;
        }
        ticket.priority = self.priority.unwrap_or(ticket.priority);
        for (user, attributes) in self.attributes {
            let is_it = |player: &&mut MatchPlayer| player.user.as_str() == user;
            let player = ticket.players.iter_mut().find(is_it)?;
            for (name, value) in attributes {
                let name = MatchName::parse(&name).ok()?;
                player.attributes.insert(name, value.parse()?);
            }
        }
        Some(ticket)
    }

    pub(super) fn into_reply(self) -> Option<Bytes> {
        let is_plain = self.code.is_none() && self.priority.is_none() && !self.is_of_field();
        let reply = match (self.allow, self.text, self.base64) {
            (None | Some(true), Some(text), None) => Bytes::from(text),
            (None | Some(true), None, Some(base64)) => STANDARD.decode(base64).ok()?.into(),
            _ => return None,
        };
        let is_plain = is_plain && self.attributes.is_empty();
        (is_plain && reply.len() <= COMMAND_PAYLOAD_BYTES_MAX).then_some(reply)
    }

    /// Whether it says what only fields have.
    fn is_of_field(&self) -> bool {
        self.marks.is_some() || self.puts.is_some()
    }

    fn is_yes(&self) -> bool {
        let is_reply = self.text.is_some() || self.base64.is_some();
        self.allow == Some(true) && self.code.is_none() && !is_reply
    }
}

impl ValueBody {
    fn parse(self) -> Option<MatchValue> {
        let value = match self {
            Self::Text(text) => MatchValue::Text(text),
            Self::Number(number) => MatchValue::Number(number),
            Self::List(list) => MatchValue::List(list),
            Self::Map(map) => {
                let numbers = map.into_iter();
                let numbers =
                    numbers.map(|(name, number)| Some((MatchName::parse(&name).ok()?, number)));
                MatchValue::Map(numbers.collect::<Option<_>>()?)
            }
        };
        value.check().is_ok().then_some(value)
    }
}

/// As the HTTP API calls it.
fn code(word: &str) -> Option<ErrorCode> {
    let is_lower = word
        .bytes()
        .all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    let name = format!("ERROR_CODE_{}", word.to_ascii_uppercase());
    let code = ErrorCode::from_str_name(&name).filter(|_| is_lower);
    code.filter(|code| *code != ErrorCode::Unspecified)
}

/// What a device is told of a refusal without one.
const NO_REASON: &str = "the game does not allow it";
/// As much of a reason as a device is told.
const REASON_BYTES_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use tombolo_services::MatchTicketId;

    use super::*;

    fn parse(text: &str) -> Option<Answer> {
        Answer::parse(text.as_bytes())
    }

    /// What a question that needs no more than a yes makes of an answer; `None` when it is not understood.
    fn decided(text: &str) -> Option<Result<(), (ErrorCode, String)>> {
        let answer = parse(text)?;
        match answer.refusal() {
            Some(Ok(refusal)) => Some(Err((refusal.code, refusal.message))),
            Some(Err(_)) => None,
            None => answer.into_yes().map(Ok),
        }
    }

    #[test]
    fn only_a_yes_is_a_yes() {
        let refused = |code, why: &str| Some(Err((code, why.to_owned())));
        for (text, expected) in [
            (r#"{"allow": true}"#, Some(Ok(()))),
            (
                r#"{"allow": false}"#,
                refused(ErrorCode::NotPermitted, NO_REASON),
            ),
            (
                r#"{"refuse": "no"}"#,
                refused(ErrorCode::NotPermitted, "no"),
            ),
            (
                r#"{"refuse": "no", "allow": true}"#,
                refused(ErrorCode::NotPermitted, "no"),
            ),
            (
                r#"{"refuse": "full", "code": "room_full"}"#,
                refused(ErrorCode::RoomFull, "full"),
            ),
            (r#"{"refuse": "no", "code": "unspecified"}"#, None),
            (r#"{"refuse": "no", "code": "ROOM_FULL"}"#, None),
            (r#"{"allow": true, "code": "room_full"}"#, None),
            (r#"{"allow": true, "marks": 1}"#, None),
            (r#"{"allow": true, "puts": []}"#, None),
            (r#"{"allow": true, "priority": 1}"#, None),
            (r#"{"allow": true, "text": "yes"}"#, None),
            (r#"{"allow": 1}"#, None),
            (r#"{"allow": "true"}"#, None),
            (r#"{"alow": true}"#, None),
            (r#"{"allow": true} {"#, None),
            ("{}", None),
            ("true", None),
            ("[true]", None),
            (" {\"allow\": true}\n", Some(Ok(()))),
            ("", None),
        ] {
            assert_eq!(decided(text), expected, "{text}");
        }
        let long = format!(r#"{{"refuse": "{}"}}"#, "é".repeat(1000));
        let Some(Err((_, reason))) = decided(&long) else {
            panic!("it is a refusal");
        };
        assert_eq!(reason.len(), REASON_BYTES_MAX);
    }

    #[test]
    fn a_ticket_is_changed_as_the_game_says_or_not_at_all() {
        let player = |name: &str| MatchPlayer::new(name.parse().expect("a name"));
        let ticket = MatchTicket::new(MatchTicketId([7; 16]), vec![player("alice"), player("bob")]);
        let changed =
            |text: &str| parse(text).and_then(|answer| answer.into_ticket(ticket.clone()));
        assert_eq!(changed(r#"{"allow": true}"#), Some(ticket.clone()));
        let text = r#"{"allow": true, "priority": -3, "attributes":
            {"bob": {"skill": 12.5, "mode": "duel", "maps": ["sea"], "rtt": {"eu": 9}}}}"#;
        let better = changed(text).expect("it is right");
        assert_eq!(better.priority, -3);
        assert!(better.players[0].attributes.is_empty());
        let of_bob = better.players[1].attributes.iter();
        let of_bob: Vec<_> = of_bob
            .map(|(name, value)| (name.as_str(), value.kind().as_str()))
            .collect();
        let kinds = [
            ("maps", "list"),
            ("mode", "string"),
            ("rtt", "map"),
            ("skill", "number"),
        ];
        assert_eq!(of_bob, kinds);
        for text in [
            r#"{"priority": 1}"#,
            r#"{"allow": true, "priority": 128}"#,
            r#"{"allow": true, "priority": 1.5}"#,
            r#"{"allow": true, "attributes": {"carol": {"skill": 1}}}"#,
            r#"{"allow": true, "attributes": {"bob": {"": 1}}}"#,
            r#"{"allow": true, "attributes": {"bob": {"skill": 1e300}}}"#,
            r#"{"allow": true, "attributes": {"bob": {"skill": null}}}"#,
            r#"{"allow": true, "attributes": {"bob": {"skill": ""}}}"#,
            r#"{"allow": true, "marks": 1}"#,
            r#"{"allow": true, "puts": [1]}"#,
        ] {
            assert_eq!(changed(text), None, "{text}");
        }
    }

    #[test]
    fn a_reply_is_text_or_base64_of_so_many_bytes() {
        let reply = |text: &str| parse(text).and_then(Answer::into_reply);
        assert_eq!(reply(r#"{"text": "hi"}"#).as_deref(), Some(&b"hi"[..]));
        assert_eq!(
            reply(r#"{"allow": true, "base64": "AQI="}"#).as_deref(),
            Some(&[1, 2][..])
        );
        let long = format!(
            r#"{{"text": "{}"}}"#,
            "x".repeat(COMMAND_PAYLOAD_BYTES_MAX + 1)
        );
        for wrong in [
            r#"{"allow": true}"#,
            r#"{"text": "a", "base64": "AQI="}"#,
            r#"{"base64": "AQI"}"#,
            r#"{"text": "a", "puts": [1]}"#,
            &long,
        ] {
            assert_eq!(reply(wrong), None);
        }
    }

    #[test]
    fn what_the_game_does_not_say_of_a_device_in_a_field_stays_as_it_was() {
        let before = FieldPass {
            marks: 7,
            puts: Some([2].into()),
        };
        let pass = |text: &str| parse(text).and_then(|answer| answer.into_pass(before.clone()));
        assert_eq!(pass(r#"{"allow": true}"#), Some(before.clone()));
        let most = format!(r#"{{"allow": true, "marks": {}}}"#, u64::MAX);
        let marked = FieldPass {
            marks: u64::MAX,
            ..before.clone()
        };
        assert_eq!(pass(&most), Some(marked));
        let putting = |classes: &[u8]| {
            let puts = Some(classes.iter().copied().collect());
            Some(FieldPass { marks: 7, puts })
        };
        assert_eq!(pass(r#"{"allow": true, "puts": []}"#), putting(&[]));
        assert_eq!(pass(r#"{"allow": true, "puts": [3, 0]}"#), putting(&[0, 3]));
        for wrong in [
            r#"{"allow": true, "marks": -1}"#,
            r#"{"allow": true, "puts": [256]}"#,
            r#"{"allow": true, "puts": 1}"#,
            r#"{"marks": 1}"#,
            r#"{"puts": [1]}"#,
        ] {
            assert_eq!(pass(wrong), None, "{wrong}");
        }
    }
}
