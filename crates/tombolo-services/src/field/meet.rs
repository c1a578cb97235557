//! Devices that are in each other's range get to know each other.
//!
//! Introductions go as in rooms, but that the field says whom a device may reach: those that it sees, and
//! those that have introduced themselves to it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message as _;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tombolo_engine::{Key, KeyError, RequestError, Server};
use tombolo_field::EntityId;
use tombolo_wire::v1::{self, DeviceKeys, ErrorCode, Introduction, server_frame};
use tombolo_wire::{FieldId, NodeId, UserId};

use super::cells::VERSION;
use super::driver::Input;
use super::generated::{self as wire, answer, question};
use super::marks;
use super::refusal::Refusal;
use super::refused;
use super::requests::{card_of, locate, seat};
use super::seat::{Place, Seat};
use super::things::{PutAgain, take_here};
use crate::cluster::{ip_on_wire, parse_ip};
use crate::forward;
use crate::node::Node;
use crate::reject::Reject;
use crate::requests::{self, Request};
use crate::session::Session;

/// An introduction to an entity of a field.
pub(crate) struct FieldIntroduction {
    field: FieldId,
    entity: EntityId,
    introduction: Introduction,
}

/// Hands an introduction over to an entity of a field, in order with the device's other requests.
pub(crate) fn handle_introduce(
    node: &Arc<Node>,
    session: &Arc<Session>,
    seq: u64,
    introduce: v1::Introduce,
    now: Instant,
) {
    let result = parse(session, introduce, now).and_then(|introduction| {
        let request = Request::Introduce {
            seq,
            introduction: Box::new(introduction),
        };
        requests::enqueue(node, session, request)
    });
    if let Err(reject) = result {
        node.refuse(session, seq, reject);
    }
}

fn parse(
    session: &Session,
    introduce: v1::Introduce,
    now: Instant,
) -> Result<FieldIntroduction, Reject> {
    let bad_frame = |message: &str| Reject::new(ErrorCode::BadFrame, message);
    if !introduce.room.is_empty() {
        return Err(bad_frame("an introduction goes by a room or by a field"));
    }
    let introduction = introduce.introduction;
    let introduction = introduction.ok_or_else(|| bad_frame("there is nothing to hand over"))?;
    forward::check_introduction(&introduction)?;
    forward::check_introduction_rate(session, &introduction, now)?;
    Ok(FieldIntroduction {
        field: FieldId::parse(&introduce.field)
            .map_err(|error| Reject::new(error.code(), error))?,
        entity: EntityId(introduce.entity),
        introduction,
    })
}

/// Hands an introduction over, under the sender's true keys, once the relay lets both reach each other.
pub(crate) async fn introduce(
    node: &Arc<Node>,
    session: &Arc<Session>,
    seq: u64,
    introduction: FieldIntroduction,
) {
    if let Err(reject) = hand_over(node, session, introduction).await {
        node.refuse(session, seq, reject);
    }
}

async fn hand_over(
    node: &Arc<Node>,
    session: &Arc<Session>,
    introduction: FieldIntroduction,
) -> Result<(), Reject> {
    let FieldIntroduction {
        field,
        entity,
        mut introduction,
    } = introduction;
    let seat = seat(node, session, &field)?;
    introduction.keys = Some(DeviceKeys::from(&seat.keys));
    let ips = node.relay.relay_ips();
    match locate(node, &seat, entity).await? {
        Place::Here(other) => {
            node.relay.permit(&seat.user, &ips);
            let (from, user) = (seat.entity, seat.user.clone());
            receive(
                node,
                &other,
                from,
                &user,
                Place::Here(seat),
                &ips,
                introduction,
            )
        }
        Place::There(there) => {
            // The other node permits its own device; both sides' packets come from a relay of either.
            let both = [ips.clone(), node.cluster.relay_ips(&there)].concat();
            node.relay.permit(&seat.user, &both);
            let told = question::Kind::Introduce(wire::Introduce {
                entity: seat.entity.0,
                user: seat.user.to_string(),
                node: node.name().to_string(),
                introduction: introduction.encode_to_vec().into(),
                relay_ips: ips.iter().take(RELAY_IPS_MAX).map(ip_on_wire).collect(),
            });
            match ask(node, &there, &field, entity, told).await? {
                answer::Outcome::Introduced(wire::Introduced {}) => Ok(()),
                answer::Outcome::Card(_)
                | answer::Outcome::Taken(_)
                | answer::Outcome::Marked(_)
                | answer::Outcome::Refused(_) => Err(no_answer()),
            }
        }
    }
}

