//! File locks of this machine's processes: `flock(2)` and `fcntl(2)` byte ranges.
//!
//! [`LockTable`] is the plain state: who holds which range, who waits, in what order. [`Locks`] puts it behind a
//! mutex and lets callers wait. One table serves both kinds of lock, as on NFS: a `flock` is a lock of the whole
//! file with an owner of its own. The kernel's lock owner tells holders apart; the table never looks inside it, so
//! that owners of other machines can be added.

use super::ports::Errno;
use crate::id::Ino;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// Who holds a lock: the kernel's number for a process' table of files (`fcntl`) or an open file (`flock`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LockOwner(pub u64);

/// What a lock lets others do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LockKind {
    /// Others may hold shared locks.
    Shared,
    /// Nobody else may hold any.
    Exclusive,
}

/// A lock held or asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
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
            && (self.kind == LockKind::Exclusive || other.kind == LockKind::Exclusive)
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

    /// Takes `lock`, changing the kind of what its owner holds in that range, or fails with `EAGAIN` and changes
    /// nothing.
    pub fn take(&mut self, ino: Ino, lock: Lock) -> Result<Vec<WaiterId>, Errno> {
        if self.conflict(ino, &lock).is_some() {
            return Err(Errno(libc::EAGAIN));
        }
        let file = self.files.entry(ino).or_default();
        // A range set in the middle of another splits it in three.
        if file.held.len() + 2 > MAX_RANGES {
            return Err(Errno(libc::ENOLCK));
        }
        file.set(lock.owner, lock.first, lock.last, Some(lock));
        // Exclusive to shared makes room.
        Ok(self.grant(ino))
    }

    /// Takes `lock` or queues it. `EDEADLK` where waiting would close a circle of owners that wait for one another.
    pub fn ask(&mut self, ino: Ino, lock: Lock) -> Result<(Asked, Vec<WaiterId>), Errno> {
        match self.take(ino, lock) {
            Ok(granted) => return Ok((Asked::Granted, granted)),
            Err(Errno(libc::EAGAIN)) => {}
            Err(errno) => return Err(errno),
        }
        if self.waiters.len() >= MAX_WAITERS {
            return Err(Errno(libc::ENOLCK));
        }
        if self.would_deadlock(ino, &lock) {
            return Err(Errno(libc::EDEADLK));
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

/// How often a waiting request asks whether its caller still wants the lock.
const CALLER_CHECK: Duration = Duration::from_millis(200);

/// The lock table with callers that wait. Cheap to clone.
#[derive(Clone, Default)]
pub struct Locks {
    inner: Arc<Mutex<Waiting>>,
}

#[derive(Default)]
struct Waiting {
    table: LockTable,
    wake: BTreeMap<WaiterId, oneshot::Sender<()>>,
}

impl Waiting {
    fn wake(&mut self, granted: Vec<WaiterId>) {
        for id in granted {
            if let Some(sender) = self.wake.remove(&id) {
                let _ = sender.send(());
            }
        }
    }
}

impl Locks {
    /// No locks.
    pub fn new() -> Locks {
        Locks::default()
    }

    /// `F_GETLK`: a lock that stands in the way.
    pub fn conflict(&self, ino: Ino, lock: &Lock) -> Option<Lock> {
        self.inner.lock().table.conflict(ino, lock)
    }

    /// `F_SETLK`: at once or `EAGAIN`.
    pub fn take(&self, ino: Ino, lock: Lock) -> Result<(), Errno> {
        let mut inner = self.inner.lock();
        let granted = inner.table.take(ino, lock)?;
        inner.wake(granted);
        Ok(())
    }

    /// `F_SETLKW`: waits as long as `wanted` says that the caller still wants it, then fails with `EINTR`. There
    /// is no other deadline: a lock may be held, and waited for, for as long as its holder likes.
    pub async fn ask(&self, ino: Ino, lock: Lock, wanted: impl Fn() -> bool + Send) -> Result<(), Errno> {
        let (id, mut woken) = {
            let mut inner = self.inner.lock();
            let (asked, granted) = inner.table.ask(ino, lock)?;
            inner.wake(granted);
            match asked {
                Asked::Granted => return Ok(()),
                Asked::Waiting(id) => {
                    let (sender, receiver) = oneshot::channel();
                    inner.wake.insert(id, sender);
                    (id, receiver)
                }
            }
        };
        // Takes the request back when the caller goes away, also by dropping this future.
        let mut queued = Queued { locks: self, ino, lock, id, settled: false };
        loop {
            match tokio::time::timeout(CALLER_CHECK, &mut woken).await {
                Ok(_) => {
                    queued.settled = true;
                    return Ok(());
                }
                Err(_) if wanted() => {}
                Err(_) => return Err(Errno(libc::EINTR)),
            }
        }
    }

    /// `F_UNLCK` of a range.
    pub fn unlock(&self, ino: Ino, owner: LockOwner, first: u64, last: u64) {
        let mut inner = self.inner.lock();
        let granted = inner.table.unlock(ino, owner, first, last);
        inner.wake(granted);
    }

    /// Everything the owner holds in the file: its last close.
    pub fn release(&self, ino: Ino, owner: LockOwner) {
        self.unlock(ino, owner, 0, u64::MAX);
    }
}

struct Queued<'a> {
    locks: &'a Locks,
    ino: Ino,
    lock: Lock,
    id: WaiterId,
    settled: bool,
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        if self.settled {
            return;
        }
        let mut inner = self.locks.inner.lock();
        inner.wake.remove(&self.id);
        if !inner.table.cancel(self.id) {
            // Granted in the same moment: nobody is there to have it.
            let granted = inner.table.unlock(self.ino, self.lock.owner, self.lock.first, self.lock.last);
            inner.wake(granted);
        }
    }
}

#[cfg(test)]
mod tests;
