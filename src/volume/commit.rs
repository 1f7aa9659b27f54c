//! Committing: the op that names what was stored. No op names a block before its shards are stored.

use super::Volume;
use super::dirty::{CHUNK, Content, Progress};
use super::handle::{FileContent, FileState};
use super::place::Placer;
use super::ports::{Errno, Planned, Refusal};
use super::read::Part;
use crate::id::{BlockName, GroupId, Ino};
use crate::namespace::{Change, Extent, INLINE_BYTES, Namespace, NewBlock, Source, WRITE_EXTENTS};
use crate::time::Stamp;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// More extents than this in one chunk are merged when it is written to again.
const SCATTERED: usize = 16;

/// Inline bytes in one op. As many full inline extents as an op may have would not fit a control message (4 MiB), nor
/// a piece of a snapshot (1 MiB): such an op could be sent to nobody.
const INLINE_IN_OP: usize = 256 << 10;

/// A block that was put longer ago than this is put again before an op names it. Its participants let go of what
/// nobody names only after twice that, so that none of them does so just before the name comes.
const NAMED_WITHIN: Duration = Duration::from_secs(30);

/// How the making of one op went.
#[derive(Default)]
struct Made {
    /// There is more than one op can say.
    more: bool,
    /// Blocks found stored earlier that nobody uses any more, or put too long ago: to be stored again first.
    gone: Vec<NewBlock>,
    /// Blocks stored here that the namespace already has in a group of another writer.
    elsewhere: Vec<GroupId>,
    changes: u64,
    /// It was written under a lease that went elsewhere, and others wrote under that since.
    overtaken: bool,
    /// What was built on, if it is what everybody sees: nobody wrote in between.
    followed: Option<Stamp>,
}

impl Volume {
    /// Stores and commits what is dirty in a file now. Bytes written meanwhile may stay for the next time.
    pub(super) async fn commit(&self, file: &Arc<FileState>) -> Result<(), Errno> {
        self.commit_stored(file, false).await
    }

    /// Likewise, and the shards are durable before an op names them: the op may reach the disks at once, and the power
    /// may fail everywhere the moment after. What it replaces is still there until then.
    pub(super) async fn commit_durable(&self, file: &Arc<FileState>) -> Result<(), Errno> {
        self.commit_stored(file, true).await
    }

    async fn commit_stored(&self, file: &Arc<FileState>, durable: bool) -> Result<(), Errno> {
        let _turn = file.turn.lock().await;
        loop {
            {
                let state = file.state.lock();
                if state.unsaved.is_none() {
                    // What could not be stored, and was given up.
                    return state.error.map_or(Ok(()), Err);
                }
            }
            self.gather(file).await;
            self.store_all(file).await?;
            if durable {
                self.sync_shards().await?;
            }
            let mut made = Made::default();
            let changed = self.inner.control.change_under(&mut |namespace| {
                made = Made::default();
                self.may_write(namespace, file.ino)?;
                let mut state = file.state.lock();
                let changes = make(namespace, &self.inner.placer, file.ino, &mut state, &mut made);
                let changes = changes.inspect_err(|_| state.overlay.unname())?;
                Ok(Planned { leases: vec![file.ino], unsaved: true, changes })
            });
            match changed {
                Ok(seq) => self.committed(file, seq, &made),
                Err(Refusal::Errno(errno)) => {
                    if !made.gone.is_empty() {
                        self.store_gone(file, &made.gone).await?;
                        continue;
                    }
                    if made.overtaken {
                        tracing::error!(ino = %file.ino, "this machine was cut off, and another wrote the file meanwhile: what was written here since its last close or fsync is lost");
                    }
                    if made.overtaken || errno.0 == libc::ESTALE {
                        self.forget_content(file);
                        file.state.lock().error = made.overtaken.then_some(errno);
                    }
                    if errno.0 == libc::EROFS {
                        let path = self.inner.control.namespace().path(file.ino).unwrap_or_default();
                        let path = String::from_utf8_lossy(&path);
                        tracing::warn!(ino = %file.ino, %path, "what was written is not stored while this side of the partition is no majority");
                    }
                    return Err(errno);
                }
                Err(refusal) => {
                    file.state.lock().overlay.unname();
                    self.overcome(refusal).await?;
                    continue;
                }
            }
            if !made.more {
                return Ok(());
            }
        }
    }

