//! One peer of the roster as the network sees it: its addresses, its connection, whether it is thought alive.

use crate::id::{PeerKey, PeerTag};
use bytes::Bytes;
use parking_lot::Mutex;
use quinn::Connection;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// A peer of the roster. Lock order: `turn`, then `state`; the handler is called under `turn` alone.
pub(super) struct Peer {
    pub(super) key: PeerKey,
    pub(super) tag: PeerTag,
    pub(super) addresses: Mutex<Vec<SocketAddr>>,
    pub(super) state: Mutex<State>,
    /// Held while a connection comes or goes and the handler is told: it hears of them in order.
    pub(super) turn: Mutex<()>,
    /// Held while control messages of one connection are handled: those of the next one come after.
    pub(super) control: tokio::sync::Mutex<()>,
    /// Wakes the dialler: the connection went, or the addresses changed.
    pub(super) changed: Notify,
    /// Wakes the requests that wait for a connection.
    pub(super) linked: Notify,
    /// Taken off the roster, or the network stops.
    pub(super) removed: CancellationToken,
    pub(super) latency: Latency,
}

/// What changes about a peer.
pub(super) struct State {
    pub(super) link: Option<Arc<Link>>,
    pub(super) alive: bool,
    /// Cancelled when membership says that the peer is dead: requests in flight end at once.
    pub(super) dead: CancellationToken,
}

/// A connection that both sides have accepted.
pub(super) struct Link {
    pub(super) connection: Connection,
    /// The run of the program at the other end.
    pub(super) instance: u64,
    pub(super) dialled_by: PeerTag,
    pub(super) outbox: Outbox,
    /// Another connection took its place, or it is down: no more of its messages are handled.
    pub(super) retired: CancellationToken,
}

/// Control messages on their way to the writer.
#[derive(Default)]
pub(super) struct Outbox {
    queue: Mutex<Queue>,
    filled: Notify,
}

#[derive(Default)]
struct Queue {
    frames: Vec<Bytes>,
    /// Of the frames here and of those being written.
    bytes: usize,
    /// Nothing more will come.
    closed: bool,
}

/// What became of an offered connection.
pub(super) enum Offer {
    Taken,
    /// The other connection between the two stays.
    Surplus,
    Removed,
}

impl Peer {
    pub(super) fn new(key: PeerKey, addresses: Vec<SocketAddr>, removed: CancellationToken) -> Peer {
        Peer {
            key,
            tag: key.tag(),
            addresses: Mutex::new(addresses),
            state: Mutex::new(State { link: None, alive: true, dead: CancellationToken::new() }),
            turn: Mutex::new(()),
            control: tokio::sync::Mutex::new(()),
            changed: Notify::new(),
            linked: Notify::new(),
            removed,
            latency: Latency::default(),
        }
    }

    pub(super) fn link(&self) -> Option<Arc<Link>> {
        self.state.lock().link.clone()
    }

    /// Makes `link` the peer's connection, unless there is a better one. Both sides judge alike: a new run of
    /// the other program beats its old one, then who was dialled by the lower tag, then the later.
    /// Returns the connection it replaced, too. Call it under `turn`.
    pub(super) fn offer(&self, link: &Arc<Link>) -> (Offer, Option<Arc<Link>>) {
        let mut state = self.state.lock();
        if self.removed.is_cancelled() {
            return (Offer::Removed, None);
        }
        if let Some(old) = &state.link {
            let old_is_gone = old.instance != link.instance || old.connection.close_reason().is_some();
            if !old_is_gone && old.dialled_by < link.dialled_by {
                return (Offer::Surplus, None);
            }
            old.retired.cancel();
        }
        let old = state.link.replace(link.clone());
        self.linked.notify_waiters();
        if !state.alive {
            state.alive = true;
            state.dead = CancellationToken::new();
        }
        (Offer::Taken, old)
    }

    /// Forgets `link` if it is the peer's connection. Call it under `turn`.
    pub(super) fn take_down(&self, link: &Arc<Link>) -> bool {
        let mut state = self.state.lock();
        let mine = state.link.as_ref().is_some_and(|held| Arc::ptr_eq(held, link));
        if mine {
            state.link = None;
        }
        mine
    }

