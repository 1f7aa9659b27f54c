//! Conflicts: names for what came second, copies of files that were changed on two sides, and the record of what
//! each side did.

use super::apply::{DERIVED, Work};
use super::op::{Extent, Kind, NAME_BYTES, Name, Place};
use super::record::{Conflict, Deed, Did, Inode, Key, Record};
use crate::id::Ino;
use crate::time::Stamp;
use std::collections::BTreeMap;

/// A longer extension is taken for a part of the name.
const EXTENSION_BYTES: usize = 16;

/// `name (conflict from PEER MILLIS).ext`: the name that something gets when its own is taken, told apart by
/// the stamp of the later op, and by the attempt where one op needs several.
pub(super) fn conflict_name(name: &[u8], stamp: Stamp, attempt: u32) -> Name {
    let dot = name.iter().rposition(|byte| *byte == b'.').filter(|dot| *dot > 0 && name.len() - dot <= EXTENSION_BYTES);
    let (stem, extension) = name.split_at(dot.unwrap_or(name.len()));
    let counter = if attempt > 1 { format!(" {attempt}") } else { String::new() };
    let mark = format!(" (conflict from {} {}{counter})", stamp.author.peer(), stamp.time.millis());
    let mut keep = stem.len().min(NAME_BYTES.saturating_sub(mark.len() + extension.len()));
    // Do not cut a UTF-8 character in two.
    while keep < stem.len() && keep > 0 && stem[keep] & 0xc0 == 0x80 {
        keep -= 1;
    }
    [&stem[..keep], mark.as_bytes(), extension].concat().into()
}

/// A file's content as one of its versions had it.
struct Version {
    size: u64,
    extents: BTreeMap<u64, Extent>,
}

