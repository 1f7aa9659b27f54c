//! The network of one peer: its endpoint, the peers of its roster, and what it sends them.

use super::accept;
use super::dial;
use super::identity::Identity;
use super::join::JOINS;
use super::peer::Peer;
use super::settings::Settings;
use super::traffic::{Counters, Traffic};
use super::transport::{self, Transport};
use super::{Handler, code};
use crate::id::{PeerKey, PeerTag};
use crate::wire::{self, ControlMessage, WireError};
use bytes::Bytes;
use parking_lot::RwLock;
use quinn::Endpoint;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Why there is no network.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error(
        "the address {address} is in use: is another peer running here? Choose another: `listen` in the home's config.toml, or --listen of init and join"
    )]
    InUse { address: SocketAddr },
    #[error(
        "cannot listen on {address}: {error}; choose another address: `listen` in the home's config.toml, or --listen of init and join"
    )]
    Bind { address: SocketAddr, error: std::io::Error },
    #[error("TLS could not be set up: {0}")]
    Tls(String),
}

/// Why a control message was not queued.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    #[error("peer {0} is not connected")]
    NotConnected(PeerTag),
    /// The peer does not keep up; its connection was dropped, and the next one begins with `Hello`.
    #[error("peer {0} does not keep up: its connection was dropped")]
    Overflow(PeerTag),
    #[error("the message cannot be sent: {0}")]
    Message(#[from] WireError),
}

/// A peer to be connected with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RosterPeer {
    pub key: PeerKey,
    /// Where to dial, best first. It may be nowhere: then the peer dials.
    pub addresses: Vec<SocketAddr>,
}

/// One peer's connections to all the others.
pub struct Network {
    pub(super) settings: Settings,
    pub(super) me: PeerTag,
    /// This run of the program.
    pub(super) instance: u64,
    pub(super) endpoint: Endpoint,
    pub(super) transport: Transport,
    pub(super) handler: Arc<dyn Handler>,
    pub(super) counters: Arc<Counters>,
    pub(super) receiving: Semaphore,
    pub(super) joins: Arc<Semaphore>,
    pub(super) tasks: TaskTracker,
    /// No new connections: what is under way may still end.
    pub(super) leaving: CancellationToken,
    pub(super) stop: CancellationToken,
    peers: RwLock<BTreeMap<PeerTag, Arc<Peer>>>,
    started: Instant,
}

impl Network {
    /// Listens, and dials the roster (which may name this peer: it is left out). Must be called in a tokio runtime.
    pub fn start(
        settings: Settings,
        identity: Identity,
        roster: Vec<RosterPeer>,
        handler: Arc<dyn Handler>,
    ) -> Result<Arc<Network>, NetworkError> {
        let endpoint = transport::listen(&settings, &identity)?;
        let network = Arc::new(Network {
            me: identity.tag(),
            instance: rand::random(),
            endpoint,
            transport: Transport::new(&settings, &identity)?,
            handler,
            counters: Arc::default(),
            receiving: Semaphore::new(settings.receive_memory.min(Semaphore::MAX_PERMITS)),
            joins: Arc::new(Semaphore::new(JOINS)),
            tasks: TaskTracker::new(),
            leaving: CancellationToken::new(),
            stop: CancellationToken::new(),
            peers: RwLock::default(),
            started: Instant::now(),
            settings,
        });
        network.set_roster(roster);
        network.tasks.spawn(accept::answer_callers(network.clone()));
        Ok(network)
    }

