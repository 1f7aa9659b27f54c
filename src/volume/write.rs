//! Writing: into the overlay, within the budget for dirty bytes; and from there to the shards, block by block,
//! while the file is still being written.

use super::attributes::{without_capabilities, without_suid};
use super::dirty::{CHUNK, Job, Progress, Reserved, Run};
use super::handle::{FileContent, FileState};
use super::ports::{Errno, Planned};
use super::{HandleId, MAX_FILE_BYTES, Volume};
use crate::id::BlockName;
use crate::namespace::{Change, Namespace, NewBlock, SetAttributes};
use crate::policy::{Geometry, Policy};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// How long a writer waits for room; longer only where no store has taken anything for as long.
const ROOM: Duration = Duration::from_secs(30);

/// How long it waits before it has all dirty files committed, to make room.
const PRESSURE: Duration = Duration::from_millis(200);

/// How often equal content stored with another geometry is cut anew.
const CUTS: usize = 4;

impl Volume {
    /// Writes all of `data`; at the end of the file when opened with `O_APPEND`. `kill_suid`: the kernel asks
    /// that setuid and setgid bits go (`FUSE_WRITE_KILL_SUIDGID`).
    pub async fn write(&self, handle: HandleId, offset: u64, data: Bytes, kill_suid: bool) -> Result<u32, Errno> {
        let handle = self.handle(handle)?;
        if !handle.flags.write {
            return Err(Errno(libc::EBADF));
        }
        let file = &handle.file;
        if let Some(errno) = file.state.lock().error.take() {
            return Err(errno);
        }
        self.clear_privileges(file, kill_suid).await?;
        let part = (CHUNK as usize).min(self.inner.settings.dirty_bytes as usize / 2).max(1);
        let mut done = 0;
        while done < data.len() {
            let now = data.slice(done..(done + part).min(data.len()));
            let at = if handle.flags.append { None } else { Some(offset.saturating_add(done as u64)) };
            match self.write_part(file, at, &now).await {
                Ok(written) => done += written,
                Err(_) if done > 0 => break,
                Err(errno) => return Err(errno),
            }
        }
        Ok(done as u32)
    }

    /// Lays bytes at an offset, or at the end of the file.
    async fn write_part(&self, file: &Arc<FileState>, at: Option<u64>, data: &[u8]) -> Result<usize, Errno> {
        let room = self.room(file, data.len()).await?;
        let pin = self.pin(file.ino).await?;
        let laid = self.change_content(file, |state, size| {
            let at = at.unwrap_or(size);
            let len = (data.len() as u64).min(MAX_FILE_BYTES.saturating_sub(at)) as usize;
            if len == 0 {
                return None;
            }
            // From here on the overlay holds the permits; what it does not need is given back at once.
            state.held += room.keep();
            state.overlay.write(at, &data[..len]);
            let end = at + len as u64;
            if let Some(unsaved) = &mut state.unsaved {
                unsaved.size = unsaved.size.max(end);
            }
            self.balance(state, 0);
            Some((len, self.seal(state, at, end, false)))
        })?;
        drop(pin);
        let (len, jobs) = laid.ok_or(Errno(libc::EFBIG))?;
        jobs.into_iter().for_each(|job| self.launch(file, job));
        Ok(len)
    }

    /// Takes away what lets a program do more than its user may: file capabilities, and with `suid` setuid and setgid.
    /// At once, so that what is set after this change of the content stays.
    pub(super) async fn clear_privileges(&self, file: &FileState, suid: bool) -> Result<(), Errno> {
        let (ino, ctime) = (file.ino, self.inner.control.now());
        let changes = |namespace: &Namespace| {
            let inode = namespace.inode(ino).ok_or(Errno(libc::ESTALE))?;
            let mut changes = Vec::new();
            let mode = without_suid(inode.mode);
            if suid && mode != inode.mode {
                let set = SetAttributes { mode: Some(mode), ..SetAttributes::default() };
                changes.push(Change::SetAttributes { ino, set });
            }
            changes.extend(without_capabilities(namespace, ino, ctime));
            Ok(changes)
        };
        let clears = !changes(&self.inner.control.namespace())?.is_empty();
        if clears {
            self.change(|namespace| Ok(Planned::under(vec![ino], changes(namespace)?))).await?;
        }
        Ok(())
    }

    /// As before a write by somebody who may not leave setuid and setgid (`suid`): for what changes content otherwise.
    pub async fn before_change(&self, handle: HandleId, suid: bool) -> Result<(), Errno> {
        let handle = self.handle(handle)?;
        if handle.flags.write { self.clear_privileges(&handle.file, suid).await } else { Ok(()) }
    }

    /// Room in the budget for so many dirty bytes; waits for it.
    pub(super) async fn room(&self, file: &FileState, bytes: usize) -> Result<Reserved, Errno> {
        let inner = &self.inner;
        let permits = u32::try_from(bytes).map_err(|_| Errno(libc::EINVAL))?;
        let deadline = Instant::now() + ROOM;
        let acquire = inner.budget.acquire_many(permits);
        tokio::pin!(acquire);
        loop {
            let soon = (Instant::now() + PRESSURE).min(deadline);
            match tokio::time::timeout_at(soon, &mut acquire).await {
                Ok(Ok(permit)) => {
                    permit.forget();
                    return Ok(Reserved::new(inner.budget.clone(), bytes));
                }
                Ok(Err(_)) => return Err(Errno(libc::EIO)),
                Err(_) => {
                    if let Some(errno) = file.state.lock().error.take() {
                        return Err(errno);
                    }
                    if Instant::now() >= deadline {
                        tracing::error!(ino = %file.ino, "no room for dirty data within {ROOM:?}: no store takes any; the write fails");
                        return Err(Errno(libc::EIO));
                    }
                    self.relieve();
                }
            }
        }
    }

