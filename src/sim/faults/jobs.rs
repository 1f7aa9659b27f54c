//! What machines do over some time: files written and deleted, the work that healing asks for. Each step happens at
//! one moment; between steps anything may befall.

use super::machine::Open;
use super::world::{File, GOODBYE, What, World};
use crate::group::{Outcome, Work, choose};
use crate::id::{BlockName, GroupId, Ino, PeerTag};
use crate::namespace::{Change, Extent, Group, Kind, NewBlock, Place, Source};
use crate::peer::Event;
use crate::policy::{Geometry, Policy};
use crate::sim::queue::{between, later};
use crate::time::Instant;
use crate::volume::ports::{Candidate, ShardId};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Bytes of every block: only their number matters here.
const BLOCK_BYTES: u32 = 4000;

/// A writer names what it put within this, or puts it anew: as `volume::commit` does.
const NAMED_WITHIN: Duration = Duration::from_secs(30);

/// Groups that a block is offered to, and rounds through a group's blocks, before it is given up.
const TRIES: u32 = 4;

/// One step of something under way.
pub(super) enum Job {
    /// Put a file's block to a group's participants.
    Put {
        file: usize,
        policy: Policy,
        refused: BTreeSet<PeerTag>,
        tries: u32,
    },
    /// The participants have taken it: the op.
    Name {
        file: usize,
        policy: Policy,
        block: NewBlock,
        put: Instant,
        open: Open,
    },
    /// Wait until the others have the op.
    Await {
        file: usize,
        seq: u64,
        since: Instant,
    },
    /// Forget a file that lost its name.
    Reap {
        ino: Ino,
    },
    Fill {
        work: Work,
        seats: Vec<(u8, PeerTag)>,
        tries: u32,
        verify: Option<(u8, PeerTag)>,
    },
    Verify {
        work: Work,
        again: bool,
    },
    Reencode {
        work: Work,
        left: Vec<BlockName>,
        whole: bool,
    },
    /// The new shards are there: the op.
    Relocate {
        work: Work,
        to: GroupId,
        name: BlockName,
        left: Vec<BlockName>,
        whole: bool,
    },
    /// Do something under a lease that has just come.
    Use {
        lease: Ino,
        /// The number of the need that it was got for.
        need: u64,
    },
    Off,
}

impl Job {
    pub fn work(work: Work) -> Job {
        match &work {
            Work::Fill { seats, .. } => Job::Fill { seats: seats.clone(), work, tries: TRIES, verify: None },
            Work::Verify { .. } => Job::Verify { work, again: false },
            Work::Reencode { .. } => Job::Reencode { work, left: Vec::new(), whole: true },
        }
    }
}