    /// Where it listens.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// The peers to be connected with from now on. Who is no longer among them is cut off at once.
    pub fn set_roster(self: &Arc<Self>, roster: Vec<RosterPeer>) {
        let mut wanted: BTreeMap<PeerTag, RosterPeer> = roster.into_iter().map(|peer| (peer.key.tag(), peer)).collect();
        wanted.remove(&self.me);
        let mut peers = self.peers.write();
        peers.retain(|tag, peer| {
            let stays = wanted.get(tag).is_some_and(|entry| entry.key == peer.key);
            if !stays {
                peer.removed.cancel();
                peer.state.lock().dead.cancel();
                if let Some(link) = peer.link() {
                    link.connection.close(code::REMOVED, super::link::REMOVED.as_bytes());
                }
            }
            stays
        });
        for (tag, RosterPeer { key, addresses }) in wanted {
            if let Some(peer) = peers.get(&tag) {
                let mut known = peer.addresses.lock();
                // The order is the dialler's: what matters is whether the set is another.
                let same = known.len() == addresses.len() && known.iter().all(|address| addresses.contains(address));
                if !same {
                    *known = addresses;
                    drop(known);
                    peer.changed.notify_one();
                }
                continue;
            }
            let peer = Arc::new(Peer::new(key, addresses, self.stop.child_token()));
            peers.insert(tag, peer.clone());
            self.tasks.spawn(dial::keep_connected(self.clone(), peer));
        }
    }

    /// Sends a datagram, if the peer is connected and it fits; it may get lost.
    pub fn send_datagram(&self, to: PeerTag, bytes: Bytes) {
        if let Some(link) = self.peer(to).and_then(|peer| peer.link())
            && let Err(error) = link.connection.send_datagram(bytes)
        {
            tracing::debug!(peer = %to, %error, "a datagram was not sent");
        }
    }

    /// Queues a control message. It arrives after those before it, unless the connection ends.
    pub fn send_control(&self, to: PeerTag, message: &ControlMessage) -> Result<(), SendError> {
        let link = self.peer(to).and_then(|peer| peer.link()).ok_or(SendError::NotConnected(to))?;
        let frame = wire::frame(message)?;
        if link.outbox.push(frame, self.settings.control_queue) {
            return Ok(());
        }
        tracing::warn!(peer = %to, "it does not keep up with control messages: connection dropped");
        link.connection.close(code::OVERFLOW, b"control messages are not taken fast enough");
        Err(SendError::Overflow(to))
    }

    /// Drops the connection to a peer that broke the protocol; it may dial again.
    pub fn disconnect(&self, peer: PeerTag, why: &str) {
        if let Some(link) = self.peer(peer).and_then(|peer| peer.link()) {
            link.connection.close(code::PROTOCOL, why.as_bytes());
        }
    }

    /// What membership thinks. While a peer is dead, its requests in flight and new ones fail at once; a new
    /// connection to it makes it alive again.
    pub fn set_alive(&self, peer: PeerTag, alive: bool) {
        if let Some(peer) = self.peer(peer) {
            peer.set_alive(alive);
        }
    }

    /// Whether there is a connection to the peer.
    pub fn is_connected(&self, peer: PeerTag) -> bool {
        self.peer(peer).is_some_and(|peer| peer.link().is_some())
    }

    /// What was sent and received so far.
    pub fn traffic(&self) -> Traffic {
        self.counters.traffic()
    }

    /// Sends what is queued, as far as it goes within a second, then closes every connection and stops listening.
    pub async fn shutdown(&self) {
        self.leaving.cancel();
        self.endpoint.set_server_config(None);
        let peers: Vec<Arc<Peer>> = self.peers.read().values().cloned().collect();
        let links: Vec<_> = peers.iter().filter_map(|peer| peer.link()).collect();
        for link in &links {
            link.outbox.close();
        }
        let all_closed = async {
            for link in &links {
                link.connection.closed().await;
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(1), all_closed).await;
        self.stop.cancel();
        self.endpoint.close(code::LEAVING, b"leaving");
        self.tasks.close();
        if tokio::time::timeout(Duration::from_secs(3), self.tasks.wait()).await.is_err() {
            tracing::warn!("some requests did not end in time");
        }
        let _ = tokio::time::timeout(Duration::from_secs(1), self.endpoint.wait_idle()).await;
    }

    pub(super) fn peer(&self, tag: PeerTag) -> Option<Arc<Peer>> {
        self.peers.read().get(&tag).cloned()
    }

    /// Milliseconds since the start.
    pub(super) fn clock_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }
}
