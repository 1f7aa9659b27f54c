//! What goes over a connection.

use super::super::{RequestError, SendError, Settings, code};
use super::harness::{COPIES, Event, HANGING, Node, connect, settings, shard, two, within};
use crate::id::{Author, PeerTag};
use crate::namespace::VersionVector;
use crate::volume::ports::{ShardError, ShardId, ShardNetwork};
use crate::wire::{ControlMessage, MAX_CHUNK_BYTES, PeerStats, Request, Response, VERSION};
use bytes::Bytes;
use quinn::ConnectionError;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shards_go_to_a_peer_and_come_back() {
    let (a, b) = two().await;
    let (small, large) = (shard(0, 1), shard(1, 1 << 20));
    for shard in [&small, &large] {
        a.network.put(b.tag(), shard.clone()).await.unwrap();
        assert_eq!(a.network.get(b.tag(), shard.id).await.unwrap(), *shard);
    }
    a.network.sync(b.tag()).await.unwrap();
    let absent = ShardId { index: 3, ..small.id };
    assert!(matches!(a.network.get(b.tag(), absent).await, Err(ShardError::Missing { index: 3, .. })));
    assert!(a.network.latency_us(b.tag()) < u64::MAX);

    let (sent, received) = (a.network.traffic(), b.network.traffic());
    assert_eq!((sent.shards_sent, sent.shards_received), (1 + (1 << 20), 0));
    assert_eq!(received.shards_received, 1 + (1 << 20));
    assert!(sent.sent > sent.shards_sent && received.received > received.shards_received);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_requests_run_at_once_in_both_directions() {
    let (a, b) = two().await;
    // Made before: making them takes the processor away from the connections.
    let shards: Vec<_> = (0..4).map(|index| shard(index, 100_000)).collect();
    let mut puts = tokio::task::JoinSet::new();
    for index in 0..400u16 {
        let (from, to) = if index % 2 == 0 { (&a, &b) } else { (&b, &a) };
        let (network, to) = (from.network.clone(), to.tag());
        let shard = shards[usize::from(index % 4)].clone();
        puts.spawn(async move { network.put(to, shard).await });
    }
    while let Some(done) = within(puts.join_next()).await {
        done.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_tells_its_figures_and_drops_its_caches() {
    let (a, b) = two().await;
    let (stats, _) = a.network.request(b.tag(), Request::Stats, Bytes::new(), SOON).await.unwrap();
    assert_eq!(stats, Response::Stats(PeerStats { cpu_us: 5, ..PeerStats::default() }));
    let (done, _) = a.network.request(b.tag(), Request::DropCaches, Bytes::new(), SOON).await.unwrap();
    assert_eq!(done, Response::Done);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_of_another_length_than_announced_is_not_sent() {
    let (a, b) = two().await;
    let mut wrong = shard(0, 100);
    wrong.bytes.truncate(50);
    let error = a.network.put(b.tag(), wrong).await.unwrap_err();
    assert!(error.to_string().contains("50 bytes to send, 100 announced"), "{error}");
    a.network.put(b.tag(), shard(0, 100)).await.expect("the connection is still there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_messages_arrive_in_order() {
    let (a, mut b) = two().await;
    for seq in 0..2_000 {
        a.network.send_control(b.tag(), &ControlMessage::SyncUpTo { epoch: 0, seq }).unwrap();
    }
    for seq in 0..2_000 {
        assert_eq!(b.event().await, Event::Control(a.tag(), ControlMessage::SyncUpTo { epoch: 0, seq }));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_queued_before_shutdown_still_arrives() {
    let (a, mut b) = two().await;
    let vector = VersionVector((1..=4_000).map(|tag| (Author::new(PeerTag(tag), 0), 1)).collect());
    let have = ControlMessage::Have { vector, durable: VersionVector::default(), sure: true };
    for _ in 0..100 {
        a.network.send_control(b.tag(), &have).unwrap();
    }
    a.network.send_control(b.tag(), &ControlMessage::Leaving).unwrap();
    a.network.shutdown().await;
    b.until(Event::Control(a.tag(), ControlMessage::Leaving)).await;
    b.until(Event::Disconnected(a.tag())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_control_queue_drops_the_connection_which_comes_back() {
    let mut a =
        Node::with(super::super::Identity::generate().unwrap(), Settings { control_queue: 1_000, ..settings() });
    let mut b = Node::start();
    connect(&mut [&mut a, &mut b]).await;
    let vector = VersionVector((1..=1_000).map(|tag| (Author::new(PeerTag(tag), 0), 1)).collect());
    let large = ControlMessage::Have { vector, durable: VersionVector::default(), sure: true };
    let old = a.connection(b.tag());
    assert!(matches!(a.network.send_control(b.tag(), &large), Err(SendError::Overflow(_))));
    a.until_another(b.tag(), &old).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn datagrams_arrive() {
    let (a, mut b) = two().await;
    let (from, to) = (a.tag(), b.tag());
    // Lossy even here, so sent until one is through.
    let sending = async {
        loop {
            a.network.send_datagram(to, Bytes::from_static(b"ping"));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        () = sending => unreachable!(),
        event = b.event() => assert_eq!(event, Event::Datagram(from, Bytes::from_static(b"ping"))),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_comes_in_its_pieces() {
    let (a, b) = two().await;
    let chunks: Vec<Bytes> = (0..5u8).map(|n| vec![n; MAX_CHUNK_BYTES >> n].into()).collect();
    *b.probe.chunks.lock() = chunks.clone();
    assert_eq!(a.network.fetch_snapshot(b.tag(), SOON).await.unwrap(), chunks);
    b.probe.chunks.lock().clear();
    assert!(a.network.fetch_snapshot(b.tag(), SOON).await.unwrap().is_empty());
    *b.probe.chunks.lock() = vec![vec![0; MAX_CHUNK_BYTES + 1].into()];
    let refused = a.network.fetch_snapshot(b.tag(), SOON).await;
    assert!(matches!(refused, Err(RequestError::Failed { .. })), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_to_a_dead_peer_fail_at_once_until_it_is_alive() {
    let (a, mut b) = two().await;
    let hanging = ShardId { block: HANGING, geometry: COPIES, index: 0 };
    let get = tokio::spawn({
        let (network, to) = (a.network.clone(), b.tag());
        async move { network.request(to, Request::GetShard(hanging), Bytes::new(), Duration::from_secs(600)).await }
    });
    b.until(Event::Hanging).await;
    a.network.set_alive(b.tag(), false);
    assert!(matches!(within(get).await.unwrap(), Err(RequestError::Dead(_))));
    let error = a.network.put(b.tag(), shard(0, 10)).await.unwrap_err();
    assert!(matches!(error, ShardError::Unreachable { .. }), "{error}");
    a.network.set_alive(b.tag(), true);
    a.network.put(b.tag(), shard(0, 10)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_without_an_answer_fails_at_its_deadline() {
    let (a, b) = two().await;
    let hanging = ShardId { block: HANGING, geometry: COPIES, index: 0 };
    let limit = Duration::from_millis(50);
    let error = within(a.network.request(b.tag(), Request::GetShard(hanging), Bytes::new(), limit)).await.unwrap_err();
    assert!(matches!(error, RequestError::Stalled { .. }), "{error}");
}

/// Sends raw bytes as `a` on a stream of a request, or on the control stream, and waits for `b` to close.
async fn breaks_the_protocol(bytes: &[u8], control: bool) {
    let (mut a, b) = two().await;
    let connection = a.connection(b.tag());
    if control {
        let link = a.network.peer(b.tag()).unwrap().link().unwrap();
        assert!(link.outbox.push(Bytes::copy_from_slice(bytes), usize::MAX));
    } else {
        let (mut stream, _answer) = connection.open_bi().await.unwrap();
        stream.write_all(bytes).await.unwrap();
    }
    match within(connection.closed()).await {
        ConnectionError::ApplicationClosed(close) => assert_eq!(close.error_code, code::PROTOCOL, "{close}"),
        other => panic!("{other}"),
    }
    // And it is not the end of the share.
    a.until_another(b.tag(), &connection).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_oversized_request_closes_the_connection() {
    breaks_the_protocol(&u32::MAX.to_le_bytes(), false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_oversized_control_message_closes_the_connection() {
    breaks_the_protocol(&(4u32 << 20 | 1).to_le_bytes(), true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_malformed_message_closes_the_connection() {
    breaks_the_protocol(&[2, 0, 0, 0, VERSION, 99], false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_of_another_version_closes_the_connection() {
    breaks_the_protocol(&[2, 0, 0, 0, VERSION + 1, 4], true).await;
}
