//! Telling the kernel that what it caches has changed elsewhere.
//!
//! The kernel may make a notification wait for a directory or a page that a request holds, and that request may
//! wait for us. So nothing that serves requests ever notifies: it queues here, and one thread of its own does it.

use crate::id::Ino;
use crate::namespace::Key;
use bytes::Bytes;
use fuser::{INodeNo, Notifier};
use parking_lot::{Condvar, Mutex};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

/// What the kernel must look at again.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Invalidation {
    /// Content and attributes of an inode.
    Inode(Ino),
    /// Only the attributes.
    Attributes(Ino),
    /// What a name in a directory stands for.
    Entry(Ino, Bytes),
}

impl Invalidation {
    /// What follows from records that other machines' ops have changed.
    pub fn of(touched: &BTreeSet<Key>) -> Vec<Invalidation> {
        let mut found = BTreeSet::new();
        for key in touched {
            match key {
                Key::Inode(ino) => found.insert(Invalidation::Attributes(*ino)),
                Key::Extent(ino, _) => found.insert(Invalidation::Inode(*ino)),
                // The kernel does not keep these, nor a name beyond the call that looked it up. To forget one it would wait
                // for whoever is changing the directory; and where the peer is killed meanwhile that is for ever: the
                // thread that waits keeps the mount, and the mount those in it.
                Key::Entry(..)
                | Key::Xattr(..)
                | Key::Block(_)
                | Key::Group(_)
                | Key::Peer(_)
                | Key::Counter(_)
                | Key::Standing(_)
                | Key::Away(_)
                | Key::Again(_)
                | Key::Merged(_)
                | Key::Conflict(..)
                | Key::Partition(_)
                | Key::Lease(_)
                | Key::Tenures(_) => false,
            };
        }
        let whole = found.clone();
        found.retain(|one| match one {
            Invalidation::Attributes(ino) => !whole.contains(&Invalidation::Inode(*ino)),
            _ => true,
        });
        found.into_iter().collect()
    }
}

/// The most invalidations that wait. Past it, names and attributes are left to the time the kernel keeps them for,
/// and every file that is open here is invalidated.
pub const MAX_PENDING: usize = 65_536;

/// How long somebody waits for the kernel to be told what changed: it may wait for a page that a request holds.
const CAUGHT_UP: std::time::Duration = std::time::Duration::from_secs(2);

/// The way to the invalidation thread. Cheap to clone; never blocks.
#[derive(Clone)]
pub struct Invalidator {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    filled: Condvar,
    emptied: tokio::sync::Notify,
}

#[derive(Default)]
struct Queue {
    pending: BTreeSet<Invalidation>,
    overflowed: bool,
    closed: bool,
    /// How many handles of each inode are open.
    open: BTreeMap<Ino, u32>,
    /// How many batches were taken to tell the kernel, and how many of these it has been told.
    taken: u64,
    told: u64,
}

impl Queue {
    fn add(&mut self, invalidation: Invalidation) {
        if self.closed || self.overflowed {
            return;
        }
        if self.pending.len() < MAX_PENDING {
            self.pending.insert(invalidation);
        } else {
            self.pending.clear();
            self.overflowed = true;
        }
    }

    fn take(&mut self) -> BTreeSet<Invalidation> {
        let mut batch = std::mem::take(&mut self.pending);
        if std::mem::take(&mut self.overflowed) {
            batch.extend(self.open.keys().map(|ino| Invalidation::Inode(*ino)));
        }
        batch
    }
}

impl Invalidator {
    pub(super) fn new() -> Invalidator {
        Invalidator { shared: Arc::default() }
    }

    /// Queues these. What is queued already is not queued twice.
    pub fn send(&self, invalidations: Vec<Invalidation>) {
        let mut queue = self.shared.queue.lock();
        for invalidation in invalidations {
            queue.add(invalidation);
        }
        drop(queue);
        self.shared.filled.notify_one();
    }

    /// Waits until the kernel has been told of everything queued so far, or for as long as that may take.
    pub(super) async fn caught_up(&self) {
        let upto = {
            let queue = self.shared.queue.lock();
            if queue.closed || (queue.pending.is_empty() && !queue.overflowed && queue.told == queue.taken) {
                return;
            }
            // What waits goes with the next batch.
            queue.taken + u64::from(!queue.pending.is_empty() || queue.overflowed)
        };
        let caught_up = async {
            loop {
                let emptied = self.shared.emptied.notified();
                tokio::pin!(emptied);
                emptied.as_mut().enable();
                let reached = {
                    let queue = self.shared.queue.lock();
                    queue.told >= upto || queue.closed
                };
                if reached {
                    return;
                }
                emptied.await;
            }
        };
        if tokio::time::timeout(CAUGHT_UP, caught_up).await.is_err() {
            tracing::warn!("the kernel has not taken what changed elsewhere within {CAUGHT_UP:?}");
        }
    }

