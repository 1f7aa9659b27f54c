//! Telling the kernel that what it caches of a file has changed elsewhere.
//!
//! The kernel makes a notification wait for a page that a request holds, and that request may wait for us. So nothing
//! that serves requests ever notifies: it queues here, and one thread of its own does it.
//!
//! Names are never told. The kernel keeps one for no longer than the call that looked it up, and to forget it on our word
//! it would wait for whoever is changing the directory.

use crate::id::Ino;
use fuser::{INodeNo, Notifier};
use parking_lot::{Condvar, Mutex};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// The most inodes that wait. Past it, attributes are left to the time the kernel keeps them for, and every file that
/// is open here is invalidated.
const MAX_PENDING: usize = 65_536;

/// How long somebody waits for the kernel to be told what changed: it may wait for a page that a request holds.
const CAUGHT_UP: Duration = Duration::from_secs(2);

/// The way to the invalidation thread. Cheap to clone; never blocks.
#[derive(Clone)]
pub(super) struct Invalidator {
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
    /// Of these the kernel must look at content and attributes again.
    pending: BTreeSet<Ino>,
    overflowed: bool,
    closed: bool,
    /// How many handles of each inode are open.
    open: BTreeMap<Ino, u32>,
    /// How many batches were taken to tell the kernel, and how many of these it has been told.
    taken: u64,
    told: u64,
}

impl Queue {
    fn add(&mut self, ino: Ino) {
        if self.closed || self.overflowed {
            return;
        }
        if self.pending.len() < MAX_PENDING {
            self.pending.insert(ino);
        } else {
            self.pending.clear();
            self.overflowed = true;
        }
    }

    fn take(&mut self) -> BTreeSet<Ino> {
        let mut batch = std::mem::take(&mut self.pending);
        if std::mem::take(&mut self.overflowed) {
            batch.extend(self.open.keys());
        }
        batch
    }
}

impl Invalidator {
    pub(super) fn new() -> Invalidator {
        Invalidator { shared: Arc::default() }
    }

    /// Queues these. What is queued already is not queued twice.
    pub(super) fn send(&self, inodes: impl IntoIterator<Item = Ino>) {
        let mut queue = self.shared.queue.lock();
        for ino in inodes {
            queue.add(ino);
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
            for ino in batch {
                notify(notifier, ino);
            }
            self.queue.lock().told += 1;
            self.emptied.notify_waiters();
        }
    }
}

/// Has the kernel forget the attributes and all pages of an inode.
fn notify(notifier: &Notifier, ino: Ino) {
    if let Err(error) = notifier.inval_inode(INodeNo(ino.0), 0, 0) {
        tracing::debug!(?ino, %error, "the kernel did not take an invalidation");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_inode_is_queued_once() {
        let invalidator = Invalidator::new();
        invalidator.send([Ino(5), Ino(5)]);
        invalidator.send([Ino(1), Ino(5)]);
        assert_eq!(invalidator.shared.queue.lock().take(), BTreeSet::from([Ino(1), Ino(5)]));
    }

    #[test]
    fn an_overflow_invalidates_every_open_file() {
        let invalidator = Invalidator::new();
        invalidator.opened(Ino(3));
        invalidator.opened(Ino(3));
        invalidator.opened(Ino(4));
        invalidator.released(Ino(4));
        invalidator.send((0..=MAX_PENDING as u64).map(Ino));
        invalidator.send([Ino(9)]);
        let mut queue = invalidator.shared.queue.lock();
        assert_eq!(queue.take(), BTreeSet::from([Ino(3)]));
        assert!(queue.take().is_empty(), "an overflow is dealt with once");
    }
}
