//! Reading: the overlay over the namespace's extents, blocks through the cache, and ahead of sequential readers.

use super::dirty::{CHUNK, Content};
use super::ports::Errno;
use super::{HandleId, Volume};
use crate::id::{BlockName, GroupId, Ino};
use crate::namespace::{Namespace, NewBlock, Source};
use bytes::{Bytes, BytesMut};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::timeout;

/// A run of a file's bytes as a reader finds it.
#[derive(Clone, Debug)]
pub(super) enum Part {
    Zeros { at: u64, len: u64 },
    Bytes { at: u64, bytes: Bytes },
    Block { at: u64, len: u64, block: NewBlock, inside: u32 },
}

impl Part {
    pub fn at(&self) -> u64 {
        match self {
            Part::Zeros { at, .. } | Part::Bytes { at, .. } | Part::Block { at, .. } => *at,
        }
    }

    pub fn len(&self) -> u64 {
        match self {
            Part::Zeros { len, .. } | Part::Block { len, .. } => *len,
            Part::Bytes { bytes, .. } => bytes.len() as u64,
        }
    }

    pub fn end(&self) -> u64 {
        self.at() + self.len()
    }
}

/// How a handle is read.
#[derive(Debug, Default)]
pub(super) struct Pattern {
    /// Where a sequential reader goes on.
    next: u64,
    /// Up to where blocks have been asked for.
    ahead: u64,
    /// Blocks to be ahead by; grows while the reader goes on.
    window: u64,
}

/// The result of a fetch, as those who wait for it see it.
pub(super) type Fetched = Option<Result<Bytes, Errno>>;

/// The most bytes one read gives; the kernel asks for far less at once.
const READ: u64 = 8 * CHUNK;

static ZEROS: [u8; CHUNK as usize] = [0; CHUNK as usize];

impl Volume {
    pub async fn read(&self, handle: HandleId, offset: u64, len: u32) -> Result<Bytes, Errno> {
        let handle = self.handle(handle)?;
        if !handle.flags.read {
            return Err(Errno(libc::EBADF));
        }
        self.inner.pace.people();
        let ino = handle.file.ino;
        let end = offset.saturating_add(u64::from(len).min(READ));
        self.read_ahead(ino, &mut handle.pattern.lock(), offset, end);
        let parts = self.parts(ino, offset, end)?;
        let Some(end) = parts.last().map(Part::end) else { return Ok(Bytes::new()) };
        self.assemble(parts, offset, end).await
    }

    /// What `[from, to)` of a file is made of, as far as the file goes: one moment's view, without gaps.
    pub(super) fn parts(&self, ino: Ino, from: u64, to: u64) -> Result<Vec<Part>, Errno> {
        let file = self.known_file(ino);
        let namespace = self.inner.control.namespace();
        let inode = namespace.inode(ino).ok_or(Errno(libc::ESTALE))?;
        let state = file.as_ref().map(|file| file.state.lock());
        let size = state.as_ref().and_then(|state| state.size()).unwrap_or(inode.size);
        let to = to.min(size);
        let mut parts = Vec::new();
        let mut at = from;
        if let Some(state) = &state {
            for (offset, piece) in state.overlay.range(from, to) {
                let (start, end) = (offset.max(from), (offset + piece.len).min(to));
                settled(&namespace, ino, at, start, &mut parts);
                let (skip, len) = ((start - offset) as usize, end - start);
                let run = skip..skip + len as usize;
                parts.push(match &piece.content {
                    Content::Dirty(bytes) => Part::Bytes { at: start, bytes: Bytes::copy_from_slice(&bytes[run]) },
                    Content::Storing { job, at } => {
                        Part::Bytes { at: start, bytes: job.bytes.slice(at + run.start..at + run.end) }
                    }
                    Content::Stored { block, at, .. } => {
                        Part::Block { at: start, len, block: *block, inside: at + skip as u32 }
                    }
                    Content::Hole => Part::Zeros { at: start, len },
                });
                at = end;
            }
        }
        settled(&namespace, ino, at, to, &mut parts);
        Ok(parts)
    }

