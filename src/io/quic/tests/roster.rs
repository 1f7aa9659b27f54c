//! Who is connected with whom.

use super::super::{Identity, NetworkError, RosterPeer, Settings, code, transport};
use super::harness::{COPIES, Event, HANGING, Node, connect, settings, shard, two, within};
use crate::volume::ports::{ShardError, ShardId, ShardNetwork};
use quinn::ConnectionError;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_peers_are_all_connected() {
    let (mut a, mut b, mut c) = (Node::start(), Node::start(), Node::start());
    connect(&mut [&mut a, &mut b, &mut c]).await;
    for (from, to) in [(&a, &b), (&b, &c), (&c, &a), (&b, &a)] {
        from.network.put(to.tag(), shard(0, 1000)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_cannot_dial_is_dialled() {
    for swapped in [false, true] {
        let (mut a, mut b) = (Node::start(), Node::start());
        if (a.tag() > b.tag()) != swapped {
            std::mem::swap(&mut a, &mut b);
        }
        a.network.set_roster(vec![b.entry()]);
        b.network.set_roster(vec![RosterPeer { key: a.identity.key(), addresses: Vec::new() }]);
        a.until(Event::Connected(b.tag())).await;
        b.until(Event::Connected(a.tag())).await;
        b.network.put(a.tag(), shard(0, 10)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_addresses_do_not_hide_a_good_one() {
    let (mut a, mut b) = (Node::start(), Node::start());
    let closed = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let addresses = vec![closed.local_addr().unwrap(), b.address()];
    a.network.set_roster(vec![RosterPeer { key: b.identity.key(), addresses }]);
    b.network.set_roster(vec![RosterPeer { key: a.identity.key(), addresses: Vec::new() }]);
    a.until(Event::Connected(b.tag())).await;
    b.until(Event::Connected(a.tag())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_is_refused() {
    let (mut a, b) = (Node::start(), Node::start());
    // The stranger knows the peer, not the other way round.
    let transport = transport::Transport::new(&settings(), &b.identity).unwrap();
    let connection =
        transport.dial(&b.network.endpoint, a.address(), a.identity.key(), super::super::ALPN_PEER).await.unwrap();
    match within(connection.closed()).await {
        ConnectionError::ApplicationClosed(close) => assert_eq!(close.error_code, code::NOT_ADMITTED),
        other => panic!("{other}"),
    }
    assert!(a.events.try_recv().is_err(), "the handler never hears of it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_without_one_of_the_two_protocols_is_refused() {
    let (a, b) = (Node::start(), Node::start());
    let transport = transport::Transport::new(&settings(), &b.identity).unwrap();
    let dialled = transport.dial(&b.network.endpoint, a.address(), a.identity.key(), b"h3").await;
    assert!(dialled.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_key_at_the_address_is_told_with_both_keys() {
    let (a, b) = (Node::start(), Node::start());
    let meant = Identity::generate().unwrap().key();
    let transport = transport::Transport::new(&settings(), &b.identity).unwrap();
    let dialled = transport.dial(&b.network.endpoint, a.address(), meant, super::super::ALPN_PEER).await;
    let message = dialled.unwrap_err().to_string();
    for part in [a.address().to_string(), a.identity.key().to_string(), meant.to_string()] {
        assert!(message.contains(&part), "{message}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_peer_is_cut_off_at_once() {
    let (mut a, mut b) = two().await;
    let get = tokio::spawn({
        let (network, to) = (b.network.clone(), a.tag());
        async move { network.get(to, ShardId { block: HANGING, geometry: COPIES, index: 0 }).await }
    });
    a.until(Event::Hanging).await;
    a.network.set_roster(Vec::new());
    assert!(!a.network.is_connected(b.tag()));
    assert!(matches!(within(get).await.unwrap(), Err(ShardError::Unreachable { .. })));
    a.until(Event::Disconnected(b.tag())).await;
    b.until(Event::Disconnected(a.tag())).await;
    assert!(matches!(a.network.put(b.tag(), shard(0, 10)).await, Err(ShardError::Unreachable { .. })));
    // Admitted again, it is back.
    a.network.set_roster(vec![b.entry()]);
    a.until(Event::Connected(b.tag())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_restarted_on_its_port_is_connected_again_whoever_dials() {
    for lower_restarts in [false, true] {
        let (mut a, mut b) = two().await;
        if (b.tag() < a.tag()) != lower_restarts {
            std::mem::swap(&mut a, &mut b);
        }
        let (identity, listen) = (b.identity.clone(), b.address());
        b.network.shutdown().await;
        drop(b);
        a.until(Event::Disconnected(identity.tag())).await;
        let mut b = restarted(identity, listen).await;
        b.network.set_roster(vec![a.entry()]);
        a.until(Event::Connected(b.tag())).await;
        b.until(Event::Connected(a.tag())).await;
        a.network.put(b.tag(), shard(0, 10)).await.unwrap();
    }
}

/// Starts on the port as soon as the former run has let go of it.
async fn restarted(identity: Identity, listen: std::net::SocketAddr) -> Node {
    let settings = Settings { listen, ..settings() };
    within(async {
        loop {
            match Node::try_with(identity.clone(), settings.clone()) {
                Ok(node) => return node,
                Err(NetworkError::InUse { .. }) => tokio::task::yield_now().await,
                Err(other) => panic!("{other}"),
            }
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_in_use_is_an_error_that_names_it() {
    let a = Node::start();
    let settings = Settings { listen: a.address(), ..settings() };
    let error = Node::try_with(Identity::generate().unwrap(), settings).err().unwrap();
    assert!(matches!(error, NetworkError::InUse { .. }));
    assert!(error.to_string().contains(&a.address().to_string()));
}
