//! What serving a mount takes besides the volume: open directories, locks, how handles were opened.

use super::caller;
use super::convert::{self, file_attr, stale};
use super::invalidate::Invalidator;
use crate::id::Ino;
use crate::namespace::{Lock, LockRequest, acl};
use crate::volume::directory::Directory;
use crate::volume::ports::Errno;
use crate::volume::{Attributes, HandleId, OpenFlags, Volume};
use bytes::Bytes;
use fuser::{
    FileHandle, FopenFlags, Generation, LockOwner, ReplyAttr, ReplyCreate, ReplyEntry, ReplyOpen, ReplyXattr,
    WriteFlags,
};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Numbers are never reused, so one generation is enough.
pub(super) const GENERATION: Generation = Generation(0);

/// How often a waiting request asks whether its caller still wants the lock.
const CALLER_CHECK: Duration = Duration::from_millis(200);

/// A mounted volume, and what is remembered between requests.
pub(super) struct Serving {
    pub volume: Volume,
    pub invalidator: Invalidator,
    pub cache_for: Duration,
    directories: Mutex<BTreeMap<u64, Arc<Directory>>>,
    last_directory: AtomicU64,
    /// Handles opened with `O_APPEND`.
    appending: Mutex<BTreeSet<HandleId>>,
    /// The kernel reads and writes past its cache where asked to, and still maps such files.
    pub direct_append: bool,
    /// The kernel checks access by access control lists.
    pub acls: bool,
}

/// Sends what came of a request: the value as `$done` says, or the error.
macro_rules! answer {
    ($reply:ident, $result:expr, $ok:pat => $done:expr) => {
        match $result {
            Ok($ok) => $done,
            Err(error) => $reply.error($crate::io::fuse::convert::errno(error)),
        }
    };
}
pub(super) use answer;

impl Serving {
    pub fn new(volume: Volume, invalidator: Invalidator, cache_for: Duration) -> Serving {
        Serving {
            volume,
            invalidator,
            cache_for,
            directories: Mutex::default(),
            last_directory: AtomicU64::new(0),
            appending: Mutex::default(),
            direct_append: false,
            acls: false,
        }
    }

    pub fn entry(&self, reply: ReplyEntry, found: Result<Attributes, Errno>) {
        answer!(reply, found, attributes => reply.entry(&self.cache_for, &file_attr(&attributes), GENERATION))
    }

    pub fn attr(&self, reply: ReplyAttr, found: Result<Attributes, Errno>) {
        answer!(reply, found.map_err(stale), attributes => reply.attr(&self.cache_for, &file_attr(&attributes)))
    }

    /// Whether an attribute is an access control list; an error where the kernel would not go by it.
    pub fn acl(&self, name: &[u8]) -> Result<bool, Errno> {
        match acl::is_acl(name) {
            true if !self.acls => Err(Errno(libc::EOPNOTSUPP)),
            is_acl => Ok(is_acl),
        }
    }

    pub fn directory(&self, fh: FileHandle) -> Result<Arc<Directory>, Errno> {
        self.directories.lock().get(&fh.0).cloned().ok_or(Errno(libc::EBADF))
    }

    pub fn keep_directory(&self, directory: Directory) -> FileHandle {
        let fh = self.last_directory.fetch_add(1, Ordering::Relaxed) + 1;
        self.directories.lock().insert(fh, Arc::new(directory));
        FileHandle(fh)
    }

    pub fn drop_directory(&self, fh: FileHandle) {
        self.directories.lock().remove(&fh.0);
    }

    pub fn open_directory(&self, ino: Ino, reply: ReplyOpen) {
        answer!(reply, self.volume.open_directory(ino).map_err(stale), directory => {
            reply.opened(self.keep_directory(directory), FopenFlags::empty());
        });
    }

    pub fn created(&self, reply: ReplyCreate, (attributes, handle): (Attributes, HandleId), flags: i32) {
        let flags = self.opened(attributes.ino, handle, flags & libc::O_APPEND != 0, false);
        let attr = file_attr(&attributes);
        reply.created(&self.cache_for, &attr, GENERATION, FileHandle(handle.0), flags);
    }

    /// What the kernel is told of a new handle.
    pub fn opened(&self, ino: Ino, handle: HandleId, append: bool, keep_cache: bool) -> FopenFlags {
        self.invalidator.opened(ino);
        let mut flags = FopenFlags::empty();
        if append {
            self.appending.lock().insert(handle);
            if self.direct_append {
                // Where an append lands is not the kernel's to know: others may append as well.
                flags |= FopenFlags::FOPEN_DIRECT_IO;
            }
        }
        if keep_cache {
            flags |= FopenFlags::FOPEN_KEEP_CACHE;
        }
        flags
    }

    pub async fn open(&self, ino: Ino, flags: OpenFlags) -> Result<(HandleId, FopenFlags), Errno> {
        let opened = self.volume.open(ino, flags).await.map_err(stale)?;
        Ok((opened.handle, self.opened(ino, opened.handle, flags.append && flags.write, opened.keep_cache)))
    }

    pub async fn write(&self, handle: HandleId, offset: u64, data: Bytes, flags: WriteFlags) -> Result<u32, Errno> {
        let kill_suid = flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        let mapped = flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        if mapped && self.appending.lock().contains(&handle) {
            // A page of a mapping goes where it came from, whichever handle the kernel picked to write it back.
            let ino = self.volume.handle_ino(handle)?;
            let place = OpenFlags { read: false, write: true, append: false, truncate: false };
            let other = self.volume.open(ino, place).await?.handle;
            let written = self.volume.write(other, offset, data, kill_suid).await;
            let flushed = self.volume.flush(other).await;
            self.volume.release(other).await;
            return flushed.and(written);
        }
        self.volume.write(handle, offset, data, kill_suid).await
    }

    /// The lock that the kernel asks for; `None` is for unlocking.
    pub fn asked_lock(
        &self,
        ino: Ino,
        owner: LockOwner,
        first: u64,
        last: u64,
        kind: i32,
        pid: u32,
    ) -> Result<Option<Lock>, Errno> {
        let control = self.volume.control();
        let memory = control.namespace().is_memory(ino);
        convert::lock(control.me(), owner, first, last, kind, pid, memory)
    }

    /// Takes a file lock for the process of a thread; with `wait`, for as long as the thread wants it.
    pub async fn lock(&self, ino: Ino, lock: Lock, wait: bool, thread: u32) -> Result<(), Errno> {
        let locked = self.volume.control().lock(ino, LockRequest::Take { lock, wait });
        tokio::pin!(locked);
        let held = loop {
            match tokio::time::timeout(CALLER_CHECK, &mut locked).await {
                Ok(locked) => break locked?,
                Err(_) if !wait || caller::still_waits(thread) => {}
                Err(_) => return Err(Errno(libc::EINTR)),
            }
        };
        // What others wrote under the lock is not to be read from pages the kernel kept from before.
        self.invalidator.caught_up().await;
        held.map_or(Ok(()), |_| Err(Errno(libc::EAGAIN)))
    }

    pub async fn release(&self, ino: Ino, handle: HandleId) {
        self.appending.lock().remove(&handle);
        self.volume.release(handle).await;
        self.invalidator.released(ino);
    }
}

/// The value, its size where none was given, or `ERANGE` where it does not fit.
pub(super) fn sized(reply: ReplyXattr, size: u32, value: &[u8]) {
    match size as usize {
        0 => reply.size(value.len() as u32),
        room if room < value.len() => reply.error(fuser::Errno::ERANGE),
        _ => reply.data(value),
    }
}
