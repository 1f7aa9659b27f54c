//! Telling the kernel that what it caches of a file has changed elsewhere.
//!
//! The kernel makes a notification wait for a page that a request holds, and that request may wait for us. So nothing
//! that serves requests ever notifies: it queues here, and one thread of its own does it.
//!
//! A peer may be killed while that thread waits. It ends when the request does, and the kernel ends those that were taken
//! through a device as soon as that one is closed: so the thread has another, and shares no descriptor with those that
//! take requests. One that nobody had taken is never answered; the thread stays then, the kernel keeps the mount for it,
//! and `shoal unmount` lets go of both. Having no descriptor but its own device and the log, it keeps nothing else.
//!
//! Names are never told. The kernel keeps one for no longer than the call that looked it up, and to forget it on our word
//! it would wait for whoever is changing the directory.

use crate::id::Ino;
use parking_lot::{Condvar, Mutex};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

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
    emptied: Condvar,
}

#[derive(Default)]
struct Queue {
    /// Of these the kernel must look at content and attributes again.
    pending: BTreeSet<Ino>,
    overflowed: bool,
    closed: bool,
    /// The thread is there.
    runs: bool,
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
        self.wait_until(move |queue| queue.told >= upto || queue.closed).await;
    }

    /// Has the kernel told nothing more, and waits until the thread has ended. To be called while requests are still
    /// answered: a peer that ended under a thread which waits for one would leave it there.
    pub(super) async fn end(&self) {
        self.close();
        self.wait_until(|queue| !queue.runs).await;
    }

    /// Waits in a thread that blocks: the one that tells the kernel could not wake a task, having no descriptor of the
    /// run-time's.
    async fn wait_until(&self, reached: impl Fn(&Queue) -> bool + Send + 'static) {
        let shared = self.shared.clone();
        let wait = move || {
            let deadline = Instant::now() + CAUGHT_UP;
            let mut queue = shared.queue.lock();
            while !reached(&queue) {
                if shared.emptied.wait_until(&mut queue, deadline).timed_out() {
                    return reached(&queue);
                }
            }
            true
        };
        if !tokio::task::spawn_blocking(wait).await.unwrap_or(false) {
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

    /// Starts the thread, for the connection that `session` is a descriptor of. It ends when `close` is called.
    pub(super) fn start(&self, session: BorrowedFd<'_>) -> io::Result<()> {
        let (shared, session) = (self.shared.clone(), session.as_raw_fd());
        let (said, hears) = mpsc::channel();
        let run = move || match own_device(session) {
            Ok(device) => {
                shared.queue.lock().runs = true;
                let _ = said.send(Ok(()));
                shared.run(&device);
                shared.queue.lock().runs = false;
                shared.emptied.notify_all();
            }
            Err(error) => drop(said.send(Err(error))),
        };
        std::thread::Builder::new().name("fuse-invalidate".into()).spawn(run)?;
        // Until then the thread needs the session's descriptor.
        hears.recv().unwrap_or_else(|_| Err(io::Error::other("the invalidation thread ended at its start")))
    }

    /// The kernel's side is gone: nothing is to be told any more.
    pub(super) fn close(&self) {
        let mut queue = self.shared.queue.lock();
        queue.closed = true;
        queue.pending.clear();
        drop(queue);
        self.shared.filled.notify_all();
        self.shared.emptied.notify_all();
    }
}

impl Shared {
    fn run(&self, device: &File) {
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
                if self.queue.lock().closed {
                    return;
                }
                notify(device, ino);
            }
            self.queue.lock().told += 1;
            self.emptied.notify_all();
        }
    }
}

/// A descriptor of the session's connection for this thread alone, which from then on shares none with the process.
fn own_device(session: RawFd) -> io::Result<File> {
    /// `FUSE_DEV_IOC_CLONE`: makes a newly opened device one more of a connection.
    const CLONE: libc::Ioctl = 0x8004_e500_u32 as libc::Ioctl;
    // SAFETY: takes a number. What this thread owns until here are no descriptors.
    let apart = unsafe { libc::unshare(libc::CLONE_FILES) } == 0;
    let refused = io::Error::last_os_error();
    let device = OpenOptions::new().read(true).write(true).open("/dev/fuse")?;
    let mut source = session as u32;
    // SAFETY: the device is open, and the call reads one number that lives through it.
    if unsafe { libc::ioctl(device.as_raw_fd(), CLONE, &mut source) } == -1 {
        return Err(io::Error::last_os_error());
    }
    if apart {
        close_all_but(device.as_raw_fd());
    } else {
        tracing::warn!("the invalidation thread gets no descriptors of its own: {refused}");
    }
    Ok(device)
}

/// Closes what this thread has open, but for `kept` and the log.
fn close_all_but(kept: RawFd) {
    let (kept, log) = (kept as u32, libc::STDERR_FILENO as u32);
    let (first, second) = (kept.min(log), kept.max(log));
    for range in [0..first, first + 1..second, second + 1..u32::MAX] {
        // SAFETY: takes numbers. The table is this thread's, which uses none of these descriptors.
        if !range.is_empty() && unsafe { libc::syscall(libc::SYS_close_range, range.start, range.end - 1, 0) } == -1 {
            tracing::warn!("the invalidation thread keeps descriptors: {}", io::Error::last_os_error());
        }
    }
}

/// Has the kernel forget the attributes and all pages of an inode.
fn notify(mut device: &File, ino: Ino) {
    if let Err(error) = device.write_all(&message(ino))
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::debug!(?ino, %error, "the kernel did not take an invalidation");
    }
}

/// The kernel's `fuse_out_header` and `fuse_notify_inval_inode_out`, for all of an inode.
fn message(ino: Ino) -> [u8; 40] {
    const INVAL_INODE: i32 = 2;
    let mut message = [0; 40];
    message[..4].copy_from_slice(&40u32.to_ne_bytes());
    message[4..8].copy_from_slice(&INVAL_INODE.to_ne_bytes());
    // A request of number 0 is none. Offset and length stay 0, which means everything.
    message[16..24].copy_from_slice(&ino.0.to_ne_bytes());
    message
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

    #[test]
    fn the_thread_shares_no_descriptor_with_the_process() {
        let kept = File::open("/dev/null").unwrap();
        let open = |thread: &str| {
            let entries = std::fs::read_dir(format!("/proc/{thread}/fd")).unwrap();
            entries
                .map(|entry| entry.unwrap().file_name().into_string().unwrap().parse().unwrap())
                .collect::<Vec<RawFd>>()
        };
        let number = kept.as_raw_fd();
        let left = std::thread::spawn(move || {
            // SAFETY: takes a number.
            assert_eq!(unsafe { libc::unshare(libc::CLONE_FILES) }, 0);
            close_all_but(number);
            open("thread-self")
        });
        // The listing itself has one open, of the lowest number that is free.
        assert_eq!(BTreeSet::from_iter(left.join().unwrap()), BTreeSet::from([0, libc::STDERR_FILENO, number]));
        assert!(open("self").contains(&libc::STDOUT_FILENO) && kept.metadata().is_ok(), "the process keeps its own");
    }
}
