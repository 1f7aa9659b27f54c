//! Applying changes of names: create, link, unlink, rmdir, rename, exchange, reap. Nothing anyone made is lost:
//! a name that is taken gives a conflict name, a directory that went comes back for what is put in it.

use super::apply::Work;
use super::conflict::conflict_name;
use super::op::{Kind, Name, Place, Seen};
use super::read::DEPTH;
use super::record::{Conflict, Deed, Did, Inode, Key, Record};
use crate::id::Ino;
use crate::time::Stamp;
use bytes::Bytes;

impl Work<'_> {
    pub fn create(&mut self, place: &Place, ino: Ino, kind: &Kind, mode: u32, uid: u32, gid: u32) {
        if self.tree.inode(ino).is_some() {
            return;
        }
        let Some((place, wished)) = self.free_place(place) else { return };
        let inode = Inode {
            kind: kind.clone(),
            mode: mode & 0o7777,
            uid,
            gid,
            size: if let Kind::Symlink { target } = kind { target.len() as u64 } else { 0 },
            nlink: if *kind == Kind::Directory { 2 } else { 1 },
            atime: self.time,
            mtime: self.time,
            ctime: self.time,
            btime: self.time,
            content: self.stamp,
            version: self.stamp,
            policy: None,
            place: Some(place.clone()),
            orphaned: None,
            reaped: false,
            forks: Vec::new(),
        };
        self.put(Key::Inode(ino), Some(Record::Inode(Box::new(inode))));
        self.put_entry(&place, ino);
        self.touch_directory(place.parent, i32::from(*kind == Kind::Directory));
        self.note_clash(&place, &wished, Did::Created);
    }

    pub fn link(&mut self, place: &Place, ino: Ino) {
        let Some(inode) = self.tree.inode(ino).filter(|inode| inode.kind != Kind::Directory) else { return };
        let reaped = inode.reaped;
        if self.tree.entry(place.parent, &place.name).is_some_and(|entry| entry.ino == ino) {
            return;
        }
        let Some((place, wished)) = self.free_place(place) else { return };
        if reaped {
            self.unreap(ino);
        }
        self.put_entry(&place, ino);
        let time = self.time;
        self.edit(ino, |inode| {
            inode.nlink = inode.nlink.saturating_add(1);
            inode.orphaned = None;
            inode.ctime = time;
            inode.place = Some(place.clone());
        });
        self.touch_directory(place.parent, 0);
        self.note_clash(&place, &wished, Did::Created);
    }

    pub fn unlink(&mut self, place: &Place, seen: Seen) {
        let Some(place) = self.place_of(place, seen.ino) else { return };
        if self.tree.inode(seen.ino).is_none_or(|inode| inode.kind == Kind::Directory) {
            return;
        }
        if self.may_go(seen) {
            self.take_entry(&place);
            self.lose_name(seen.ino, &place);
            self.touch_directory(place.parent, 0);
        } else {
            self.remove_copy(&place, seen);
            self.note_kept(&place, seen.ino);
        }
    }

    /// Where the version that a remover saw is in a copy beside the file, as another side's came first, that goes: the
    /// remover's side wants neither.
    fn remove_copy(&mut self, place: &Place, seen: Seen) {
        let Some(copy) = self.tree.line(seen.ino, seen.content).filter(|copy| *copy != seen.ino) else { return };
        let copy_inode = self.tree.inode(copy).filter(|inode| seen.only && inode.nlink == 1);
        let Some(at) = copy_inode.and_then(|inode| inode.place.clone()) else { return };
        let conflict = self.tree.conflict(&at).filter(|conflict| conflict.ino == copy);
        if conflict.and_then(Conflict::beside) == Some(place) {
            self.take_entry(&at);
            self.lose_name(copy, &at);
            self.touch_directory(at.parent, 0);
        }
    }

    pub fn rmdir(&mut self, place: &Place, ino: Ino) {
        let Some(place) = self.place_of(place, ino) else { return };
        if self.tree.inode(ino).is_none_or(|inode| inode.kind != Kind::Directory) {
            return;
        }
        if self.is_empty(ino) {
            self.take_entry(&place);
            self.lose_name(ino, &place);
            self.touch_directory(place.parent, -1);
        } else if !self.has_conflicts(ino) {
            self.note_kept(&place, ino);
        }
    }

    pub fn rename(&mut self, from: &Place, to: &Place, ino: Ino, replaced: Option<Seen>) {
        let Some(inode) = self.tree.inode(ino).filter(|_| from != to) else { return };
        let is_directory = inode.kind == Kind::Directory;
        let Some(from) = self.place_of(from, ino) else {
            self.note_moved(ino, to);
            return;
        };
        if is_directory && self.is_within(to.parent, ino) {
            self.note_circle(&from, ino, to);
            return;
        }
        let Some(parent) = self.live_directory(to.parent) else { return };
        let wished = Place { parent, name: to.name.clone() };
        let mut to = wished.clone();
        if let Some(there) = self.tree.entry(to.parent, &to.name) {
            if there.ino == ino {
                return;
            }
            let replaced = replaced.filter(|seen| seen.ino == there.ino);
            match replaced.filter(|seen| self.may_replace(*seen, is_directory)) {
                Some(seen) => {
                    self.take_entry(&to);
                    self.lose_name(seen.ino, &to);
                    self.touch_directory(to.parent, -i32::from(is_directory));
                }
                None => {
                    replaced.into_iter().for_each(|seen| self.remove_copy(&wished, seen));
                    to.name = self.free_name(to.parent, &to.name, self.stamp, 1);
                }
            }
        }
        self.take_entry(&from);
        self.put_entry(&to, ino);
        self.touch_directory(from.parent, -i32::from(is_directory));
        self.touch_directory(to.parent, i32::from(is_directory));
        self.note_clash(&to, &wished, Did::Created);
        self.moved(ino, to);
    }

    pub fn exchange(&mut self, a: &Place, a_ino: Ino, b: &Place, b_ino: Ino) {
        let names = |place: &Place, ino| self.tree.entry(place.parent, &place.name).is_some_and(|e| e.ino == ino);
        if !names(a, a_ino) || !names(b, b_ino) || a_ino == b_ino {
            return;
        }
        let directory = |ino| self.tree.inode(ino).is_some_and(|inode| inode.kind == Kind::Directory);
        let (a_is, b_is) = (directory(a_ino), directory(b_ino));
        if (a_is && self.is_within(b.parent, a_ino)) || (b_is && self.is_within(a.parent, b_ino)) {
            return;
        }
        self.put_entry(a, b_ino);
        self.put_entry(b, a_ino);
        self.touch_directory(a.parent, i32::from(b_is) - i32::from(a_is));
        self.touch_directory(b.parent, i32::from(a_is) - i32::from(b_is));
        self.moved(a_ino, b.clone());
        self.moved(b_ino, a.clone());
    }

    pub fn reap(&mut self, ino: Ino) {
        let merged = self.tree.survivor(ino) != ino;
        if !merged && self.tree.inode(ino).is_some_and(|inode| inode.nlink == 0 && !inode.reaped) {
            self.edit(ino, |inode| inode.reaped = true);
            self.use_all_extents(ino, -1);
        }
    }

    fn moved(&mut self, ino: Ino, to: Place) {
        let time = self.time;
        self.edit(ino, |inode| {
            inode.place = Some(to);
            inode.ctime = time;
        });
    }

    /// Whether a file may lose this name: the last one only by somebody who saw it as the last, with this content.
    fn may_go(&self, seen: Seen) -> bool {
        let meant = |content| seen.only && content == seen.content;
        self.tree.inode(seen.ino).is_some_and(|inode| inode.nlink > 1 || meant(inode.content))
    }

    fn may_replace(&self, seen: Seen, by_directory: bool) -> bool {
        let is_directory = self.tree.inode(seen.ino).is_some_and(|inode| inode.kind == Kind::Directory);
        is_directory == by_directory && if is_directory { self.is_empty(seen.ino) } else { self.may_go(seen) }
    }

    /// Takes one name off an inode; without any it is an orphan, and remembers where it was.
    fn lose_name(&mut self, ino: Ino, place: &Place) {
        let (time, stamp) = (self.time, self.stamp);
        self.edit(ino, |inode| {
            inode.nlink = if inode.kind == Kind::Directory { 0 } else { inode.nlink.saturating_sub(1) };
            inode.ctime = time;
            if inode.nlink == 0 {
                inode.orphaned = Some(stamp);
                inode.place = Some(place.clone());
            }
        });
    }

    /// A directory's names changed, and its subdirectories by so many.
    pub fn touch_directory(&mut self, dir: Ino, subdirectories: i32) {
        let (time, stamp) = (self.time, self.stamp);
        self.edit(dir, |inode| {
            inode.mtime = time;
            inode.ctime = time;
            inode.content = stamp;
            inode.nlink = inode.nlink.saturating_add_signed(subdirectories);
        });
    }

    fn is_empty(&self, dir: Ino) -> bool {
        self.tree.entries(dir, Bytes::new()).next().is_none()
    }

    /// Whether `ino` is `above` or lies below it; where directories went, by their last places.
    pub fn is_within(&self, ino: Ino, above: Ino) -> bool {
        let mut at = self.tree.survivor(ino);
        for _ in 0..DEPTH {
            if at == above {
                return true;
            }
            match self.tree.inode(at).and_then(|inode| inode.place.as_ref()) {
                Some(place) => at = self.tree.survivor(place.parent),
                None => return false,
            }
        }
        // Deeper than any path: as good as a cycle.
        true
    }

    /// In a directory that is there: a place with a name that is free, and the place as asked for.
    fn free_place(&mut self, place: &Place) -> Option<(Place, Place)> {
        let parent = self.live_directory(place.parent)?;
        let free = Place { parent, name: self.free_name(parent, &place.name, self.stamp, 0) };
        Some((free, Place { parent, name: place.name.clone() }))
    }

    /// A conflict name beside a place.
    pub fn conflict_place(&mut self, place: &Place) -> Place {
        let parent = self.live_directory(place.parent).unwrap_or(Ino::ROOT);
        Place { parent, name: self.free_name(parent, &place.name, self.stamp, 1) }
    }

    /// The first name that is free: attempt 0 is the name itself, the others are conflict names by this stamp.
    pub fn free_name(&self, parent: Ino, name: &Name, stamp: Stamp, first_attempt: u32) -> Name {
        let mut attempt = first_attempt;
        loop {
            let free = if attempt == 0 { name.clone() } else { conflict_name(name, stamp, attempt) };
            if self.tree.entry(parent, &free).is_none() {
                return free;
            }
            attempt += 1;
        }
    }

    /// The directory, put back under its last place if it went (and those above it likewise). `None` if there
    /// never was such a directory: the op that makes it has not arrived, and this one waits for it.
    fn live_directory(&mut self, ino: Ino) -> Option<Ino> {
        self.tree.inode(ino).filter(|inode| inode.kind == Kind::Directory)?;
        let mut gone = Vec::new();
        let mut live = self.tree.survivor(ino);
        loop {
            match self.tree.inode(live).filter(|inode| inode.kind == Kind::Directory) {
                Some(inode) if inode.nlink > 0 => break,
                Some(inode) if !gone.contains(&live) => {
                    gone.push(live);
                    live = inode.place.as_ref().map_or(Ino::ROOT, |place| self.tree.survivor(place.parent));
                }
                _ => {
                    live = Ino::ROOT;
                    break;
                }
            }
        }
        // The one on top says enough of those below it.
        for (below, dir) in gone.into_iter().rev().enumerate() {
            self.put_back(dir, live, below == 0);
            live = dir;
        }
        Some(live)
    }

    /// Gives an inode without a name one again, in a directory that is there.
    fn put_back(&mut self, ino: Ino, parent: Ino, note: bool) {
        let Some(inode) = self.tree.inode(ino) else { return };
        let (is_directory, reaped) = (inode.kind == Kind::Directory, inode.reaped);
        let deleted = inode.orphaned.unwrap_or(self.stamp);
        let name = inode.place.as_ref().map_or(Name::from_static(b"recovered"), |place| place.name.clone());
        let place = Place { parent, name: self.free_name(parent, &name, self.stamp, 0) };
        if reaped {
            self.unreap(ino);
        }
        self.put_entry(&place, ino);
        let time = self.time;
        self.edit(ino, |inode| {
            inode.nlink = if is_directory { 2 } else { 1 };
            inode.orphaned = None;
            inode.ctime = time;
            inode.place = Some(place.clone());
        });
        self.touch_directory(parent, i32::from(is_directory));
        if place.name != name {
            self.note_clash(&place, &Place { parent, name }, Did::Changed);
        } else if note {
            let here = Deed { what: Did::Changed, stamp: self.stamp };
            self.note(&place, Conflict { ino, here, there: Deed { what: Did::Deleted, stamp: deleted }, other: None });
        }
    }

    /// Gives a file without a name its last one again.
    pub fn resurrect(&mut self, ino: Ino) {
        let parent = self.tree.inode(ino).and_then(|inode| inode.place.as_ref()).map_or(Ino::ROOT, |p| p.parent);
        let parent = self.live_directory(parent).unwrap_or(Ino::ROOT);
        self.put_back(ino, parent, true);
    }

    fn unreap(&mut self, ino: Ino) {
        self.edit_even_reaped(ino, |inode| inode.reaped = false);
        self.use_all_extents(ino, 1);
    }
}
