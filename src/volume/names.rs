//! The names of a share: looking up, making, linking, moving and removing.
//!
//! What a change comes to is decided ([`Naming::decide`]) under the lock under which it is applied, and under its leases:
//! here, or by the peer that is busy under them. All but `create` return when every connected peer knows.

use super::lease::ATTEMPTS;
use super::ports::{Errno, Obtained, Planned, Refusal};
use super::{Attributes, HandleId, OpenFlags, Volume};
use crate::id::Ino;
pub(super) use crate::namespace::naming::inode;
use crate::namespace::naming::{checked_name, directory, entry};
use crate::namespace::{Kind, NAME_BYTES, Namespace, Naming, Place, TARGET_BYTES};
use bytes::Bytes;
use std::time::Duration;

/// How long an inode without a name stays for those who have just looked the name up and are about to open it: more
/// than the kernel trusts a name for. So who opens a file that is being replaced gets one or the other.
const LINGER: Duration = Duration::from_secs(2);

/// The most inodes that stay so; past it they go at once, and the kernel looks the name up again.
pub(super) const LINGERING: usize = 4096;

/// How often a file may be written elsewhere while it is being removed, until it is left.
const OVERTAKEN: usize = 8;

/// What `make` is to make.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewNode {
    pub kind: Kind,
    pub mode: u32,
    /// Permission bits that are taken off, unless the directory says who may do what with that which is made in it.
    pub umask: u32,
    pub uid: u32,
    pub gid: u32,
}

/// A file that is to be made and opened.
#[derive(Clone, Copy, Debug)]
pub struct NewFile<'a> {
    pub parent: Ino,
    pub name: &'a [u8],
    pub mode: u32,
    /// As in [`NewNode`].
    pub umask: u32,
    pub uid: u32,
    pub gid: u32,
    /// As for `open(2)`.
    pub flags: i32,
}

impl NewFile<'_> {
    fn node(&self) -> NewNode {
        NewNode { kind: Kind::File, mode: self.mode, umask: self.umask, uid: self.uid, gid: self.gid }
    }

    fn refused(&self, errno: Errno) -> Errno {
        match errno {
            Errno(libc::EEXIST) if self.flags & libc::O_EXCL == 0 => Errno(libc::ESTALE),
            errno => errno,
        }
    }
}

/// Something done to names.
struct Done {
    /// The op of this peer that did it; 0: others know already.
    seq: u64,
    /// What lost a name by it.
    gone: Option<Ino>,
}

impl Volume {
    /// What a name in a directory stands for.
    pub fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Attributes, Errno> {
        if name.len() > NAME_BYTES {
            return Err(Errno(libc::ENAMETOOLONG));
        }
        let ino = {
            let names = self.control().namespace();
            directory(&names, parent)?;
            entry(&names, parent, name)?.0.ino
        };
        self.attributes(ino)
    }

    /// Makes a directory, file, symlink or special file.
    pub async fn make(&self, parent: Ino, name: &[u8], node: NewNode) -> Result<Attributes, Errno> {
        if let Kind::Symlink { target } = &node.kind {
            match target.len() {
                0 => return Err(Errno(libc::ENOENT)),
                1..=TARGET_BYTES => {}
                _ => return Err(Errno(libc::ENAMETOOLONG)),
            }
        }
        let (ino, naming) = self.making(parent, name, node)?;
        let done = self.have_done(&naming).await?;
        self.settle(done.seq).await?;
        self.attributes(ino)
    }

    /// Makes and opens a file. Other machines are told at once, but only its `flush` waits for them. A name that
    /// is taken: `EEXIST` with `O_EXCL`, else `ESTALE`, upon which the kernel looks the name up again.
    pub async fn create(&self, new: NewFile<'_>) -> Result<(Attributes, HandleId), Errno> {
        let (ino, naming) = self.making(new.parent, new.name, new.node())?;
        self.have_done(&naming).await.map_err(|errno| new.refused(errno))?;
        self.created(ino, new.flags)
    }

    /// As `create`, at once or not at all.
    pub fn create_now(&self, new: NewFile<'_>) -> Result<(Attributes, HandleId), Refusal> {
        let (ino, naming) = self.making(new.parent, new.name, new.node()).map_err(Refusal::Errno)?;
        self.do_now(&naming).map_err(|refusal| match refusal {
            Refusal::Errno(errno) => Refusal::Errno(new.refused(errno)),
            refusal => refusal,
        })?;
        self.created(ino, new.flags).map_err(Refusal::Errno)
    }

    fn created(&self, ino: Ino, flags: i32) -> Result<(Attributes, HandleId), Errno> {
        let handle = self.open_created(ino, OpenFlags::from_libc(flags))?;
        Ok((self.attributes(ino)?, handle))
    }