    /// A handle of the file was opened: its pages may live as long as it does.
    pub(super) fn opened(&self, ino: Ino) {
        *self.shared.queue.lock().open.entry(ino).or_default() += 1;
    }

    pub(super) fn released(&self, ino: Ino) {
        let mut queue = self.shared.queue.lock();
        if let Some(handles) = queue.open.get_mut(&ino) {
            *handles -= 1;
            if *handles == 0 {
                queue.open.remove(&ino);
            }
        }
    }

    /// Starts the thread. It ends when `close` is called.
    pub(super) fn start(&self, notifier: Notifier) -> io::Result<()> {
        let shared = self.shared.clone();
        std::thread::Builder::new().name("fuse-invalidate".into()).spawn(move || shared.run(&notifier))?;
        Ok(())
    }

    /// The kernel's side is gone: nothing is to be told any more.
    pub(super) fn close(&self) {
        let mut queue = self.shared.queue.lock();
        queue.closed = true;
        queue.pending.clear();
        drop(queue);
        self.shared.filled.notify_all();
        self.shared.emptied.notify_waiters();
    }
}

impl Shared {
    fn run(&self, notifier: &Notifier) {
        loop {
            let batch = {
                let mut queue = self.queue.lock();
                while queue.pending.is_empty() && !queue.overflowed && !queue.closed {
                    self.filled.wait(&mut queue);
                }
                if queue.closed {
                    return;
                }
                queue.taken += 1;
                queue.take()
            };
            for invalidation in batch {
                notify(notifier, &invalidation);
            }
            self.queue.lock().told += 1;
            self.emptied.notify_waiters();
        }
    }
}

fn notify(notifier: &Notifier, invalidation: &Invalidation) {
    let result = match invalidation {
        Invalidation::Inode(ino) => notifier.inval_inode(INodeNo(ino.0), 0, 0),
        // A negative offset leaves the pages alone.
        Invalidation::Attributes(ino) => notifier.inval_inode(INodeNo(ino.0), -1, 0),
        Invalidation::Entry(parent, name) => notifier.inval_entry(INodeNo(parent.0), OsStr::from_bytes(name)),
    };
    if let Err(error) = result {
        // Most often a mount point or a working directory below the name: it is asked for again in a second.
        tracing::debug!(?invalidation, %error, "the kernel did not take an invalidation");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_content_takes_the_pages_and_changed_attributes_do_not() {
        let name = Bytes::from_static(b"a");
        let touched = BTreeSet::from([
            Key::Inode(Ino(1)),
            Key::Entry(Ino(1), name.clone()),
            Key::Inode(Ino(5)),
            Key::Extent(Ino(5), 0),
            Key::Extent(Ino(5), 4096),
            Key::Xattr(Ino(6), name),
        ]);
        let expected = [Invalidation::Inode(Ino(5)), Invalidation::Attributes(Ino(1))];
        assert_eq!(Invalidation::of(&touched), expected);
    }

    #[test]
    fn the_same_invalidation_is_queued_once() {
        let invalidator = Invalidator::new();
        invalidator.send(vec![Invalidation::Inode(Ino(5)), Invalidation::Inode(Ino(5))]);
        invalidator.send(vec![Invalidation::Entry(Ino(1), Bytes::from_static(b"a")), Invalidation::Inode(Ino(5))]);
        assert_eq!(invalidator.shared.queue.lock().take().len(), 2);
    }

    #[test]
    fn an_overflow_invalidates_every_open_file() {
        let invalidator = Invalidator::new();
        invalidator.opened(Ino(3));
        invalidator.opened(Ino(3));
        invalidator.opened(Ino(4));
        invalidator.released(Ino(4));
        invalidator.send((0..=MAX_PENDING as u64).map(|ino| Invalidation::Attributes(Ino(ino))).collect());
        invalidator.send(vec![Invalidation::Inode(Ino(9))]);
        let mut queue = invalidator.shared.queue.lock();
        assert_eq!(queue.take(), BTreeSet::from([Invalidation::Inode(Ino(3))]));
        assert!(queue.take().is_empty(), "an overflow is dealt with once");
    }
}
