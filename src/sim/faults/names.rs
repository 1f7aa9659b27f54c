//! Names that users make, remove, move and look at: what each of them needs and changes, as in `volume/names`.

use super::acts::Put;
use super::jobs::Job;
use super::sides::Done;
use super::users::{Doing, Thing, Wish};
use super::world::{What, World};
use crate::id::{Ino, PeerTag};
use crate::namespace::{Change, Inode, Kind, MOVES, Namespace, Place};
use crate::time::WallTime;
use bytes::Bytes;
use std::time::Duration;

/// How long what lost its last name is kept: as in `volume/names`.
const LINGER: Duration = Duration::from_secs(2);

/// Names in each directory.
const EACH: usize = 3;

/// Directories whose names are used.
const DIRECTORIES: usize = 2;

/// Names in all.
pub(super) const NAMES: usize = DIRECTORIES * EACH;

/// What is there before anybody comes.
#[derive(Clone, Copy)]
pub(super) struct Furniture {
    directories: [Ino; DIRECTORIES],
    pub file: Ino,
}

impl Furniture {
    /// Made by this one, who founds the share.
    pub fn new(founder: PeerTag) -> Furniture {
        let ino = |counter| Ino::new(founder, counter);
        Furniture { directories: [ino(1), ino(2)], file: ino(3) }
    }

    pub fn changes(&self, time: WallTime) -> Vec<Change> {
        let make = |ino: Ino, name: &'static str, kind: Kind| {
            let place = Place { parent: Ino::ROOT, name: Bytes::from(name) };
            Change::Create { place, ino, kind, mode: 0o755, uid: 0, gid: 0, time }
        };
        let [one, two] = self.directories;
        vec![make(one, "one", Kind::Directory), make(two, "two", Kind::Directory), make(self.file, "file", Kind::File)]
    }

    fn place(&self, name: usize) -> Place {
        let parent = self.directories[name / EACH];
        Place { parent, name: Bytes::from(format!("n{}", name % EACH)) }
    }

    fn found<'a>(&self, names: &'a Namespace, name: usize) -> Option<(Ino, &'a Inode)> {
        let Place { parent, name } = self.place(name);
        let ino = names.entry(parent, &name)?.ino;
        Some((ino, names.inode(ino)?))
    }
}

/// What a plan comes to.
struct Plan {
    leases: Vec<Ino>,
    change: Change,
    step: Put,
    /// What loses its name.
    gone: Option<Ino>,
}

fn is_directory(inode: &Inode) -> bool {
    inode.kind == Kind::Directory
}

/// What is to be changed for a wish, or the one name that says that it cannot be, and what it stands for: as the plans of
/// `volume/names`.
fn plan(there: Furniture, names: &Namespace, wish: Wish, new: Ino, time: WallTime) -> Result<Plan, (usize, u64)> {
    let (place, found) = (|name| there.place(name), |name| there.found(names, name));
    let seen = |name: usize| found(name).map_or(0, |(ino, _)| ino.0);
    match wish {
        Wish::Make { name, directory } => {
            let place = place(name);
            if names.entry(place.parent, &place.name).is_some() {
                return Err((name, seen(name)));
            }
            let kind = if directory { Kind::Directory } else { Kind::File };
            let leases = vec![place.parent];
            let change = Change::Create { place, ino: new, kind, mode: 0o644, uid: 0, gid: 0, time };
            Ok(Plan { leases, change, step: Put(vec![(name, 0, new.0)]), gone: None })
        }
        Wish::Remove { name } => {
            let (ino, inode) = found(name).ok_or((name, 0))?;
            let place = place(name);
            let step = Put(vec![(name, ino.0, 0)]);
            if is_directory(inode) {
                let leases = vec![place.parent, ino];
                return Ok(Plan { leases, change: Change::Rmdir { place, ino, time }, step, gone: Some(ino) });
            }
            let (leases, seen) = (vec![place.parent], inode.seen(ino));
            Ok(Plan { leases, change: Change::Unlink { place, seen, time }, step, gone: Some(ino) })
        }
        Wish::Rename { from, to, no_replace } => {
            let (ino, inode) = found(from).ok_or((from, 0))?;
            let there = found(to);
            if let Some((other, there)) = there
                && (no_replace || from == to || is_directory(there) != is_directory(inode))
            {
                return Err((to, other.0));
            }
            let (from_place, to_place) = (place(from), place(to));
            let mut leases = vec![from_place.parent, to_place.parent];
            if is_directory(inode) && from_place.parent != to_place.parent {
                leases.push(MOVES);
            }
            leases.extend(there.map(|(other, _)| other));
            let step = Put(vec![(from, ino.0, 0), (to, there.map_or(0, |(other, _)| other.0), ino.0)]);
            let replaced = there.map(|(other, there)| there.seen(other));
            let change = Change::Rename { from: from_place, to: to_place, ino, replaced, time };
            Ok(Plan { leases, change, step, gone: there.map(|(other, _)| other) })
        }
        Wish::Look { name } => Err((name, seen(name))),
        // None of a name.
        Wish::Append | Wish::Read | Wish::Lock { .. } => Err((0, seen(0))),
    }
}

impl World<'_> {
    /// What the names stand for, as a machine knows it.
    pub(super) fn names_at(&self, n: usize) -> Vec<u64> {
        let (names, there) = (&self.machines[n].namespace, self.users.furniture);
        (0..NAMES).map(|name| there.found(names, name).map_or(0, |(ino, _)| ino.0)).collect()
    }

    /// Looks, and changes a name if that may be.
    pub(super) fn try_names(&mut self, id: u64) {
        let Some(Doing { n, wish, .. }) = self.users.doing.get(&id) else { return };
        let (n, wish) = (*n, *wish);
        if let Err(hindrance) = self.may(n, &[]) {
            return self.overcome(id, hindrance, &[]);
        }
        let new = Ino::new(self.machines[n].tag, self.machines[n].number());
        match plan(self.users.furniture, &self.machines[n].namespace, wish, new, self.wall()) {
            Err((name, found)) => self.saw(id, Thing::Names, Put::look(name, found)),
            Ok(Plan { leases, change, step, gone }) => {
                if let Err(hindrance) = self.may(n, &leases) {
                    return self.overcome(id, hindrance, &leases);
                }
                self.make(id, change, step);
                if let Some(ino) = gone {
                    let run = self.machines[n].run;
                    self.queue.after(LINGER, What::Step { of: n, run, job: Job::Reap { ino } });
                }
            }
        }
    }

    /// Makes the change, and waits until the others have it.
    fn make(&mut self, id: u64, change: Change, step: Put) {
        let Some(Doing { n, called, .. }) = self.users.doing.get(&id) else { return };
        let (n, called) = (*n, *called);
        let seq = self.change(n, vec![change]);
        let author = self.author(n);
        let Some(author) = author.filter(|_| seq > 0) else {
            self.users.doing.remove(&id);
            return;
        };
        self.users.changed(Thing::Names, author, seq);
        let judged = self.note(id, n, Done::Put(Thing::Names, step), called, None);
        self.report.judged_acts += u32::from(judged);
        self.is_made(id, seq);
    }
}
