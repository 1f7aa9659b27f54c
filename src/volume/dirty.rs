//! What was written to a file and is not in the namespace yet: pieces laid over the file's extents.

use super::ports::Errno;
use crate::namespace::{BLOCK_BYTES, INLINE_BYTES, NewBlock};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

/// Bytes of a chunk: dirty bytes are gathered within one, so that a block is never longer.
pub(super) const CHUNK: u64 = BLOCK_BYTES as u64;

/// A full chunk's tail at least this long is stored at once; a shorter one waits for its neighbours.
const EARLY: usize = 256 << 10;

/// Bytes of the budget for dirty data; given back when dropped.
#[derive(Debug)]
pub(super) struct Reserved {
    budget: Arc<Semaphore>,
    bytes: usize,
}

impl Reserved {
    pub fn new(budget: Arc<Semaphore>, bytes: usize) -> Reserved {
        Reserved { budget, bytes }
    }

    /// Passes the permits on to whoever counts them from now on.
    pub fn keep(mut self) -> usize {
        std::mem::take(&mut self.bytes)
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.budget.add_permits(self.bytes);
    }
}

/// Where a run of bytes on its way to the shards got to.
#[derive(Clone, Debug)]
pub(super) enum Progress {
    Running,
    Stored,
    Failed(Errno),
}

/// A run of bytes that is being hashed, encoded and put.
#[derive(Debug)]
pub(super) struct Job {
    pub offset: u64,
    pub bytes: Bytes,
    pub progress: Arc<watch::Sender<Progress>>,
    /// Held for as long as the bytes are.
    pub _reserved: Reserved,
}

/// What a job's bytes became: `len` of them from `start` on are at `at` in the block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    pub start: usize,
    pub len: usize,
    pub block: NewBlock,
    pub at: u32,
    /// When this writer put it; otherwise it was found stored already.
    pub put: Option<Instant>,
}

/// What a piece is made of.
#[derive(Clone, Debug)]
pub(super) enum Content {
    /// Still growing.
    Dirty(Vec<u8>),
    /// On its way.
    Storing { job: Arc<Job>, at: usize },
    /// Stored; an op has yet to name it.
    Stored { block: NewBlock, at: u32, put: Option<Instant> },
    /// Zeros over whatever the namespace has there.
    Hole,
}

#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub len: u64,
    pub content: Content,
    /// Part of the op that is being made.
    pub named: bool,
}

/// The pieces of one file by offset. They never overlap; between them the namespace shows through.
#[derive(Debug, Default)]
pub(super) struct Overlay {
    pieces: BTreeMap<u64, Piece>,
    /// Bytes in `Content::Dirty`.
    dirty: usize,
}