    fn making(&self, parent: Ino, name: &[u8], node: NewNode) -> Result<(Ino, Naming), Errno> {
        let place = Place { parent, name: checked_name(name)? };
        let NewNode { kind, mode, umask, uid, gid } = node;
        let (ino, time) = (Ino(self.control().new_number()), self.control().now());
        Ok((ino, Naming::Make { place, ino, kind, mode, umask, uid, gid, time }))
    }

    /// Gives an inode that is no directory one more name.
    pub async fn link(&self, ino: Ino, parent: Ino, name: &[u8]) -> Result<Attributes, Errno> {
        let place = Place { parent, name: checked_name(name)? };
        let done = self.have_done(&Naming::Link { place, ino, time: self.control().now() }).await?;
        self.settle(done.seq).await?;
        self.attributes(ino)
    }

    /// Takes a name away from an inode that is no directory.
    pub async fn unlink(&self, parent: Ino, name: &[u8]) -> Result<(), Errno> {
        let place = Place { parent, name: checked_name(name)? };
        let naming = Naming::Unlink { place, time: self.control().now() };
        for _ in 0..OVERTAKEN {
            let done = self.have_done(&naming).await?;
            let gone = done.gone;
            self.removed(done).await?;
            // A file that is written elsewhere at this moment is kept, for its writer's sake. By now this peer has what
            // was written, and whoever removes the file knows it.
            if self.control().namespace().entry(parent, name).map(|entry| entry.ino) != gone {
                break;
            }
        }
        Ok(())
    }

    /// Takes away an empty directory.
    pub async fn rmdir(&self, parent: Ino, name: &[u8]) -> Result<(), Errno> {
        let place = Place { parent, name: checked_name(name)? };
        let done = self.have_done(&Naming::Rmdir { place, time: self.control().now() }).await?;
        self.removed(done).await
    }

    /// `renameat2(2)` with `RENAME_NOREPLACE` or `RENAME_EXCHANGE`; other flags are `EINVAL`.
    pub async fn rename(
        &self,
        parent: Ino,
        name: &[u8],
        new_parent: Ino,
        new_name: &[u8],
        flags: u32,
    ) -> Result<(), Errno> {
        let from = Place { parent, name: checked_name(name)? };
        let to = Place { parent: new_parent, name: checked_name(new_name)? };
        let time = self.control().now();
        let naming = match flags {
            0 | libc::RENAME_NOREPLACE => Naming::Rename { from, to, replaces: flags == 0, time },
            libc::RENAME_EXCHANGE => Naming::Exchange { a: from, b: to, time },
            _ => return Err(Errno(libc::EINVAL)),
        };
        let done = self.have_done(&naming).await?;
        self.removed(done).await
    }

    /// Does it at once, if this peer holds the leases.
    fn do_now(&self, naming: &Naming) -> Result<Done, Refusal> {
        let mut gone = None;
        let seq = self.control().change_under(&mut |names: &Namespace| {
            let decided = naming.decide(names)?;
            gone = decided.gone;
            self.permitted_under(names, Planned::under(decided.leases, decided.changes))
        })?;
        Ok(Done { seq, gone })
    }

    /// Does it under its leases, or has it done by the peer that is busy under them.
    async fn have_done(&self, naming: &Naming) -> Result<Done, Errno> {
        for _ in 0..ATTEMPTS {
            match self.do_now(naming) {
                Ok(done) => return Ok(done),
                Err(Refusal::Elsewhere(leases)) => {
                    if let Obtained::Done { gone } = self.control().obtain_for(leases, naming.clone()).await? {
                        return Ok(Done { seq: 0, gone });
                    }
                }
                Err(refusal) => self.overcome(refusal).await?,
            }
        }
        tracing::error!("the leases of a change went elsewhere {ATTEMPTS} times before they could be used");
        Err(Errno(libc::EIO))
    }

    /// The target of a symlink.
    pub fn read_link(&self, ino: Ino) -> Result<Bytes, Errno> {
        match &inode(&self.control().namespace(), ino)?.kind {
            Kind::Symlink { target } => Ok(target.clone()),
            _ => Err(Errno(libc::EINVAL)),
        }
    }

    /// Every change to names and attributes made here so far is on stable storage, here and at every connected peer.
    pub async fn sync_names(&self) -> Result<(), Errno> {
        let control = self.control();
        let seq = control.namespace().vector().get(control.author());
        control.settle(seq, true).await
    }

    async fn removed(&self, done: Done) -> Result<(), Errno> {
        done.gone.into_iter().for_each(|ino| self.linger(ino));
        self.settle(done.seq).await
    }

    /// What lost a name goes, if that was the last, a while later.
    pub(super) fn linger(&self, ino: Ino) {
        match self.inner.lingering.clone().try_acquire_owned() {
            Ok(permit) => {
                let volume = self.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(LINGER).await;
                    volume.note_unlinked(ino);
                    drop(permit);
                });
            }
            Err(_) => self.note_unlinked(ino),
        }
    }
}

#[cfg(test)]
mod tests;