    /// Runs of `[from, to)`: start, end, and whether there is data (or a hole).
    pub(super) fn layout(&self, ino: Ino, from: u64, to: u64) -> Result<Vec<(u64, u64, bool)>, Errno> {
        let file = self.known_file(ino);
        let namespace = self.inner.control.namespace();
        let state = file.as_ref().map(|file| file.state.lock());
        let mut runs = Vec::new();
        let under = |from: u64, to: u64, runs: &mut Vec<(u64, u64, bool)>| {
            let mut parts = Vec::new();
            settled(&namespace, ino, from, to, &mut parts);
            runs.extend(parts.iter().map(|part| (part.at(), part.end(), !matches!(part, Part::Zeros { .. }))));
        };
        let mut at = from;
        if let Some(state) = &state {
            for (offset, piece) in state.overlay.range(from, to) {
                let (start, end) = (offset.max(from), (offset + piece.len).min(to));
                under(at, start, &mut runs);
                runs.push((start, end, !matches!(piece.content, Content::Hole)));
                at = end;
            }
        }
        under(at, to, &mut runs);
        Ok(runs)
    }

    /// The bytes of `[from, to)` out of the parts that cover it.
    pub(super) async fn assemble(&self, parts: Vec<Part>, from: u64, to: u64) -> Result<Bytes, Errno> {
        if let [part] = parts.as_slice()
            && part.len() <= CHUNK
        {
            return self.bytes_of(part).await;
        }
        for part in parts.iter().skip(1) {
            if let Part::Block { block, .. } = part
                && !self.inner.cache.has(&block.name)
            {
                self.start_fetch(*block);
            }
        }
        let mut whole = BytesMut::with_capacity((to - from) as usize);
        for part in &parts {
            debug_assert_eq!(whole.len() as u64, part.at() - from, "parts cover the range without gaps");
            match part {
                Part::Zeros { len, .. } => whole.resize(whole.len() + *len as usize, 0),
                part => whole.extend_from_slice(&self.bytes_of(part).await?),
            }
        }
        Ok(whole.freeze())
    }

    /// One part's bytes, without a copy where that can be; zeros only up to a chunk.
    async fn bytes_of(&self, part: &Part) -> Result<Bytes, Errno> {
        match part {
            Part::Zeros { len, .. } => Ok(Bytes::from_static(&ZEROS[..*len as usize])),
            Part::Bytes { bytes, .. } => Ok(bytes.clone()),
            Part::Block { len, block, inside, .. } => {
                let bytes = self.block(*block).await?;
                let (from, to) = (*inside as usize, *inside as usize + *len as usize);
                if to > bytes.len() {
                    tracing::error!(block = %block.name, from, to, len = bytes.len(), "a file names bytes past the end of a block");
                    return Err(Errno(libc::EIO));
                }
                Ok(bytes.slice(from..to))
            }
        }
    }

    /// A block, checked against its name: from the cache, or fetched, once for all who want it now.
    pub(super) async fn block(&self, block: NewBlock) -> Result<Bytes, Errno> {
        if let Some(bytes) = self.inner.cache.get(&block.name) {
            return Ok(bytes);
        }
        let mut fetched = self.start_fetch(block);
        let done = fetched.wait_for(Option::is_some).await.map_err(|_| Errno(libc::EIO))?;
        done.clone().unwrap_or(Err(Errno(libc::EIO)))
    }

    /// Begins to fetch a block, unless that is under way.
    fn start_fetch(&self, block: NewBlock) -> watch::Receiver<Fetched> {
        let mut fetching = self.inner.fetching.lock();
        if let Some(running) = fetching.get(&block.name) {
            return running.clone();
        }
        let (sender, receiver) = watch::channel(None);
        if let Some(bytes) = self.inner.cache.get(&block.name) {
            sender.send_replace(Some(Ok(bytes)));
            return receiver;
        }
        fetching.insert(block.name, receiver.clone());
        drop(fetching);
        let volume = self.clone();
        tokio::spawn(async move {
            let _gone = Forget { volume: volume.clone(), name: block.name };
            let deadline = volume.inner.settings.read_deadline;
            let result = match timeout(deadline, volume.inner.fetches.acquire()).await {
                Ok(Ok(_slot)) => volume.fetch(block).await,
                Ok(Err(_)) => Err(Errno(libc::EIO)),
                Err(_) => {
                    tracing::error!(block = %block.name, "too many blocks were being read: no turn within {deadline:?}");
                    Err(Errno(libc::EIO))
                }
            };
            if let Ok(bytes) = &result {
                volume.inner.cache.insert(block.name, bytes.clone());
            }
            sender.send_replace(Some(result));
        });
        receiver
    }

