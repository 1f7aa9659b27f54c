//! The store of shards: one behind the other in volumes, an index of all of them in memory.
//!
//! The index is rebuilt at every start from the headers alone, so there is nothing to keep in step with the
//! volumes. Every byte is checked when it is read; what fails is set aside and not served again. The disk is
//! used on blocking threads, a few at a time, one hop a call.
//!
//! Not a file a shard: making one costs several times the write itself where many files were deleted before
//! (ext4 walks past their inodes for minutes), and a sync has to wait for each of them.

mod aside;
mod compact;
mod header;
mod scan;
mod sync;
#[cfg(test)]
mod tests;
mod volumes;

pub use header::CODE;

use super::error::StoreError;
use super::sys;
use crate::id::{BlockName, PeerTag};
use crate::policy::Geometry;
use crate::volume::ports::{BoxFuture, Shard, ShardError, ShardId, ShardStore, StoreUsage};
use header::{Form, HEADER, Header};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::fs::DirBuilder;
use std::io;
use std::ops::Bound;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use volumes::{Spot, Volumes};

/// Calls that may be writing, and calls that may be reading, at the same time; more wait for their turn.
const WRITERS: usize = 4;
const READERS: usize = 8;
/// With so many bytes written and not yet durable, they are made so without anybody asking.
const CROWDED: u64 = 256 << 20;

/// How a store is to behave.
#[derive(Clone, Copy, Debug)]
pub struct ShardsOptions {
    /// This peer, for the error that says whose store is full.
    pub me: PeerTag,
    /// Bytes of the file system that are left to others; `None`: [`default_reserve`].
    pub reserve: Option<u64>,
}

/// The reserve of who chose none: 1 % of the file system, at least 256 MiB and at most 16 GiB, and never more
/// than an eighth of a small one.
pub fn default_reserve(capacity: u64) -> u64 {
    (capacity / 100).clamp(256 << 20, 16 << 30).min(capacity / 8)
}

/// The shards of one home.
pub struct Shards {
    store: Arc<Store>,
    writers: Arc<Semaphore>,
    readers: Arc<Semaphore>,
    /// Whoever syncs.
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// What the blocking threads share.
struct Store {
    root: PathBuf,
    aside: PathBuf,
    /// The file system it lies on: see [`StoreUsage::disk`].
    disk: u64,
    options: ShardsOptions,
    state: Mutex<State>,
}

struct State {
    /// In order, so that a block's shards are found together.
    index: BTreeMap<ShardId, Entry>,
    volumes: Volumes,
    unsynced: sync::Unsynced,
    recent: Recent,
    /// Why nothing can be promised any more.
    stopped: Option<String>,
}

/// What the index knows of a shard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Entry {
    form: Form,
    spot: Spot,
}

impl Shards {
    /// Opens the store in `root`, making it if there is none. Reads every name and the headers in volumes: call it
    /// off the async workers.
    pub fn open(root: &Path, options: ShardsOptions) -> Result<Shards, StoreError> {
        let (aside, volumes) = (root.join("aside"), root.join("volumes"));
        for directory in [root, &aside, &volumes] {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
            made.map_err(StoreError::io("create", directory))?;
        }
        // What becomes durable in them is of no use under names that are not.
        sys::sync_directory(root).and_then(|()| sys::sync_name(root)).map_err(StoreError::io("write", root))?;
        scan::set_aside_strangers(root, &aside)?;
        let mut volumes = Volumes::new(volumes);
        let mut found = scan::Found::default();
        scan::scan_volumes(&mut volumes, &aside, &mut found)?;
        let (unsynced, stopped) = (sync::Unsynced::default(), None);
        let state = State { index: found.index, volumes, unsynced, recent: Recent::new(), stopped };
        let disk = sys::file_system(root);
        let store = Store { root: root.to_owned(), aside, disk, options, state: Mutex::new(state) };
        for (id, entry) in found.displaced {
            let buried = store.state.lock().volumes.bury(entry.spot, id, entry.form);
            buried.map_err(StoreError::io("clean up", root))?;
        }
        store.state.lock().volumes.delete_empty().map_err(StoreError::io("clean up", root))?;
        Ok(Shards {
            store: Arc::new(store),
            writers: Arc::new(Semaphore::new(WRITERS)),
            readers: Arc::new(Semaphore::new(READERS)),
            turn: Arc::default(),
        })
    }

