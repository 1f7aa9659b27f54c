//! What must hold: at all times that no shard is dropped that was needed, and in the end that every acknowledged file
//! is whole, all groups are goldilocks, all machines agree and no disk holds what nobody needs. What groups must be
//! meanwhile, [`super::quiet`] says.

use super::Report;
use super::world::World;
use crate::group::{State, owed, state};
use crate::id::{BlockName, PeerTag};
use crate::namespace::Namespace;
use crate::sim::queue::{between, later};
use crate::volume::ports::ShardId;
use std::collections::BTreeSet;
use std::time::Duration;

impl World<'_> {
    /// A machine drops a shard because nobody needs it.
    pub(super) fn let_go(&mut self, n: usize, id: ShardId) {
        self.machines[n].store.remove(&id);
        if self.is_promised(id.block) && !self.is_somewhere(id.block) {
            let tag = self.machines[n].tag;
            self.violation(format!("{tag} let go of shard {} of block {}, which was needed", id.index, id.block));
        }
    }

    /// Whether a block is whole where it belongs, as a machine finds out by asking; one that nobody names is.
    pub(super) fn is_not_needed(&self, n: usize, name: BlockName) -> bool {
        let namespace = &self.machines[n].namespace;
        let Some(block) = namespace.block(&name) else { return true };
        let Some(group) = namespace.group(block.group) else { return false };
        (0u8..).zip(&group.slots).all(|(index, seats)| {
            let shard = ShardId { block: name, geometry: group.geometry, index };
            let asked = seats.iter().filter_map(|seat| self.index(seat.peer)).filter(|at| self.answers(n, *at));
            asked.into_iter().any(|at| self.machines[at].store.contains_key(&shard))
        })
    }

    fn is_promised(&self, block: BlockName) -> bool {
        self.files.iter().any(|file| file.block == block && file.acknowledged && !file.doomed)
    }

    /// Whether some kind of shards of a block suffices, wherever they are.
    fn is_somewhere(&self, block: BlockName) -> bool {
        let good = |id: &ShardId| self.machines.iter().any(|one| one.store.get(id).is_some_and(|held| !held.rotten));
        let kinds: BTreeSet<ShardId> = self.machines.iter().flat_map(|one| one.shards_of(block)).collect();
        let geometries: BTreeSet<_> = kinds.iter().map(|id| id.geometry).collect();
        geometries.into_iter().any(|geometry| {
            kinds.iter().filter(|id| id.geometry == geometry && good(id)).count() >= usize::from(geometry.data)
        })
    }

    /// Whether this machine may be destroyed now: no other was since everything was whole, and those that are to come
    /// back hold what they should.
    pub(super) fn may_destroy(&mut self, n: usize) -> bool {
        if self.machines[n].left {
            return false;
        }
        if !self.destroyed.is_empty() && self.is_whole() {
            self.destroyed.clear();
        }
        let others = self.destroyed.iter().filter(|one| **one != n).count();
        let few = others < self.plan.destroyed_at_once && (self.destroyed.contains(&n) || self.is_whole());
        few && self.others_suffice(n)
    }

    /// Whether every block that any machine knows of can be had without this one: files written while few machines could
    /// be reached may be on it alone, and are promised nothing until the share has healed.
    fn others_suffice(&self, n: usize) -> bool {
        let tag = self.machines[n].tag;
        let namespaces = self.machines.iter().filter(|one| !one.left).map(|one| &one.namespace);
        namespaces.flat_map(|namespace| namespace.groups().map(move |group| (namespace, group))).all(
            |(namespace, (id, group))| {
                namespace.blocks_of(id).all(|(block, _)| {
                    let without = (0u8..).zip(&group.slots).filter(|(index, seats)| {
                        let shard = ShardId { block, geometry: group.geometry, index: *index };
                        seats.iter().any(|seat| seat.peer != tag && self.holds(seat.peer, &shard))
                    });
                    without.count() >= usize::from(group.geometry.data)
                })
            },
        )
    }

    /// Files whose writers have not been told that they are safe are promised nothing when a machine is destroyed.
    pub(super) fn doom_unacknowledged(&mut self) {
        self.files.iter_mut().filter(|file| !file.acknowledged).for_each(|file| file.doomed = true);
    }

    /// Whether every shard that some namespace counts on is where it should be.
    fn is_whole(&self) -> bool {
        let Some(namespace) = self.machines.iter().find(|one| one.is_up()).map(|one| &one.namespace) else {
            return false;
        };
        let agreed = self.machines.iter().filter(|one| !one.left);
        agreed.clone().all(|one| one.is_up() && one.namespace.vector() == namespace.vector())
            && namespace.groups().filter(|(_, group)| group.blocks > 0).all(|(id, group)| {
                group.slots.iter().all(|slot| !slot.is_empty())
                    && namespace.blocks_of(id).all(|(block, _)| {
                        (0u8..).zip(&group.slots).all(|(index, seats)| {
                            let shard = ShardId { block, geometry: group.geometry, index };
                            seats.iter().any(|seat| self.holds(seat.peer, &shard))
                        })
                    })
            })
    }

    fn holds(&self, peer: PeerTag, id: &ShardId) -> bool {
        let machine = self.machines.iter().find(|one| one.tag == peer && !one.left);
        machine.is_some_and(|one| one.store.get(id).is_some_and(|held| !held.rotten))
    }

    /// Lets calm pass until everything is well, or this long.
    pub(super) fn settle(&mut self, longest: Duration) {
        let end = later(self.queue.now(), longest);
        while self.queue.now() < end
            && (self.what_is_wrong().is_some() || between(self.queue.now(), end) > longest - Duration::from_secs(5))
        {
            self.pass(Duration::from_secs(5));
        }
        if let Some(what) = self.what_is_wrong() {
            self.violation(format!("after the calm {what}"));
        }
    }

    /// What is not as it should be, with every machine up and connected.
    fn what_is_wrong(&self) -> Option<String> {
        let members: Vec<_> = self.machines.iter().filter(|one| !one.left).collect();
        let namespace: &Namespace = &members.first()?.namespace;
        if let Some(other) = members.iter().find(|one| one.namespace.vector() != namespace.vector()) {
            let (one, two) = (namespace.vector(), other.namespace.vector());
            let differ: Vec<String> = one
                .0
                .keys()
                .chain(two.0.keys())
                .filter(|peer| one.get(**peer) != two.get(**peer))
                .map(|peer| format!("{peer}: {} and {}", one.get(*peer), two.get(*peer)))
                .collect();
            return Some(format!("{} and {} have not the same ops ({})", members[0].tag, other.tag, differ.join(", ")));
        }
        let in_want = self.lease_in_want().or_else(|| self.act_in_want()).or_else(|| self.lock_in_want());
        if in_want.is_some() {
            return in_want;
        }
        let alive = |peer: PeerTag| members.iter().any(|one| one.tag == peer);
        let present = members.iter().filter(|one| !namespace.standing(one.tag).leaving).count();
        for (id, group) in namespace.groups().filter(|(_, group)| group.blocks > 0) {
            let state = state(group, alive);
            // What nobody was promised may be gone, and its group then can never be whole.
            let gone = |(block, _)| !self.is_promised(block) && !self.is_somewhere(block);
            if state != State::Goldilocks && group.slots.len() <= present && !namespace.blocks_of(id).any(gone) {
                return Some(format!("group {id} is {state}: {:?}", group.slots));
            }
        }
        for file in self.files.iter().filter(|file| file.acknowledged && !file.doomed) {
            let block = namespace.block(&file.block).filter(|block| block.uses > 0);
            let Some(group) = block.and_then(|block| namespace.group(block.group)) else {
                let (inode, block) = (namespace.inode(file.ino), namespace.block(&file.block));
                return Some(format!("{} is not in the namespace: {inode:?}, {block:?}", file.name));
            };
            let held = (0u8..).zip(&group.slots).filter(|(index, seats)| {
                let shard = ShardId { block: file.block, geometry: group.geometry, index: *index };
                seats.iter().any(|seat| self.holds(seat.peer, &shard))
            });
            let held = held.count();
            if held < group.slots.len() && group.slots.len() <= present {
                return Some(format!("{} has {held} of {} shards", file.name, group.slots.len()));
            }
            if held < usize::from(group.geometry.data) {
                return Some(format!("{} is lost: {held} of {} shards", file.name, group.geometry.data));
            }
        }
        for one in &members {
            let due: BTreeSet<ShardId> =
                one.namespace.groups_of(one.tag).flat_map(|(id, _)| owed(&one.namespace, id, one.tag)).collect();
            // Where there are fewer machines than slots, what is left of a slot that nobody holds is kept.
            let last_resort = |id: &ShardId| {
                let group = one.namespace.block(&id.block).and_then(|block| one.namespace.group(block.group));
                group.is_some_and(|group| group.slots.len() > present && group.slots.iter().any(Vec::is_empty))
            };
            if let Some(id) = one.store.keys().find(|id| !due.contains(id) && !last_resort(id)) {
                let block = one.namespace.block(&id.block);
                let slots = block.and_then(|block| one.namespace.group(block.group)).map(|group| &group.slots);
                return Some(format!(
                    "{} still holds shard {} of block {} ({block:?}, {slots:?})",
                    one.tag, id.index, id.block
                ));
            }
        }
        None
    }

    /// What the run came to.
    pub(super) fn finish(mut self) -> Report {
        self.judge_all_sides();
        self.report.faults = self.counts.iter().map(|(fault, count)| (fault.name(), *count)).collect();
        self.report
    }
}