/// Hands an introduction to a device here.
fn receive(
    node: &Arc<Node>,
    seat: &Seat,
    from: EntityId,
    user: &UserId,
    place: Place,
    ips: &[IpAddr],
    introduction: Introduction,
) -> Result<(), Reject> {
    let session = seat.session.upgrade();
    let session = session.ok_or_else(|| refused(node, Refusal::NotSeen))?;
    seat.note_caller(from, place);
    node.relay.permit(&seat.user, ips);
    let introduced = v1::Introduced {
        room: String::new(),
        from: user.to_string(),
        introduction: Some(introduction),
        field: seat.field.to_string(),
        entity: from.0,
    };
    node.push_from_peer(&session, server_frame::Body::Introduced(introduced))?;
    node.counters.introduced.add(1);
    Ok(())
}

/// Who an entity is that a device sees.
pub(super) async fn card(
    node: &Arc<Node>,
    seat: &Arc<Seat>,
    entity: EntityId,
) -> Result<v1::MetEntity, Reject> {
    match locate(node, seat, entity).await? {
        Place::Here(other) => Ok(card_of(&other)),
        Place::There(there) => {
            let who = question::Kind::Who(wire::Who {});
            match ask(node, &there, &seat.field, entity, who).await? {
                answer::Outcome::Card(card) => Ok(v1::MetEntity {
                    user: card.user,
                    identity: card.identity,
                    seal: card.seal,
                }),
                answer::Outcome::Introduced(_)
                | answer::Outcome::Taken(_)
                | answer::Outcome::Marked(_)
                | answer::Outcome::Refused(_) => Err(no_answer()),
            }
        }
    }
}

/// Asks another node about an entity there.
pub(super) async fn ask(
    node: &Node,
    there: &NodeId,
    field: &FieldId,
    entity: EntityId,
    kind: question::Kind,
) -> Result<answer::Outcome, Reject> {
    let subject = subject_of(there).map_err(|_| no_answer())?;
    let question = wire::Question {
        version: VERSION,
        field: field.to_string(),
        entity: entity.0,
        kind: Some(kind),
    };
    let payload = Bytes::from(question.encode_to_vec());
    let mut answer = Err(RequestError::Timeout);
    for _ in 0..ASKS_MAX {
        // What comes twice is done once: introductions name their attempt.
        answer = node
            .engine
            .request(&subject, payload.clone(), ASK_TIMEOUT)
            .await;
        if !matches!(answer, Err(RequestError::Timeout)) {
            break;
        }
    }
    let answer = answer.map_err(|_| no_answer())?;
    let answer = wire::Answer::decode(answer).map_err(|_| no_answer())?;
    match answer.outcome {
        Some(answer::Outcome::Refused(refused)) => {
            let code = i32::try_from(refused.code).unwrap_or_default();
            let code = ErrorCode::try_from(code).unwrap_or(ErrorCode::Unavailable);
            let message: String = refused.message.chars().take(MESSAGE_CHARS_MAX).collect();
            Err(Reject::new(code, message))
        }
        Some(outcome) if answer.version == VERSION => Ok(outcome),
        Some(_) | None => Err(no_answer()),
    }
}

/// Answers other nodes about devices here for as long as it runs.
pub(crate) async fn serve(node: Arc<Node>) {
    let Ok(subject) = subject_of(node.name()) else {
        return;
    };
    loop {
        if let Ok(mut server) = node.engine.serve(&subject, QUESTIONS_MAX).await {
            let behind = || on_wire(Err(refused(&node, Refusal::Behind)));
            let answer = |question| answer(Arc::clone(&node), question);
            answer_all(&mut server, field_of, behind, answer).await;
        }
        tokio::time::sleep(SERVE_DELAY).await;
    }
}