    /// The op is made: what it names is the namespace's now.
    fn committed(&self, file: &FileState, seq: u64, made: &Made) {
        let me = self.inner.control.me();
        let namespace = self.inner.control.namespace();
        // Of the same block in two groups the first counts: a reader looks there, so that is what fsync makes durable.
        for id in &made.elsewhere {
            if let Some(group) = namespace.group(*id) {
                self.note_group_unsynced(*id, group);
            }
        }
        let inode = namespace.inode(file.ino);
        let mut state = file.state.lock();
        state.overlay.drop_named();
        self.balance(&mut state, 0);
        state.seq = state.seq.max(seq);
        let rest = made.more || !state.overlay.is_empty();
        match (&mut state.unsaved, inode) {
            (Some(unsaved), Some(inode)) if rest || unsaved.changes != made.changes => {
                unsaved.began = inode.content;
            }
            (unsaved, _) => {
                *unsaved = None;
                state.error = None;
                state.lost = false;
            }
        }
        // The kernel's pages hold what was written through it: they stay right if they were before.
        let opened = &self.inner.opened;
        if let Some(inode) = inode
            && made.followed.is_some()
            && opened.get(&file.ino) == made.followed
            && inode.content.author.peer() == me
        {
            opened.insert(file.ino, inode.content);
        }
    }

    /// Has all dirty bytes on their way, and waits until they are stored.
    async fn store_all(&self, file: &Arc<FileState>) -> Result<(), Errno> {
        let (launch, waiting): (Vec<_>, Vec<_>) = {
            let mut state = file.state.lock();
            let fresh = self.seal(&mut state, 0, u64::MAX, true);
            let jobs = state.overlay.jobs();
            let failed = jobs.iter().filter(|job| matches!(*job.progress.borrow(), Progress::Failed(_))).cloned();
            (fresh.into_iter().chain(failed).collect(), jobs.iter().map(|job| job.progress.subscribe()).collect())
        };
        launch.into_iter().for_each(|job| self.launch(file, job));
        let mut result = Ok(());
        for mut progress in waiting {
            let settled = progress.wait_for(|progress| !matches!(progress, Progress::Running)).await;
            match settled.as_deref() {
                Ok(Progress::Stored) => {}
                Ok(Progress::Failed(errno)) => result = Err(*errno),
                Ok(Progress::Running) | Err(_) => result = Err(Errno(libc::EIO)),
            }
        }
        if result.is_err() {
            // The caller is told.
            file.state.lock().error = None;
        }
        result
    }

    /// Blocks that were found stored are used by nobody any more: their bytes are stored anew.
    async fn store_gone(&self, file: &FileState, gone: &[NewBlock]) -> Result<(), Errno> {
        for block in gone {
            let policy = self.inner.control.namespace().policy(file.ino);
            let started = Instant::now();
            let anew = self.store_again(policy, *block).await?;
            for (_, piece) in file.state.lock().overlay.iter_mut() {
                if let Content::Stored { block, put, .. } = &mut piece.content
                    && block.name == anew.name
                {
                    (*block, *put) = (anew, Some(started));
                }
            }
        }
        Ok(())
    }

    /// Where a chunk that is written to has become many small extents, reads the rest of it, so that it is
    /// stored as one block. Only an improvement: when it cannot be done, nothing is changed.
    async fn gather(&self, file: &Arc<FileState>) {
        let chunks = file.state.lock().overlay.dirty_chunks();
        for chunk in chunks {
            let scattered = {
                let namespace = self.inner.control.namespace();
                let extents = namespace.extents(file.ino, chunk, chunk + CHUNK).count();
                extents + file.state.lock().overlay.range(chunk, chunk + CHUNK).count() > SCATTERED
            };
            if scattered {
                self.gather_chunk(file, chunk).await;
            }
        }
    }

    async fn gather_chunk(&self, file: &Arc<FileState>, chunk: u64) -> Option<()> {
        let budget = &self.inner.budget;
        let room = budget.clone().try_acquire_many_owned(CHUNK as u32).ok()?;
        // Before the plan: what is changed after it is read must be seen below, or old bytes would be laid over it.
        let changes = file.state.lock().unsaved?.changes;
        let content = self.inner.control.namespace().inode(file.ino)?.content;
        let plan = self.parts(file.ino, chunk, chunk + CHUNK).ok()?;
        let end = plan.last().map(|part| part.end())?;
        // Long holes are worth more than one extent less.
        let zeros: u64 = plan.iter().filter(|part| matches!(part, Part::Zeros { .. })).map(Part::len).sum();
        if zeros > CHUNK / 4 {
            return None;
        }
        let bytes = self.assemble(plan, chunk, end).await.ok()?;
        let namespace = self.inner.control.namespace();
        let mut state = file.state.lock();
        let same = namespace.inode(file.ino)?.content == content && state.unsaved?.changes == changes;
        if same {
            room.forget();
            state.held += CHUNK as usize;
            state.overlay.write(chunk, &bytes);
            self.balance(&mut state, 0);
        }
        same.then_some(())
    }
}

