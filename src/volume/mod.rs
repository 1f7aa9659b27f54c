//! A file's life between the kernel and the shards.

pub mod attributes;
pub mod directory;
pub mod locks;
pub mod names;
#[cfg(test)]
pub(crate) mod one_machine;
pub mod ports;
pub mod xattrs;

use crate::id::Ino;
use crate::time::WallTime;
use bytes::Bytes;
use ports::{Control, Errno, ShardNetwork, ShardStore};
use std::sync::Arc;
use std::time::Duration;

/// The content of a share's files as this machine reads and writes it. Cheap to clone.
///
/// Call its async functions on a multi-threaded tokio runtime; the others never block for long.
#[derive(Clone)]
pub struct Volume {
    inner: Arc<Inner>,
}

struct Inner {
    control: Arc<dyn Control>,
    #[allow(dead_code)]
    store: Arc<dyn ShardStore>,
    #[allow(dead_code)]
    network: Arc<dyn ShardNetwork>,
    #[allow(dead_code)]
    settings: VolumeSettings,
}

/// The bounds of a [`Volume`].
#[derive(Clone, Debug)]
pub struct VolumeSettings {
    /// Bytes written and not yet stored, over all files; writers wait when it is reached.
    pub dirty_bytes: u64,
    /// Bytes of decoded blocks kept.
    pub cache_bytes: u64,
    /// Blocks fetched ahead of a sequential reader.
    pub read_ahead_blocks: usize,
    /// How long a read waits before it asks one more participant.
    pub hedge: Duration,
    /// After which a read without enough shards fails with `EIO`.
    pub read_deadline: Duration,
    /// Age at which dirty content is committed without being asked.
    pub write_back_after: Duration,
}

impl Default for VolumeSettings {
    fn default() -> Self {
        VolumeSettings {
            dirty_bytes: 64 << 20,
            cache_bytes: 64 << 20,
            read_ahead_blocks: 8,
            hedge: Duration::from_millis(30),
            read_deadline: Duration::from_secs(10),
            write_back_after: Duration::from_secs(5),
        }
    }
}

/// An open file description of this machine.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct HandleId(pub u64);

/// How a file is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OpenFlags {
    pub read: bool,
    pub write: bool,
    pub append: bool,
    pub truncate: bool,
}

impl OpenFlags {
    /// From the flags of `open(2)`.
    pub fn from_libc(flags: i32) -> OpenFlags {
        let access = flags & libc::O_ACCMODE;
        OpenFlags {
            read: access != libc::O_WRONLY,
            write: access != libc::O_RDONLY,
            append: flags & libc::O_APPEND != 0,
            truncate: flags & libc::O_TRUNC != 0,
        }
    }
}

/// What `open` gives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Opened {
    pub handle: HandleId,
    /// The content is what this machine last opened: the kernel may keep its pages.
    pub keep_cache: bool,
}

/// What `stat` shows: the inode with what is written here and not committed yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attributes {
    pub ino: Ino,
    /// Type bits as in `libc::S_IFMT`.
    pub format: u32,
    /// Permission bits, 0o7777.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub size: u64,
    /// Units of 512 bytes that the content takes (before coding).
    pub blocks512: u64,
    pub nlink: u32,
    /// Device number, for device nodes.
    pub rdev: u32,
    pub atime: WallTime,
    pub mtime: WallTime,
    pub ctime: WallTime,
    pub btime: WallTime,
}

/// The longest file: offsets fit in the kernel's `loff_t`.
pub const MAX_FILE_BYTES: u64 = i64::MAX as u64;

#[allow(unused_variables)]
impl Volume {
    pub fn new(
        control: Arc<dyn Control>,
        store: Arc<dyn ShardStore>,
        network: Arc<dyn ShardNetwork>,
        settings: VolumeSettings,
    ) -> Volume {
        Volume { inner: Arc::new(Inner { control, store, network, settings }) }
    }

    pub fn control(&self) -> &dyn Control {
        &*self.inner.control
    }

