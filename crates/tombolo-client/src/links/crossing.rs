//! Introductions that cross while links are closed and opened anew.

use tokio::sync::mpsc;

use super::*;
use crate::device::bind_endpoint;
use crate::keys::{Accepted, Keys};
use crate::link::Rouser;
use crate::net::Net;
use crate::session::{Command, Handle};

/// One end, in whose place the test hands on what it tells the other.
struct End {
    links: Arc<Links>,
    user: UserId,
    keys: PublicKeys,
    told: mpsc::Receiver<Command>,
    /// What the application has got by others' introductions.
    begun: Vec<Peer>,
}

impl End {
    async fn new(user: &str) -> Self {
        let keys = Arc::new(Keys::generate().unwrap());
        let public = keys.public();
        let accepted = Accepted::default();
        let net = Net::bind(true).await.unwrap();
        let endpoint = bind_endpoint(&net, &keys, accepted.clone()).unwrap();
        let (session, told) = Handle::pair(64);
        let links = Links::new(Shop {
            net,
            rouser: Arc::new(Rouser::new(endpoint.clone())),
            endpoint: endpoint.clone(),
            keys,
            accepted,
            session,
        });
        tokio::spawn(accept(Arc::downgrade(&links), endpoint));
        Self {
            links,
            user: UserId::parse(user).unwrap(),
            keys: public,
            told,
            begun: Vec::new(),
        }
    }

    /// Opens a link to the other; returns what that one is told.
    async fn open(&mut self, to: &Self) -> (Peer, Introduction) {
        let peer = self.links.open(target(to), to.keys, Vec::new()).unwrap();
        (peer, self.tells().await)
    }

    /// What it tells the other next.
    async fn tells(&mut self) -> Introduction {
        introduction(self.told.recv().await.expect("the end goes on"))
    }

    fn hear(&mut self, from: &UserId, introduction: Introduction) {
        let target = Target {
            user: from.clone(),
            ..target(self)
        };
        let begun = self.links.on_introduced(target, introduction);
        self.begun.extend(begun);
    }
}

fn target(to: &End) -> Target {
    Target {
        meeting: Meeting::Room(RoomId::parse("r").unwrap()),
        user: to.user.clone(),
        policy: Policy::Any,
    }
}

fn introduction(command: Command) -> Introduction {
    let Command::Introduce(introduce) = command else {
        panic!("links tell nothing else");
    };
    Introduction::parse(introduce.introduction.unwrap()).unwrap()
}

/// Hands on what each tells the other until a link of both is up, the newest that the second end's application has.
async fn come_up(a: &mut End, b: &mut End, to_a: &Peer) {
    let [of_a, of_b] = [a.user.clone(), b.user.clone()];
    loop {
        tokio::select! {
            told = a.told.recv() => b.hear(&of_a, introduction(told.unwrap())),
            told = b.told.recv() => a.hear(&of_b, introduction(told.unwrap())),
            ready = to_a.ready() => return ready.unwrap(),
        }
    }
}

async fn says(from: &Peer, to: &Peer) {
    from.send(Lane::Reliable, "hello").unwrap();
    let said = to.recv().await.expect("the link goes on");
    assert_eq!(said.payload, "hello");
}

#[tokio::test]
async fn a_link_that_is_opened_anew_while_introductions_cross_comes_up() {
    let (mut a, mut b) = (End::new("alice").await, End::new("bob").await);
    let (_to_b, of_a) = a.open(&b).await;
    let (to_a, of_b) = b.open(&a).await;
    drop(to_a);
    let (to_a, of_b_anew) = b.open(&a).await;
    let [alice, bob] = [a.user.clone(), b.user.clone()];
    a.hear(&bob, of_b);
    b.hear(&alice, of_a);
    a.hear(&bob, of_b_anew);
    come_up(&mut a, &mut b, &to_a).await;
    let to_b = a.begun.pop().expect("the one before was replaced");
    says(&to_b, &to_a).await;
    says(&to_a, &to_b).await;
}

#[tokio::test]
async fn links_that_both_open_anew_at_once_come_up() {
    let (mut a, mut b) = (End::new("alice").await, End::new("bob").await);
    let [alice, bob] = [a.user.clone(), b.user.clone()];
    let (of_a, of_b) = (a.open(&b).await, b.open(&a).await);
    let first = [of_a.1, of_b.1];
    drop((of_a.0, of_b.0));
    let (of_a, of_b) = (a.open(&b).await, b.open(&a).await);
    for [told_a, told_b] in [first, [of_a.1, of_b.1]] {
        a.hear(&bob, told_b);
        b.hear(&alice, told_a);
    }
    let newest = |end: &mut End| end.begun.pop().expect("the one before was replaced");
    let (to_b, to_a) = (newest(&mut a), newest(&mut b));
    come_up(&mut a, &mut b, &to_a).await;
    says(&to_b, &to_a).await;
}

#[tokio::test]
async fn a_link_of_a_device_that_has_started_anew_comes_up_though_it_gets_what_was_for_the_one_before()
 {
    let (before, mut b) = (End::new("alice").await, End::new("bob").await);
    let (_to_before, late) = b.open(&before).await;
    let mut a = End::new("alice").await;
    let (to_b, of_a) = a.open(&b).await;
    let [alice, bob] = [a.user.clone(), b.user.clone()];
    a.hear(&bob, late);
    b.hear(&alice, of_a);
    let to_a = b.begun.pop().expect("it is another device");
    come_up(&mut a, &mut b, &to_a).await;
    assert!(a.begun.is_empty());
    says(&to_b, &to_a).await;
}

#[tokio::test]
async fn a_link_comes_up_with_a_device_that_has_started_anew_since_it_told_of_itself() {
    let (mut a, mut before) = (End::new("alice").await, End::new("bob").await);
    let (_lost, late) = before.open(&a).await;
    let (to_b, of_a) = a.open(&before).await;
    let [alice, bob] = [a.user.clone(), before.user.clone()];
    a.hear(&bob, late);
    let mut b = End::new("bob").await;
    b.hear(&alice, of_a);
    let to_a = b.begun.pop().expect("it is introduced to it");
    come_up(&mut a, &mut b, &to_a).await;
    assert!(a.begun.is_empty());
    says(&to_b, &to_a).await;
}
