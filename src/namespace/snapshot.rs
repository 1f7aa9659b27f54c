//! The namespace as a whole: for a joiner (snapshot) and for the disk (checkpoint), both as of the stable
//! frontier, with the ops above it apart.

use super::log::Log;
use super::op::{Kind, Op, VersionVector};
use super::record::{Block, Key, Record};
use super::tree::Tree;
use super::validate::{OpError, check_extent, check_name};
use super::{Namespace, WallTime};
use crate::id::Ino;
use crate::time::Stamp;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// A namespace that can be sent and kept. The lists may be cut anywhere and joined again.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Snapshot {
    /// The records at the stable frontier, in key order.
    pub base: Vec<(Key, Record)>,
    /// The ops in `base`.
    pub vector: VersionVector,
    /// The last stamp in `base`.
    pub frontier: Stamp,
    /// The ops above the frontier, in stamp order.
    pub ops: Vec<Op>,
}

/// What became of the stable records since the last checkpoint.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Checkpoint {
    /// Records at the stable frontier, `None` where they went.
    pub changed: Vec<(Key, Option<Record>)>,
    /// The ops in the records.
    pub vector: VersionVector,
    /// The last stamp in the records.
    pub frontier: Stamp,
}

impl Namespace {
    /// Everything, for a peer that starts from nothing.
    pub fn snapshot(&self) -> Snapshot {
        let unstable = self.unstable_keys();
        let mut base: Vec<_> = self
            .tree
            .iter()
            .filter(|(key, _)| !unstable.contains_key(key))
            .map(|(key, record)| (key.clone(), record.clone()))
            .collect();
        let unstable = unstable.into_iter().filter_map(|(key, record)| Some((key.clone(), record.clone()?)));
        base.extend(unstable);
        base.sort_by(|a, b| a.0.cmp(&b.0));
        let ops = self.log.iter().map(|logged| logged.op.clone()).collect();
        Snapshot { base, vector: self.base.clone(), frontier: self.frontier, ops }
    }

    /// The namespace of a snapshot, or of the records a checkpoint left on disk (the log is then handed to
    /// [`Namespace::receive`]). The next checkpoint has what changed since.
    pub fn restore(snapshot: Snapshot) -> Result<Namespace, OpError> {
        let mut tree = Tree::default();
        let mut reaped = std::collections::VecDeque::new();
        let mut idle = std::collections::VecDeque::new();
        for (key, record) in snapshot.base {
            check_record(&key, &record).map_err(|what| OpError::Damaged { what })?;
            if let (Key::Inode(ino), Record::Inode(inode)) = (&key, &record)
                && inode.reaped
            {
                // Until when it must stay is known when the log is here.
                reaped.push_back((None, *ino));
            }
            if let (Key::Block(name), Record::Block(Block { uses: 0, .. })) = (&key, &record) {
                idle.push_back((None, *name));
            }
            tree.set(key, Some(record));
        }
        if !tree.inode(Ino::ROOT).is_some_and(|root| root.kind == Kind::Directory && root.nlink > 0) {
            return Err(OpError::Damaged { what: "there is no root" });
        }
        // So that neither counting on nor the next stamp can overflow.
        let latest = WallTime(i64::MAX);
        if snapshot.frontier.time.millis() > latest.millis()
            || snapshot.vector.0.values().any(|seq| *seq > u64::MAX / 2)
        {
            return Err(OpError::Damaged { what: "a stamp or a count is out of range" });
        }
        let mut namespace = Namespace {
            me: None,
            tree,
            log: Log::default(),
            vector: snapshot.vector.clone(),
            base: snapshot.vector,
            frontier: snapshot.frontier,
            clock: snapshot.frontier.time,
            known: BTreeMap::new(),
            reaped,
            idle,
            changed: BTreeSet::new(),
        };
        // Stamps were checked against the clock by the peer that made the snapshot.
        namespace.receive(snapshot.ops, latest)?;
        Ok(namespace)
    }

    /// What became of the records at the stable frontier since the last call. The log above the frontier is not
    /// in it.
    pub fn checkpoint(&mut self) -> Checkpoint {
        let changed = std::mem::take(&mut self.changed);
        let unstable = self.unstable_keys();
        let value =
            |key: &Key| unstable.get(key).map_or_else(|| self.tree.get(key).cloned(), |record| (*record).clone());
        let changed = changed.into_iter().map(|key| (key.clone(), value(&key))).collect();
        Checkpoint { changed, vector: self.base.clone(), frontier: self.frontier }
    }

    /// Keys that unstable ops touched, with what was there at the stable frontier.
    pub(super) fn unstable_keys(&self) -> BTreeMap<&Key, &Option<Record>> {
        let mut keys = BTreeMap::new();
        for (key, before) in self.log.iter().flat_map(|logged| &logged.undo) {
            keys.entry(key).or_insert(before);
        }
        keys
    }
}

/// Checks a record from outside: that it fits its key, and the bounds that later arithmetic relies on.
fn check_record(key: &Key, record: &Record) -> Result<(), &'static str> {
    match (key, record) {
        (Key::Entry(_, name), Record::Entry(_)) => check_name(name),
        (Key::Extent(_, at), Record::Extent(extent)) => {
            at.checked_add(u64::from(extent.len)).ok_or("an extent is too far out")?;
            check_extent(extent)
        }
        (Key::Conflict(_, name), Record::Conflict(conflict)) => {
            check_name(name)?;
            conflict.other.as_ref().map_or(Ok(()), |other| check_name(&other.name))
        }
        (Key::Inode(_), Record::Inode(_))
        | (Key::Merged(_), Record::Merged(_))
        | (Key::Partition(_), Record::Partition(_))
        | (Key::Xattr(..), Record::Xattr(_))
        | (Key::Block(_), Record::Block(_))
        | (Key::Group(_), Record::Group(_))
        | (Key::Peer(_), Record::Peer(_))
        | (Key::Counter(_), Record::Counter(_))
        | (Key::Standing(_), Record::Standing(_))
        | (Key::Away(_), Record::Away { .. })
        | (Key::Again(_), Record::Again(_))
        | (Key::Lease(_), Record::Lease(_))
        | (Key::Tenures(_), Record::Tenures(_)) => Ok(()),
        _ => Err("a record does not fit its key"),
    }
}
