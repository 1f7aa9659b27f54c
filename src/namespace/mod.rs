//! The namespace: one log of ops, one order, one apply. Pure: time and ops come in, records come out.
//!
//! The tree is what all ops applied in stamp order give ([`Namespace`]; `tree`, `apply`, `names`, `extents`,
//! `conflict`). Ops that not every peer has yet stay in the log with the before-images of what they touched
//! (`log`), so that an op that arrives late is put in its place: the newer ones are undone, and all are applied
//! again. What every peer has is stable (`stability`) and leaves the log; `snapshot` is the rest.

pub mod acl;
mod apply;
mod conflict;
mod examine;
mod extents;
mod lease;
mod lock;
mod log;
mod merge;
mod names;
pub mod naming;
mod op;
mod read;
mod rebase;
mod record;
mod resolve;
mod snapshot;
mod stability;
#[cfg(test)]
mod tests;
mod tree;
mod validate;

pub use lease::{EndedTenure, MOVES, Tenure};
pub use lock::{
    Asked, Lock, LockError, LockKind, LockOwner, LockRequest, LockTable, MAX_RANGES, MAX_WAITERS, WaiterId,
};
pub use log::Missing;
pub use naming::{Decided, Errno, Naming};
pub use op::*;
pub use rebase::Rebased;
pub use record::*;
pub use resolve::Resolution;
pub use snapshot::{Checkpoint, Snapshot};
pub use stability::Lack;
pub use tree::FilesSummary;
pub use validate::{OpError, XATTR_NAME_BYTES, check_name};

use crate::id::{Author, BlockName, Ino, PeerTag};
use crate::time::{Hlc, Stamp, WallTime};
use log::Log;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use tree::Tree;

/// How far ahead of this machine's clock an op may be stamped, in milliseconds: two clocks may each be off by five
/// minutes, in opposite directions.
pub const CLOCK_AHEAD_MS: u64 = 10 * 60 * 1000;

/// The whole share's tree, roster, groups and blocks, as far as this peer knows the ops.
#[derive(Clone, Debug)]
pub struct Namespace {
    me: Option<PeerTag>,
    /// All ops applied, in stamp order.
    tree: Tree,
    /// The ops above the frontier.
    log: Log,
    vector: VersionVector,
    /// The ops up to the frontier.
    base: VersionVector,
    /// Nothing comes below this stamp any more.
    frontier: Stamp,
    clock: Hlc,
    /// What each peer last said it has.
    known: BTreeMap<PeerTag, VersionVector>,
    /// Reaped and stable inodes that stay until the frontier reaches the stamp.
    reaped: VecDeque<(Option<Stamp>, Ino)>,
    /// Likewise blocks that no extent named at the frontier.
    idle: VecDeque<(Option<Stamp>, BlockName)>,
    /// Keys whose stable record changed since the last checkpoint.
    changed: BTreeSet<Key>,
}

/// What came of a batch of ops.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Applied {
    /// Those that are new here, in stamp order: to be logged and passed on.
    pub ops: Vec<Op>,
    /// Records that differ from before: what caches hold of them is out of date.
    pub touched: BTreeSet<Key>,
}

impl Default for Namespace {
    fn default() -> Self {
        Namespace::new()
    }
}

impl Namespace {
    /// The namespace before any op: only the root.
    pub fn new() -> Namespace {
        let root = Inode {
            kind: Kind::Directory,
            mode: 0o755,
            uid: 0,
            gid: 0,
            size: 0,
            nlink: 2,
            atime: WallTime::default(),
            mtime: WallTime::default(),
            ctime: WallTime::default(),
            btime: WallTime::default(),
            content: Stamp::default(),
            version: Stamp::default(),
            policy: None,
            place: None,
            orphaned: None,
            reaped: false,
            forks: Vec::new(),
        };
        let mut tree = Tree::default();
        tree.set(Key::Inode(Ino::ROOT), Some(Record::Inode(Box::new(root))));
        Namespace {
            me: None,
            tree,
            log: Log::default(),
            vector: VersionVector::default(),
            base: VersionVector::default(),
            frontier: Stamp::default(),
            clock: Hlc::default(),
            known: BTreeMap::new(),
            reaped: VecDeque::new(),
            idle: VecDeque::new(),
            changed: BTreeSet::from([Key::Inode(Ino::ROOT)]),
        }
    }

    /// Says which peer this is: ops become stable without its own word. Until then none does, so the log of an
    /// earlier run is replayed first.
    pub fn set_me(&mut self, me: PeerTag) {
        self.me = Some(me);
        self.advance();
    }

    /// Stamps, logs and applies changes of this peer, which looked at this namespace when it made them.
    ///
    /// A change that names an inode that is not here (reaped meanwhile, say) is not taken: others may have
    /// forgotten the inode. Nor is one that breaks the bounds of ops, which everyone would refuse for ever; see
    /// [`Namespace::check`]. A write whose `base` is no longer the newest version of any line here (see
    /// [`Namespace::line`]) goes on top of the file's newest version: with that known, it is no conflict.
    pub fn change(&mut self, author: Author, now: WallTime, changes: Vec<Change>) -> Applied {
        self.me = Some(author.peer());
        let mut applied = Applied::default();
        for change in changes {
            let Some(change) = self.up_to_date(change) else { continue };
            let time = self.clock.next(now);
            let stamp = Stamp { time, author };
            if let Err(what) = validate::check_change(stamp, &change) {
                debug_assert!(false, "{what}: {change:?}");
                continue;
            }
            let op = Op { stamp, seq: self.vector.get(author) + 1, change };
            self.push(&op);
            self.apply(stamp);
            if let Some(logged) = self.log.get(stamp) {
                applied.touched.extend(logged.undo.keys().cloned());
            }
            applied.ops.push(op);
        }
        if self.peers().take(2).count() == 1 {
            self.advance();
        }
        applied
    }

