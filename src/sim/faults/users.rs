//! People on the machines who use the same few names and one file at the same time, amid the faults. They do what the
//! real volume does for them, on the same cores: plan against what the machine has, under leases; change at once where
//! that may be, else get what is missing and look again (`volume/lease`, `volume/names`). What they found and did is
//! noted, to be held against one order ([`super::sides`]).

use super::acts::Put;
use super::files::Unsaved;
use super::jobs::Job;
use super::lockers::Locker;
use super::machine::Machine;
use super::sides::Done;
use super::world::{What, World};
use crate::id::{Author, Ino, PeerTag};
use crate::namespace::{Change, Errno, Inode, Kind, MOVES, Namespace, Naming, Op, Place};
use crate::peer::{Event, Hindrance, Need};
use crate::sim::chance::Chance;
use crate::time::{Instant, Moment, WallTime};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// From one scene to the next, in the mean: some people, on some machines, want something of one thing at once.
const EVERY: Duration = Duration::from_secs(6);

/// How long a scene takes.
pub(super) const SCENE: Duration = Duration::from_millis(250);

/// The most that is done in one scene.
const ACTS: usize = 6;

/// From when something is there that was needed until it is used, at the most.
const AT_ONCE: Duration = Duration::from_millis(5);

/// What has not been done, or is not known to the others, after so long is given up.
const DEADLINE: Duration = Duration::from_secs(20);

/// How long what lost its last name is kept: as in `volume/names`.
const LINGER: Duration = Duration::from_secs(2);

/// How often a lease that came is gone again, until that is an error.
const ATTEMPTS: u32 = 64;

/// Names in each directory.
const NAMES: usize = 3;

/// The last changes whose way to everybody is watched.
const WATCHED: usize = 200;

/// The numbers of what users do; those of others are below.
pub(super) const FIRST: u64 = 1 << 32;

/// Directories whose names are used.
const DIRECTORIES: usize = 2;

/// What histories are kept of, besides the locks of the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Thing {
    Names,
    File,
}

/// What somebody wants to do. Names are numbered, through both directories.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wish {
    /// `open` with `O_CREAT | O_EXCL`, or `mkdir`.
    Make {
        name: usize,
        directory: bool,
    },
    /// `unlink` or `rmdir`, whatever fits.
    Remove {
        name: usize,
    },
    Rename {
        from: usize,
        to: usize,
        no_replace: bool,
    },
    Look {
        name: usize,
    },
    /// `write` with `O_APPEND`, then `close`.
    Append,
    Read,
    Lock {
        exclusive: bool,
        wait: bool,
    },
}

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
        let parent = self.directories[name / NAMES];
        Place { parent, name: Bytes::from(format!("n{}", name % NAMES)) }
    }

    /// The number of a name.
    fn number(&self, place: &Place) -> Option<usize> {
        (0..NAMES * DIRECTORIES).find(|name| self.place(*name) == *place)
    }

    /// What a change to names does to these.
    fn put(&self, change: &Change) -> Option<Put> {
        let puts = match change {
            Change::Create { place, ino, .. } => vec![(self.number(place)?, 0, ino.0)],
            Change::Unlink { place, seen, .. } => vec![(self.number(place)?, seen.ino.0, 0)],
            Change::Rmdir { place, ino, .. } => vec![(self.number(place)?, ino.0, 0)],
            Change::Rename { from, to, ino, replaced, .. } => {
                let there = replaced.map_or(0, |seen| seen.ino.0);
                vec![(self.number(from)?, ino.0, 0), (self.number(to)?, there, ino.0)]
            }
            _ => return None,
        };
        Some(Put(puts))
    }

    fn found<'a>(&self, names: &'a Namespace, name: usize) -> Option<(Ino, &'a Inode)> {
        let Place { parent, name } = self.place(name);
        let ino = names.entry(parent, &name)?.ino;
        Some((ino, names.inode(ino)?))
    }
}

/// Something under way.
pub(super) struct Doing {
    pub n: usize,
    pub run: u64,
    pub wish: Wish,
    pub called: Instant,
    attempts: u32,
    /// It is made, by this op: the others have to know.
    pub made: Option<u64>,
    /// It waits for what it needs.
    waits: bool,
}

#[derive(Default)]
pub(super) struct Changes(VecDeque<(Thing, Author, u64)>);

pub(super) struct Users {
    pub furniture: Furniture,
    pub chance: Chance,
    numbers: u64,
    pub doing: BTreeMap<u64, Doing>,
    /// What the holders of leases were, or may be, told to do, by the number of the wish: what is under way, and since
    /// when.
    told: BTreeMap<u64, (u64, Instant)>,
    changes: Changes,
    /// By machine, what was written and is not stored.
    pub unsaved: BTreeMap<usize, Unsaved>,
    /// The records that were written, by the numbers of what wrote them, and not told to be lost.
    pub written: BTreeSet<u64>,
    /// By machine, who wants the file's lock there.
    pub lockers: BTreeMap<usize, Locker>,
    /// Since when everything has to be done in time.
    pub calm: Option<Instant>,
}