impl Work<'_> {
    /// Where a write goes that was built on version `base` of a file: the file itself, or the copy that
    /// follows this line of versions, or a new copy of that version under a conflict name.
    pub fn line_of(&mut self, ino: Ino, base: Stamp, linked: bool) -> Option<Ino> {
        self.tree.inode(ino).filter(|inode| inode.kind == Kind::File)?;
        if let Some(line) = self.tree.line(ino, base) {
            return Some(line);
        }
        if self.again && base == Stamp::default() {
            // It brings everything along, for nobody else has what it was built on.
            return self.fork(ino, ino, Version { size: 0, extents: BTreeMap::new() }, linked);
        }
        let mut family = self.tree.family(ino).into_iter();
        // Without the version, the op that wrote it has not arrived, and this one waits for it: on any other
        // version it would give bytes that nobody wrote.
        let (line, (version, since)) =
            family.find_map(|line| self.version(line, base).map(|version| (line, version)))?;
        self.built_on = Some(since);
        self.fork(ino, line, version, linked)
    }

    /// The content of a file just after op `base` wrote it, if it did, and the op before the first one whose
    /// before-images that takes.
    fn version(&self, ino: Ino, base: Stamp) -> Option<(Version, Stamp)> {
        let inode = self.tree.inode(ino)?;
        let mut written = Some((inode.content, inode.size));
        let mut version = self.current(ino);
        let mut since = base;
        // An op made anew has its place in the order above its stamp: so the walk ends where the version is found.
        for later in self.log.between(base, self.at).rev() {
            if written.is_none_or(|(content, _)| content == base) {
                break;
            }
            since = later.op.stamp;
            if let Some(before) = later.undo.get(&Key::Inode(ino)) {
                written = match before {
                    Some(Record::Inode(inode)) => Some((inode.content, inode.size)),
                    _ => None,
                };
            }
            for (key, before) in later.undo.range(Key::Extent(ino, 0)..=Key::Extent(ino, u64::MAX)) {
                match (key, before) {
                    (Key::Extent(_, at), Some(Record::Extent(extent))) => version.extents.insert(*at, extent.clone()),
                    (Key::Extent(_, at), _) => version.extents.remove(at),
                    _ => None,
                };
            }
        }
        let (_, size) = written.filter(|(content, _)| *content == base)?;
        let since = self.log.last_before(since).unwrap_or(base);
        Some((Version { size, ..version }, since))
    }

    fn current(&self, ino: Ino) -> Version {
        let extents = self.tree.extents(ino, 0, u64::MAX).map(|(at, extent)| (at, extent.clone())).collect();
        Version { size: self.tree.inode(ino).map_or(0, |inode| inode.size), extents }
    }

    /// A copy of `version` of the file `line`, noted with `ino`: next to it under a conflict name, or without a
    /// name if both the file and its writer (`linked`) are.
    fn fork(&mut self, ino: Ino, line: Ino, version: Version, linked: bool) -> Option<Ino> {
        let original = self.tree.inode(line)?.clone();
        let named = linked || original.nlink > 0;
        let beside = original.place.clone()?;
        let place = if named { self.conflict_place(&beside) } else { beside.clone() };
        let original_content = original.content;
        let fork = self.derived_number();
        let inode = Inode {
            size: version.size,
            nlink: u32::from(named),
            btime: self.time,
            ctime: self.time,
            content: self.stamp,
            version: self.stamp,
            place: Some(place.clone()),
            orphaned: (!named).then_some(self.stamp),
            reaped: false,
            forks: vec![(original.content.author.peer(), ino)],
            ..original
        };
        self.put(Key::Inode(fork), Some(Record::Inode(Box::new(inode))));
        self.hold_copy(fork);
        if named {
            self.put_entry(&place, fork);
            self.touch_directory(place.parent, 0);
            let deed = |stamp| Deed { what: Did::Changed, stamp };
            let (here, there) = (deed(self.stamp), deed(original_content));
            let other = Some(Place { parent: place.parent, name: beside.name });
            self.note(&place, Conflict { ino: fork, here, there, other });
        }
        let xattrs: Vec<_> = self.tree.xattrs(line).map(|(name, value)| (name.clone(), value.clone())).collect();
        for (name, value) in xattrs {
            self.put(Key::Xattr(fork, name), Some(Record::Xattr(value)));
        }
        for (at, extent) in version.extents {
            self.put(Key::Extent(fork, at), Some(Record::Extent(extent)));
        }
        self.use_all_extents(fork, 1);
        let peer = self.stamp.author.peer();
        self.edit_even_reaped(ino, |inode| inode.forks.push((peer, fork)));
        Some(fork)
    }

    /// A number for a copy: nobody can draw one while applying, so it comes from the stamp.
    fn derived_number(&self) -> Ino {
        use sha2::Digest;
        let hash = sha2::Sha256::digest(self.stamp.time.0.to_be_bytes());
        let low = hash.iter().take(5).fold(0u64, |low, byte| low << 8 | u64::from(*byte));
        let mut counter = low & (DERIVED - 1);
        loop {
            let ino = Ino::new(self.stamp.author.peer(), DERIVED | counter);
            if self.tree.inode(ino).is_none() {
                return ino;
            }
            counter = (counter + 1) & (DERIVED - 1);
        }
    }
}

