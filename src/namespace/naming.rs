//! What a process wants done to names, and what that comes to.
//!
//! Whether a name is free, and what a rename replaces, is decided by whoever holds the leases, from the namespace as it
//! is then: this peer, or for it the peer that is busy under them ([`crate::wire::LeaseMessage::Name`]).

use super::acl::{self, Acl};
use super::{Change, Entry, Inode, Kind, MOVES, NAME_BYTES, Name, Namespace, Place, Seen, TARGET_BYTES};
use crate::id::Ino;
use crate::time::WallTime;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// The most names of one file, and the most subdirectories of a directory.
pub const MAX_LINKS: u32 = 1 << 30;

const S_ISGID: u32 = libc::S_ISGID;

/// An error as a system call's caller sees it: a `libc` errno.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Errno(pub i32);

/// What a process wants done to names. `time` is what it is stamped with: its own machine's clock.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Naming {
    /// A new inode, whose number its wisher has drawn. `umask`: permission bits that are taken off, unless the directory
    /// has a default access control list.
    Make { place: Place, ino: Ino, kind: Kind, mode: u32, umask: u32, uid: u32, gid: u32, time: WallTime },
    /// One more name for an inode that is no directory.
    Link { place: Place, ino: Ino, time: WallTime },
    /// Takes a name from an inode that is no directory.
    Unlink { place: Place, time: WallTime },
    /// Takes away an empty directory.
    Rmdir { place: Place, time: WallTime },
    /// Moves what `from` names to `to`, over what is there if it `replaces`.
    Rename { from: Place, to: Place, replaces: bool, time: WallTime },
    /// Swaps what two places name.
    Exchange { a: Place, b: Place, time: WallTime },
}

/// What is to be done about names, from the namespace that was looked at.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Decided {
    /// To be held, or it may be otherwise by now.
    pub leases: Vec<Ino>,
    /// What is done to names comes first; nothing where all is as it should be already.
    pub changes: Vec<Change>,
    /// What loses a name.
    pub gone: Option<Ino>,
}

impl Naming {
    /// What it comes to, or the errno of its system call. Names must be of the right form.
    pub fn decide(&self, names: &Namespace) -> Result<Decided, Errno> {
        match self {
            Naming::Make { place, ino, kind, mode, umask, uid, gid, time } => {
                let parent = free(names, place, *kind == Kind::Directory)?;
                let (allowed, lists) = inherited(names, place.parent, kind, *umask);
                let (mut mode, mut gid) = (mode & 0o7777 & allowed, *gid);
                // A directory with the setgid bit hands its group down, and the bit to directories.
                if parent.mode & S_ISGID != 0 {
                    gid = parent.gid;
                    mode |= if *kind == Kind::Directory { S_ISGID } else { 0 };
                }
                let (place, ino, kind, uid, time) = (place.clone(), *ino, kind.clone(), *uid, *time);
                let mut decided =
                    decided([place.parent], Change::Create { place, ino, kind, mode, uid, gid, time }, None);
                decided.changes.extend(lists.into_iter().map(|(name, list)| Change::SetXattr {
                    ino,
                    name: Bytes::from_static(name),
                    value: Some(list.bytes().into()),
                    ctime: time,
                }));
                Ok(decided)
            }
            Naming::Link { place, ino, time } => {
                let inode = inode(names, *ino)?;
                if inode.kind == Kind::Directory {
                    return Err(Errno(libc::EPERM));
                }
                if inode.nlink == 0 {
                    return Err(Errno(libc::ENOENT));
                }
                if inode.nlink >= MAX_LINKS {
                    return Err(Errno(libc::EMLINK));
                }
                free(names, place, false)?;
                let change = Change::Link { place: place.clone(), ino: *ino, time: *time };
                Ok(decided([place.parent], change, None))
            }
            Naming::Unlink { place, time } => {
                directory(names, place.parent)?;
                let (entry, inode) = entry(names, place.parent, &place.name)?;
                if inode.kind == Kind::Directory {
                    return Err(Errno(libc::EISDIR));
                }
                let seen = inode.seen(entry.ino);
                let change = Change::Unlink { place: place.clone(), seen, time: *time };
                Ok(decided([place.parent], change, Some(entry.ino)))
            }
            Naming::Rmdir { place, time } => {
                directory(names, place.parent)?;
                let (entry, inode) = entry(names, place.parent, &place.name)?;
                if inode.kind != Kind::Directory {
                    return Err(Errno(libc::ENOTDIR));
                }
                empty(names, entry.ino)?;
                let change = Change::Rmdir { place: place.clone(), ino: entry.ino, time: *time };
                Ok(decided([place.parent, entry.ino], change, Some(entry.ino)))
            }
            Naming::Rename { from, to, replaces, time } => {
                directory(names, from.parent)?;
                directory(names, to.parent)?;
                let Some((ino, replaced)) = renamed(names, from, to, *replaces)? else {
                    return Ok(Decided::default());
                };
                let gone = replaced.map(|seen| seen.ino);
                let mut leases = moving(names, from, to, &[ino]);
                // What is replaced is what was there last: its content, and that it is empty.
                leases.extend(gone);
                let change = Change::Rename { from: from.clone(), to: to.clone(), ino, replaced, time: *time };
                Ok(decided(leases, change, gone))
            }
            Naming::Exchange { a, b, time } => {
                directory(names, a.parent)?;
                directory(names, b.parent)?;
                let Some((a_ino, b_ino)) = exchanged(names, a, b)? else { return Ok(Decided::default()) };
                let leases = moving(names, a, b, &[a_ino, b_ino]);
                Ok(decided(leases, Change::Exchange { a: a.clone(), a_ino, b: b.clone(), b_ino, time: *time }, None))
            }
        }
    }

