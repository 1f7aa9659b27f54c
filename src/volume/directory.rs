//! Reading directories.

use super::ports::Errno;
use super::{Attributes, Volume};
use crate::id::Ino;
use crate::namespace::{Kind, Name, Namespace};
use bytes::Bytes;
use parking_lot::Mutex;
use std::sync::Arc;

/// A directory open for reading. It holds the names as they were when it was opened or last rewound, so that a
/// place in it means the same while others create and remove: every name that was there throughout is read once.
pub struct Directory {
    volume: Volume,
    ino: Ino,
    names: Mutex<Arc<Listing>>,
}

type Listing = Vec<(Name, Ino)>;

/// One name read from a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listed {
    pub name: Name,
    pub ino: Ino,
    /// Type bits as in `libc::S_IFMT`.
    pub format: u32,
    /// Where to read on after this one.
    pub next: u64,
}

impl Volume {
    /// Opens a directory for reading.
    pub fn open_directory(&self, ino: Ino) -> Result<Directory, Errno> {
        let names = Mutex::new(Arc::new(listing(&self.control().namespace(), ino)?));
        Ok(Directory { volume: self.clone(), ino, names })
    }
}

impl Directory {
    /// The names from a place on (0: the beginning, which looks again), "." and ".." first. Names removed since
    /// the directory was opened are left out. `give` returns false when it can take no more.
    pub fn read(&self, from: u64, give: &mut dyn FnMut(Listed) -> bool) -> Result<(), Errno> {
        let listing = self.listing(from)?;
        let start = usize::try_from(from).unwrap_or(usize::MAX);
        let mut next = from;
        // A name at a time, so that changes do not wait for a long directory.
        for (name, ino) in listing.iter().skip(start) {
            next += 1;
            let format = {
                let names = self.volume.control().namespace();
                let dot = next <= 2;
                if !dot && names.entry(self.ino, name).is_none_or(|entry| entry.ino != *ino) {
                    continue;
                }
                match names.inode(*ino) {
                    Some(inode) => format(&inode.kind),
                    None if dot => libc::S_IFDIR,
                    None => continue,
                }
            };
            if !give(Listed { name: name.clone(), ino: *ino, format, next }) {
                break;
            }
        }
        Ok(())
    }

    /// The attributes of something listed; `None` when it went in the meantime.
    pub fn attributes(&self, listed: &Listed) -> Option<Attributes> {
        self.volume.attributes(listed.ino).ok()
    }

    fn listing(&self, from: u64) -> Result<Arc<Listing>, Errno> {
        let mut names = self.names.lock();
        if from == 0 {
            *names = Arc::new(match listing(&self.volume.control().namespace(), self.ino) {
                Ok(listing) => listing,
                // A removed directory that is still open is empty.
                Err(Errno(libc::ENOENT)) => Listing::new(),
                Err(errno) => return Err(errno),
            });
        }
        Ok(names.clone())
    }
}

fn listing(names: &Namespace, ino: Ino) -> Result<Listing, Errno> {
    let inode = names.inode(ino).ok_or(Errno(libc::ENOENT))?;
    if !matches!(inode.kind, Kind::Directory) {
        return Err(Errno(libc::ENOTDIR));
    }
    if inode.nlink == 0 {
        return Err(Errno(libc::ENOENT));
    }
    let parent = inode.place.as_ref().map_or(Ino::ROOT, |place| place.parent);
    let dots = [(Bytes::from_static(b"."), ino), (Bytes::from_static(b".."), parent)];
    Ok(dots.into_iter().chain(names.entries(ino).map(|(name, entry)| (name.clone(), entry.ino))).collect())
}

/// Type bits as in `libc::S_IFMT`.
pub(super) fn format(kind: &Kind) -> u32 {
    match kind {
        Kind::File => libc::S_IFREG,
        Kind::Directory => libc::S_IFDIR,
        Kind::Symlink { .. } => libc::S_IFLNK,
        Kind::Special { format, .. } => format & libc::S_IFMT,
    }
}