/// Answers questions side by side: those about a field that is behind keep no others waiting, and have no more than
/// their share of the places.
async fn answer_all<A>(
    server: &mut Server,
    field_of: impl Fn(&[u8]) -> String,
    behind: impl Fn() -> Bytes,
    answer: impl Fn(Bytes) -> A,
) where
    A: Future<Output = Bytes> + Send + 'static,
{
    let mut answers = JoinSet::new();
    // Each answer that is made holds its field's.
    let mut share_by_field: BTreeMap<String, Arc<()>> = BTreeMap::new();
    while let Some(request) = server.next().await {
        if share_by_field.len() > ANSWERS_AT_ONCE {
            share_by_field.retain(|_, share| Arc::strong_count(share) > 1);
        }
        while answers.try_join_next().is_some() {}
        let share = share_by_field.entry(field_of(&request.payload));
        let share = share.or_default();
        let (of_field, free) = (
            Arc::strong_count(share) - 1,
            ANSWERS_AT_ONCE - answers.len(),
        );
        // However many fields are behind, they leave places to one that has none.
        if of_field > 0 && of_field >= free.min(ANSWERS_OF_ONE_FIELD) {
            request.answer(behind());
            continue;
        }
        if answers.len() >= ANSWERS_AT_ONCE {
            answers.join_next().await;
        }
        let (share, answer) = (Arc::clone(share), answer(request.payload.clone()));
        answers.spawn(async move {
            request.answer(answer.await);
            drop(share);
        });
    }
}

/// The field that a question is about.
fn field_of(question: &[u8]) -> String {
    let question = wire::Question::decode(question);
    question.map_or_else(|_| String::new(), |question| question.field)
}

async fn answer(node: Arc<Node>, question: Bytes) -> Bytes {
    // Whoever asked does not wait longer.
    let outcome = tokio::time::timeout(ASK_TIMEOUT, respond(&node, &question)).await;
    on_wire(outcome.unwrap_or_else(|_| Err(refused(&node, Refusal::Behind))))
}

fn on_wire(outcome: Result<answer::Outcome, Reject>) -> Bytes {
    let outcome = outcome.unwrap_or_else(|reject| {
        answer::Outcome::Refused(wire::Refused {
            code: u32::try_from(i32::from(reject.code)).unwrap_or_default(),
            message: reject.message,
        })
    });
    let answer = wire::Answer {
        version: VERSION,
        outcome: Some(outcome),
    };
    answer.encode_to_vec().into()
}

async fn respond(node: &Arc<Node>, payload: &[u8]) -> Result<answer::Outcome, Reject> {
    let malformed = || {
        node.counters.fields.heard_refused.add(1);
        refused(node, Refusal::Malformed)
    };
    let question = wire::Question::decode(payload).map_err(|_| malformed())?;
    let field = FieldId::parse(&question.field).map_err(|_| malformed())?;
    let kind = question.kind.ok_or_else(malformed)?;
    if question.version != VERSION {
        return Err(malformed());
    }
    let entity = EntityId(question.entity);
    let seat = async {
        let seat = find(node, &field, entity).await;
        seat.ok_or_else(|| refused(node, Refusal::NotSeen))
    };
    match kind {
        question::Kind::Take(take) => {
            let put_again = PutAgain::parse(&take).ok_or_else(malformed)?;
            // That it is not here is nothing out of the ordinary: all nodes are asked.
            let taken = take_here(node, &field, entity, put_again).await;
            taken.map_err(Refusal::into_reject)?;
            Ok(answer::Outcome::Taken(wire::Taken {}))
        }
        question::Kind::Mark(mark) => {
            let user = UserId::parse(&mark.user).map_err(|_| malformed())?;
            marks::mark_here(node, &field, &user, mark.marks).await?;
            Ok(answer::Outcome::Marked(wire::Marked {}))
        }
        question::Kind::Who(wire::Who {}) => {
            let card = card_of(&*seat.await?);
            Ok(answer::Outcome::Card(wire::Card {
                user: card.user,
                identity: card.identity,
                seal: card.seal,
            }))
        }
        question::Kind::Introduce(told) => {
            let told = Told::parse(node, told).ok_or_else(malformed)?;
            let place = Place::There(told.node);
            let seat = seat.await?;
            receive(
                node,
                &seat,
                told.entity,
                &told.user,
                place,
                &told.ips,
                told.introduction,
            )?;
            Ok(answer::Outcome::Introduced(wire::Introduced {}))
        }
    }
}

