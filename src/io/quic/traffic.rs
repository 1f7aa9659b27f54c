//! What the network has carried, counted and not computed.

use parking_lot::Mutex;
use quinn::Connection;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes since the start of the network.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Traffic {
    /// UDP payload, all connections, everything counted: handshakes, repeats, acknowledgements.
    pub sent: u64,
    pub received: u64,
    /// Of that, bytes of shards.
    pub shards_sent: u64,
    pub shards_received: u64,
}

/// The counters behind [`Traffic`].
#[derive(Default)]
pub(super) struct Counters {
    connections: Mutex<Connections>,
    pub(super) shards_sent: AtomicU64,
    pub(super) shards_received: AtomicU64,
}

#[derive(Default)]
struct Connections {
    open: HashMap<usize, Connection>,
    sent: u64,
    received: u64,
}

/// Keeps a connection in the count while it is open, and its bytes for good.
pub(super) struct Counted {
    counters: Arc<Counters>,
    id: usize,
}

impl Counters {
    pub(super) fn count(self: &Arc<Self>, connection: &Connection) -> Counted {
        let id = connection.stable_id();
        self.connections.lock().open.insert(id, connection.clone());
        Counted { counters: self.clone(), id }
    }

    pub(super) fn traffic(&self) -> Traffic {
        let connections = self.connections.lock();
        let mut traffic = Traffic {
            sent: connections.sent,
            received: connections.received,
            shards_sent: self.shards_sent.load(Ordering::Relaxed),
            shards_received: self.shards_received.load(Ordering::Relaxed),
        };
        for connection in connections.open.values() {
            let stats = connection.stats();
            traffic.sent += stats.udp_tx.bytes;
            traffic.received += stats.udp_rx.bytes;
        }
        traffic
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut connections = self.counters.connections.lock();
        if let Some(connection) = connections.open.remove(&self.id) {
            let stats = connection.stats();
            connections.sent += stats.udp_tx.bytes;
            connections.received += stats.udp_rx.bytes;
        }
    }
}
