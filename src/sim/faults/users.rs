//! People on the machines who use the same few names and one file at the same time, amid the faults. They do what the
//! real volume does for them, on the same cores: plan against what the machine has, under leases; change at once where
//! that may be, else get what is missing and look again (`volume/lease`). What they found and did is
//! noted, to be held against one order ([`super::sides`]).

use super::acts::Put;
use super::files::Unsaved;
use super::lockers::Locker;
use super::machine::Machine;
use super::names::{Furniture, NAMES};
use super::sides::Done;
use super::world::{What, World};
use crate::id::{Author, Ino, PeerTag};
use crate::peer::{Event, Hindrance, Need};
use crate::sim::chance::Chance;
use crate::time::{Instant, Moment};
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

/// How often a lease that came is gone again, until that is an error.
const ATTEMPTS: u32 = 64;

/// The last changes whose way to everybody is watched.
const WATCHED: usize = 200;

/// The numbers of what users do; those of others are below.
pub(super) const FIRST: u64 = 1 << 32;

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
        let name = |chance: &mut Chance| chance.below(NAMES);
        let chance = &mut self.chance;
        match chance.below(10) {
            0..=2 => Wish::Make { name: name(chance), directory: chance.happens(0.3) },
            3..=4 => Wish::Remove { name: name(chance) },
            5..=7 => Wish::Rename { from: name(chance), to: name(chance), no_replace: chance.happens(0.5) },
            _ => Wish::Look { name: name(chance) },
        }
    }
}

impl World<'_> {
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
            for name in 0..NAMES {
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

    /// It is over: this is how things are.
    pub(super) fn saw(&mut self, id: u64, thing: Thing, look: Put) {
        let Some(Doing { n, called, .. }) = self.users.doing.remove(&id) else { return };
        let now = self.queue.now();
        let judged = self.note(id, n, Done::Put(thing, look), called, Some(now));
        self.report.judged_acts += u32::from(judged);
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