async fn find(node: &Node, field: &FieldId, entity: EntityId) -> Option<Arc<Seat>> {
    for inputs in node.fields.inputs(field, None) {
        let (reply, found) = oneshot::channel();
        if inputs.send(Input::Find { entity, reply }).await.is_ok()
            && let Ok(Some(seat)) = found.await
        {
            return Some(seat);
        }
    }
    None
}

/// An introduction of a device on another node.
struct Told {
    entity: EntityId,
    user: UserId,
    node: NodeId,
    introduction: Introduction,
    /// From where both nodes relay.
    ips: Vec<IpAddr>,
}

impl Told {
    fn parse(node: &Node, told: wire::Introduce) -> Option<Self> {
        let introduction = Introduction::decode(told.introduction).ok()?;
        forward::check_introduction(&introduction).ok()?;
        if told.relay_ips.len() > RELAY_IPS_MAX {
            return None;
        }
        let mut ips = node.relay.relay_ips();
        for ip in &told.relay_ips {
            ips.push(parse_ip(ip)?);
        }
        Some(Self {
            entity: EntityId(told.entity),
            user: UserId::parse(&told.user).ok()?,
            node: NodeId::parse(&told.node).ok()?,
            introduction,
            ips,
        })
    }
}

/// Where a node is asked about its devices in fields.
fn subject_of(node: &NodeId) -> Result<Key, KeyError> {
    Key::new(["node", node.as_str(), "fields"])
}

fn no_answer() -> Reject {
    Reject::new(ErrorCode::Unavailable, "the entity's node does not answer")
}

/// Of one node.
const RELAY_IPS_MAX: usize = 16;

/// How long another node may take to answer, and how often it is asked.
const ASK_TIMEOUT: Duration = Duration::from_millis(500);
const ASKS_MAX: usize = 3;

/// Questions that wait for this node.
const QUESTIONS_MAX: usize = 4096;

/// Questions that are answered at the same time.
const ANSWERS_AT_ONCE: usize = 256;

/// Those of them that may be about one field: it may be behind, and the others are not.
const ANSWERS_OF_ONE_FIELD: usize = 32;

/// Between two attempts to be reachable.
const SERVE_DELAY: Duration = Duration::from_millis(250);

