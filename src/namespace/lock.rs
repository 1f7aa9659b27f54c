//! File locks: `flock(2)` and `fcntl(2)` byte ranges. Who holds which range, who waits, in what order.
//!
//! One table serves both kinds of lock, as on NFS: a `flock` is a lock of the whole file with an owner of its own. A
//! file's locks are kept by the peer that holds its lease, and go with it.

use crate::id::{Ino, PeerTag};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Who holds a lock: a machine's kernel's number for a process' table of files (`fcntl`) or an open file (`flock`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct LockOwner {
    pub peer: PeerTag,
    pub number: u64,
}

/// Why a lock was not given.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LockError {
    /// Try again later, or wait.
    #[error("another process holds a lock in that range")]
    Held,
    /// Waiting would never end.
    #[error("those who hold locks in that range wait for this one")]
    Deadlock,
    /// Let go of some.
    #[error("there are too many locks")]
    TooMany,
}

/// What a lock lets others do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum LockKind {
    /// Others may hold shared locks.
    Shared,
    /// Nobody else may hold any.
    Exclusive,
    /// Others on the same machine may hold such locks: for a file that is mapped memory to those who share it, which no
    /// two machines' memories can be.
    SharedHere,
}

/// A lock held or asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Lock {
    pub owner: LockOwner,
    pub kind: LockKind,
    /// First byte.
    pub first: u64,
    /// Last byte, included.
    pub last: u64,
    /// The process that asked, for `F_GETLK`.
    pub pid: u32,
}

impl Lock {
    fn overlaps(&self, first: u64, last: u64) -> bool {
        self.first <= last && first <= self.last
    }

    fn conflicts(&self, other: &Lock) -> bool {
        self.owner != other.owner
            && self.overlaps(other.first, other.last)
            && match (self.kind, other.kind) {
                (LockKind::Shared, LockKind::Shared) => false,
                (LockKind::SharedHere, LockKind::SharedHere) => self.owner.peer != other.owner.peer,
                _ => true,
            }
    }
}

/// What is wanted of a file's locks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum LockRequest {
    /// Is something in its way?
    Test { lock: Lock },
    /// To have it; to wait for it, where something is.
    Take { lock: Lock, wait: bool },
}

impl LockRequest {
    /// The same for a process of this peer.
    pub fn of(self, peer: PeerTag) -> LockRequest {
        let of = |lock: Lock| Lock { owner: LockOwner { peer, ..lock.owner }, ..lock };
        match self {
            LockRequest::Test { lock } => LockRequest::Test { lock: of(lock) },
            LockRequest::Take { lock, wait } => LockRequest::Take { lock: of(lock), wait },
        }
    }
}

/// One waiting request.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct WaiterId(u64);

/// The most requests that may wait at once.
pub const MAX_WAITERS: usize = 16_384;

/// The most ranges held in one file.
pub const MAX_RANGES: usize = 65_536;

/// How a request that may wait went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Asked {
    /// Held now.
    Granted,
    /// It will be among those granted by a later change, unless cancelled.
    Waiting(WaiterId),
}

#[derive(Default)]
struct FileLocks {
    /// By first byte; those of one owner never overlap, and touch only where their kinds differ.
    held: Vec<Lock>,
    /// In the order they came.
    waiting: Vec<(WaiterId, Lock)>,
}

/// The locks of all files. Every function that makes room returns the waiters it granted.
#[derive(Default)]
pub struct LockTable {
    files: BTreeMap<Ino, FileLocks>,
    waiters: BTreeMap<WaiterId, Ino>,
    last_waiter: u64,
}

impl LockTable {
    /// The first lock held that stands in the way of `lock`.
    pub fn conflict(&self, ino: Ino, lock: &Lock) -> Option<Lock> {
        self.files.get(&ino)?.held.iter().find(|held| held.conflicts(lock)).copied()
    }

    /// Takes `lock`, changing the kind of what its owner holds in that range, or changes nothing where another
    /// owner's lock is in the way.
    pub fn take(&mut self, ino: Ino, lock: Lock) -> Result<Vec<WaiterId>, LockError> {
        if self.conflict(ino, &lock).is_some() {
            return Err(LockError::Held);
        }
        let file = self.files.entry(ino).or_default();
        // A range set in the middle of another splits it in three.
        if file.held.len() + 2 > MAX_RANGES {
            return Err(LockError::TooMany);
        }
        file.set(lock.owner, lock.first, lock.last, Some(lock));
        // Exclusive to shared makes room.
        Ok(self.grant(ino))
    }

    /// Takes `lock` or queues it. An error where waiting would close a circle of owners that wait for one another.
    pub fn ask(&mut self, ino: Ino, lock: Lock) -> Result<(Asked, Vec<WaiterId>), LockError> {
        match self.take(ino, lock) {
            Ok(granted) => return Ok((Asked::Granted, granted)),
            Err(LockError::Held) => {}
            Err(error) => return Err(error),
        }
        if self.waiters.len() >= MAX_WAITERS {
            return Err(LockError::TooMany);
        }
        if self.would_deadlock(ino, &lock) {
            return Err(LockError::Deadlock);
        }
        self.last_waiter += 1;
        let id = WaiterId(self.last_waiter);
        self.files.entry(ino).or_default().waiting.push((id, lock));
        self.waiters.insert(id, ino);
        Ok((Asked::Waiting(id), Vec::new()))
    }

