//! The names of a share: looking up, making, linking, moving and removing.
//!
//! Each change is checked in the plan of `Control::change`, that is under the lock under which it is applied, so
//! that what was checked is still so. All but `create` return when every connected peer knows.

use super::acl::{self, Acl};
use super::ports::{Errno, Planned, Refusal};
use super::{Attributes, HandleId, OpenFlags, Volume};
use crate::id::Ino;
use crate::namespace::{Change, Entry, Inode, Kind, MOVES, NAME_BYTES, Name, Namespace, Place, Seen, TARGET_BYTES};
use crate::time::WallTime;
use bytes::Bytes;
use std::time::Duration;

/// The most names of one file, and the most subdirectories of a directory.
pub const MAX_LINKS: u32 = 1 << 30;

/// How long an inode without a name stays for those who have just looked the name up and are about to open it: more
/// than the kernel trusts a name for. So who opens a file that is being replaced gets one or the other.
const LINGER: Duration = Duration::from_secs(2);

/// The most inodes that stay so; past it they go at once, and the kernel looks the name up again.
pub(super) const LINGERING: usize = 4096;

/// How often a file may be written elsewhere while it is being removed, until it is left.
const OVERTAKEN: usize = 8;

const S_ISGID: u32 = libc::S_ISGID;

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

/// A node about to be made.
struct Making {
    place: Place,
    node: NewNode,
    ino: Ino,
    time: WallTime,
}

impl Making {
    fn plan(&mut self, names: &Namespace) -> Result<Planned, Errno> {
        let Place { parent, name } = &self.place;
        free(names, *parent, name, matches!(self.node.kind, Kind::Directory))?;
        let mut node = self.node.clone();
        owned_by_parent(directory(names, *parent)?, &mut node);
        let lists = inherited_acl(names, *parent, &mut node);
        let (ino, ctime) = (self.ino, self.time);
        let create = Change::Create {
            place: self.place.clone(),
            ino,
            kind: node.kind,
            mode: node.mode & 0o7777,
            uid: node.uid,
            gid: node.gid,
            time: self.time,
        };
        let lists = lists.into_iter().map(|(name, list)| Change::SetXattr {
            ino,
            name: Bytes::from_static(name),
            value: Some(list.bytes().into()),
            ctime,
        });
        Ok(Planned::under(vec![*parent], [create].into_iter().chain(lists).collect()))
    }
}

/// The inode, or `ENOENT`.
pub(super) fn inode(names: &Namespace, ino: Ino) -> Result<&Inode, Errno> {
    names.inode(ino).ok_or(Errno(libc::ENOENT))
}

/// The directory, which must still have a place in the tree, or `ENOENT` or `ENOTDIR`.
fn directory(names: &Namespace, ino: Ino) -> Result<&Inode, Errno> {
    let inode = inode(names, ino)?;
    match inode.kind {
        Kind::Directory if inode.nlink == 0 => Err(Errno(libc::ENOENT)),
        Kind::Directory => Ok(inode),
        _ => Err(Errno(libc::ENOTDIR)),
    }
}

fn is_directory(inode: &Inode) -> bool {
    matches!(inode.kind, Kind::Directory)
}

fn checked_name(name: &[u8]) -> Result<Name, Errno> {
    match name {
        _ if name.len() > NAME_BYTES => Err(Errno(libc::ENAMETOOLONG)),
        b"" | b"." | b".." => Err(Errno(libc::EINVAL)),
        _ if name.iter().any(|byte| matches!(byte, b'/' | 0)) => Err(Errno(libc::EINVAL)),
        _ => Ok(Bytes::copy_from_slice(name)),
    }
}

fn entry<'a>(names: &'a Namespace, parent: Ino, name: &[u8]) -> Result<(Entry, &'a Inode), Errno> {
    let entry = names.entry(parent, name).ok_or(Errno(libc::ENOENT))?;
    Ok((entry, inode(names, entry.ino)?))
}

/// That nothing has this name yet, and the directory could take one more.
fn free(names: &Namespace, parent: Ino, name: &[u8], directory_comes: bool) -> Result<(), Errno> {
    let parent_inode = directory(names, parent)?;
    if names.entry(parent, name).is_some() {
        return Err(Errno(libc::EEXIST));
    }
    if directory_comes && parent_inode.nlink >= MAX_LINKS {
        return Err(Errno(libc::EMLINK));
    }
    Ok(())
}

fn empty(names: &Namespace, dir: Ino) -> Result<(), Errno> {
    match names.entries(dir).next() {
        None => Ok(()),
        Some(_) => Err(Errno(libc::ENOTEMPTY)),
    }
}

/// Whom a new inode belongs to: a directory with the setgid bit hands its group down, and the bit to directories.
fn owned_by_parent(parent: &Inode, node: &mut NewNode) {
    if parent.mode & S_ISGID != 0 {
        node.gid = parent.gid;
        if matches!(node.kind, Kind::Directory) {
            node.mode |= S_ISGID;
        }
    }
}