    /// Whether the store has the shard. Looks at the index only.
    pub fn contains(&self, id: ShardId) -> bool {
        self.store.state.lock().index.contains_key(&id)
    }

    /// Every shard there is now, in no order.
    pub fn list(&self) -> Vec<ShardId> {
        self.store.state.lock().index.keys().copied().collect()
    }
}

/// When shards were last put, for those where it was not long ago.
struct Recent {
    opened: Instant,
    put: HashMap<ShardId, Instant>,
}

/// Shards that were put longer ago than this all count as old.
const OLD: Duration = Duration::from_secs(600);

impl Recent {
    fn new() -> Recent {
        Recent { opened: Instant::now(), put: HashMap::new() }
    }

    fn note(&mut self, id: ShardId) {
        self.put.insert(id, Instant::now());
    }

    /// What was here at the start may have been put just before.
    fn age(&self, id: &ShardId) -> Duration {
        self.put.get(id).unwrap_or(&self.opened).elapsed()
    }

    fn forget_old(&mut self) {
        self.put.retain(|_, at| at.elapsed() < OLD);
        self.put.shrink_to(self.put.len() * 2);
    }
}

impl ShardStore for Shards {
    /// The bytes are stored as they come: who brought them has checked them against their checksum, and whoever
    /// reads them checks again.
    fn put(&self, shard: Shard) -> BoxFuture<'_, Result<(), ShardError>> {
        Box::pin(async move {
            let crowded = on_disk(&self.writers, &self.store, move |store| store.put(&shard)).await?;
            if crowded {
                let (store, turn) = (self.store.clone(), self.turn.clone());
                tokio::spawn(async move {
                    if let Err(error) = sync::sync(store, turn).await {
                        tracing::error!("{error}");
                    }
                });
            }
            Ok(())
        })
    }

    fn get(&self, id: ShardId) -> BoxFuture<'_, Result<Shard, ShardError>> {
        Box::pin(on_disk(&self.readers, &self.store, move |store| store.get(id)))
    }

    fn sync(&self) -> BoxFuture<'_, Result<(), ShardError>> {
        Box::pin(sync::sync(self.store.clone(), self.turn.clone()))
    }

    fn lacking(&self, ids: Vec<ShardId>, read: bool) -> BoxFuture<'_, Result<Vec<ShardId>, ShardError>> {
        Box::pin(async move {
            if read {
                on_disk(&self.readers, &self.store, move |store| {
                    Ok(ids.into_iter().filter(|id| store.get(*id).is_err()).collect())
                })
                .await
            } else {
                let state = self.store.state.lock();
                Ok(ids.into_iter().filter(|id| !state.index.contains_key(id)).collect())
            }
        })
    }

    fn holding(&self, block: BlockName) -> Vec<ShardId> {
        let at = |number| ShardId { block, geometry: Geometry { data: number, parity: number }, index: number };
        self.store.state.lock().index.range(at(0)..=at(u8::MAX)).map(|(id, _)| *id).collect()
    }

    fn held(&self) -> Vec<(ShardId, Duration)> {
        let mut state = self.store.state.lock();
        state.recent.forget_old();
        state.index.keys().map(|id| (*id, state.recent.age(id))).collect()
    }

    fn next(&self, after: Option<ShardId>, count: usize) -> (Vec<ShardId>, usize) {
        let state = self.store.state.lock();
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let next = state.index.range((from, Bound::Unbounded)).take(count).map(|(id, _)| *id);
        (next.collect(), state.index.len())
    }

    /// Other shards are moved together where that gives space back. After a power cut some that went may be back.
    fn remove(&self, ids: Vec<ShardId>, unless_put_within: Duration) -> BoxFuture<'_, Result<usize, ShardError>> {
        Box::pin(on_disk(&self.writers, &self.store, move |store| {
            let mut removed = 0;
            for id in ids {
                let mut state = store.state.lock();
                if state.recent.age(&id) < unless_put_within {
                    continue;
                }
                let Some(entry) = state.index.remove(&id) else { continue };
                state.volumes.bury(entry.spot, id, entry.form).map_err(|error| disk("remove", &error))?;
                removed += 1;
            }
            store.compact().map_err(|error| disk("move", &error))?;
            Ok(removed)
        }))
    }

    fn set_aside(&self) -> u64 {
        std::fs::read_dir(&self.store.aside).map_or(0, |entries| entries.count() as u64)
    }

    fn damaged_volumes(&self) -> u64 {
        self.store.state.lock().volumes.strange()
    }

    fn usage(&self) -> StoreUsage {
        let stored = self.store.state.lock().volumes.disk();
        match sys::space(&self.store.root) {
            Ok(space) => StoreUsage {
                stored,
                free: self.store.above_reserve(&space),
                capacity: space.capacity,
                disk: self.store.disk,
            },
            Err(_) => StoreUsage { stored, free: 0, capacity: 0, disk: self.store.disk },
        }
    }
}