    /// Takes a waiting request back; false if it was granted before.
    pub fn cancel(&mut self, id: WaiterId) -> bool {
        let Some(ino) = self.waiters.remove(&id) else { return false };
        if let Some(file) = self.files.get_mut(&ino) {
            file.waiting.retain(|(waiting, _)| *waiting != id);
        }
        self.forget_if_empty(ino);
        true
    }

    /// Lets go of what `owner` holds between the two bytes.
    pub fn unlock(&mut self, ino: Ino, owner: LockOwner, first: u64, last: u64) -> Vec<WaiterId> {
        let Some(file) = self.files.get_mut(&ino) else { return Vec::new() };
        file.set(owner, first, last, None);
        let granted = self.grant(ino);
        self.forget_if_empty(ino);
        granted
    }

    /// Lets go of everything `owner` holds in the file.
    pub fn release(&mut self, ino: Ino, owner: LockOwner) -> Vec<WaiterId> {
        self.unlock(ino, owner, 0, u64::MAX)
    }

    /// The locks held in a file, by first byte.
    pub fn held(&self, ino: Ino) -> &[Lock] {
        self.files.get(&ino).map_or(&[], |file| &file.held)
    }

    /// Lets a lock stand that was given elsewhere, if nothing is in its way.
    pub fn restore(&mut self, ino: Ino, lock: Lock) -> bool {
        let file = self.files.entry(ino).or_default();
        let restored = file.held.len() + 2 <= MAX_RANGES && !file.held.iter().any(|held| held.conflicts(&lock));
        if restored {
            file.set(lock.owner, lock.first, lock.last, Some(lock));
        }
        self.forget_if_empty(ino);
        restored
    }

    /// Takes all of a file out: its locks, and who waited.
    pub fn take_out(&mut self, ino: Ino) -> (Vec<Lock>, Vec<WaiterId>) {
        let Some(file) = self.files.remove(&ino) else { return Default::default() };
        let waiting: Vec<WaiterId> = file.waiting.into_iter().map(|(id, _)| id).collect();
        waiting.iter().for_each(|id| _ = self.waiters.remove(id));
        (file.held, waiting)
    }

    /// The files with locks, or with somebody who waits for one.
    pub fn files(&self) -> impl Iterator<Item = Ino> {
        self.files.keys().copied()
    }

    /// How many ranges are held.
    pub fn ranges(&self) -> usize {
        self.files.values().map(|file| file.held.len()).sum()
    }

    fn grant(&mut self, ino: Ino) -> Vec<WaiterId> {
        let Some(file) = self.files.get_mut(&ino) else { return Vec::new() };
        let mut granted = Vec::new();
        let waiting = std::mem::take(&mut file.waiting);
        for (id, lock) in waiting {
            if file.held.iter().any(|held| held.conflicts(&lock)) {
                file.waiting.push((id, lock));
            } else {
                file.set(lock.owner, lock.first, lock.last, Some(lock));
                self.waiters.remove(&id);
                granted.push(id);
            }
        }
        granted
    }

    fn forget_if_empty(&mut self, ino: Ino) {
        if self.files.get(&ino).is_some_and(|file| file.held.is_empty() && file.waiting.is_empty()) {
            self.files.remove(&ino);
        }
    }

    /// Whether one of those `lock` would wait for waits, over any number of steps, for `lock`'s owner.
    fn would_deadlock(&self, ino: Ino, lock: &Lock) -> bool {
        let mut seen = BTreeSet::new();
        let mut open = self.blockers(ino, lock);
        while let Some(owner) = open.pop() {
            if owner == lock.owner {
                return true;
            }
            if !seen.insert(owner) {
                continue;
            }
            for (at, file) in &self.files {
                for (_, wanted) in file.waiting.iter().filter(|(_, wanted)| wanted.owner == owner) {
                    open.extend(self.blockers(*at, wanted));
                }
            }
        }
        false
    }

    fn blockers(&self, ino: Ino, lock: &Lock) -> Vec<LockOwner> {
        self.held(ino).iter().filter(|held| held.conflicts(lock)).map(|held| held.owner).collect()
    }
}

impl FileLocks {
    /// Makes the range of `owner` what `new` says: that lock, or none.
    fn set(&mut self, owner: LockOwner, first: u64, last: u64, new: Option<Lock>) {
        let mut kept = Vec::with_capacity(self.held.len() + 2);
        for held in self.held.drain(..) {
            if held.owner != owner || !held.overlaps(first, last) {
                kept.push(held);
                continue;
            }
            if held.first < first {
                kept.push(Lock { last: first - 1, ..held });
            }
            if held.last > last {
                kept.push(Lock { first: last + 1, ..held });
            }
        }
        if let Some(mut new) = new {
            // Neighbours of the same kind become one.
            kept.retain(|held| {
                let touches =
                    held.last.checked_add(1) == Some(new.first) || new.last.checked_add(1) == Some(held.first);
                let joins = held.owner == owner && held.kind == new.kind && touches;
                if joins {
                    new.first = new.first.min(held.first);
                    new.last = new.last.max(held.last);
                }
                !joins
            });
            kept.push(new);
        }
        kept.sort_by_key(|held| (held.first, held.owner));
        self.held = kept;
    }
}

#[cfg(test)]
mod tests;
