//! Directories that become one. Two sides of a partition may give two directories the same name. The later one then has a
//! conflict name, so that whatever its own side did to it meanwhile (renaming it, removing it) is done to it alone; once
//! the sides have met, one peer says that the two become one, and everybody applies that.

use super::Namespace;
use super::apply::Work;
use super::op::{Change, Kind, Name, Place};
use super::record::{Conflict, Deed, Did, Entry, Key, Record};
use crate::id::Ino;
use crate::time::WallTime;

impl Work<'_> {
    /// Makes the directory `ino` at `from` one with `into`, if their names still clash.
    pub fn merge(&mut self, from: &Place, ino: Ino, into: Ino) {
        let into = self.tree.survivor(into);
        let clash = |conflict: &Conflict| {
            let taken = |wished: &Place| self.tree.entry(self.tree.survivor(wished.parent), &wished.name);
            conflict.ino == ino && conflict.beside().and_then(taken).is_some_and(|entry| entry.ino == into)
        };
        let clashes = self.tree.conflict(from).is_some_and(clash);
        if clashes && self.may_become_one(ino, into) {
            self.take_entry(from);
            self.touch_directory(from.parent, -1);
            self.become_one(ino, into);
        }
    }

    fn may_become_one(&self, one: Ino, other: Ino) -> bool {
        let is_there = |ino| self.tree.inode(ino).is_some_and(|inode| inode.kind == Kind::Directory && inode.nlink > 0);
        is_there(one) && is_there(other) && !self.is_within(one, other) && !self.is_within(other, one)
    }

    /// Puts what lies in `ino`, which has no name any more, into `into`: directories of one name become one as well,
    /// for anything else a name that is taken gives a conflict name.
    fn become_one(&mut self, ino: Ino, into: Ino) {
        let mut waiting = vec![(ino, into)];
        while let Some((ino, into)) = waiting.pop() {
            let entries: Vec<(Name, Entry)> =
                self.tree.entries(ino, Name::new()).map(|(name, entry)| (name.clone(), entry)).collect();
            let mut directories = 0;
            for (name, entry) in entries {
                let from = Place { parent: ino, name: name.clone() };
                let conflict = self.tree.conflict(&from).cloned();
                self.take_entry(&from);
                let taken = self.tree.entry(into, &name);
                if let Some(there) = taken.filter(|there| self.may_become_one(entry.ino, there.ino)) {
                    waiting.push((entry.ino, there.ino));
                    continue;
                }
                let wished = Place { parent: into, name: name.clone() };
                let to = match taken {
                    None => wished.clone(),
                    Some(_) => Place { parent: into, name: self.free_name(into, &name, entry.stamp, 1) },
                };
                directories += i32::from(self.carry(&from, &to, entry));
                let here = Deed { what: Did::Created, stamp: entry.stamp };
                match (taken, conflict) {
                    (None, None) => {}
                    (None, Some(conflict)) => self.note(&to, conflict),
                    (Some(there), _) => {
                        let there = Deed { what: Did::Created, stamp: there.stamp };
                        self.note(&to, Conflict { ino: entry.ino, here, there, other: Some(wished) });
                    }
                }
            }
            self.touch_directory(into, directories);
            self.inherit(ino, into);
            self.put(Key::Inode(ino), None);
            self.put(Key::Merged(ino), Some(Record::Merged(into)));
        }
    }

    /// Moves an entry as it is, with the stamp of who put it there; whether it is a directory's.
    fn carry(&mut self, from: &Place, to: &Place, entry: Entry) -> bool {
        self.put(Key::Entry(to.parent, to.name.clone()), Some(Record::Entry(entry)));
        self.edit(entry.ino, |inode| {
            if inode.place.as_ref() == Some(from) {
                inode.place = Some(to.clone());
            }
        });
        self.tree.inode(entry.ino).is_some_and(|inode| inode.kind == Kind::Directory)
    }

    /// What was said of the one directory holds for the other as far as nothing was said of that.
    fn inherit(&mut self, ino: Ino, into: Ino) {
        let policy = self.tree.inode(ino).and_then(|inode| inode.policy);
        self.edit(into, |inode| inode.policy = inode.policy.or(policy));
        if let Some(mode) = self.tree.get(&Key::Partition(ino)).cloned() {
            self.put(Key::Partition(ino), None);
            if self.tree.get(&Key::Partition(into)).is_none() {
                self.put(Key::Partition(into), Some(mode));
            }
        }
        let xattrs: Vec<_> = self.tree.xattrs(ino).map(|(name, value)| (name.clone(), value.clone())).collect();
        for (name, value) in xattrs {
            self.put(Key::Xattr(ino, name.clone()), None);
            let key = Key::Xattr(into, name);
            if self.tree.get(&key).is_none() {
                self.put(key, Some(Record::Xattr(value)));
            }
        }
    }
}

impl Namespace {
    /// What makes directories one whose names clash, at most so many; for a peer that has heard both sides.
    pub fn merges(&self, time: WallTime, at_most: usize) -> Vec<Change> {
        let directory = |ino| self.inode(ino).is_some_and(|inode| inode.kind == Kind::Directory);
        let merge = |(from, conflict): (Place, &Conflict)| {
            // Where only a move was left out, what has the name it was to go to is another thing.
            let wished = conflict.beside()?;
            let (ino, into) = (conflict.ino, self.entry(wished.parent, &wished.name)?.ino);
            let both = ino != into && directory(ino) && directory(into);
            let apart = both && !self.is_above(ino, into) && !self.is_above(into, ino);
            apart.then_some(Change::Merge { from, ino, into, time })
        };
        self.conflicts().filter_map(merge).take(at_most).collect()
    }
}