/// Runs `work` on a blocking thread when it is its turn. The turn lasts as long as the work, even if the caller
/// stops waiting.
async fn on_disk<T: Send + 'static>(
    turns: &Arc<Semaphore>,
    store: &Arc<Store>,
    work: impl FnOnce(&Store) -> Result<T, ShardError> + Send + 'static,
) -> Result<T, ShardError> {
    let closed = |_| ShardError::Disk("the store is closed".to_owned());
    let turn = turns.clone().acquire_owned().await.map_err(closed)?;
    let store = store.clone();
    let done = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        work(&store)
    });
    done.await.unwrap_or_else(|error| Err(ShardError::Disk(format!("the work on it was given up: {error}"))))
}

fn disk(doing: &str, error: &io::Error) -> ShardError {
    ShardError::Disk(format!("cannot {doing} a shard: {error}"))
}

impl Store {
    fn above_reserve(&self, space: &sys::Space) -> u64 {
        let reserve = self.options.reserve.unwrap_or_else(|| default_reserve(space.capacity));
        space.available.saturating_sub(reserve)
    }

    /// Whether so much is not durable that it should be.
    fn put(&self, shard: &Shard) -> Result<bool, ShardError> {
        let (id, form) = (shard.id, Form::of(shard));
        if !form.allows(id.index) || shard.bytes.len() != form.bytes() {
            let what = "what was to be stored is no shard of its geometry".to_owned();
            return Err(ShardError::Damaged { block: id.block, index: id.index, what });
        }
        {
            let mut state = self.state.lock();
            if let Some(why) = &state.stopped {
                return Err(ShardError::Disk(why.clone()));
            }
            // Noted first: nobody takes it away between the look and the answer.
            state.recent.note(id);
            if state.index.get(&id).is_some_and(|entry| entry.form == form) {
                return Ok(false);
            }
        }
        let space = sys::space(&self.root).map_err(|error| disk("find room for", &error))?;
        if self.above_reserve(&space) < (HEADER + form.bytes()) as u64 {
            return Err(ShardError::Full { peer: self.options.me });
        }
        let spot = self.write(shard).map_err(|error| match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ShardError::Full { peer: self.options.me },
            _ => disk("write", &error),
        })?;
        let mut state = self.state.lock();
        if let Some(older) = state.index.insert(id, Entry { form, spot }) {
            state.volumes.bury(older.spot, id, older.form).map_err(|error| disk("replace", &error))?;
        }
        Ok(state.unsynced.note(spot.volume, volumes::span(&form)))
    }

    fn write(&self, shard: &Shard) -> io::Result<Spot> {
        let form = Form::of(shard);
        let (spot, record) = {
            let mut state = self.state.lock();
            let (spot, record, made) = state.volumes.reserve(&form)?;
            state.unsynced.directory |= made;
            (spot, record)
        };
        record.write(shard).inspect_err(|_| {
            // Nothing may find half of it. Where that fails too, its checksum tells.
            let _ = self.state.lock().volumes.bury(spot, shard.id, form);
        })?;
        Ok(spot)
    }

    fn get(&self, id: ShardId) -> Result<Shard, ShardError> {
        let missing = ShardError::Missing { block: id.block, index: id.index };
        // It may be replaced or removed while it is read: then what was read says nothing. A second time is
        // as unlikely as the first.
        for _ in 0..3 {
            let (entry, record) = {
                let mut state = self.state.lock();
                let Some(entry) = state.index.get(&id).copied() else { return Err(missing) };
                (entry, state.volumes.record(entry.spot))
            };
            let read = record.and_then(|record| Ok((record.read(&entry.form)?, record.place)));
            let what = match read {
                Ok((bytes, place)) => match check(&id, &entry.form, &bytes, place) {
                    Ok(()) => {
                        let Form { block_bytes, crc, .. } = entry.form;
                        let bytes = bytes::Bytes::from(bytes).slice(HEADER..);
                        return Ok(Shard { id, block_bytes, crc, bytes });
                    }
                    Err(what) => what,
                },
                Err(error) if error.raw_os_error() == Some(libc::EIO) => "the disk cannot read it",
                Err(error) if error.kind() == io::ErrorKind::NotFound => "its volume is gone",
                Err(error) => return Err(disk("read", &error)),
            };
            if self.condemn(id, entry, what) {
                return Err(ShardError::Damaged { block: id.block, index: id.index, what: what.to_owned() });
            }
        }
        Err(missing)
    }

    /// Takes a damaged shard out of service, keeping what is left of it in `aside`. False if the index has
    /// something else by now.
    fn condemn(&self, id: ShardId, entry: Entry, what: &str) -> bool {
        let mut state = self.state.lock();
        if state.index.get(&id) != Some(&entry) {
            return false;
        }
        state.index.remove(&id);
        let kept = self.copy_aside(&mut state, id, entry);
        let kept = match kept {
            Ok(kept) => format!("what is left of it is {}", kept.display()),
            Err(error) => format!("nothing of it could be kept: {error}"),
        };
        tracing::warn!("shard {} of block {} is damaged ({what}); {kept}", id.index, id.block);
        true
    }

    fn copy_aside(&self, state: &mut State, id: ShardId, entry: Entry) -> io::Result<PathBuf> {
        let to = aside::free_name(&self.aside, &format!("{}.{}.shard", id.block, id.index));
        let copied = state.volumes.record(entry.spot)?.read(&entry.form).and_then(|bytes| std::fs::write(&to, bytes));
        state.volumes.bury(entry.spot, id, entry.form)?;
        copied.map(|()| to)
    }
}

/// The bytes are the shard that the index says.
fn check(id: &ShardId, form: &Form, bytes: &[u8], place: header::Place) -> Result<(), &'static str> {
    let header = Header::decode(bytes, place)?;
    if header != (Header { id: *id, form: *form, dead: false }) {
        return Err("its header is that of another shard");
    }
    let bytes = &bytes[HEADER..];
    if bytes.len() != form.bytes() {
        return Err("it is cut short");
    }
    if crc32c::crc32c(bytes) != form.crc { Err("its bytes fail their checksum") } else { Ok(()) }
}