    pub(super) fn set_alive(&self, alive: bool) {
        let mut state = self.state.lock();
        if state.alive && !alive {
            state.dead.cancel();
        } else if alive && !state.alive {
            state.dead = CancellationToken::new();
        }
        state.alive = alive;
    }
}

impl Outbox {
    /// Queues a frame; `false` when that is over the limit.
    pub(super) fn push(&self, frame: Bytes, limit: usize) -> bool {
        let mut queue = self.queue.lock();
        if queue.bytes + frame.len() > limit {
            return false;
        }
        queue.bytes += frame.len();
        queue.frames.push(frame);
        drop(queue);
        self.filled.notify_one();
        true
    }

    /// Nothing more will come: the writer ends the stream when all is written.
    pub(super) fn close(&self) {
        self.queue.lock().closed = true;
        self.filled.notify_one();
    }

    /// Everything queued, as soon as there is something; `None` at the end. One reader only.
    pub(super) async fn next(&self) -> Option<Vec<Bytes>> {
        loop {
            {
                let mut queue = self.queue.lock();
                if !queue.frames.is_empty() {
                    return Some(std::mem::take(&mut queue.frames));
                }
                if queue.closed {
                    return None;
                }
            }
            self.filled.notified().await;
        }
    }

    /// So many bytes have left.
    pub(super) fn written(&self, bytes: usize) {
        self.queue.lock().bytes -= bytes;
    }
}

/// A running estimate of a response time.
#[derive(Default)]
pub(super) struct Latency {
    microseconds: AtomicU64,
    /// Milliseconds of the network's clock when it was last fed.
    fed: AtomicU64,
}

/// What a peer is thought to take that has not been asked yet.
const UNKNOWN_US: u64 = 1_000;
/// A bad figure halves in so many milliseconds, so that a peer that was slow once is asked again.
const HALVES_IN_MS: u64 = 5_000;

impl Latency {
    pub(super) fn feed(&self, sample_us: u64, now_ms: u64) {
        let old = self.microseconds.load(Ordering::Relaxed);
        let new = if old == 0 { sample_us } else { old - old / 8 + sample_us / 8 };
        self.microseconds.store(new.max(1), Ordering::Relaxed);
        self.fed.store(now_ms, Ordering::Relaxed);
    }

    pub(super) fn estimate_us(&self, now_ms: u64) -> u64 {
        let microseconds = self.microseconds.load(Ordering::Relaxed);
        if microseconds <= UNKNOWN_US {
            return if microseconds == 0 { UNKNOWN_US } else { microseconds };
        }
        let age = now_ms.saturating_sub(self.fed.load(Ordering::Relaxed));
        (microseconds >> (age / HALVES_IN_MS).min(32)).max(UNKNOWN_US)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_latency_follows_its_samples_and_forgives_with_time() {
        let latency = Latency::default();
        assert_eq!(latency.estimate_us(0), UNKNOWN_US);
        latency.feed(8_000, 0);
        assert_eq!(latency.estimate_us(0), 8_000);
        latency.feed(16_000, 0);
        assert_eq!(latency.estimate_us(0), 9_000);
        assert_eq!(latency.estimate_us(HALVES_IN_MS), 4_500);
        assert_eq!(latency.estimate_us(u64::MAX), UNKNOWN_US);
    }

    #[test]
    fn an_outbox_is_bounded_by_bytes_until_they_are_written() {
        let outbox = Outbox::default();
        assert!(outbox.push(Bytes::from_static(b"12345"), 8));
        assert!(!outbox.push(Bytes::from_static(b"6789"), 8));
        assert!(outbox.push(Bytes::from_static(b"678"), 8));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        assert_eq!(runtime.block_on(outbox.next()).unwrap().len(), 2);
        assert!(!outbox.push(Bytes::from_static(b"9"), 8), "being written still counts");
        outbox.written(8);
        assert!(outbox.push(Bytes::from_static(b"9"), 8));
    }
}