    /// Asks for the blocks that a sequential reader will want next.
    fn read_ahead(&self, ino: Ino, pattern: &mut Pattern, from: u64, to: u64) {
        // The kernel sends a reader's requests several at once, in any order.
        let follows = from <= pattern.next.saturating_add(CHUNK) && from.saturating_add(CHUNK) >= pattern.next;
        if !follows {
            *pattern = Pattern { next: to, ahead: to, window: 0 };
            return;
        }
        let most = (self.inner.settings.read_ahead_blocks as u64).min(self.inner.settings.cache_bytes / 2 / CHUNK);
        pattern.next = pattern.next.max(to);
        let target = pattern.next.saturating_add(pattern.window * CHUNK);
        if most == 0 || target < pattern.ahead.saturating_add(CHUNK / 2) && pattern.window > 0 {
            return;
        }
        let start = pattern.ahead.max(to);
        pattern.window = (pattern.window * 2).clamp(1, most);
        pattern.ahead = pattern.next.saturating_add(pattern.window * CHUNK);
        let wanted: Vec<NewBlock> = {
            let namespace = self.inner.control.namespace();
            let extents = namespace.extents(ino, start, pattern.ahead).take(2 * most as usize);
            extents
                .filter_map(|(_, extent)| match &extent.source {
                    Source::Block { name, .. } => Some(known(&namespace, name)),
                    _ => None,
                })
                .collect()
        };
        for block in wanted {
            if self.inner.fetches.available_permits() > 0 && !self.inner.cache.has(&block.name) {
                self.start_fetch(block);
            }
        }
    }

    /// For how long nobody here has read or written content, but what the kernel's cache had.
    pub fn unused_for(&self) -> Duration {
        self.inner.pace.unused_for()
    }

    /// Forgets every cached block.
    pub fn drop_caches(&self) {
        self.inner.cache.clear();
        self.inner.opened.clear();
    }
}

/// Takes a fetch off the list when it ends, however it does.
struct Forget {
    volume: Volume,
    name: BlockName,
}

impl Drop for Forget {
    fn drop(&mut self) {
        self.volume.inner.fetching.lock().remove(&self.name);
    }
}

/// What the namespace has in `[from, to)`, holes included.
fn settled(namespace: &Namespace, ino: Ino, from: u64, to: u64, parts: &mut Vec<Part>) {
    let mut at = from;
    let zeros = |at: u64, to: u64, parts: &mut Vec<Part>| {
        if at < to {
            parts.push(Part::Zeros { at, len: to - at });
        }
    };
    for (offset, extent) in namespace.extents(ino, from, to) {
        let (start, end) = (offset.max(from), (offset + u64::from(extent.len)).min(to));
        zeros(at, start, parts);
        let (skip, len) = (start - offset, end - start);
        parts.push(match &extent.source {
            Source::Inline(bytes) => {
                let run = (skip as usize).min(bytes.len())..((skip + len) as usize).min(bytes.len());
                Part::Bytes { at: start, bytes: bytes.slice(run) }
            }
            Source::Block { name, at } => {
                Part::Block { at: start, len, block: known(namespace, name), inside: at.saturating_add(skip as u32) }
            }
            Source::Hole => Part::Zeros { at: start, len },
        });
        at = end;
    }
    zeros(at, to, parts);
}

/// Where a block is, as far as is known: the op that says so may not have arrived.
fn known(namespace: &Namespace, name: &BlockName) -> NewBlock {
    match namespace.block(name) {
        Some(block) => NewBlock { name: *name, group: block.group, len: block.len },
        None => NewBlock { name: *name, group: GroupId(0), len: 0 },
    }
}