impl World<'_> {
    /// Somebody writes or deletes a file.
    pub(super) fn use_share(&mut self) {
        if !self.storm {
            return;
        }
        let next = self.chance.exponential(self.plan.use_every);
        self.queue.after(next, What::Use);
        let up: Vec<usize> = (0..self.machines.len())
            .filter(|n| {
                self.machines[*n].is_up()
                    && self.machines[*n].hearing.is_none()
                    && !self.machines[*n].namespace.standing(self.machines[*n].tag).leaving
            })
            .collect();
        let Some(n) = self.chance.some(up, 1).first().copied() else { return };
        let run = self.machines[n].run;
        if self.chance.happens(0.3) && !self.files.is_empty() {
            let file = self.chance.below(self.files.len());
            self.delete(n, file);
        } else {
            let file = self.files.len();
            let block = BlockName(self.chance.bytes());
            let ino = Ino(Ino::new(self.machines[n].tag, self.machines[n].number()).0);
            self.files.push(File { block, ino, name: format!("f{file}"), acknowledged: false, doomed: false });
            let policy = self.plan.policies[file % self.plan.policies.len()];
            let job = Job::Put { file, policy, refused: BTreeSet::new(), tries: TRIES };
            self.queue.after(Duration::ZERO, What::Step { of: n, run, job });
        }
    }

    fn delete(&mut self, n: usize, file: usize) {
        let File { ino, name, .. } = &self.files[file];
        let (ino, place) = (*ino, Place { parent: Ino::ROOT, name: Bytes::from(name.clone()) });
        let namespace = &self.machines[n].namespace;
        let here = namespace.entry(Ino::ROOT, &place.name).is_some_and(|entry| entry.ino == ino);
        let Some(seen) = namespace.inode(ino).filter(|_| here).map(|inode| inode.seen(ino)) else { return };
        self.files[file].doomed = true;
        self.report.deleted += 1;
        let time = self.wall();
        if self.change(n, vec![Change::Unlink { place, seen, time }]) > 0 {
            let run = self.machines[n].run;
            self.queue.after(Duration::from_secs(2), What::Step { of: n, run, job: Job::Reap { ino } });
        }
    }

    pub(super) fn step(&mut self, n: usize, job: Job) {
        match job {
            Job::Put { file, policy, refused, tries } => self.put(n, file, policy, refused, tries),
            Job::Name { file, policy, block, put, open } => self.name(n, file, policy, block, put, open),
            Job::Await { file, seq, since } => self.wait(n, file, seq, since),
            Job::Reap { ino } => {
                self.change(n, vec![Change::Reap { ino }]);
            }
            Job::Fill { work, seats, tries, verify } => self.fill(n, work, seats, tries, verify),
            Job::Verify { work, again } => self.verify(n, work, again),
            Job::Reencode { work, left, whole } => self.reencode(n, work, left, whole),
            Job::Relocate { work, to, name, left, whole } => {
                let from = work.group();
                let moved = self.change(n, vec![Change::Relocate { from, to, blocks: vec![name] }]) > 0;
                self.reencode(n, work, left, whole && moved);
            }
            // Gone before anybody has heard of it, it would be waited for for ever.
            Job::Off if !self.is_missed(n) => {
                let run = self.machines[n].run;
                self.queue.after(GOODBYE, What::Step { of: n, run, job: Job::Off });
            }
            Job::Use { lease, need } => self.use_lease(n, lease, need),
            Job::Off => {
                self.machines[n].left = true;
                self.stop(n, false);
            }
        }
    }

    fn later_step(&mut self, n: usize, job: Job) {
        let run = self.machines[n].run;
        let after = self.latency(n, n);
        self.queue.after(after, What::Step { of: n, run, job });
    }

    /// Puts a block of `policy` into a group; who did not take its shard is among the refused then.
    fn place(
        &mut self,
        n: usize,
        policy: Policy,
        name: BlockName,
        refused: &mut BTreeSet<PeerTag>,
    ) -> Option<(NewBlock, Open)> {
        let open = self.group_for(n, policy, refused)?;
        let now = self.queue.now();
        let mut taken = true;
        for (index, peer) in (0u8..).zip(open.seats.clone()) {
            let id = ShardId { block: name, geometry: open.geometry, index };
            let at = self.index(peer).filter(|to| self.answers(n, *to));
            if !at.is_some_and(|to| self.machines[to].put(id, now)) {
                refused.insert(peer);
                taken = false;
            }
        }
        let block = NewBlock { name, group: open.group, len: BLOCK_BYTES };
        taken.then_some((block, open))
    }

    /// The group that a writer puts blocks of a policy into: as `volume::place` chooses.
    fn group_for(&mut self, n: usize, policy: Policy, refused: &BTreeSet<PeerTag>) -> Option<Open> {
        let machine = &self.machines[n];
        let peer = machine.peer.as_ref()?;
        let fit = |one: &Candidate| one.alive && !one.leaving && one.free > 0 && !refused.contains(&one.peer);
        let usable: Vec<Candidate> = peer.candidates(&machine.namespace).into_iter().filter(fit).collect();
        let geometry = policy.geometry(usable.len().max(1));
        let now = self.queue.now();
        let good = |open: &Open| {
            let distinct = open.seats.iter().collect::<BTreeSet<_>>().len();
            open.geometry == geometry
                && self.still_sit(n, open)
                && open.seats.iter().all(|seat| usable.iter().any(|one| one.peer == *seat))
                && (distinct == open.seats.len() || distinct == usable.len())
        };
        if let Some(open) = machine.open.get(&policy).filter(|open| good(open)).cloned() {
            self.machines[n].used.insert(open.group, now);
            return Some(open);
        }
        let tag = machine.tag;
        let seats = choose(geometry.shards(), &[], &usable, Some(tag), self.chance.bits());
        if seats.is_empty() {
            return None;
        }
        let group = GroupId::new(tag, self.machines[n].number());
        let open = Open { group, geometry, seats: seats.clone() };
        if self.change(n, vec![Change::OpenGroup { group, policy, geometry, seats }]) == 0 {
            return None;
        }
        self.machines[n].open.insert(policy, open.clone());
        self.machines[n].used.insert(group, now);
        Some(open)
    }

    /// Whether those that a writer puts to sit in the group: as `volume::place` asks.
    fn still_sit(&self, n: usize, open: &Open) -> bool {
        self.machines[n].namespace.group(open.group).is_some_and(|group| {
            group.slots.iter().zip(&open.seats).all(|(slot, peer)| slot.iter().any(|seat| seat.peer == *peer))
        })
    }

    fn put(&mut self, n: usize, file: usize, policy: Policy, mut refused: BTreeSet<PeerTag>, tries: u32) {
        let put = self.queue.now();
        match self.place(n, policy, self.files[file].block, &mut refused) {
            Some((block, open)) => {
                // Now and then a writer is slow to name what it has put.
                let pause =
                    if self.chance.happens(0.05) { self.chance.up_to(NAMED_WITHIN * 3) } else { Duration::ZERO };
                let run = self.machines[n].run;
                self.queue.after(pause, What::Step { of: n, run, job: Job::Name { file, policy, block, put, open } });
            }
            None if tries > 0 => self.later_step(n, Job::Put { file, policy, refused, tries: tries - 1 }),
            None => {}
        }
    }

    fn name(&mut self, n: usize, file: usize, policy: Policy, block: NewBlock, put: Instant, open: Open) {
        if between(put, self.queue.now()) >= NAMED_WITHIN || !self.still_sit(n, &open) {
            return self.put(n, file, policy, BTreeSet::new(), TRIES);
        }
        let (ino, name) = (self.files[file].ino, self.files[file].name.clone());
        let time = self.wall();
        let place = Place { parent: Ino::ROOT, name: Bytes::from(name) };
        let create = Change::Create { place, ino, kind: Kind::File, mode: 0o644, uid: 0, gid: 0, time };
        if self.change(n, vec![create]) == 0 {
            return;
        }
        let Some(base) = self.machines[n].namespace.inode(ino).map(|inode| inode.content) else { return };
        let extent = Extent { len: block.len, source: Source::Block { name: block.name, at: 0 } };
        let write = Change::Write {
            ino,
            base,
            linked: true,
            extents: vec![(0, extent)],
            blocks: vec![block],
            size: u64::from(block.len),
            mtime: time,
            ctime: time,
            clear_suid: false,
        };
        let seq = self.change(n, vec![write]);
        if seq > 0 {
            let since = self.queue.now();
            self.later_step(n, Job::Await { file, seq, since });
        }
    }

    fn wait(&mut self, n: usize, file: usize, seq: u64, since: Instant) {
        let (machine, now) = (&self.machines[n], self.queue.now());
        if machine.peer.as_ref().is_some_and(|peer| peer.is_settled(seq, true, now)) {
            self.files[file].acknowledged = true;
            self.report.written += 1;
        } else if self.queue.now() < later(since, Duration::from_secs(30)) {
            let run = machine.run;
            self.queue
                .after(Duration::from_millis(100), What::Step { of: n, run, job: Job::Await { file, seq, since } });
        }
    }

    /// Blocks of a group, as a machine knows them.
    fn blocks_of(&self, n: usize, group: GroupId) -> Vec<BlockName> {
        self.machines[n].namespace.blocks_of(group).map(|(name, _)| name).collect()
    }

    fn geometry_of(&self, n: usize, group: GroupId) -> Option<Geometry> {
        self.machines[n].namespace.group(group).map(|group| group.geometry)
    }

    /// Reads a block: the shards of k slots from the participants of its group, or else from whoever a search finds. How
    /// many were read; `None`: too few.
    fn reads(&mut self, n: usize, name: BlockName, group: GroupId) -> Option<usize> {
        let record = self.machines[n].namespace.group(group).cloned()?;
        let needed = usize::from(record.geometry.data);
        let mut read = 0;
        for index in (0u8..).take(record.slots.len()) {
            if read < needed {
                read += usize::from(self.reads_slot(n, name, &record, index));
            }
        }
        (read >= needed || self.reads_elsewhere(n, name)).then_some(needed)
    }

    /// Reads a block from whoever has shards of it, whatever the seats say: as `volume/elsewhere` does.
    fn reads_elsewhere(&mut self, n: usize, name: BlockName) -> bool {
        let mut read: BTreeMap<Geometry, BTreeSet<u8>> = BTreeMap::new();
        for at in (0..self.machines.len()).filter(|at| self.answers(n, *at)).collect::<Vec<_>>() {
            for id in self.machines[at].shards_of(name).collect::<Vec<_>>() {
                if self.machines[at].read(&id) {
                    read.entry(id.geometry).or_default().insert(id.index);
                }
            }
        }
        read.iter().any(|(geometry, slots)| slots.len() >= usize::from(geometry.data))
    }

    /// Reads the shard of one slot from who has it.
    fn reads_slot(&mut self, n: usize, block: BlockName, group: &Group, index: u8) -> bool {
        let seats = group.slots.get(usize::from(index)).into_iter().flatten();
        let holders: Vec<usize> =
            seats.filter_map(|seat| self.index(seat.peer)).filter(|at| self.answers(n, *at)).collect();
        let id = ShardId { block, geometry: group.geometry, index };
        holders.into_iter().any(|at| self.machines[at].read(&id))
    }

    /// Reads what gives these slots of a block, as `volume::heal` does: a single one from who has that very shard.
    fn reads_for(&mut self, n: usize, name: BlockName, group: GroupId, slots: &[u8]) -> Option<usize> {
        let record = self.machines[n].namespace.group(group).cloned()?;
        if let [single] = slots
            && self.reads_slot(n, name, &record, *single)
        {
            return Some(1);
        }
        self.reads(n, name, group)
    }

    /// One round through a group's blocks; the next one finds what has come meanwhile.
    fn fill(&mut self, n: usize, work: Work, mut seats: Vec<(u8, PeerTag)>, tries: u32, verify: Option<(u8, PeerTag)>) {
        let group = work.group();
        let Some(geometry) = self.geometry_of(n, group) else {
            return self.worked(n, work, Outcome::Done { filled: Vec::new() });
        };
        seats.retain(|(_, peer)| self.index(*peer).is_some_and(|at| self.answers(n, at)));
        let now = self.queue.now();
        let (mut rebuilt, mut unreadable) = (0, 0);
        let (mut blocks, mut shards) = (0, 0);
        for name in self.blocks_of(n, group) {
            let shard = |slot| ShardId { block: name, geometry, index: slot };
            let lacks = |(slot, peer): &(u8, PeerTag)| {
                self.index(*peer).is_some_and(|at| !self.machines[at].store.contains_key(&shard(*slot)))
            };
            let wanted: Vec<(u8, PeerTag)> = seats.iter().copied().filter(lacks).collect();
            let slots: BTreeSet<u8> = wanted.iter().map(|(slot, _)| *slot).collect();
            if slots.is_empty() {
                continue;
            }
            let Some(read) = self.reads_for(n, name, group, &Vec::from_iter(slots)) else {
                unreadable += 1;
                continue;
            };
            (blocks, shards) = (blocks + 1, shards + read);
            for (slot, peer) in wanted {
                if self.index(peer).is_some_and(|at| self.machines[at].put(shard(slot), now)) {
                    rebuilt += 1;
                } else {
                    seats.retain(|seat| *seat != (slot, peer));
                }
            }
        }
        self.check_reads(group, geometry, blocks, shards);
        if seats.is_empty() || (tries == 0 && rebuilt == 0 && unreadable > 0) {
            return self.worked(n, work, Outcome::Failed);
        }
        if tries > 0 && (rebuilt > 0 || unreadable > 0) {
            return self.later_step(n, Job::Fill { work, seats, tries: tries - 1, verify });
        }
        match verify {
            Some(_) => self.later_step(n, Job::Verify { work, again: true }),
            None => {
                self.report.healed += 1;
                self.worked(n, work, Outcome::Done { filled: seats });
            }
        }
    }

    fn verify(&mut self, n: usize, work: Work, again: bool) {
        let Work::Verify { group, slot, keeper } = work else { return };
        let at = self.index(keeper).filter(|at| self.answers(n, *at));
        let (Some(at), Some(geometry)) = (at, self.geometry_of(n, group)) else {
            return self.worked(n, work, Outcome::Failed);
        };
        let blocks = self.blocks_of(n, group);
        let whole =
            |block: BlockName, world: &mut Self| world.machines[at].read(&ShardId { block, geometry, index: slot });
        let lacks = blocks.into_iter().filter(|block| !whole(*block, self)).count();
        if lacks == 0 {
            self.report.healed += 1;
            self.worked(n, work, Outcome::Done { filled: Vec::new() });
        } else if again {
            self.worked(n, work, Outcome::Failed);
        } else {
            let seats = vec![(slot, keeper)];
            self.later_step(n, Job::Fill { work, seats, tries: TRIES, verify: Some((slot, keeper)) });
        }
    }

    fn reencode(&mut self, n: usize, work: Work, mut left: Vec<BlockName>, whole: bool) {
        let group = work.group();
        if left.is_empty() {
            left = self.blocks_of(n, group);
        }
        let policy = self.machines[n].namespace.group(group).map(|group| group.policy);
        let (Some(name), Some(policy)) = (left.pop(), policy) else {
            let outcome = if whole { Outcome::Done { filled: Vec::new() } } else { Outcome::Failed };
            self.report.healed += u32::from(whole);
            return self.worked(n, work, outcome);
        };
        let placed =
            if self.reads(n, name, group).is_some() { self.place(n, policy, name, &mut BTreeSet::new()) } else { None };
        match placed {
            Some((block, _)) if block.group != group => {
                self.later_step(n, Job::Relocate { work, to: block.group, name, left, whole });
            }
            _ => self.worked(n, work, Outcome::Failed),
        }
    }

    fn worked(&mut self, n: usize, work: Work, outcome: Outcome) {
        self.handle(n, Event::Worked { work, outcome });
    }
}
