//! Networks on loopback with a handler that records what it hears.

use super::super::{Handler, Identity, JoinOutcome, Network, RosterPeer, Settings};
use crate::id::{BlockName, PeerKey, PeerTag};
use crate::namespace::PeerRecord;
use crate::policy::Geometry;
use crate::volume::ports::{BoxFuture, Shard, ShardId};
use crate::wire::{
    ControlMessage, Failure, InviteBook, JoinRefusal, JoinRequest, JoinWelcome, PeerStats, PeerUpkeep, Request,
    Response, ShardHeader, decode_names, encode_names,
};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// What a handler heard.
#[derive(Debug, PartialEq)]
pub(super) enum Event {
    Connected(PeerTag),
    Disconnected(PeerTag),
    Datagram(PeerTag, Bytes),
    Control(PeerTag, ControlMessage),
    /// A request that is never answered has come.
    Hanging,
}

/// Records events, keeps shards in memory, admits by a book.
pub(super) struct Probe {
    events: UnboundedSender<Event>,
    shards: Mutex<BTreeMap<ShardId, Shard>>,
    pub(super) chunks: Mutex<Vec<Bytes>>,
    pub(super) book: Mutex<Option<InviteBook>>,
    pub(super) tags_taken: Mutex<BTreeSet<PeerTag>>,
    pub(super) now: u64,
}

/// A network under test.
pub(super) struct Node {
    pub(super) identity: Identity,
    pub(super) network: Arc<Network>,
    pub(super) probe: Arc<Probe>,
    pub(super) events: UnboundedReceiver<Event>,
}

pub(super) fn settings() -> Settings {
    Settings { listen: "127.0.0.1:0".parse().unwrap(), ..Settings::default() }
}

impl Node {
    pub(super) fn start() -> Node {
        Node::with(Identity::generate().unwrap(), settings())
    }

    pub(super) fn with(identity: Identity, settings: Settings) -> Node {
        Node::try_with(identity, settings).unwrap()
    }

    pub(super) fn try_with(identity: Identity, settings: Settings) -> Result<Node, super::super::NetworkError> {
        let (sender, events) = unbounded_channel();
        let probe = Arc::new(Probe {
            events: sender,
            shards: Mutex::default(),
            chunks: Mutex::default(),
            book: Mutex::default(),
            tags_taken: Mutex::default(),
            now: 1_000,
        });
        let network = Network::start(settings, identity.clone(), Vec::new(), probe.clone())?;
        Ok(Node { identity, network, probe, events })
    }

    pub(super) fn tag(&self) -> PeerTag {
        self.identity.tag()
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.network.local_addr().unwrap()
    }

    pub(super) fn entry(&self) -> RosterPeer {
        RosterPeer { key: self.identity.key(), addresses: vec![self.address()] }
    }

    /// The next event; a test that waits in vain fails.
    pub(super) async fn event(&mut self) -> Event {
        within(self.events.recv()).await.expect("the handler is gone")
    }

    /// Waits for an event, past others.
    pub(super) async fn until(&mut self, wanted: Event) {
        while self.event().await != wanted {}
    }

    /// The connection to a peer.
    pub(super) fn connection(&self, peer: PeerTag) -> quinn::Connection {
        self.network.peer(peer).unwrap().link().unwrap().connection.clone()
    }

    /// Waits until another connection than `old` leads to the peer. Whether `disconnected` was said in between
    /// depends on which came first.
    pub(super) async fn until_another(&mut self, peer: PeerTag, old: &quinn::Connection) {
        let is_another = |node: &Node| {
            let link = node.network.peer(peer).and_then(|peer| peer.link());
            link.is_some_and(|link| link.connection.stable_id() != old.stable_id())
        };
        while !is_another(self) {
            self.event().await;
        }
    }
}

/// Two networks, connected.
pub(super) async fn two() -> (Node, Node) {
    let (mut a, mut b) = (Node::start(), Node::start());
    connect(&mut [&mut a, &mut b]).await;
    (a, b)
}