    /// The change as it may be stamped: others keep the past only for those who have not seen what came after.
    fn up_to_date(&self, mut change: Change) -> Option<Change> {
        if let Change::Write { ino, base, .. } = &mut change {
            match self.tree.line(*ino, *base) {
                None => *base = self.inode(*ino)?.content,
                // The file went, but not the copy that follows its writer.
                Some(line) if self.inode(*ino).is_none() => *ino = line,
                Some(_) => {}
            }
        }
        change.inodes().into_iter().flatten().all(|ino| self.inode(ino).is_some()).then_some(change)
    }

    /// Whether a change of this peer keeps within the bounds of ops; says what does not.
    pub fn check(&self, author: Author, now: WallTime, change: &Change) -> Result<(), &'static str> {
        validate::check_change(Stamp { time: self.clock.next(now), author }, change)
    }

    /// Takes ops from a peer, or from this peer's own log. They may be late and may be here already; of each peer
    /// they must come without gaps. All are taken, or none. Once an eviction is applied here, nothing may be taken
    /// from the evicted peer itself any more, only what others had of it.
    pub fn receive(&mut self, ops: Vec<Op>, now: WallTime) -> Result<Applied, OpError> {
        let fresh = self.fresh(ops, now)?;
        let Some(oldest) = fresh.first().map(|op| op.stamp) else { return Ok(Applied::default()) };
        // What readers saw until now, of every key that may change.
        let mut before: BTreeMap<Key, Option<Record>> = BTreeMap::new();
        for stamp in self.log.stamps_from(oldest).into_iter().rev() {
            for (key, record) in self.log.take_undo(stamp) {
                let now = self.tree.set(key.clone(), record);
                before.entry(key).or_insert(now);
            }
        }
        for op in &fresh {
            self.push(op);
        }
        for stamp in self.log.stamps_from(oldest) {
            self.apply(stamp);
            for (key, record) in self.log.get(stamp).into_iter().flat_map(|logged| &logged.undo) {
                before.entry(key.clone()).or_insert_with(|| record.clone());
            }
        }
        before.retain(|key, record| self.tree.get(key) != record.as_ref());
        if self.peers().take(2).count() == 1
            || fresh.iter().any(|op| matches!(op.change, Change::Evict { .. } | Change::LetGo { .. }))
        {
            self.advance();
        }
        Ok(Applied { ops: fresh, touched: before.into_keys().collect() })
    }

    /// The ops that are not here yet, in stamp order, all checked.
    fn fresh(&self, mut ops: Vec<Op>, now: WallTime) -> Result<Vec<Op>, OpError> {
        ops.sort_by_key(|op| (op.stamp, op.seq));
        let mut heads: BTreeMap<Author, (u64, Stamp)> = BTreeMap::new();
        let mut admitted = BTreeSet::new();
        let mut roster_empty = self.peers().next().is_none();
        let mut fresh = Vec::with_capacity(ops.len());
        for op in ops {
            let (author, seq) = (op.stamp.author, op.seq);
            let (head, last) = heads
                .get(&author)
                .copied()
                .unwrap_or_else(|| (self.vector.get(author), self.log.last_of(author).unwrap_or(self.frontier)));
            if seq <= head {
                let in_batch = heads.get(&author).filter(|(at, _)| *at == seq).map(|(_, stamp)| *stamp);
                let here = in_batch.or(self.log.stamp_of(author, seq));
                if here.is_some_and(|here| here != op.stamp) {
                    return Err(OpError::Clash { author, seq });
                }
                continue;
            }
            validate::check_op(&op)?;
            if seq != head + 1 {
                return Err(OpError::Gap { author, expected: head + 1, got: seq });
            }
            if op.stamp <= self.frontier {
                return Err(OpError::TooOld { author, seq });
            }
            if op.stamp <= last {
                return Err(OpError::Invalid { author, seq, what: "its stamp is not above that of the op before" });
            }
            let ahead_ms = op.stamp.time.millis().saturating_sub(now.millis());
            if ahead_ms > CLOCK_AHEAD_MS {
                return Err(OpError::Future { author, seq, ahead_ms });
            }
            if !roster_empty && !admitted.contains(&author.peer()) && !self.is_member(author.peer()) {
                return Err(OpError::Stranger { author, seq });
            }
            if let Change::Admit { peer } = &op.change {
                admitted.insert(peer.key.tag());
            }
            roster_empty &= admitted.is_empty();
            heads.insert(author, (seq, op.stamp));
            fresh.push(op);
        }
        Ok(fresh)
    }

    fn push(&mut self, op: &Op) {
        self.vector.0.insert(op.stamp.author, op.seq);
        self.clock = self.clock.max(op.stamp.time);
        self.log.push(op.clone());
    }

    /// Applies an op of the log, all before it being applied.
    fn apply(&mut self, stamp: Stamp) {
        if let Some(logged) = self.log.get(stamp) {
            let (undo, built_on) = apply::apply(&mut self.tree, &self.log, &self.vector, &logged.op);
            self.log.applied(stamp, undo, built_on);
        }
    }
}
