//! The join handshake between a joiner and an inviter.

use super::super::{ALPN_JOIN, Identity, JoinError, code, join, transport};
use super::harness::{Node, record, settings, within};
use crate::id::{PeerKey, ShareId};
use crate::wire::{InviteBook, Inviter, JoinRefusal, Secret, Ticket};
use bytes::Bytes;
use quinn::ConnectionError;

const SHARE: ShareId = ShareId([1; 16]);

/// An inviter whose time is 1000, and its ticket.
fn inviter() -> (Node, Ticket) {
    let node = Node::start();
    let secret = Secret([9; 32]);
    let mut book = InviteBook::new(SHARE);
    book.issue(&secret, 2_000, 1, 1_000);
    book.issue(&Secret([8; 32]), 500, 1, 100);
    *node.probe.book.lock() = Some(book);
    let inviters = vec![Inviter { key: node.identity.key(), addresses: vec![node.address()] }];
    let ticket = Ticket { share: SHARE, inviters, secret, expires: 2_000 };
    (node, ticket)
}

async fn joins(identity: &Identity, ticket: &Ticket) -> Result<Vec<Bytes>, JoinError> {
    let joined = within(join(identity, ticket, record(identity.key()), &settings())).await;
    joined.map(|(welcome, chunks)| {
        assert_eq!(welcome.your_tag, identity.tag());
        assert_eq!(welcome.roster, [(identity.tag(), record(identity.key()))]);
        chunks
    })
}

fn refusal(outcome: Result<Vec<Bytes>, JoinError>) -> JoinRefusal {
    match outcome {
        Err(JoinError::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ticket_lets_one_machine_in_with_the_snapshot() {
    let (mut node, ticket) = inviter();
    let chunks = vec![Bytes::from(vec![5; 1 << 20]), Bytes::from_static(b"end")];
    *node.probe.chunks.lock() = chunks.clone();
    assert_eq!(joins(&Identity::generate().unwrap(), &ticket).await.unwrap(), chunks);
    assert_eq!(refusal(joins(&Identity::generate().unwrap(), &ticket).await), JoinRefusal::UsedUp);
    assert!(node.events.try_recv().is_err(), "a joiner is no peer");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_refusal_reaches_the_joiner() {
    let (node, ticket) = inviter();
    let me = Identity::generate().unwrap();
    let of_other_share = Ticket { share: ShareId([2; 16]), ..ticket.clone() };
    assert_eq!(refusal(joins(&me, &of_other_share).await), JoinRefusal::WrongShare);
    let unknown = Ticket { secret: Secret([7; 32]), ..ticket.clone() };
    assert_eq!(refusal(joins(&me, &unknown).await), JoinRefusal::UnknownTicket);
    let expired = Ticket { secret: Secret([8; 32]), ..ticket.clone() };
    assert_eq!(refusal(joins(&me, &expired).await), JoinRefusal::Expired);
    node.probe.tags_taken.lock().insert(me.tag());
    assert_eq!(refusal(joins(&me, &ticket).await), JoinRefusal::TagTaken);
    node.probe.tags_taken.lock().clear();
    *node.probe.book.lock() = None;
    assert!(matches!(refusal(joins(&me, &ticket).await), JoinRefusal::Unavailable(_)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_cannot_stand_is_refused() {
    let (_node, ticket) = inviter();
    let me = Identity::generate().unwrap();
    let outcome = |record| async {
        let joined: Result<_, JoinError> = within(join(&me, &ticket, record, &settings())).await;
        refusal(joined.map(|(_, chunks)| chunks))
    };
    let mut taken = record(me.key());
    taken.name = "taken".into();
    assert_eq!(outcome(taken).await, JoinRefusal::NameTaken("taken".into()));
    let of_someone_else = record(PeerKey([3; 32]));
    assert!(matches!(outcome(of_someone_else).await, JoinRefusal::BadRecord(_)));
    let mut nameless = record(me.key());
    nameless.name.clear();
    assert!(matches!(outcome(nameless).await, JoinRefusal::BadRecord(_)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_not_the_inviter_is_not_told_the_secret() {
    let (node, ticket) = inviter();
    let mut ticket = ticket;
    ticket.inviters[0].key = Identity::generate().unwrap().key();
    match joins(&Identity::generate().unwrap(), &ticket).await {
        Err(error @ JoinError::WrongKey { .. }) => {
            assert!(error.to_string().contains("it is not the inviter"), "{error}");
        }
        other => panic!("{other:?}"),
    }
    let book = node.probe.book.lock();
    assert_eq!(book.as_ref().unwrap().check(SHARE, &ticket.secret, 1_000), Ok(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_inviter_is_asked_where_the_first_is_silent() {
    let (node, ticket) = inviter();
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut ticket = ticket;
    let gone = Inviter { key: PeerKey([4; 32]), addresses: vec![silent.local_addr().unwrap()] };
    ticket.inviters.insert(0, gone.clone());
    joins(&Identity::generate().unwrap(), &ticket).await.unwrap();
    ticket.inviters = vec![gone];
    let error = joins(&Identity::generate().unwrap(), &ticket).await.unwrap_err();
    assert!(error.to_string().contains("could be reached"), "{error}");
    drop(node);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_join_handshake_runs_on_its_protocol() {
    let (mut node, _) = inviter();
    let me = Node::start();
    let transport = transport::Transport::new(&settings(), &me.identity).unwrap();
    let dialled = transport.dial(&me.network.endpoint, node.address(), node.identity.key(), ALPN_JOIN).await;
    let connection = dialled.unwrap();
    // A stream for a request between peers: its header is no join request.
    let (mut stream, _answer) = connection.open_bi().await.unwrap();
    let header = crate::wire::frame(&crate::wire::Request::Stats).unwrap();
    stream.write_all(&header).await.unwrap();
    match within(connection.closed()).await {
        ConnectionError::ApplicationClosed(close) => assert_eq!(close.error_code, code::PROTOCOL),
        other => panic!("{other}"),
    }
    assert!(node.events.try_recv().is_err());
}
