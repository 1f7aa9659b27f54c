//! Stability: an op that every peer has, and that no earlier op can come before any more, stays where it is. Its
//! before-images go, and what it removed may be forgotten.

use super::Namespace;
use super::op::{Change, VersionVector};
use super::record::{Key, Record};
use crate::id::{BlockName, GroupId, Ino, PeerTag};
use crate::time::{Hlc, Stamp};
use bytes::Bytes;
use std::collections::BTreeSet;

/// The most peers whose vectors are kept: a peer may be heard before the op that admits it arrives.
const HEARD_PEERS: usize = 1024;

/// Ops of the log that a peer has not got.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Lack {
    pub ops: u64,
    pub bytes: u64,
    /// When the first of them was made.
    pub oldest: Option<Hlc>,
}

impl Namespace {
    /// Notes what a peer has, as it says itself; how many ops became stable by that is handed back.
    pub fn heard(&mut self, peer: PeerTag, vector: &VersionVector) -> usize {
        if self.known.contains_key(&peer) || self.known.len() < HEARD_PEERS {
            self.known.insert(peer, vector.clone());
        }
        self.advance()
    }

    /// Moves the stable frontier as far as what was heard allows; how many ops became stable.
    pub fn advance(&mut self) -> usize {
        let Some(frontier) = self.stable_frontier().filter(|frontier| *frontier > self.frontier) else { return 0 };
        let trimmed = self.log.trim(frontier);
        self.frontier = frontier;
        let last = self.log.last().unwrap_or(frontier);
        for logged in &trimmed {
            self.base.0.insert(logged.op.stamp.author, logged.op.seq);
            self.changed.extend(logged.undo.keys().cloned());
            if let Change::Reap { ino } = logged.op.change {
                self.reaped.push_back((Some(last), ino));
            }
            let blocks = logged.undo.keys().filter_map(|key| match key {
                Key::Block(name) if self.tree.idle().contains(name) => Some(*name),
                _ => None,
            });
            self.idle.extend(blocks.map(|name| (Some(last), name)));
        }
        self.forget_reaped(last);
        self.forget_idle(last);
        trimmed.len()
    }

    /// The highest stamp up to which every peer has everything, and we have everything that was made before its
    /// maker had that. A peer stamps above all it has, so nothing can come below any more; and whatever comes
    /// was made knowing what lies below: no need to go back to versions before it.
    fn stable_frontier(&self) -> Option<Stamp> {
        let me = self.me?;
        let last = self.log.last()?;
        self.peers().next()?;
        let others: BTreeSet<PeerTag> = self.reckoned().into_iter().filter(|peer| *peer != me).collect();
        let known: Vec<_> = others.iter().map(|peer| self.known.get(peer)).collect::<Option<_>>()?;
        // What they have and this peer has not may belong below: it is on its way here.
        if known.iter().any(|vector| !self.vector.covers(vector)) {
            return None;
        }
        let mut frontier = last;
        for (maker, first) in self.log.firsts() {
            let everywhere = known.iter().map(|vector| vector.get(maker)).min().unwrap_or(u64::MAX);
            let missing = everywhere.saturating_add(1).max(first);
            if let Some(stamp) = self.log.stamp_of(maker, missing) {
                frontier = frontier.min(self.log.last_before(stamp)?);
            }
        }
        // What is above must be able to be applied again, here and after a restart, on what is below alone: conflict
        // copies need the versions they were built on, ops of an evicted peer that it is known to have been one.
        loop {
            let lower = match self.log.built_on_after(frontier).filter(|built_on| *built_on < frontier) {
                Some(built_on) => built_on,
                None => match self.log.evictions().find(|(evicted, op)| {
                    op.stamp <= frontier
                        && self.peer(*evicted).is_none()
                        && self.log.last_of_peer(*evicted).is_some_and(|last| last > frontier)
                }) {
                    Some((_, eviction)) => self.log.last_before(eviction.stamp)?,
                    None => return Some(frontier),
                },
            };
            frontier = lower;
        }
    }

    /// Peers whose word is needed: the roster without those let go, and the evicted and let go as long as someone may
    /// still take ops from them, not having seen that.
    pub fn reckoned(&self) -> BTreeSet<PeerTag> {
        let mut reckoned: BTreeSet<PeerTag> =
            self.peers().map(|(peer, _)| peer).filter(|peer| !self.is_away(*peer)).collect();
        let unseen = |op: &super::Op| {
            let sees = |vector: &VersionVector| vector.get(op.stamp.author) >= op.seq;
            reckoned.iter().any(|peer| Some(*peer) != self.me && !self.known.get(peer).is_some_and(sees))
        };
        let parted: Vec<_> = self.log.partings().filter(|(_, op)| unseen(op)).map(|(peer, _)| peer).collect();
        reckoned.extend(parted);
        reckoned
    }

    /// Whether a peer is let go: see [`Change::LetGo`].
    pub fn is_away(&self, peer: PeerTag) -> bool {
        matches!(self.tree.get(&Key::Away(peer)), Some(Record::Away { back: false, .. }))
    }

