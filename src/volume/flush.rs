//! When content is committed: at close, at fsync, when it has waited long enough, and all of it at the end.

use super::handle::FileState;
use super::ports::Errno;
use super::{HandleId, Volume};
use crate::id::Ino;
use std::sync::Arc;
use tokio::task::JoinSet;

/// Files committed at once when all are.
const AT_ONCE: usize = 8;

impl Volume {
    /// What `close` does: content stored, ops at every connected peer. An error that nobody was told yet comes
    /// out here, unless what failed has succeeded since.
    pub async fn flush(&self, handle: HandleId) -> Result<(), Errno> {
        let handle = self.handle(handle)?;
        let file = &handle.file;
        // What no name leads to, nobody can open: it is only stored to make room.
        if !handle.flags.write || self.is_orphan(file.ino) {
            return Ok(());
        }
        self.commit(file).await?;
        self.settle_file(file).await
    }

    /// As `flush`, and shards and ops on stable storage.
    pub async fn fsync(&self, handle: HandleId) -> Result<(), Errno> {
        let handle = self.handle(handle)?;
        if let Err(errno) = self.commit_durable(&handle.file).await {
            // It has been told to one who asked; a close may be that of a child of the program that wrote.
            handle.file.state.lock().error = None;
            return Err(errno);
        }
        // What was committed before, or found stored by others.
        self.sync_shards().await?;
        self.settle_all(true).await
    }

    /// Waits until the connected peers have what was committed of this file.
    pub(super) async fn settle_file(&self, file: &FileState) -> Result<(), Errno> {
        let (seq, settled) = {
            let state = file.state.lock();
            (state.seq, state.settled)
        };
        if seq > settled {
            self.inner.control.settle(seq, false).await?;
            let mut state = file.state.lock();
            state.settled = state.settled.max(seq);
        }
        Ok(())
    }

    async fn settle_all(&self, durable: bool) -> Result<(), Errno> {
        let seq = self.inner.control.namespace().vector().get(self.inner.control.author());
        self.inner.control.settle(seq, durable).await
    }

    /// Waits until every connected peer has this peer's ops up to `seq`.
    pub async fn settle(&self, seq: u64) -> Result<(), Errno> {
        self.inner.control.settle(seq, false).await
    }

    /// Commits all files; the ones that could not be, with why (the root's number stands for all of them).
    pub async fn flush_all(&self, durable: bool) -> Result<(), Vec<(Ino, Errno)>> {
        self.commit_all().await?;
        let all = |errno| vec![(Ino::ROOT, errno)];
        if durable {
            self.sync_shards().await.map_err(all)?;
        }
        self.settle_all(durable).await.map_err(all)
    }

    /// Commits every dirty file; the ones that could not be, with why.
    pub(super) async fn commit_all(&self) -> Result<(), Vec<(Ino, Errno)>> {
        let files: Vec<Arc<FileState>> = self.inner.files.lock().values().cloned().collect();
        let mut files = files.into_iter().filter(|file| file.state.lock().unsaved.is_some());
        let mut failed = Vec::new();
        let mut running = JoinSet::new();
        loop {
            while running.len() < AT_ONCE
                && let Some(file) = files.next()
            {
                let volume = self.clone();
                running.spawn(async move {
                    let done = volume.commit(&file).await;
                    if let Err(errno) = done {
                        file.state.lock().error = Some(errno);
                    }
                    volume.let_go(&file);
                    (file.ino, done)
                });
            }
            match running.join_next().await {
                Some(Ok((ino, Err(errno)))) => failed.push((ino, errno)),
                Some(Ok(_)) => {}
                Some(Err(_)) => failed.push((Ino::ROOT, Errno(libc::EIO))),
                None => break,
            }
        }
        if failed.is_empty() { Ok(()) } else { Err(failed) }
    }

    /// Commits the file when its first unsaved change is old enough.
    pub(super) fn write_back_later(&self, file: &Arc<FileState>) {
        let (inner, file) = (Arc::downgrade(&self.inner), Arc::downgrade(file));
        let after = self.inner.settings.write_back_after;
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            let (Some(inner), Some(file)) = (inner.upgrade(), file.upgrade()) else { return };
            let volume = Volume { inner };
            file.state.lock().timer = false;
            if let Err(errno) = volume.commit(&file).await {
                tracing::error!(ino = %file.ino, %errno, "dirty content could not be written back; the next flush tries again");
                file.state.lock().error = Some(errno);
            }
            let again = {
                let mut state = file.state.lock();
                let again = state.unsaved.is_some() && !state.timer;
                state.timer |= again;
                again
            };
            if again {
                volume.write_back_later(&file);
            }
            volume.let_go(&file);
        });
    }
}
