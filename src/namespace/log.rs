//! The log of unstable ops, in stamp order, and what other peers miss of it.

use super::Namespace;
use super::op::{Change, Op, VersionVector};
use super::record::{Key, Record};
use crate::id::{Author, PeerTag};
use crate::time::Stamp;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};

/// The value of each key an op touched before it did.
pub(super) type Undo = BTreeMap<Key, Option<Record>>;

/// An op and how to take it back.
#[derive(Clone, Debug)]
pub(super) struct Logged {
    pub op: Op,
    pub undo: Undo,
    /// Where an op went back to for a conflict copy: before-images since then are still needed.
    pub built_on: Option<Stamp>,
    /// Its length as it is sent and stored.
    pub bytes: usize,
}

/// The ops above the stable frontier. Of each author they are a run without gaps.
#[derive(Clone, Debug, Default)]
pub(super) struct Log {
    ops: BTreeMap<Stamp, Logged>,
    /// Per author the stamps of its ops here, by seq.
    runs: BTreeMap<Author, Run>,
    /// Stamps of the ops with `built_on`.
    conflicts: BTreeSet<Stamp>,
    /// Stamps of the ops that evict a peer or let go of one.
    partings: BTreeSet<Stamp>,
    /// Of all ops together.
    bytes: usize,
}

#[derive(Clone, Debug)]
struct Run {
    first: u64,
    stamps: VecDeque<Stamp>,
}

impl Log {
    /// Adds an op; the caller has seen to it that it is its peer's next.
    pub fn push(&mut self, op: Op) {
        let run = self.runs.entry(op.stamp.author).or_insert(Run { first: op.seq, stamps: VecDeque::new() });
        run.stamps.push_back(op.stamp);
        if matches!(op.change, Change::Evict { .. } | Change::LetGo { .. }) {
            self.partings.insert(op.stamp);
        }
        let bytes = encoded_bytes(&op);
        self.bytes = self.bytes.saturating_add(bytes);
        self.ops.insert(op.stamp, Logged { op, undo: Undo::new(), built_on: None, bytes });
    }

    pub fn get(&self, stamp: Stamp) -> Option<&Logged> {
        self.ops.get(&stamp)
    }

    /// Notes what applying an op did.
    pub fn applied(&mut self, stamp: Stamp, undo: Undo, built_on: Option<Stamp>) {
        if built_on.is_some() {
            self.conflicts.insert(stamp);
        } else {
            self.conflicts.remove(&stamp);
        }
        if let Some(logged) = self.ops.get_mut(&stamp) {
            logged.undo = undo;
            logged.built_on = built_on;
        }
    }

    /// Takes the before-images of an op that is to be undone.
    pub fn take_undo(&mut self, stamp: Stamp) -> Undo {
        self.ops.get_mut(&stamp).map(|logged| std::mem::take(&mut logged.undo)).unwrap_or_default()
    }

    /// The oldest ops up to and including `frontier`, taken out, in stamp order.
    pub fn trim(&mut self, frontier: Stamp) -> Vec<Logged> {
        let mut trimmed = Vec::new();
        while let Some(first) = self.ops.first_entry() {
            if *first.key() > frontier {
                break;
            }
            let logged = first.remove();
            let stamp = logged.op.stamp;
            self.conflicts.remove(&stamp);
            self.partings.remove(&stamp);
            self.bytes = self.bytes.saturating_sub(logged.bytes);
            if let Some(run) = self.runs.get_mut(&stamp.author) {
                run.stamps.pop_front();
                run.first += 1;
                if run.stamps.is_empty() {
                    self.runs.remove(&stamp.author);
                }
            }
            trimmed.push(logged);
        }
        trimmed
    }

    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Logged> {
        self.ops.values()
    }

    /// Ops with a stamp between the two, both excluded.
    pub fn between(&self, after: Stamp, before: Stamp) -> impl DoubleEndedIterator<Item = &Logged> {
        use std::ops::Bound::{Excluded, Included};
        // Two excluded bounds on one point would panic.
        let end = if after < before { Excluded(before) } else { Included(after) };
        self.ops.range((Excluded(after), end)).map(|(_, logged)| logged)
    }

    /// Stamps from `first` on.
    pub fn stamps_from(&self, first: Stamp) -> Vec<Stamp> {
        self.ops.range(first..).map(|(stamp, _)| *stamp).collect()
    }

    pub fn len(&self) -> usize {
        self.ops.len()
    }

