//! Settling conflicts: which changes carry out what a person decides about one.

use super::Namespace;
use super::op::{Change, Kind, Name, Place, Seen};
use super::record::{Conflict, Did, Entry};
use crate::time::WallTime;
use std::fmt;
use std::str::FromStr;

/// The most conflicts that one decision settles: the copies of one file.
const SETTLED_AT_ONCE: usize = 256;

/// What a person decides about a conflict.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Resolution {
    /// What has the name stays; the other side's version is removed, or what it wished forgotten.
    KeepThis,
    /// The other side's version takes the name, or what it wished is done.
    KeepOther,
    /// Both stay as they are; only the record goes.
    KeepBoth,
}

impl FromStr for Resolution {
    type Err = String;

    fn from_str(text: &str) -> Result<Resolution, String> {
        match text {
            "keep-this" => Ok(Resolution::KeepThis),
            "keep-other" => Ok(Resolution::KeepOther),
            "keep-both" => Ok(Resolution::KeepBoth),
            _ => Err(format!("'{text}' is none of keep-this, keep-other and keep-both")),
        }
    }
}

impl fmt::Display for Resolution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Resolution::KeepThis => "keep-this",
            Resolution::KeepOther => "keep-other",
            Resolution::KeepBoth => "keep-both",
        })
    }
}

impl Conflict {
    /// The name whose version this one is kept beside; none where there is no second version, only a wish that could
    /// not be met.
    pub fn beside(&self) -> Option<&Place> {
        let version = matches!(self.there.what, Did::Created | Did::Changed);
        self.other.as_ref().filter(|_| version)
    }
}

impl Namespace {
    /// The changes that settle the conflicts about a path, be it the file's own or that of a version kept beside it.
    /// Otherwise the message says what is in the way, and what to do.
    pub fn resolution(&self, path: &[u8], how: Resolution, time: WallTime) -> Result<Vec<Change>, String> {
        let conflicts = self.conflicts_about(path);
        let shown = String::from_utf8_lossy(path);
        match conflicts.as_slice() {
            [] => Err(format!("no conflict is known about {shown}; shoal conflicts lists those that are")),
            [_, _, ..] if how == Resolution::KeepOther => Err(format!(
                "there are {} versions beside {shown}; give the path of the one to keep, as shoal conflicts lists them",
                conflicts.len()
            )),
            some => some.iter().map(|(at, conflict)| self.settling(at, conflict, how, time)).collect(),
        }
    }

    fn conflicts_about(&self, path: &[u8]) -> Vec<(Place, &Conflict)> {
        let path = path.strip_suffix(b"/").unwrap_or(path);
        let Some(slash) = path.iter().rposition(|byte| *byte == b'/') else { return Vec::new() };
        let Some(parent) = self.resolve(&path[..slash]).map(|parent| self.survivor(parent)) else { return Vec::new() };
        let place = Place { parent, name: Name::copy_from_slice(&path[slash + 1..]) };
        let about = |at: &Place, conflict: &Conflict| {
            let beside = |wished: &Place| wished.name == place.name && self.survivor(wished.parent) == parent;
            *at == place || conflict.beside().is_some_and(beside)
        };
        // Versions lie beside their file.
        let in_directory = self.tree.conflicts(parent);
        let in_directory = in_directory.take_while(|(at, _)| at.parent == parent);
        in_directory.filter(|(at, conflict)| about(at, conflict)).take(SETTLED_AT_ONCE).collect()
    }

    fn settling(&self, at: &Place, conflict: &Conflict, how: Resolution, time: WallTime) -> Result<Change, String> {
        let ino = conflict.ino;
        let settle = Change::Settle { place: at.clone(), ino };
        let (place, other) = (at.clone(), conflict.other.clone());
        match (how, conflict.beside().is_some(), other) {
            (Resolution::KeepBoth, ..) | (Resolution::KeepThis, false, _) => Ok(settle),
            (Resolution::KeepThis, true, _) | (Resolution::KeepOther, _, None) => self.removal(place, ino, time),
            (Resolution::KeepOther, _, Some(to)) => {
                let replaced = match self.entry(to.parent, &to.name) {
                    None => None,
                    Some(there) if conflict.beside().is_some() => Some(self.seen(&to, there)?),
                    Some(_) => return Err(format!("{} is taken by now; move one of the two first", self.shown(&to))),
                };
                if self.is_above(ino, to.parent) {
                    let to = self.shown(&to);
                    return Err(format!("{to} lies below {} itself; move one of the two first", self.shown(at)));
                }
                if replaced.is_some() && self.is_directory(ino) {
                    return Err(format!("{} is a directory; put it in its place by hand", self.shown(at)));
                }
                Ok(Change::Rename { from: place, to, ino, replaced, time })
            }
        }
    }

    fn removal(&self, place: Place, ino: crate::id::Ino, time: WallTime) -> Result<Change, String> {
        if !self.is_directory(ino) {
            let seen = self.seen(&place, Entry { ino, stamp: Default::default() })?;
            return Ok(Change::Unlink { place, seen, time });
        }
        match self.entries(ino).next() {
            None => Ok(Change::Rmdir { place, ino, time }),
            Some(_) => Err(format!("{} is a directory with something in it; remove it by hand", self.shown(&place))),
        }
    }

    /// What a person who decides now has seen of what has a name.
    fn seen(&self, place: &Place, entry: Entry) -> Result<Seen, String> {
        match self.inode(entry.ino) {
            Some(inode) if inode.kind != Kind::Directory => Ok(inode.seen(entry.ino)),
            _ => Err(format!("{} is a directory; move it away by hand", self.shown(place))),
        }
    }

    fn is_directory(&self, ino: crate::id::Ino) -> bool {
        self.inode(ino).is_some_and(|inode| inode.kind == Kind::Directory)
    }

    /// The path of a place, for messages.
    pub fn shown(&self, place: &Place) -> String {
        String::from_utf8_lossy(&self.path_of(place)).into_owned()
    }

    /// The path of a place from the root; that of what is left where its directory has none.
    pub fn path_of(&self, place: &Place) -> Vec<u8> {
        let mut path = self.path(place.parent).unwrap_or_default();
        if path.last() != Some(&b'/') {
            path.push(b'/');
        }
        path.extend_from_slice(&place.name);
        path
    }
}