/// The op that names what is stored of a file; marks what it names.
fn make(
    namespace: &Namespace,
    placer: &Placer,
    ino: Ino,
    state: &mut FileContent,
    made: &mut Made,
) -> Result<Vec<Change>, Errno> {
    let inode = namespace.inode(ino).ok_or(Errno(libc::ESTALE))?;
    let Some(unsaved) = state.unsaved else { return Ok(Vec::new()) };
    if state.lost && inode.content != unsaved.began {
        made.overtaken = true;
        return Err(Errno(libc::EIO));
    }
    let mut extents: Vec<(u64, Extent)> = Vec::new();
    let mut blocks: BTreeMap<BlockName, NewBlock> = BTreeMap::new();
    // What others wrote past the end meanwhile stays, unless the size was set here.
    let whole = if unsaved.resized { unsaved.size } else { unsaved.size.max(inode.size) };
    let mut size = whole;
    let mut inline = 0;
    state.overlay.split_holes(|from, to| many_extents(namespace, ino, from, to));
    for (offset, piece) in state.overlay.iter_mut() {
        let end = offset + piece.len;
        let mut ready = extents.len() < WRITE_EXTENTS;
        match &piece.content {
            Content::Dirty(bytes) if bytes.len() <= INLINE_BYTES && inline + bytes.len() > INLINE_IN_OP => {
                ready = false;
                made.more = true;
            }
            Content::Dirty(bytes) if ready && bytes.len() <= INLINE_BYTES => {
                inline += bytes.len();
                let source = Source::Inline(bytes::Bytes::copy_from_slice(bytes));
                extents.push((offset, Extent { len: piece.len as u32, source }));
            }
            Content::Stored { block, at, put } if ready => {
                let known = namespace.block(&block.name).filter(|known| known.uses > 0);
                match known {
                    Some(known) if known.group == block.group => {}
                    Some(known) if put.is_none() => made.elsewhere.push(known.group),
                    Some(known) => {
                        made.elsewhere.push(known.group);
                        blocks.insert(block.name, *block);
                    }
                    None if put.is_some_and(|put| put.elapsed() < NAMED_WITHIN)
                        && placer.still_sit(namespace, block.group) =>
                    {
                        blocks.insert(block.name, *block);
                    }
                    None => made.gone.push(*block),
                }
                let source = Source::Block { name: block.name, at: *at };
                extents.push((offset, Extent { len: piece.len as u32, source }));
            }
            Content::Hole if ready => {
                let before = extents.len();
                ready = punch(namespace, ino, offset, end.min(whole), &mut extents);
                if !ready {
                    extents.truncate(before);
                    made.more = true;
                }
            }
            Content::Dirty(_) | Content::Storing { .. } | Content::Hole | Content::Stored { .. } => {
                ready = false;
                made.more |= extents.len() >= WRITE_EXTENTS;
            }
        }
        if ready {
            piece.named = true;
        } else if end > inode.size {
            // Past what everybody sees already, nothing is shown before what comes before it.
            size = size.min(offset.max(inode.size));
            break;
        }
    }
    if !made.gone.is_empty() {
        return Err(Errno(libc::EAGAIN));
    }
    made.changes = unsaved.changes;
    made.followed = (inode.content == unsaved.began).then_some(unsaved.began);
    let ctime = unsaved.ctime.max(inode.ctime);
    Ok(vec![Change::Write {
        ino,
        // A change that came from elsewhere meanwhile has been seen by now: this op lays its bytes over it, as a
        // second writer on one machine does. Only what nobody here has seen makes a conflict.
        base: inode.content,
        linked: inode.nlink > 0,
        extents,
        blocks: blocks.into_values().collect(),
        size,
        mtime: unsaved.mtime,
        ctime,
        clear_suid: false,
    }])
}

/// Where a hole over more extents than one op should clear is to be split.
fn many_extents(namespace: &Namespace, ino: Ino, from: u64, to: u64) -> Option<u64> {
    namespace.extents(ino, from, to).nth(WRITE_EXTENTS / 2).map(|(at, _)| at).filter(|at| *at > from)
}

/// Holes over what the namespace has in `[from, to)`; false if they are more than fit.
fn punch(namespace: &Namespace, ino: Ino, from: u64, to: u64, extents: &mut Vec<(u64, Extent)>) -> bool {
    if from >= to {
        return true;
    }
    let mut hole: Option<(u64, u64)> = None;
    let mut push = |hole: (u64, u64)| {
        extents.push((hole.0, Extent { len: (hole.1 - hole.0) as u32, source: Source::Hole }));
        extents.len() <= WRITE_EXTENTS
    };
    for (at, extent) in namespace.extents(ino, from, to) {
        let (start, end) = (at.max(from), (at + u64::from(extent.len)).min(to));
        hole = match hole {
            Some((first, last)) if last == start && end - first <= u64::from(u32::MAX) => Some((first, end)),
            Some(full) => {
                if !push(full) {
                    return false;
                }
                Some((start, end))
            }
            None => Some((start, end)),
        };
    }
    hole.is_none_or(push)
}