/// Gives all the same roster and waits until each is connected with every other.
pub(super) async fn connect(nodes: &mut [&mut Node]) {
    let roster: Vec<RosterPeer> = nodes.iter().map(|node| node.entry()).collect();
    let tags: Vec<PeerTag> = nodes.iter().map(|node| node.tag()).collect();
    for node in nodes.iter() {
        node.network.set_roster(roster.clone());
    }
    for node in nodes.iter_mut() {
        let mut missing: BTreeSet<PeerTag> = tags.iter().copied().filter(|tag| *tag != node.tag()).collect();
        while !missing.is_empty() {
            match node.event().await {
                Event::Connected(peer) => missing.remove(&peer),
                Event::Disconnected(peer) => missing.insert(peer),
                other => panic!("{other:?} before the connections are up"),
            };
        }
    }
    // Both may have dialled: then each soon uses the same one of the two connections.
    let dialler = |at: usize, to: usize| {
        let peer = nodes[at].network.peer(tags[to])?;
        Some(peer.link()?.dialled_by)
    };
    let agreed = || {
        let mut pairs = (0..tags.len()).flat_map(|a| (0..a).map(move |b| (a, b)));
        pairs.all(|(a, b)| dialler(a, b).is_some() && dialler(a, b) == dialler(b, a))
    };
    within(async {
        while !agreed() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// Bounds a wait of a test.
pub(super) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("waited in vain")
}

/// Four copies.
pub(super) const COPIES: Geometry = Geometry { data: 1, parity: 3 };

pub(super) fn shard(index: u8, bytes: usize) -> Shard {
    let content: Vec<u8> = (0..bytes).map(|at| at as u8 ^ index).collect();
    Shard {
        id: ShardId { block: BlockName([7; 32]), geometry: COPIES, index },
        block_bytes: bytes as u32,
        crc: crc32c::crc32c(&content),
        bytes: content.into(),
    }
}

pub(super) fn record(key: PeerKey) -> PeerRecord {
    PeerRecord { key, name: "new".into(), addresses: Vec::new(), zone: String::new(), host: String::new() }
}

/// The block whose shards a handler never answers about.
pub(super) const HANGING: BlockName = BlockName([0xff; 32]);

impl Handler for Probe {
    fn connected(&self, peer: PeerTag) {
        let _ = self.events.send(Event::Connected(peer));
    }

    fn disconnected(&self, peer: PeerTag) {
        let _ = self.events.send(Event::Disconnected(peer));
    }

    fn datagram(&self, from: PeerTag, bytes: Bytes) {
        let _ = self.events.send(Event::Datagram(from, bytes));
    }

    fn control(&self, from: PeerTag, message: ControlMessage) -> BoxFuture<'_, ()> {
        let _ = self.events.send(Event::Control(from, message));
        Box::pin(std::future::ready(()))
    }

    fn request(&self, _from: PeerTag, request: Request, body: Bytes) -> BoxFuture<'_, (Response, Bytes)> {
        Box::pin(async move {
            match request {
                Request::PutShard(header) => {
                    self.shards.lock().insert(header.id, header.with(body));
                    (Response::Stored, Bytes::new())
                }
                Request::GetShard(id) if id.block == HANGING => {
                    let _ = self.events.send(Event::Hanging);
                    std::future::pending().await
                }
                Request::GetShard(id) => match self.shards.lock().get(&id) {
                    Some(shard) => (Response::Shard(ShardHeader::of(shard)), shard.bytes.clone()),
                    None => (Response::Error(Failure::Missing), Bytes::new()),
                },
                Request::SyncShards => (Response::Synced, Bytes::new()),
                Request::Upkeep => (Response::Upkeep(PeerUpkeep::default()), Bytes::new()),
                Request::Hurry(_) => (Response::Done, Bytes::new()),
                Request::Stats => (Response::Stats(PeerStats { cpu_us: 5, ..PeerStats::default() }), Bytes::new()),
                Request::DropCaches | Request::Suspect(_) => (Response::Done, Bytes::new()),
                Request::Lacking { .. } => {
                    let shards = self.shards.lock();
                    let asked = decode_names(&body).expect("the caller named shards");
                    let lacking: Vec<_> = asked.into_iter().filter(|id| !shards.contains_key(id)).collect();
                    (Response::Lacking { count: lacking.len() as u16 }, encode_names(&lacking))
                }
                Request::Open { .. } => (Response::Open { count: 0 }, Bytes::new()),
                Request::Snapshot => (Response::Error(Failure::Unavailable("not here".into())), Bytes::new()),
            }
        })
    }

    fn snapshot(&self, _from: PeerTag) -> BoxFuture<'_, Vec<Bytes>> {
        Box::pin(std::future::ready(self.chunks.lock().clone()))
    }

    fn join(&self, from: PeerKey, _address: SocketAddr, request: JoinRequest) -> BoxFuture<'_, JoinOutcome> {
        let outcome = || {
            let mut book = self.book.lock();
            let book = book.as_mut().ok_or_else(|| JoinRefusal::Unavailable("it invites nobody".into()))?;
            book.check(request.share, &request.secret, self.now)?;
            if self.tags_taken.lock().contains(&from.tag()) {
                return Err(JoinRefusal::TagTaken);
            }
            if request.record.name == "taken" {
                return Err(JoinRefusal::NameTaken(request.record.name.clone()));
            }
            book.redeem(request.share, &request.secret, self.now)?;
            let roster = vec![(from.tag(), request.record.clone())];
            Ok((JoinWelcome { your_tag: from.tag(), roster }, self.chunks.lock().clone()))
        };
        Box::pin(std::future::ready(outcome()))
    }
}
