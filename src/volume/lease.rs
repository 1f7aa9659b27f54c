//! Changing the share under leases: what needs which, and what to do when another machine holds it.

use super::Volume;
use super::handle::FileState;
use super::ports::{Errno, Pin, Planned, Refusal};
use crate::id::Ino;
use crate::namespace::Namespace;
use std::sync::Arc;

/// How often a lease that came is gone again before it could be used, until that is an error.
pub(super) const ATTEMPTS: usize = 64;

impl Volume {
    /// Carries out a plan, under the leases it says that it needs. It is asked again when these had to be fetched.
    pub(super) async fn change(
        &self,
        mut plan: impl FnMut(&Namespace) -> Result<Planned, Errno> + Send,
    ) -> Result<u64, Errno> {
        let mut plan = |names: &Namespace| self.permitted_under(names, plan(names)?);
        for _ in 0..ATTEMPTS {
            match self.control().change_under(&mut plan) {
                Ok(seq) => return Ok(seq),
                Err(refusal) => self.overcome(refusal).await?,
            }
        }
        tracing::error!("the leases of a change went elsewhere {ATTEMPTS} times before they could be used");
        Err(Errno(libc::EIO))
    }

    /// What is planned, if this side of a partition may do it.
    pub(super) fn permitted_under(&self, names: &Namespace, planned: Planned) -> Result<Planned, Errno> {
        Ok(Planned { changes: self.permitted(names, planned.changes)?, ..planned })
    }

    /// Holds a file's lease here while the pin lives: for laying something over its content.
    pub(super) async fn pin(&self, ino: Ino) -> Result<Pin, Errno> {
        for _ in 0..ATTEMPTS {
            if self.control().namespace().inode(ino).is_none() {
                return Err(Errno(libc::ESTALE));
            }
            match self.control().pin(ino) {
                Ok(pin) => return Ok(pin),
                Err(refusal) => self.overcome(refusal).await?,
            }
        }
        tracing::error!(%ino, "its lease went elsewhere {ATTEMPTS} times before it could be used");
        Err(Errno(libc::EIO))
    }

    /// Waits until what stood in the way does not any more.
    pub(super) async fn overcome(&self, refusal: Refusal) -> Result<(), Errno> {
        match refusal {
            Refusal::Errno(errno) => Err(errno),
            Refusal::OutOfTouch => self.control().obtain(Vec::new()).await,
            Refusal::Elsewhere(leases) => self.control().obtain(leases).await,
        }
    }

    /// Waits until what is here is the newest there is among the connected peers: what is opened, or looked up, after
    /// this is what somebody elsewhere has closed, or made, before.
    pub async fn in_touch(&self) -> Result<(), Errno> {
        if self.control().in_touch() { Ok(()) } else { self.control().obtain(Vec::new()).await }
    }

    /// The lease of a file is to go elsewhere: what is unsaved of it is stored first, as far as it can be.
    pub async fn recall(&self, ino: Ino) {
        let Some(file) = self.known_file(ino) else { return };
        if let Err(errno) = self.commit(&file).await {
            tracing::error!(%ino, %errno, "another machine needs this file, and what was written here could not be stored");
            let mut state = file.state.lock();
            state.error = Some(errno);
            state.lost = state.unsaved.is_some();
        }
        self.let_go(&file);
    }

    /// A process of this machine held a lock in a file that others have been given: it is told at its next write.
    pub fn lock_lost(&self, ino: Ino) {
        tracing::error!(%ino, "this machine was cut off, and a file lock that a process held was given to others");
        if let Some(file) = self.known_file(ino) {
            file.state.lock().error = Some(Errno(libc::EIO));
        }
    }

    /// Leases of this machine went to others without its doing: it was taken for dead. What it has not stored of files
    /// that others hold now must not be laid over what they write.
    pub fn deposed(&self) {
        let files: Vec<Arc<FileState>> = self.inner.files.lock().values().cloned().collect();
        let namespace = self.control().namespace();
        for file in files {
            let mut state = file.state.lock();
            if state.unsaved.is_some() && namespace.holder(file.ino) != self.control().me() {
                state.lost = true;
            }
        }
    }
}