impl Overlay {
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    pub fn dirty_bytes(&self) -> usize {
        self.dirty
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = (u64, &mut Piece)> {
        self.pieces.iter_mut().map(|(offset, piece)| (*offset, piece))
    }

    /// The pieces that overlap `[from, to)`, ascending, unclipped.
    pub fn range(&self, from: u64, to: u64) -> impl Iterator<Item = (u64, &Piece)> {
        let first = self.pieces.range(..from).next_back().filter(|(at, piece)| *at + piece.len > from && from < to);
        first.into_iter().chain(self.pieces.range(from..to.max(from))).map(|(at, piece)| (*at, piece))
    }

    fn insert(&mut self, offset: u64, len: u64, content: Content) {
        if len > 0 {
            if let Content::Dirty(bytes) = &content {
                self.dirty += bytes.len();
            }
            self.pieces.insert(offset, Piece { len, content, named: false });
        }
    }

    fn remove(&mut self, offset: u64) -> Option<Piece> {
        let piece = self.pieces.remove(&offset)?;
        if let Content::Dirty(bytes) = &piece.content {
            self.dirty -= bytes.len();
        }
        Some(piece)
    }

    /// Takes away every piece, or part of one, in `[from, to)`.
    fn cut(&mut self, from: u64, to: u64) {
        let hit: Vec<u64> = self.range(from, to).map(|(at, _)| at).collect();
        for at in hit {
            let Some(Piece { len, content, named }) = self.remove(at) else { continue };
            let end = at + len;
            let (left, right) = (from.saturating_sub(at), end.saturating_sub(to));
            let skip = len - right;
            let (head, tail) = match content {
                Content::Dirty(mut bytes) => {
                    let tail = if right > 0 { bytes[skip as usize..].to_vec() } else { Vec::new() };
                    bytes.truncate(left as usize);
                    (Content::Dirty(bytes), Content::Dirty(tail))
                }
                Content::Storing { job, at } => {
                    (Content::Storing { job: job.clone(), at }, Content::Storing { job, at: at + skip as usize })
                }
                Content::Stored { block, at, put } => {
                    (Content::Stored { block, at, put }, Content::Stored { block, at: at + skip as u32, put })
                }
                Content::Hole => (Content::Hole, Content::Hole),
            };
            self.insert(at, left, head);
            self.insert(to, right, tail);
            for kept in [at, to] {
                if let Some(piece) = self.pieces.get_mut(&kept) {
                    piece.named |= named && (kept == at && left > 0 || kept == to && right > 0);
                }
            }
        }
    }

    /// Lays bytes over `[offset, offset + data.len())`.
    pub fn write(&mut self, mut offset: u64, mut data: &[u8]) {
        while !data.is_empty() {
            let room = (CHUNK - offset % CHUNK) as usize;
            let (now, later) = data.split_at(room.min(data.len()));
            self.write_in_chunk(offset, now);
            offset += now.len() as u64;
            data = later;
        }
    }

    fn write_in_chunk(&mut self, offset: u64, data: &[u8]) {
        let end = offset + data.len() as u64;
        let chunk_end = offset - offset % CHUNK + CHUNK;
        let left = self.pieces.range(..=offset).next_back().map(|(at, piece)| (*at, piece.len));
        let grows = left.filter(|(at, len)| at / CHUNK == offset / CHUNK && at + len >= offset);
        let dirty_left = grows.filter(|(at, _)| matches!(self.pieces[at].content, Content::Dirty(_)));
        let Some((at, len)) = dirty_left else {
            self.cut(offset, end);
            self.insert(offset, data.len() as u64, Content::Dirty(data.to_vec()));
            self.join_right(offset);
            return;
        };
        let old_end = at + len;
        if end > old_end {
            self.cut(old_end, end);
        }
        if let Some(Piece { len, content: Content::Dirty(bytes), named }) = self.pieces.get_mut(&at) {
            let from = (offset - at) as usize;
            let over = data.len().min(bytes.len() - from);
            bytes[from..from + over].copy_from_slice(&data[..over]);
            let more = &data[over..];
            if bytes.len() + more.len() > bytes.capacity() && bytes.len() >= 64 << 10 {
                // A piece this long will most likely fill its chunk: no more copies on the way.
                bytes.reserve_exact((chunk_end - at) as usize - bytes.len());
            }
            bytes.extend_from_slice(more);
            *len = bytes.len() as u64;
            *named = false;
            self.dirty += more.len();
        }
        self.join_right(at);
    }

    /// Joins the dirty piece at `at` with a dirty one that follows it in the same chunk.
    fn join_right(&mut self, at: u64) {
        let Some(end) = self.pieces.get(&at).map(|piece| at + piece.len) else { return };
        let follows = |piece: &Piece| matches!(piece.content, Content::Dirty(_));
        if end % CHUNK == 0 || !self.pieces.get(&end).is_some_and(follows) {
            return;
        }
        if let Some(Piece { content: Content::Dirty(tail), .. }) = self.remove(end)
            && let Some(Piece { len, content: Content::Dirty(bytes), named }) = self.pieces.get_mut(&at)
        {
            bytes.extend_from_slice(&tail);
            *len = bytes.len() as u64;
            *named = false;
            self.dirty += tail.len();
        }
    }

    /// Zeros in `[from, to)`, whatever the namespace has there.
    pub fn punch(&mut self, from: u64, to: u64) {
        if from < to {
            self.cut(from, to);
            self.insert(from, to - from, Content::Hole);
        }
    }

    /// Splits holes where `at` says, given a hole's range, until it has nothing to say.
    pub fn split_holes(&mut self, at: impl Fn(u64, u64) -> Option<u64>) {
        let holes = self.pieces.iter().filter(|(_, piece)| matches!(piece.content, Content::Hole));
        let holes: Vec<(u64, u64)> = holes.map(|(offset, piece)| (*offset, offset + piece.len)).collect();
        for (mut from, to) in holes {
            while let Some(middle) = at(from, to).filter(|middle| from < *middle && *middle < to) {
                self.punch(from, middle);
                self.punch(middle, to);
                from = middle;
            }
        }
    }

    /// Part of a block that is stored already, at `offset`.
    pub fn share(&mut self, offset: u64, len: u32, block: NewBlock, at: u32) {
        self.cut(offset, offset + u64::from(len));
        self.insert(offset, u64::from(len), Content::Stored { block, at, put: None });
    }

    /// Turns dirty pieces too long for an op into jobs, made by `job` from offset and bytes. `all`: every one;
    /// else only those at the end of their chunk.
    pub fn seal(
        &mut self,
        from: u64,
        to: u64,
        all: bool,
        mut job: impl FnMut(u64, Bytes) -> Arc<Job>,
    ) -> Vec<Arc<Job>> {
        let ready = |(at, piece): (u64, &Piece)| match &piece.content {
            Content::Dirty(bytes) if bytes.len() > INLINE_BYTES => {
                let full = (at + piece.len) % CHUNK == 0 && (at % CHUNK == 0 || bytes.len() >= EARLY);
                (all || full).then_some(at)
            }
            _ => None,
        };
        let offsets: Vec<u64> = self.range(from, to).filter_map(ready).collect();
        let mut jobs = Vec::with_capacity(offsets.len());
        for offset in offsets {
            if let Some(Piece { len, content: Content::Dirty(mut bytes), .. }) = self.remove(offset) {
                if bytes.capacity() > bytes.len() + bytes.len() / 4 {
                    bytes.shrink_to_fit();
                }
                let job = job(offset, Bytes::from(bytes));
                self.insert(offset, len, Content::Storing { job: job.clone(), at: 0 });
                jobs.push(job);
            }
        }
        jobs
    }

    /// The job's bytes are stored: what is left of it in the file is that now.
    pub fn stored(&mut self, job: &Arc<Job>, runs: &[Run]) {
        let end = job.offset + job.bytes.len() as u64;
        let mine = |piece: &Piece| matches!(&piece.content, Content::Storing { job: one, .. } if Arc::ptr_eq(one, job));
        let hit: Vec<u64> = self.range(job.offset, end).filter(|(_, piece)| mine(piece)).map(|(at, _)| at).collect();
        for offset in hit {
            let Some(Piece { len, content: Content::Storing { at, .. }, .. }) = self.remove(offset) else { continue };
            for run in runs {
                let from = run.start.max(at);
                let to = (run.start + run.len).min(at + len as usize);
                if from < to {
                    let inside = run.at + (from - run.start) as u32;
                    let content = Content::Stored { block: run.block, at: inside, put: run.put };
                    self.insert(offset + (from - at) as u64, (to - from) as u64, content);
                }
            }
        }
    }

    /// The jobs some piece still waits for.
    pub fn jobs(&self) -> Vec<Arc<Job>> {
        let mut jobs: Vec<Arc<Job>> = Vec::new();
        for piece in self.pieces.values() {
            if let Content::Storing { job, .. } = &piece.content
                && !jobs.iter().any(|one| Arc::ptr_eq(one, job))
            {
                jobs.push(job.clone());
            }
        }
        jobs
    }

    /// Bytes held in memory, for tests.
    #[cfg(test)]
    pub fn memory(&self) -> usize {
        self.dirty + self.jobs().iter().map(|job| job.bytes.len()).sum::<usize>()
    }

    /// Forgets the pieces the op just made has named.
    pub fn drop_named(&mut self) {
        let named: Vec<u64> = self.pieces.iter().filter(|(_, piece)| piece.named).map(|(at, _)| *at).collect();
        for offset in named {
            self.remove(offset);
        }
    }

    /// The op was not made after all.
    pub fn unname(&mut self) {
        self.pieces.values_mut().for_each(|piece| piece.named = false);
    }

    /// The chunks with dirty bytes.
    pub fn dirty_chunks(&self) -> Vec<u64> {
        let dirty = self.pieces.iter().filter(|(_, piece)| matches!(piece.content, Content::Dirty(_)));
        let mut chunks: Vec<u64> = dirty.map(|(at, _)| at - at % CHUNK).collect();
        chunks.dedup();
        chunks
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What the overlay shows over a base of 0xff; `None` where the base shows through.
    fn view(overlay: &Overlay, len: usize) -> Vec<Option<u8>> {
        let mut view = vec![None; len];
        for (at, piece) in overlay.range(0, len as u64) {
            for i in 0..piece.len as usize {
                let byte = match &piece.content {
                    Content::Dirty(bytes) => bytes[i],
                    Content::Storing { job, at } => job.bytes[at + i],
                    Content::Stored { .. } => unreachable!("nothing is stored here"),
                    Content::Hole => 0,
                };
                let at = at as usize + i;
                if at < len {
                    assert!(view[at].is_none(), "pieces overlap at {at}");
                    view[at] = Some(byte);
                }
            }
        }
        view
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
        #[test]
        fn pieces_show_what_was_laid_last(
            steps in proptest::collection::vec((0u8..4, 0u64..3 * CHUNK, 1usize..400_000, any::<u8>()), 1..24),
        ) {
            let len = 4 * CHUNK as usize;
            let mut overlay = Overlay::default();
            let mut model: Vec<Option<u8>> = vec![None; len];
            let budget = Arc::new(Semaphore::new(0));
            for (kind, offset, run, byte) in steps {
                let to = (offset as usize + run).min(len);
                match kind {
                    0 | 1 => {
                        overlay.write(offset, &vec![byte; to - offset as usize]);
                        model[offset as usize..to].fill(Some(byte));
                    }
                    2 => {
                        overlay.punch(offset, to as u64);
                        model[offset as usize..to].fill(Some(0));
                    }
                    _ => {
                        overlay.seal(0, u64::MAX, byte % 2 == 0, |offset, bytes| {
                            let reserved = Reserved::new(budget.clone(), 0);
                            Arc::new(Job { offset, bytes, progress: Arc::new(watch::Sender::new(Progress::Running)), _reserved: reserved })
                        });
                    }
                }
                let dirty: usize = overlay.pieces.values().filter_map(|piece| match &piece.content {
                    Content::Dirty(bytes) => { assert_eq!(bytes.len() as u64, piece.len); Some(bytes.len()) }
                    _ => None,
                }).sum();
                prop_assert_eq!(dirty, overlay.dirty_bytes());
            }
            prop_assert!(view(&overlay, len) == model);
        }
    }
}