    /// That names and targets are of the right form.
    pub fn check(&self) -> Result<(), &'static str> {
        let places = match self {
            Naming::Make { place, kind, .. } => {
                if matches!(kind, Kind::Symlink { target } if !(1..=TARGET_BYTES).contains(&target.len())) {
                    return Err("a symlink's target is empty or too long");
                }
                [Some(place), None]
            }
            Naming::Link { place, .. } | Naming::Unlink { place, .. } | Naming::Rmdir { place, .. } => {
                [Some(place), None]
            }
            Naming::Rename { from, to, .. } => [Some(from), Some(to)],
            Naming::Exchange { a, b, .. } => [Some(a), Some(b)],
        };
        places.into_iter().flatten().try_for_each(|place| super::check_name(&place.name))
    }
}

fn decided(leases: impl Into<Vec<Ino>>, change: Change, gone: Option<Ino>) -> Decided {
    Decided { leases: leases.into(), changes: vec![change], gone }
}

/// The access control lists that a new inode takes over from its directory, and the bits that these allow of what was
/// asked for, or without any those that the umask leaves of it.
fn inherited(names: &Namespace, parent: Ino, kind: &Kind, umask: u32) -> (u32, Vec<(&'static [u8], Acl)>) {
    if matches!(kind, Kind::Symlink { .. }) {
        return (!0, Vec::new());
    }
    let list = names.xattr(parent, acl::DEFAULT).and_then(|value| Acl::parse(value).ok().flatten());
    let Some(list) = list else { return (!umask, Vec::new()) };
    let mode = !0o777 | list.mode();
    let default = matches!(kind, Kind::Directory).then(|| (acl::DEFAULT, list.clone()));
    let access = (!list.is_plain()).then_some((acl::ACCESS, list));
    (mode, access.into_iter().chain(default).collect())
}

/// The name, if it can be one.
pub fn checked_name(name: &[u8]) -> Result<Name, Errno> {
    match name {
        _ if name.len() > NAME_BYTES => Err(Errno(libc::ENAMETOOLONG)),
        b"" | b"." | b".." => Err(Errno(libc::EINVAL)),
        _ if name.iter().any(|byte| matches!(byte, b'/' | 0)) => Err(Errno(libc::EINVAL)),
        _ => Ok(Bytes::copy_from_slice(name)),
    }
}

/// The inode, or `ENOENT`.
pub fn inode(names: &Namespace, ino: Ino) -> Result<&Inode, Errno> {
    names.inode(ino).ok_or(Errno(libc::ENOENT))
}

/// The directory, which must still have a place in the tree, or `ENOENT` or `ENOTDIR`.
pub fn directory(names: &Namespace, ino: Ino) -> Result<&Inode, Errno> {
    let inode = inode(names, ino)?;
    match inode.kind {
        Kind::Directory if inode.nlink == 0 => Err(Errno(libc::ENOENT)),
        Kind::Directory => Ok(inode),
        _ => Err(Errno(libc::ENOTDIR)),
    }
}

/// What a name in a directory stands for, or `ENOENT`.
pub fn entry<'a>(names: &'a Namespace, parent: Ino, name: &[u8]) -> Result<(Entry, &'a Inode), Errno> {
    let entry = names.entry(parent, name).ok_or(Errno(libc::ENOENT))?;
    Ok((entry, inode(names, entry.ino)?))
}

/// The directory of a place, where nothing has this name yet and one more can be.
fn free<'a>(names: &'a Namespace, place: &Place, directory_comes: bool) -> Result<&'a Inode, Errno> {
    let parent = directory(names, place.parent)?;
    if names.entry(place.parent, &place.name).is_some() {
        return Err(Errno(libc::EEXIST));
    }
    if directory_comes && parent.nlink >= MAX_LINKS {
        return Err(Errno(libc::EMLINK));
    }
    Ok(parent)
}

fn empty(names: &Namespace, dir: Ino) -> Result<(), Errno> {
    match names.entries(dir).next() {
        None => Ok(()),
        Some(_) => Err(Errno(libc::ENOTEMPTY)),
    }
}

fn is_directory(inode: &Inode) -> bool {
    inode.kind == Kind::Directory
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
fn renamed(names: &Namespace, from: &Place, to: &Place, replaces: bool) -> Result<Option<(Ino, Option<Seen>)>, Errno> {
    let (moved, moved_inode) = entry(names, from.parent, &from.name)?;
    if is_directory(moved_inode) && names.is_above(moved.ino, to.parent) {
        return Err(Errno(libc::EINVAL));
    }
    let grows = is_directory(moved_inode) && from.parent != to.parent;
    let Some(there) = names.entry(to.parent, &to.name) else {
        free(names, to, grows)?;
        return Ok(Some((moved.ino, None)));
    };
    if !replaces {
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
fn exchanged(names: &Namespace, a: &Place, b: &Place) -> Result<Option<(Ino, Ino)>, Errno> {
    let (a_entry, a_inode) = entry(names, a.parent, &a.name)?;
    let (b_entry, b_inode) = entry(names, b.parent, &b.name)?;
    let into_itself = |inode: &Inode, ino, parent| is_directory(inode) && names.is_above(ino, parent);
    if into_itself(a_inode, a_entry.ino, b.parent) || into_itself(b_inode, b_entry.ino, a.parent) {
        return Err(Errno(libc::EINVAL));
    }
    Ok((a_entry.ino != b_entry.ino).then_some((a_entry.ino, b_entry.ino)))
}