/// As much of a refusal's text as a device is told.
const MESSAGE_CHARS_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use tombolo_engine::Request;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn questions_about_a_field_that_is_behind_keep_no_others_waiting() {
        let (questions, mut server) = Server::new(QUESTIONS_MAX);
        let mut waiting = Vec::new();
        for _ in 0..ANSWERS_AT_ONCE {
            let (slow, answered) = Request::new("slow".into());
            questions.send(slow).await.unwrap();
            waiting.push(answered);
        }
        let (quick, answered) = Request::new("quick".into());
        questions.send(quick).await.unwrap();
        let answer = |question: Bytes| async move {
            if question == "slow" {
                std::future::pending::<()>().await;
            }
            question
        };
        let field_of = |question: &[u8]| String::from_utf8_lossy(question).into_owned();
        let behind = || Bytes::from("behind");
        tokio::select! {
            () = answer_all(&mut server, field_of, behind, answer) => panic!("nobody ended it"),
            answer = tokio::time::timeout(ASK_TIMEOUT, answered) => {
                assert_eq!(answer.expect("it waits").unwrap(), "quick");
            }
        }
        let refused = waiting.split_off(ANSWERS_OF_ONE_FIELD);
        for answer in refused {
            assert_eq!(answer.await.unwrap(), "behind");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn many_fields_that_are_behind_keep_no_other_waiting() {
        for fields in [8, 9, 50] {
            let (questions, mut server) = Server::new(QUESTIONS_MAX);
            let mut waiting = Vec::new();
            for number in 0..2 * ANSWERS_AT_ONCE {
                let (slow, answered) = Request::new((number % fields).to_string().into());
                questions.send(slow).await.unwrap();
                waiting.push(answered);
            }
            let (quick, answered) = Request::new("quick".into());
            questions.send(quick).await.unwrap();
            let answer = |question: Bytes| async move {
                if question != "quick" {
                    std::future::pending::<()>().await;
                }
                question
            };
            let field_of = |question: &[u8]| String::from_utf8_lossy(question).into_owned();
            let behind = || Bytes::from("behind");
            tokio::select! {
                () = answer_all(&mut server, field_of, behind, answer) => panic!("nobody ended it"),
                answer = tokio::time::timeout(ASK_TIMEOUT, answered) => {
                    assert_eq!(answer.expect("it waits").unwrap(), "quick", "{fields} fields");
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn questions_about_fields_that_are_behind_are_refused_while_those_have_all_places() {
        let (questions, mut server) = Server::new(QUESTIONS_MAX);
        let mut waiting = Vec::new();
        for number in 0..=ANSWERS_AT_ONCE {
            let field = number % (ANSWERS_AT_ONCE / ANSWERS_OF_ONE_FIELD);
            let (slow, answered) = Request::new(field.to_string().into());
            questions.send(slow).await.unwrap();
            waiting.push(answered);
        }
        let answer = |_| std::future::pending();
        let field_of = |question: &[u8]| String::from_utf8_lossy(question).into_owned();
        let behind = || Bytes::from("behind");
        let last = waiting.pop().expect("there is one more than places");
        tokio::select! {
            () = answer_all(&mut server, field_of, behind, answer) => panic!("nobody ended it"),
            answer = tokio::time::timeout(ASK_TIMEOUT, last) => {
                assert_eq!(answer.expect("it waits").unwrap(), "behind");
            }
        }
    }
}

#[cfg(test)]
mod kept {
    //! What nodes of the release before ask each other about entities.

    use super::*;
    use crate::before::check;

    /// All that is asked is in the message.
    fn read<M: prost::Message + Default>(bytes: &[u8]) -> Option<M> {
        M::decode(bytes).ok()
    }

    #[test]
    fn questions_and_answers_of_the_release_before_say_the_same() {
        let kinds = [
            question::Kind::Who(wire::Who {}),
            question::Kind::Take(wire::Take {
                put_again: 3,
                dimensions: 3,
            }),
            question::Kind::Introduce(wire::Introduce {
                entity: 6,
                user: "alice".into(),
                node: "node-1".into(),
                introduction: Bytes::from_static(b"introduction"),
                relay_ips: vec![Bytes::from_static(&[192, 0, 2, 1])],
            }),
        ];
        for (name, kind) in ["who", "take", "introduce"].into_iter().zip(kinds) {
            let question = wire::Question {
                version: VERSION,
                field: "world".into(),
                entity: 5,
                kind: Some(kind),
            };
            check(&format!("field.{name}"), &question, read::<wire::Question>);
        }
        let outcomes = [
            answer::Outcome::Card(wire::Card {
                user: "alice".into(),
                identity: Bytes::from_static(&[1; 32]),
                seal: Bytes::from_static(&[2; 32]),
            }),
            answer::Outcome::Introduced(wire::Introduced {}),
            answer::Outcome::Refused(wire::Refused {
                code: 13,
                message: "too fast".into(),
            }),
            answer::Outcome::Taken(wire::Taken {}),
        ];
        let names = ["card", "introduced", "refused", "taken"];
        for (name, outcome) in names.into_iter().zip(outcomes) {
            let answer = wire::Answer {
                version: VERSION,
                outcome: Some(outcome),
            };
            check(&format!("field.{name}"), &answer, read::<wire::Answer>);
        }
    }
}
