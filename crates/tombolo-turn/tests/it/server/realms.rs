//! A server with several realms.

use tombolo_stun::{
    Class, Key, MessageWriter, Method, Nonce, Origin, Realm, RequestedTransport, Username,
};
use tombolo_turn::server::{self, Config, FiveTuple, Refusal};

use super::lab::{Lab, REALM, Reply, address, alice, client};

#[test]
fn a_client_is_challenged_with_the_realm_of_its_origin_or_of_its_address() {
    let mut lab = Lab::with(two_realms);
    for (origin, server, realm) in [
        (None, "9.9.9.9:3478", REALM),
        (Some("https://east.example"), "9.9.9.9:3478", "east"),
        (Some("https://unknown.example"), "9.9.9.9:3478", REALM),
        (None, "9.9.9.20:3478", "west"),
        (None, "9.9.9.20:9999", "west"),
        (None, "9.9.9.21:443", "west"),
        (None, "9.9.9.21:444", REALM),
        // The origin says more than the address.
        (Some("https://east.example"), "9.9.9.20:3478", "east"),
    ] {
        let reply = challenge(&mut lab, at(server), origin);
        let told = reply.get::<Realm<'_>>().expect("is a challenge");
        assert_eq!(told.as_str(), realm, "{origin:?} {server}");
    }
}

#[test]
fn credentials_are_good_in_their_realm_alone() {
    let mut lab = Lab::with(two_realms);
    for (port, realm, user, code) in [
        (1, "east", "eve", None),
        (2, "west", "walt", None),
        (3, "east", "walt", Some(401)),
        (4, "west", "eve", Some(401)),
        (5, REALM, "eve", Some(401)),
        (6, "north", "eve", Some(401)),
    ] {
        let reply = allocate(&mut lab, client(port), realm, user);
        assert_eq!(reply.code(), code, "{user} in {realm}");
    }
    assert_eq!(lab.allocate_with(client(9), &alice(), |_| {}).code(), None);
    let mut realms: Vec<String> = lab
        .server
        .allocations(lab.now)
        .map(|info| info.realm)
        .collect();
    realms.sort();
    assert_eq!(realms, ["east", REALM, "west"]);
}

#[test]
fn a_wrong_password_is_challenged_again_in_the_same_realm() {
    let mut lab = Lab::with(two_realms);
    let reply = allocate(&mut lab, client(1), "west", "eve");
    let told = reply.get::<Realm<'_>>().map(|realm| realm.as_str());
    assert_eq!(told, Ok("west"));
}

#[test]
fn users_of_one_name_in_two_realms_are_two_users() {
    let mut lab = Lab::with(|config| {
        two_realms(config);
        for realm in &mut config.realms {
            realm.users.insert("carol".to_owned(), PASSWORD.to_owned());
        }
        config.limits.per_user.allocations = Some(1);
    });
    assert_eq!(allocate(&mut lab, client(1), "east", "carol").code(), None);
    assert_eq!(allocate(&mut lab, client(2), "west", "carol").code(), None);
    let reply = allocate(&mut lab, client(3), "west", "carol");
    assert_eq!(reply.code(), Some(486));
    let reply = refresh(&mut lab, client(1), "west", "carol");
    assert_eq!(reply.code(), Some(441));
}

#[test]
fn each_realm_has_its_own_limits() {
    let mut lab = Lab::with(|config| {
        two_realms(config);
        config.realms[0].per_user.allocations = Some(2);
        config.realms[1].quota.allocations = Some(1);
    });
    for (port, realm, user, code) in [
        (1, "east", "eve", None),
        (2, "east", "eve", None),
        (3, "east", "eve", Some(486)),
        (4, "west", "walt", None),
        (5, "west", "wilma", Some(486)),
    ] {
        let reply = allocate(&mut lab, client(port), realm, user);
        assert_eq!(reply.code(), code, "{user} in {realm}");
    }
    assert_eq!(lab.refused(Refusal::QuotaReached), 1);
    assert_eq!(lab.refused(Refusal::RealmFull), 1);
    lab.server.handle_client_gone(lab.now, client(4));
    let reply = allocate(&mut lab, client(5), "west", "wilma");
    assert_eq!(reply.code(), None);
}

fn two_realms(config: &mut Config) {
    let mut east = server::Realm::new("east");
    east.users.insert("eve".to_owned(), PASSWORD.to_owned());
    east.origins = vec!["https://east.example".to_owned()];
    let mut west = server::Realm::new("west");
    for user in ["walt", "wilma"] {
        west.users.insert(user.to_owned(), PASSWORD.to_owned());
    }
    west.listen = vec![address("9.9.9.20:0"), address("9.9.9.21:443")];
    config.realms = vec![east, west];
}

fn at(server: &str) -> FiveTuple {
    FiveTuple {
        server: address(server),
        ..client(1)
    }
}

fn challenge(lab: &mut Lab, from: FiveTuple, origin: Option<&str>) -> Reply {
    lab.unsigned(from, Method::ALLOCATE, |writer| {
        writer.attribute(&RequestedTransport::UDP);
        if let Some(origin) = origin {
            writer.attribute(&Origin::new(origin).expect("short"));
        }
    })
}

fn allocate(lab: &mut Lab, from: FiveTuple, realm: &str, user: &str) -> Reply {
    request(lab, from, Method::ALLOCATE, realm, user, |writer| {
        writer.attribute(&RequestedTransport::UDP);
    })
}

fn refresh(lab: &mut Lab, from: FiveTuple, realm: &str, user: &str) -> Reply {
    request(lab, from, Method::REFRESH, realm, user, |_| {})
}

fn request(
    lab: &mut Lab,
    from: FiveTuple,
    method: Method,
    realm: &str,
    user: &str,
    write: impl FnOnce(&mut MessageWriter<'_>),
) -> Reply {
    let nonce = lab.nonce(from);
    let bytes = lab.message(Class::Request, method, |writer| {
        write(writer);
        writer
            .attribute(&Username::new(user).expect("short"))
            .attribute(&Realm::new(realm).expect("short"))
            .attribute(&Nonce::new(&nonce).expect("short"))
            .integrity(&Key::long_term(user, realm, PASSWORD));
    });
    lab.reply(from, &bytes)
}

const PASSWORD: &str = "the password of all";