    /// The attributes of an inode, dirty size and times included. `ENOENT` for one that is gone; an orphan
    /// still has them until it is reaped.
    pub fn attributes(&self, ino: Ino) -> Result<Attributes, Errno> {
        todo!()
    }

    /// Opens a regular file; `O_TRUNC` is honoured here. Access is the caller's to check.
    pub async fn open(&self, ino: Ino, flags: OpenFlags) -> Result<Opened, Errno> {
        todo!()
    }

    /// Opens a file just created here (its inode is in the namespace already); nothing is truncated.
    pub fn open_created(&self, ino: Ino, flags: OpenFlags) -> Result<HandleId, Errno> {
        todo!()
    }

    pub async fn read(&self, handle: HandleId, offset: u64, len: u32) -> Result<Bytes, Errno> {
        todo!()
    }

    /// Writes all of `data`; at the end of the file when opened with `O_APPEND`. `kill_suid`: the kernel asks
    /// that setuid and setgid bits go (`FUSE_WRITE_KILL_SUIDGID`).
    pub async fn write(&self, handle: HandleId, offset: u64, data: Bytes, kill_suid: bool) -> Result<u32, Errno> {
        todo!()
    }

    /// What `close` does: content stored, ops at every connected peer. Returns an error of the write-back once.
    pub async fn flush(&self, handle: HandleId) -> Result<(), Errno> {
        todo!()
    }

    /// As `flush`, and shards and ops on stable storage.
    pub async fn fsync(&self, handle: HandleId) -> Result<(), Errno> {
        todo!()
    }

    /// The last use of the handle is gone. The last handle of an orphan reaps it.
    pub async fn release(&self, handle: HandleId) {
        todo!()
    }

    /// Sets the size: what is past it goes, what is new reads as zeros. Committed with the next flush if the
    /// file is open here, else at once.
    pub async fn truncate(&self, ino: Ino, size: u64) -> Result<(), Errno> {
        todo!()
    }

    /// `fallocate(2)`: mode 0 and `KEEP_SIZE` promise nothing about space, `PUNCH_HOLE` and `ZERO_RANGE` make
    /// zeros; other modes are `EOPNOTSUPP`.
    pub async fn allocate(&self, handle: HandleId, offset: u64, len: u64, mode: i32) -> Result<(), Errno> {
        todo!()
    }

    /// `lseek(2)` for `SEEK_DATA` and `SEEK_HOLE`.
    pub async fn seek(&self, handle: HandleId, offset: i64, whence: i32) -> Result<i64, Errno> {
        todo!()
    }

    /// `copy_file_range(2)`; whole extents are shared, not copied.
    pub async fn copy_range(
        &self,
        from: HandleId,
        from_offset: u64,
        to: HandleId,
        to_offset: u64,
        len: u64,
    ) -> Result<u64, Errno> {
        todo!()
    }

    /// The inode behind a handle.
    pub fn handle_ino(&self, handle: HandleId) -> Result<Ino, Errno> {
        todo!()
    }

    /// Whether some handle of this machine has it open.
    pub fn is_open(&self, ino: Ino) -> bool {
        todo!()
    }

    /// A name of `ino` went: if that was the last, by an op of this peer, and it is not open here, it is reaped.
    pub fn note_unlinked(&self, ino: Ino) {
        todo!()
    }

    /// To be called just before times are set by an op: an uncommitted write shall not change them afterwards.
    pub fn note_times(&self, ino: Ino, mtime: Option<WallTime>) {
        todo!()
    }

    /// Commits all files; the ones that could not be, with why.
    pub async fn flush_all(&self, durable: bool) -> Result<(), Vec<(Ino, Errno)>> {
        todo!()
    }

    /// Waits until every connected peer has this peer's ops up to `seq`.
    pub async fn settle(&self, seq: u64) -> Result<(), Errno> {
        self.inner.control.settle(seq, false).await
    }

    /// Forgets every cached block.
    pub fn drop_caches(&self) {
        todo!()
    }

    /// Another machine changed the content of `ino`.
    pub fn invalidated(&self, ino: Ino) {
        todo!()
    }
}