impl Users {
    pub fn new(seed: u64, founder: PeerTag) -> Users {
        Users {
            furniture: Furniture::new(founder),
            chance: Chance::new(seed),
            numbers: FIRST,
            doing: BTreeMap::new(),
            told: BTreeMap::new(),
            changes: Changes::default(),
            unsaved: BTreeMap::new(),
            written: BTreeSet::new(),
            lockers: BTreeMap::new(),
            calm: None,
        }
    }

    pub fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// So many numbers at once.
    pub fn take_numbers(&mut self, count: u64) -> std::ops::RangeInclusive<u64> {
        let first = self.numbers + 1;
        self.numbers += count;
        first..=self.numbers
    }

    /// A change was made, by this op.
    pub fn changed(&mut self, thing: Thing, author: Author, seq: u64) {
        self.changes.0.push_back((thing, author, seq));
        if self.changes.0.len() > WATCHED {
            self.changes.0.pop_front();
        }
    }

    /// Whether each of the last changes of a thing is with all of these machines, or with none.
    pub fn all_or_none(&self, machines: &[Machine], thing: Thing, members: &BTreeSet<usize>) -> bool {
        self.changes.0.iter().filter(|(of, ..)| *of == thing).all(|(_, author, seq)| {
            let have = members.iter().filter(|n| machines[**n].namespace.vector().get(*author) >= *seq).count();
            have == 0 || have == members.len()
        })
    }

