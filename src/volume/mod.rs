//! A file's life between the kernel and the shards.
//!
//! Writes are laid over the namespace's extents in memory (`dirty`); every chunk that fills up is hashed, encoded
//! and put while the file is still being written (`write`, `place`); then an op names what was stored
//! (`commit`, `flush`). Reads look through what is laid over to the extents, and fetch blocks from whoever
//! has their shards soonest (`read`, `fetch`, `cache`). What is not content is in `names`, `attributes`, `xattrs`,
//! `directory`. `heal` carries out what groups need, at the pace of `pace`.

pub mod acl;
pub mod attributes;
mod cache;
mod check;
mod commit;
mod conflicts;
pub mod directory;
mod dirty;
mod elsewhere;
mod fetch;
mod flush;
mod handle;
mod heal;
mod lease;
pub mod names;
mod orphans;
mod pace;
mod place;
pub mod ports;
mod read;
mod refuse;
mod shape;
#[doc(hidden)]
pub mod testing;
#[cfg(test)]
mod tests;
mod write;
pub mod xattrs;

use crate::erasure::Codec;
use crate::id::{BlockName, Ino};
use crate::time::{Stamp, WallTime};
use cache::BlockCache;
pub use check::ShardsFound;
use handle::{FileState, Handle};
pub use heal::{ASKED_AT_ONCE, HealingCounters};
use pace::Pace;
pub use pace::RepairBounds;
use parking_lot::Mutex;
use place::Placer;
use ports::{Control, ShardNetwork, ShardStore};
use quick_cache::sync::Cache;
use read::Fetched;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;
use tokio::sync::{Semaphore, watch};

/// The content of a share's files as this machine reads and writes it. Cheap to clone.
///
/// Call its async functions on a multi-threaded tokio runtime; the others never block for long.
#[derive(Clone)]
pub struct Volume {
    inner: Arc<Inner>,
}

struct Inner {
    control: Arc<dyn Control>,
    store: Arc<dyn ShardStore>,
    network: Arc<dyn ShardNetwork>,
    settings: VolumeSettings,
    codec: Codec,
    /// What is open or dirty. Lock order: namespace, `files`, a file's state.
    files: Mutex<HashMap<Ino, Arc<FileState>>>,
    handles: Mutex<HashMap<HandleId, Arc<Handle>>>,
    next_handle: AtomicU64,
    /// A permit a byte of dirty data.
    budget: Arc<Semaphore>,
    /// A round of commits to make room is under way.
    relieving: AtomicBool,
    stores: Semaphore,
    fetches: Semaphore,
    processors: Semaphore,
    placer: Placer,
    pace: Pace,
    healing: Arc<HealingCounters>,
    cache: BlockCache,
    fetching: Mutex<HashMap<BlockName, watch::Receiver<Fetched>>>,
    /// A permit an inode that lost its last name and may linger: see `names`.
    lingering: Arc<Semaphore>,
    /// Inodes without a name that nobody here has open, and whether a task sees to them.
    orphans: Mutex<BTreeSet<Ino>>,
    reaping: AtomicBool,
    /// The content each file had when this machine last opened it, or made it what it is.
    opened: Cache<Ino, Stamp>,
}

/// Blocks on their way to the shards at once: enough to keep every participant busy, few enough that their
/// parity shards stay small beside the dirty data.
const BLOCKS_STORED_AT_ONCE: usize = 16;

/// Blocks on their way from the shards at once.
const BLOCKS_FETCHED_AT_ONCE: usize = 24;

/// Files whose content at the last open is remembered.
const OPENED_REMEMBERED: usize = 1 << 16;

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
    /// What repair may take of this machine's network.
    pub repair: RepairBounds,
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
            repair: RepairBounds::default(),
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

impl Volume {
    /// A volume over its ports. Nothing is read or written until it is asked to.
    pub fn new(
        control: Arc<dyn Control>,
        store: Arc<dyn ShardStore>,
        network: Arc<dyn ShardNetwork>,
        settings: VolumeSettings,
    ) -> Volume {
        let processors = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        // Tokio's semaphores count no further; nor does memory.
        let dirty = usize::try_from(settings.dirty_bytes).unwrap_or(usize::MAX).clamp(1, Semaphore::MAX_PERMITS);
        Volume {
            inner: Arc::new(Inner {
                control,
                store,
                network,
                codec: Codec::new(),
                files: Mutex::default(),
                handles: Mutex::default(),
                next_handle: AtomicU64::new(1),
                budget: Arc::new(Semaphore::new(dirty)),
                relieving: AtomicBool::new(false),
                stores: Semaphore::new(BLOCKS_STORED_AT_ONCE),
                fetches: Semaphore::new(BLOCKS_FETCHED_AT_ONCE),
                processors: Semaphore::new(processors),
                placer: Placer::default(),
                pace: Pace::new(settings.repair),
                healing: Arc::default(),
                cache: BlockCache::new(settings.cache_bytes),
                fetching: Mutex::default(),
                lingering: Arc::new(Semaphore::new(names::LINGERING)),
                orphans: Mutex::default(),
                reaping: AtomicBool::new(false),
                opened: Cache::new(OPENED_REMEMBERED),
                settings: VolumeSettings { dirty_bytes: dirty as u64, ..settings },
            }),
        }
    }

    /// The control plane this volume works over.
    pub fn control(&self) -> &dyn Control {
        &*self.inner.control
    }

    /// Bytes written here and not stored yet, over all files.
    pub fn dirty_bytes(&self) -> u64 {
        self.inner.settings.dirty_bytes.saturating_sub(self.inner.budget.available_permits() as u64)
    }
}