    /// What a peer must have before ops can be exchanged with it, where `theirs` is what it has: the op that let it go last,
    /// and what the log here no longer holds. It then has to take a snapshot.
    pub fn needed_by(&self, peer: PeerTag, theirs: &VersionVector) -> Option<VersionVector> {
        let mut needed = VersionVector::default();
        if let Some(Record::Away { by, seq, back }) = self.tree.get(&Key::Away(peer)) {
            needed.0.insert(*by, *seq);
            if !back && theirs.covers(&needed) {
                // It was taken back by one that is itself let go by now, or the word of that is on its way: only what
                // comes from a peer that counts is sure to fit.
                needed = self.vector.clone();
            }
        }
        let beyond = self.base.0.iter().filter(|(author, seq)| theirs.get(**author) < **seq);
        for (author, seq) in beyond {
            let most = needed.0.entry(*author).or_default();
            *most = (*most).max(*seq);
        }
        (!theirs.covers(&needed)).then_some(needed)
    }

    /// What of the log a peer has not got, as far as it has been heard.
    pub fn lack(&self, peer: PeerTag) -> Lack {
        let nothing = VersionVector::default();
        let theirs = self.known.get(&peer).unwrap_or(&nothing);
        let mut lack = Lack::default();
        for logged in self.log.iter().filter(|logged| theirs.get(logged.op.stamp.author) < logged.op.seq) {
            lack.ops += 1;
            lack.bytes += logged.bytes as u64;
            lack.oldest.get_or_insert(logged.op.stamp.time);
        }
        lack
    }

    /// How many ops are not stable yet, the bytes they take in the log, and when the first of them was made.
    pub fn log_size(&self) -> Lack {
        let oldest = self.log.iter().next().map(|logged| logged.op.stamp.time);
        Lack { ops: self.log.len() as u64, bytes: self.log.bytes() as u64, oldest }
    }

    /// Whether ops of this peer are taken: it is on the roster, or was until an op that is not stable yet (another
    /// peer may have taken its ops before it saw that op, and they must reach everyone).
    pub fn is_member(&self, peer: PeerTag) -> bool {
        self.peer(peer).is_some() || self.log.evictions().any(|(evicted, _)| evicted == peer)
    }

    /// Forgets reaped inodes. An op made without having seen that one was reaped is in the log when the reaping
    /// becomes stable; when all of those are stable too, nothing can bring the inode back by itself. Something else that
    /// comes back brings the directories back that it was in last: they stay for as long as that is there.
    fn forget_reaped(&mut self, last: Stamp) {
        let mut waiting = std::mem::take(&mut self.reaped);
        let mut stable_places = None;
        waiting.retain_mut(|(until, ino)| {
            if *until.get_or_insert(last) > self.frontier {
                return true;
            }
            if self.tree.inode(*ino).is_none_or(|inode| !inode.reaped) {
                return false;
            }
            let places = || self.tree.parts(*ino).into_iter().chain([*ino]);
            if places().any(|dir| self.tree.is_place(dir)) {
                return true;
            }
            let stable = stable_places.get_or_insert_with(|| self.stable_places());
            if places().any(|dir| stable.contains(&dir)) {
                return true;
            }
            self.forget(*ino);
            false
        });
        self.reaped = waiting;
    }

    /// The directories in which inodes that unstable ops touched had their places before.
    fn stable_places(&self) -> BTreeSet<Ino> {
        let places = self.unstable_keys().into_values().filter_map(|before| match before {
            Some(Record::Inode(inode)) => inode.place.as_ref().map(|place| place.parent),
            _ => None,
        });
        places.collect()
    }

    /// The blocks and groups that ops touched which are not stable.
    pub fn unsettled(&self) -> (BTreeSet<BlockName>, BTreeSet<GroupId>) {
        let keys = self.unstable_keys();
        (keys.keys().filter_map(|key| block_of(key)).collect(), keys.keys().filter_map(|key| group_of(key)).collect())
    }

    /// Forgets blocks that nothing names. An op that names one without knowing that nothing else does any more, and
    /// so does not say anew where it is, is in the log when that becomes stable: as with reaped inodes.
    fn forget_idle(&mut self, last: Stamp) {
        let mut waiting = std::mem::take(&mut self.idle);
        if waiting.iter().all(|(until, _)| until.is_some_and(|until| until > self.frontier)) {
            self.idle = waiting;
            return;
        }
        let unstable: BTreeSet<BlockName> = self.unstable_keys().into_keys().filter_map(block_of).collect();
        waiting.retain_mut(|(until, name)| {
            if *until.get_or_insert(last) > self.frontier {
                return true;
            }
            // One that an unstable op touched waits anew when that op is stable.
            if self.tree.idle().contains(name) && !unstable.contains(name) {
                self.tree.set(Key::Block(*name), None);
                self.changed.insert(Key::Block(*name));
            }
            false
        });
        self.idle = waiting;
    }

    fn forget(&mut self, ino: Ino) {
        let mut keys = vec![Key::Inode(ino), Key::Lease(ino)];
        keys.extend(self.tree.get(&Key::Partition(ino)).map(|_| Key::Partition(ino)));
        keys.extend(self.tree.parts(ino).into_iter().map(Key::Merged));
        keys.extend(self.tree.extents(ino, 0, u64::MAX).map(|(at, _)| Key::Extent(ino, at)));
        keys.extend(self.tree.xattrs(ino).map(|(name, _): (&Bytes, _)| Key::Xattr(ino, name.clone())));
        for key in keys {
            self.tree.set(key.clone(), None);
            self.changed.insert(key);
        }
    }
}

fn group_of(key: &Key) -> Option<GroupId> {
    match key {
        Key::Group(id) => Some(*id),
        _ => None,
    }
}

fn block_of(key: &Key) -> Option<BlockName> {
    match key {
        Key::Block(name) => Some(*name),
        _ => None,
    }
}