    pub fn last(&self) -> Option<Stamp> {
        self.ops.last_key_value().map(|(stamp, _)| *stamp)
    }

    /// The last stamp before `limit`.
    pub fn last_before(&self, limit: Stamp) -> Option<Stamp> {
        self.ops.range(..limit).next_back().map(|(stamp, _)| *stamp)
    }

    /// The last stamp of an author here.
    pub fn last_of(&self, author: Author) -> Option<Stamp> {
        self.runs.get(&author).and_then(|run| run.stamps.back()).copied()
    }

    /// The last stamp of a peer here, in whichever epoch.
    pub fn last_of_peer(&self, peer: PeerTag) -> Option<Stamp> {
        let runs = self.runs.iter().filter(|(author, _)| author.peer() == peer);
        runs.filter_map(|(_, run)| run.stamps.back()).max().copied()
    }

    /// The stamp of an op by its seq.
    pub fn stamp_of(&self, author: Author, seq: u64) -> Option<Stamp> {
        let run = self.runs.get(&author)?;
        let index = usize::try_from(seq.checked_sub(run.first)?).ok()?;
        run.stamps.get(index).copied()
    }

    /// The peers with ops here, with the seq of the first.
    pub fn firsts(&self) -> impl Iterator<Item = (Author, u64)> {
        self.runs.iter().map(|(peer, run)| (*peer, run.first))
    }

    /// The bytes of all ops here.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Partings here: who is evicted or let go, and the op that says so.
    pub fn partings(&self) -> impl Iterator<Item = (PeerTag, &Op)> {
        self.partings.iter().filter_map(|stamp| match self.ops.get(stamp).map(|logged| &logged.op) {
            Some(op @ Op { change: Change::Evict { peer } | Change::LetGo { peer }, .. }) => Some((*peer, op)),
            _ => None,
        })
    }

    /// Evictions here: who is evicted, and the eviction.
    pub fn evictions(&self) -> impl Iterator<Item = (PeerTag, &Op)> {
        self.partings().filter(|(_, op)| matches!(op.change, Change::Evict { .. }))
    }

    /// The lowest place that a conflict copy made after `frontier` went back to.
    pub fn built_on_after(&self, frontier: Stamp) -> Option<Stamp> {
        self.conflicts.range(frontier..).filter(|stamp| **stamp > frontier).filter_map(|s| self.get(*s)?.built_on).min()
    }
}

/// What to send to a peer that has some of the ops.
#[derive(Clone, PartialEq, Debug)]
pub enum Missing {
    /// These, in an order the receiver can take; empty if it has everything. There may be more than asked for
    /// by bytes: ask again when they have arrived.
    Ops(Vec<Op>),
    /// The log no longer reaches back to what it has: a snapshot.
    Snapshot,
}

impl Namespace {
    /// The oldest ops a peer with `theirs` does not have, up to about `max_bytes` of them encoded, but at least
    /// one.
    pub fn missing(&self, theirs: &VersionVector, max_bytes: usize) -> Missing {
        if !theirs.covers(&self.base) {
            return Missing::Snapshot;
        }
        // One cursor a peer, merged by stamp: an op that admits a peer comes before that peer's ops.
        let mut cursors = BinaryHeap::new();
        for (peer, first) in self.log.firsts() {
            let seq = first.max(theirs.get(peer).saturating_add(1));
            if let Some(stamp) = self.log.stamp_of(peer, seq) {
                cursors.push((std::cmp::Reverse(stamp), seq));
            }
        }
        let mut ops = Vec::new();
        let mut bytes = 0;
        while let Some((std::cmp::Reverse(stamp), seq)) = cursors.pop() {
            let Some(logged) = self.log.get(stamp) else { continue };
            bytes = logged.bytes.saturating_add(bytes);
            if bytes > max_bytes && !ops.is_empty() {
                break;
            }
            ops.push(logged.op.clone());
            if let Some(next) = self.log.stamp_of(stamp.author, seq + 1) {
                cursors.push((std::cmp::Reverse(next), seq + 1));
            }
        }
        Missing::Ops(ops)
    }

    /// How many ops are not stable yet.
    pub fn unstable(&self) -> usize {
        self.log.len()
    }
}

/// The length of an op as it is sent and stored.
fn encoded_bytes(op: &Op) -> usize {
    postcard::experimental::serialized_size(op).unwrap_or(usize::MAX)
}