/// The record of conflicts.
impl Work<'_> {
    /// Records a conflict about a name, unless one is recorded there.
    pub fn note(&mut self, place: &Place, conflict: Conflict) {
        if self.tree.conflict(place).is_none() {
            let key = Key::Conflict(place.parent, place.name.clone());
            self.put(key, Some(Record::Conflict(Box::new(conflict))));
        }
    }

    /// Records that what was to be at `wished` is at `place`, as the name was taken; nothing if it was not.
    pub fn note_clash(&mut self, place: &Place, wished: &Place, what: Did) {
        let (at, taken) = (self.tree.entry(place.parent, &place.name), self.tree.entry(wished.parent, &wished.name));
        if let (Some(at), Some(taken)) = (at, taken)
            && place != wished
        {
            let here = Deed { what, stamp: self.stamp };
            let there = Deed { what: Did::Created, stamp: taken.stamp };
            self.note(place, Conflict { ino: at.ino, here, there, other: Some(wished.clone()) });
        }
    }

    /// Records that what has this name was to be removed, but stays as it was changed meanwhile.
    pub fn note_kept(&mut self, place: &Place, ino: Ino) {
        let Some(stamp) = self.tree.inode(ino).map(|inode| inode.content) else { return };
        let here = Deed { what: Did::Changed, stamp };
        self.note(place, Conflict { ino, here, there: Deed { what: Did::Deleted, stamp: self.stamp }, other: None });
    }

    /// Records that something was to go to a place, but the other side moved it elsewhere first.
    pub fn note_moved(&mut self, ino: Ino, to: &Place) {
        let Some(inode) = self.tree.inode(ino).filter(|inode| inode.nlink == 1 || inode.kind == Kind::Directory) else {
            return;
        };
        // Without a name it was removed; as a part of another directory it is moved no more.
        let Some(place) = inode.place.clone().filter(|place| place != to) else { return };
        if let Some(entry) = self.tree.entry(place.parent, &place.name).filter(|entry| entry.ino == ino) {
            let deed = |stamp| Deed { what: Did::Moved, stamp };
            let (here, there) = (deed(entry.stamp), deed(self.stamp));
            self.note(&place, Conflict { ino, here, there, other: Some(to.clone()) });
        }
    }

    /// Records that a directory was to go to a place below itself, where the other side's moves had put that.
    pub fn note_circle(&mut self, place: &Place, ino: Ino, to: &Place) {
        let mut moved = Stamp::default();
        let mut at = to.parent;
        for _ in 0..super::read::DEPTH {
            let above = self.tree.inode(at).and_then(|inode| inode.place.as_ref()).filter(|_| at != ino);
            let Some(above) = above else { break };
            moved = moved.max(self.tree.entry(above.parent, &above.name).map_or(moved, |entry| entry.stamp));
            at = self.tree.survivor(above.parent);
        }
        let here = Deed { what: Did::Moved, stamp: moved };
        let there = Deed { what: Did::MovedInCircle, stamp: self.stamp };
        self.note(place, Conflict { ino, here, there, other: Some(to.clone()) });
    }

    /// Where an inode is that somebody saw at `place`: there, or under the conflict name it got as that was taken.
    pub fn place_of(&self, place: &Place, ino: Ino) -> Option<Place> {
        let names = |place: &Place| self.tree.entry(place.parent, &place.name).is_some_and(|entry| entry.ino == ino);
        if names(place) {
            return Some(place.clone());
        }
        let at = self.tree.inode(ino)?.place.as_ref().filter(|at| names(at))?;
        let conflict = self.tree.conflict(at)?;
        let moved = matches!(conflict.there.what, Did::Moved | Did::MovedInCircle);
        let wished = conflict.other.as_ref().filter(|_| !moved && conflict.ino == ino)?;
        let same = wished.name == place.name && self.tree.survivor(wished.parent) == place.parent;
        same.then(|| at.clone())
    }

    /// Whether a conflict is recorded about a name in this directory.
    pub fn has_conflicts(&self, dir: Ino) -> bool {
        self.tree.conflicts(dir).next().is_some_and(|(place, _)| place.parent == dir)
    }

    /// What is recorded about a name goes with what had it.
    pub fn forget_conflict(&mut self, place: &Place) {
        if self.tree.conflict(place).is_some() {
            self.put(Key::Conflict(place.parent, place.name.clone()), None);
        }
    }

    /// Somebody has seen to it.
    pub fn settle(&mut self, place: &Place, ino: Ino) {
        if self.tree.conflict(place).is_some_and(|conflict| conflict.ino == ino) {
            self.forget_conflict(place);
        }
    }
}