    /// Has everything dirty committed, one such round at a time.
    fn relieve(&self) {
        use std::sync::atomic::Ordering::AcqRel;
        if !self.inner.relieving.swap(true, AcqRel) {
            let volume = self.clone();
            tokio::spawn(async move {
                // Failures are noted in the files.
                let _ = volume.commit_all().await;
                volume.inner.relieving.store(false, std::sync::atomic::Ordering::Release);
            });
        }
    }

    /// Makes jobs of dirty pieces; the caller launches them when the lock is released.
    pub(super) fn seal(&self, state: &mut FileContent, from: u64, to: u64, all: bool) -> Vec<Arc<Job>> {
        let budget = &self.inner.budget;
        let mut moved = 0;
        let jobs = state.overlay.seal(from, to, all, |offset, bytes| {
            moved += bytes.len();
            let reserved = Reserved::new(budget.clone(), bytes.len());
            Arc::new(Job {
                offset,
                bytes,
                progress: Arc::new(watch::Sender::new(Progress::Running)),
                _reserved: reserved,
            })
        });
        state.held -= moved;
        jobs
    }

    /// Stores a job's bytes in a task of its own.
    pub(super) fn launch(&self, file: &Arc<FileState>, job: Arc<Job>) {
        let (volume, file) = (self.clone(), file.clone());
        let progress = job.progress.clone();
        progress.send_replace(Progress::Running);
        tokio::spawn(async move {
            let mut runs = Vec::new();
            let outcome = match volume.store_job(&file, &job, &mut runs).await {
                Ok(()) => {
                    file.state.lock().overlay.stored(&job, &runs);
                    Progress::Stored
                }
                Err(errno) => {
                    file.state.lock().error = Some(errno);
                    Progress::Failed(errno)
                }
            };
            // Its room is free before anybody hears of it.
            drop(job);
            progress.send_replace(outcome);
            volume.let_go(&file);
        });
    }

    async fn store_job(&self, file: &FileState, job: &Arc<Job>, runs: &mut Vec<Run>) -> Result<(), Errno> {
        self.inner.pace.people();
        let _slot = self.inner.stores.acquire().await.map_err(|_| Errno(libc::EIO))?;
        // Overwritten altogether while it waited: nobody else has it any more.
        if Arc::strong_count(job) == 1 {
            return Ok(());
        }
        let policy = self.inner.control.namespace().policy(file.ino);
        self.store_run(policy, job.bytes.clone(), runs).await
    }

    /// Stores a run of bytes as one block; or as several, where these very bytes are a block already that is kept
    /// with another geometry: a block has one group, and each file shall have the redundancy it asked for.
    async fn store_run(&self, policy: Policy, bytes: Bytes, runs: &mut Vec<Run>) -> Result<(), Errno> {
        let mut todo = vec![(0, bytes, 0)];
        while let Some((start, bytes, cuts)) = todo.pop() {
            let name = self.name_of(&bytes).await?;
            let len = bytes.len();
            let (block, put) = match self.stored_already(policy, &name, len) {
                Ok(Some(block)) => (block, None),
                Err(other) if cuts < CUTS && len > 1 => {
                    let at = cut_at(policy, other, len);
                    todo.push((start + at, bytes.slice(at..), cuts + 1));
                    todo.push((start, bytes.slice(..at), cuts + 1));
                    continue;
                }
                Ok(None) | Err(_) => {
                    // Before it is put: what counts is when the first participant took its shard.
                    let now = Instant::now();
                    (self.place(policy, name, &bytes).await?, Some(now))
                }
            };
            self.inner.cache.insert(name, bytes);
            runs.push(Run { start, len, block, at: 0, put });
        }
        Ok(())
    }

    async fn name_of(&self, bytes: &Bytes) -> Result<BlockName, Errno> {
        let bytes = bytes.clone();
        self.compute(bytes.len() <= 64 << 10, move || BlockName::of(&bytes)).await
    }

    /// Stores again what a block held that nobody keeps any more, if it can still be read.
    pub(super) async fn store_again(&self, policy: Policy, block: NewBlock) -> Result<NewBlock, Errno> {
        let bytes = self.block(block).await?;
        self.place(policy, block.name, &bytes).await
    }

    /// Computes something on the bulk of a block: in place when it is light, else where it holds no network or
    /// kernel request up, and not more at once than there are processors.
    pub(super) async fn compute<T: Send + 'static>(
        &self,
        light: bool,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Errno> {
        if light {
            return Ok(work());
        }
        let _turn = self.inner.processors.acquire().await.map_err(|_| Errno(libc::EIO))?;
        tokio::task::spawn_blocking(work).await.map_err(|why| {
            tracing::error!(%why, "work on a block came to no end");
            Errno(libc::EIO)
        })
    }
}

/// Where to cut bytes that are a block of another geometry: elsewhere for each, so that the parts meet none.
fn cut_at(policy: Policy, other: Geometry, len: usize) -> usize {
    let salt = match policy {
        Policy::Replicate(copies) => usize::from(copies),
        Policy::ReedSolomon { data, parity } => 64 + usize::from(data) * 32 + usize::from(parity),
        Policy::Survive(losses) => 2048 + usize::from(losses) * 32 + usize::from(other.data),
    };
    (len / 2 + salt).min(len - 1).max(1)
}
