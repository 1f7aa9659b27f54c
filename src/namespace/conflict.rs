//! Conflicts: names for what came second, and copies of files that were changed on two sides.

use super::apply::{DERIVED, Work};
use super::op::{Extent, Kind, NAME_BYTES, Name};
use super::record::{Inode, Key, Record};
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
        let place = if named { self.conflict_place(&beside) } else { beside };
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
        if named {
            self.put_entry(&place, fork);
            self.touch_directory(place.parent, 0);
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