/// The access control lists that a new inode takes over from its directory; its mode is what these allow of what was
/// asked for, and without any what the umask leaves of it.
fn inherited_acl(names: &Namespace, parent: Ino, node: &mut NewNode) -> Vec<(&'static [u8], Acl)> {
    if matches!(node.kind, Kind::Symlink { .. }) {
        return Vec::new();
    }
    let list = names.xattr(parent, acl::DEFAULT).and_then(|value| Acl::parse(value).ok().flatten());
    let Some(list) = list else {
        node.mode &= !node.umask;
        return Vec::new();
    };
    node.mode &= !0o777 | list.mode();
    let default = matches!(node.kind, Kind::Directory).then(|| (acl::DEFAULT, list.clone()));
    let access = (!list.is_plain()).then_some((acl::ACCESS, list));
    access.into_iter().chain(default).collect()
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
        let mut making = self.making(parent, name, node)?;
        let seq = self.change(|names| making.plan(names)).await?;
        self.settle(seq).await?;
        self.attributes(making.ino)
    }

    /// Makes and opens a file. Other machines are told at once, but only its `flush` waits for them. A name that
    /// is taken: `EEXIST` with `O_EXCL`, else `ESTALE`, upon which the kernel looks the name up again.
    pub async fn create(&self, new: NewFile<'_>) -> Result<(Attributes, HandleId), Errno> {
        let mut making = self.making(new.parent, new.name, new.node())?;
        self.change(|names| making.plan(names)).await.map_err(|errno| new.refused(errno))?;
        self.created(making.ino, new.flags)
    }

    /// As `create`, at once or not at all.
    pub fn create_now(&self, new: NewFile<'_>) -> Result<(Attributes, HandleId), Refusal> {
        let mut making = self.making(new.parent, new.name, new.node()).map_err(Refusal::Errno)?;
        let made = self.control().change_under(&mut |names| self.permitted_under(names, making.plan(names)?));
        made.map_err(|refusal| match refusal {
            Refusal::Errno(errno) => Refusal::Errno(new.refused(errno)),
            refusal => refusal,
        })?;
        self.created(making.ino, new.flags).map_err(Refusal::Errno)
    }

    fn created(&self, ino: Ino, flags: i32) -> Result<(Attributes, HandleId), Errno> {
        let handle = self.open_created(ino, OpenFlags::from_libc(flags))?;
        Ok((self.attributes(ino)?, handle))
    }

    fn making(&self, parent: Ino, name: &[u8], node: NewNode) -> Result<Making, Errno> {
        let place = Place { parent, name: checked_name(name)? };
        let control = self.control();
        Ok(Making { place, node, ino: Ino(control.new_number()), time: control.now() })
    }

    /// Gives an inode that is no directory one more name.
    pub async fn link(&self, ino: Ino, parent: Ino, name: &[u8]) -> Result<Attributes, Errno> {
        let name = checked_name(name)?;
        let time = self.control().now();
        let plan = |names: &Namespace| {
            let inode = inode(names, ino)?;
            if is_directory(inode) {
                return Err(Errno(libc::EPERM));
            }
            if inode.nlink == 0 {
                return Err(Errno(libc::ENOENT));
            }
            if inode.nlink >= MAX_LINKS {
                return Err(Errno(libc::EMLINK));
            }
            free(names, parent, &name, false)?;
            let place = Place { parent, name: name.clone() };
            Ok(Planned::under(vec![parent], vec![Change::Link { place, ino, time }]))
        };
        let seq = self.change(plan).await?;
        self.settle(seq).await?;
        self.attributes(ino)
    }

    /// Takes a name away from an inode that is no directory.
    pub async fn unlink(&self, parent: Ino, name: &[u8]) -> Result<(), Errno> {
        let name = checked_name(name)?;
        let time = self.control().now();
        let mut gone = None;
        for _ in 0..OVERTAKEN {
            let plan = |names: &Namespace| {
                directory(names, parent)?;
                let (entry, inode) = entry(names, parent, &name)?;
                if is_directory(inode) {
                    return Err(Errno(libc::EISDIR));
                }
                gone = Some(entry);
                let seen = inode.seen(entry.ino);
                let place = Place { parent, name: name.clone() };
                Ok(Planned::under(vec![parent], vec![Change::Unlink { place, seen, time }]))
            };
            let seq = self.change(plan).await?;
            self.removed(gone.map(|entry| entry.ino), seq).await?;
            // A file that is written elsewhere at this moment is kept, for its writer's sake. By now this peer has what
            // was written, and whoever removes the file knows it.
            if self.control().namespace().entry(parent, &name) != gone {
                break;
            }
        }
        Ok(())
    }

    /// Takes away an empty directory.
    pub async fn rmdir(&self, parent: Ino, name: &[u8]) -> Result<(), Errno> {
        let name = checked_name(name)?;
        let time = self.control().now();
        let mut gone = None;
        let plan = |names: &Namespace| {
            directory(names, parent)?;
            let (entry, inode) = entry(names, parent, &name)?;
            if !is_directory(inode) {
                return Err(Errno(libc::ENOTDIR));
            }
            empty(names, entry.ino)?;
            gone = Some(entry.ino);
            let change = Change::Rmdir { place: Place { parent, name: name.clone() }, ino: entry.ino, time };
            Ok(Planned::under(vec![parent, entry.ino], vec![change]))
        };
        let seq = self.change(plan).await?;
        self.removed(gone, seq).await
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
        let mut gone = None;
        let plan = |names: &Namespace| {
            directory(names, from.parent)?;
            directory(names, to.parent)?;
            match flags {
                0 | libc::RENAME_NOREPLACE => {
                    let Some((ino, replaced)) = planned_rename(names, &from, &to, flags != 0)? else {
                        return Ok(Planned::default());
                    };
                    gone = replaced.map(|seen| seen.ino);
                    let change = Change::Rename { from: from.clone(), to: to.clone(), ino, replaced, time };
                    let mut leases = moving(names, &from, &to, &[ino]);
                    // What is replaced is what was there last: its content, and that it is empty.
                    leases.extend(gone);
                    Ok(Planned::under(leases, vec![change]))
                }
                libc::RENAME_EXCHANGE => {
                    let Some((a_ino, b_ino)) = planned_exchange(names, &from, &to)? else {
                        return Ok(Planned::default());
                    };
                    let change = Change::Exchange { a: from.clone(), a_ino, b: to.clone(), b_ino, time };
                    Ok(Planned::under(moving(names, &from, &to, &[a_ino, b_ino]), vec![change]))
                }
                _ => Err(Errno(libc::EINVAL)),
            }
        };
        let seq = self.change(plan).await?;
        self.removed(gone, seq).await
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

    async fn removed(&self, gone: Option<Ino>, seq: u64) -> Result<(), Errno> {
        gone.into_iter().for_each(|ino| self.linger(ino));
        self.settle(seq).await
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

/// The leases of a move: both directories', and where a directory changes its parent, the one of all such moves.
fn moving(names: &Namespace, from: &Place, to: &Place, moved: &[Ino]) -> Vec<Ino> {
    let mut leases = vec![from.parent, to.parent];
    let directories = moved.iter().any(|ino| names.inode(*ino).is_some_and(is_directory));
    if from.parent != to.parent && directories {
        leases.push(MOVES);
    }
    leases
}

/// What moves and what it replaces; `None` where both names are of one inode and nothing is to be done.
fn planned_rename(
    names: &Namespace,
    from: &Place,
    to: &Place,
    no_replace: bool,
) -> Result<Option<(Ino, Option<Seen>)>, Errno> {
    let (moved, moved_inode) = entry(names, from.parent, &from.name)?;
    if is_directory(moved_inode) && names.is_above(moved.ino, to.parent) {
        return Err(Errno(libc::EINVAL));
    }
    let grows = is_directory(moved_inode) && from.parent != to.parent;
    let Some(there) = names.entry(to.parent, &to.name) else {
        free(names, to.parent, &to.name, grows)?;
        return Ok(Some((moved.ino, None)));
    };
    if no_replace {
        return Err(Errno(libc::EEXIST));
    }
    if there.ino == moved.ino {
        return Ok(None);
    }
    let there_inode = inode(names, there.ino)?;
    match (is_directory(moved_inode), is_directory(there_inode)) {
        (true, false) => return Err(Errno(libc::ENOTDIR)),
        (false, true) => return Err(Errno(libc::EISDIR)),
        (true, true) => empty(names, there.ino)?,
        (false, false) => {}
    }
    Ok(Some((moved.ino, Some(there_inode.seen(there.ino)))))
}

/// What changes places; `None` where both names are of one inode.
fn planned_exchange(names: &Namespace, a: &Place, b: &Place) -> Result<Option<(Ino, Ino)>, Errno> {
    let (a_entry, a_inode) = entry(names, a.parent, &a.name)?;
    let (b_entry, b_inode) = entry(names, b.parent, &b.name)?;
    let into_itself = |inode: &Inode, ino, parent| is_directory(inode) && names.is_above(ino, parent);
    if into_itself(a_inode, a_entry.ino, b.parent) || into_itself(b_inode, b_entry.ino, a.parent) {
        return Err(Errno(libc::EINVAL));
    }
    Ok((a_entry.ino != b_entry.ino).then_some((a_entry.ino, b_entry.ino)))
}

#[cfg(test)]
mod tests;