    fn wish(&mut self) -> Wish {
        let name = |chance: &mut Chance| chance.below(NAMES * DIRECTORIES);
        let chance = &mut self.chance;
        match chance.below(10) {
            0..=2 => Wish::Make { name: name(chance), directory: chance.happens(0.3) },
            3..=4 => Wish::Remove { name: name(chance) },
            5..=7 => Wish::Rename { from: name(chance), to: name(chance), no_replace: chance.happens(0.5) },
            _ => Wish::Look { name: name(chance) },
        }
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

/// What was to be done to names, where it comes to this change by itself.
fn naming(change: Change, replaces: bool) -> Option<Naming> {
    Some(match change {
        Change::Create { place, ino, kind, mode, uid, gid, time } => {
            Naming::Make { place, ino, kind, mode, umask: 0, uid, gid, time }
        }
        Change::Unlink { place, time, .. } => Naming::Unlink { place, time },
        Change::Rmdir { place, time, .. } => Naming::Rmdir { place, time },
        Change::Rename { from, to, time, .. } => Naming::Rename { from, to, replaces, time },
        _ => return None,
    })
}

impl World<'_> {
    /// What the names stand for, as a machine knows it.
    pub(super) fn names_at(&self, n: usize) -> Vec<u64> {
        let (names, there) = (&self.machines[n].namespace, self.users.furniture);
        (0..NAMES * DIRECTORIES).map(|name| there.found(names, name).map_or(0, |(ino, _)| ino.0)).collect()
    }

    /// Scenes follow one another.
    pub(super) fn next_scene(&mut self) {
        if !self.storm {
            return;
        }
        let next = self.users.chance.exponential(EVERY);
        self.queue.after(next, What::Scene);
        self.begin_scene();
    }

    /// Some people begin to do something.
    pub(super) fn begin_scene(&mut self) {
        if !self.storm {
            return;
        }
        let ready: Vec<usize> = (0..self.machines.len()).filter(|n| self.is_ready(*n)).collect();
        let some = 2 + self.users.chance.below(3);
        let there = self.users.chance.some(ready, some);
        if there.is_empty() {
            return;
        }
        let about = self.users.chance.below(10);
        for _ in 0..1 + self.users.chance.below(ACTS) {
            let n = there[self.users.chance.below(there.len())];
            let wish = match about {
                0..=5 => self.users.wish(),
                6..=7 => [Wish::Append, Wish::Append, Wish::Read][self.users.chance.below(3)],
                _ => {
                    let exclusive = self.users.chance.happens(0.6);
                    Wish::Lock { exclusive, wait: self.users.chance.happens(0.5) }
                }
            };
            self.soon(n, wish, SCENE);
        }
    }

    /// When all is calm everybody does everything once more, and must succeed.
    pub(super) fn begin_last_scene(&mut self) {
        self.users.calm = Some(self.queue.now());
        for n in (0..self.machines.len()).filter(|n| self.is_ready(*n)).collect::<Vec<_>>() {
            for name in 0..NAMES * DIRECTORIES {
                self.soon(n, Wish::Look { name }, SCENE);
            }
            let (one, other) = (self.users.wish(), self.users.wish());
            let lock = Wish::Lock { exclusive: true, wait: true };
            for wish in [one, other, Wish::Append, Wish::Read, lock] {
                self.soon(n, wish, SCENE);
            }
        }
    }

    fn soon(&mut self, n: usize, wish: Wish, within: Duration) {
        let (run, after) = (self.machines[n].run, self.users.chance.up_to(within));
        self.queue.after(after, What::Act { n, run, wish });
    }

    /// Somebody begins to do something.
    pub(super) fn act(&mut self, n: usize, wish: Wish) {
        if !self.is_ready(n) {
            return;
        }
        self.begin_histories(n);
        if let Wish::Lock { exclusive, wait } = wish {
            return self.want_lock(n, exclusive, wait);
        }
        self.do_now(n, wish);
    }

    /// Does something; its number.
    pub(super) fn do_now(&mut self, n: usize, wish: Wish) -> u64 {
        self.report.acts += 1;
        let (id, run, called) = (self.users.number(), self.machines[n].run, self.queue.now());
        self.users.doing.insert(id, Doing { n, run, wish, called, attempts: 0, made: None, waits: false });
        self.queue.after(DEADLINE, What::GiveUp(id));
        self.go_on(id);
        id
    }

    /// What was needed for something is there.
    pub(super) fn user_provided(&mut self, n: usize, id: u64) {
        if self.is_unlocked(n, id) {
            return;
        }
        let after = self.users.chance.up_to(AT_ONCE);
        self.queue.after(after, What::GoOn(id));
    }

    pub(super) fn go_on(&mut self, id: u64) {
        let Some(doing) = self.users.doing.get_mut(&id) else { return };
        if doing.made.is_some() {
            return;
        }
        let (n, run, wish) = (doing.n, doing.run, doing.wish);
        doing.attempts += 1;
        doing.waits = false;
        if self.machines[n].run != run || !self.is_ready(n) || self.users.doing[&id].attempts > ATTEMPTS {
            self.users.doing.remove(&id);
            return;
        }
        match wish {
            Wish::Append => self.append(id),
            Wish::Read => self.read_file(id),
            _ => self.try_names(id),
        }
    }

    /// Looks, and changes a name if that may be.
    fn try_names(&mut self, id: u64) {
        let Some(Doing { n, wish, .. }) = self.users.doing.get(&id) else { return };
        let (n, wish) = (*n, *wish);
        if let Err(hindrance) = self.may(n, &[]) {
            return self.overcome(id, hindrance, &[]);
        }
        let new = Ino(Ino::new(self.machines[n].tag, self.machines[n].number()).0);
        match plan(self.users.furniture, &self.machines[n].namespace, wish, new, self.wall()) {
            Err((name, found)) => self.saw(id, Thing::Names, Put::look(name, found)),
            Ok(Plan { leases, change, step, gone }) => {
                if let Err(hindrance) = self.may(n, &leases) {
                    let replaces = !matches!(wish, Wish::Rename { no_replace: true, .. });
                    // As the real volume does each time: a holder that is busy does it.
                    let told = hindrance == Hindrance::Elsewhere && self.users.chance.happens(0.7);
                    return match naming(change, replaces).filter(|_| told) {
                        Some(naming) => self.have_done(id, naming, &leases),
                        None => self.overcome(id, hindrance, &leases),
                    };
                }
                self.make(id, Thing::Names, change, step);
                if let Some(ino) = gone {
                    let run = self.machines[n].run;
                    self.queue.after(LINGER, What::Step { of: n, run, job: Job::Reap { ino } });
                }
            }
        }
    }

    /// Whether a machine may act on these leases now.
    pub(super) fn may(&mut self, n: usize, leases: &[Ino]) -> Result<(), Hindrance> {
        let (machine, now) = (&mut self.machines[n], self.queue.now());
        machine.peer.as_mut().map_or(Err(Hindrance::OutOfTouch), |peer| peer.may(&machine.namespace, leases, now))
    }

    /// Gets what is missing.
    pub(super) fn overcome(&mut self, id: u64, hindrance: Hindrance, leases: &[Ino]) {
        let Some(doing) = self.users.doing.get_mut(&id) else { return };
        doing.waits = true;
        let n = doing.n;
        let need = match hindrance {
            Hindrance::OutOfTouch => Need::Touch,
            Hindrance::Elsewhere => Need::Leases(leases.iter().copied().collect()),
        };
        self.handle(n, Event::Need { id, need });
    }

    /// Has it done by the holder of the leases, if that is busy, else gets them.
    fn have_done(&mut self, id: u64, naming: Naming, leases: &[Ino]) {
        let wish = self.users.chance.bits();
        let Some(doing) = self.users.doing.get_mut(&id) else { return };
        doing.waits = true;
        let n = doing.n;
        self.users.told.insert(wish, (id, doing.called));
        self.handle(
            n,
            Event::Need { id, need: Need::Naming { wish, naming, leases: leases.iter().copied().collect() } },
        );
    }

    /// A machine has made these ops, or heard of them: what it does for another one is done from then on.
    pub(super) fn users_served(&mut self, n: usize, ops: &[Op]) {
        let tag = self.machines[n].tag;
        for op in ops.iter().filter(|op| op.stamp.author.peer() == tag) {
            let Change::For { wish, change, .. } = &op.change else { continue };
            let Some((id, called)) = self.users.told.remove(wish) else { continue };
            let Some(step) = self.users.furniture.put(&change.0) else { continue };
            self.users.changed(Thing::Names, op.stamp.author, op.seq);
            let judged = self.note(id, n, Done::Put(Thing::Names, step), called, None);
            self.report.judged_acts += u32::from(judged);
            self.report.served += 1;
        }
    }

    /// The holder of a lease has answered. Why something cannot be done is the holder's to say, and not judged.
    pub(super) fn user_named(&mut self, n: usize, id: u64, outcome: Result<Option<Ino>, Errno>) {
        if self.users.doing.remove(&id).is_none() {
            return;
        }
        if let Ok(gone) = outcome {
            self.note_returned(id, n);
            if let Some(ino) = gone {
                let run = self.machines[n].run;
                self.queue.after(LINGER, What::Step { of: n, run, job: Job::Reap { ino } });
            }
        }
    }

    /// It is over: this is how things are.
    pub(super) fn saw(&mut self, id: u64, thing: Thing, look: Put) {
        let Some(Doing { n, called, .. }) = self.users.doing.remove(&id) else { return };
        let now = self.queue.now();
        let judged = self.note(id, n, Done::Put(thing, look), called, Some(now));
        self.report.judged_acts += u32::from(judged);
    }

    /// Makes the change, and waits until the others have it.
    fn make(&mut self, id: u64, thing: Thing, change: Change, step: Put) {
        let Some(Doing { n, called, .. }) = self.users.doing.get(&id) else { return };
        let (n, called) = (*n, *called);
        let seq = self.change(n, vec![change]);
        let author = self.author(n);
        let Some(author) = author.filter(|_| seq > 0) else {
            self.users.doing.remove(&id);
            return;
        };
        self.users.changed(thing, author, seq);
        let judged = self.note(id, n, Done::Put(thing, step), called, None);
        self.report.judged_acts += u32::from(judged);
        self.is_made(id, seq);
    }

    pub(super) fn author(&self, n: usize) -> Option<Author> {
        self.machines[n].peer.as_ref().map(|peer| peer.author())
    }

    /// It is made, and returns when every connected peer has it.
    pub(super) fn is_made(&mut self, id: u64, seq: u64) {
        if let Some(doing) = self.users.doing.get_mut(&id) {
            doing.made = Some(seq);
            let n = doing.n;
            self.users_settled(n);
        }
    }

    /// What others have of a machine's ops may have changed.
    pub(super) fn users_settled(&mut self, n: usize) {
        let (machine, now) = (&self.machines[n], self.queue.now());
        let Some(peer) = machine.peer.as_ref() else { return };
        let done = |(_, doing): &(&u64, &Doing)| {
            doing.n == n && doing.run == machine.run && doing.made.is_some_and(|seq| peer.is_settled(seq, false, now))
        };
        let done: Vec<u64> = self.users.doing.iter().filter(done).map(|(id, _)| *id).collect();
        for id in done {
            self.users.doing.remove(&id);
            self.note_returned(id, n);
        }
    }

    /// It has taken too long.
    pub(super) fn give_up(&mut self, id: u64) {
        let Some(doing) = self.users.doing.remove(&id) else { return };
        let Doing { n, run, wish, waits, made, .. } = doing;
        if self.machines[n].run != run || !self.is_ready(n) {
            return;
        }
        if waits {
            self.handle(n, Event::Forget { id });
        }
        if self.users.calm.is_some() {
            let tag: PeerTag = self.machines[n].tag;
            self.violation(format!("{tag} could not do this within {DEADLINE:?}, in the calm: {wish:?}, {made:?}"));
        }
    }

    /// Something that somebody is about to do in the calm.
    pub(super) fn act_in_want(&self) -> Option<String> {
        if self.users.calm.is_none() {
            return Some("nobody has used anything since".to_owned());
        }
        let on = |doing: &&Doing| self.machines[doing.n].run == doing.run && self.is_ready(doing.n);
        let doing = self.users.doing.values().find(on)?;
        Some(format!("{} is still about to do {:?}", self.machines[doing.n].tag, doing.wish))
    }

    /// The time, by both clocks.
    pub(super) fn moment(&self) -> Moment {
        Moment { wall: self.wall(), steady: self.queue.now() }
    }
}
