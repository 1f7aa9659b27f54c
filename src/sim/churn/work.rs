//! How work is carried out in a run: who is read from, who is written to, how long it takes, and what it has cost.

use super::world::{Event, World};
use crate::group::{Outcome, Work};
use crate::id::{GroupId, PeerTag};
use crate::sim::queue::later;
use crate::time::Instant;
use std::time::Duration;

/// A reader that hears nothing asks the next participant after so long.
const HEDGE: Duration = Duration::from_millis(50);

/// What cannot be reached is given up after so long.
const GIVE_UP: Duration = Duration::from_secs(1);

/// What a disk reads and checks in a second.
const DISK_BYTES: u64 = 200_000_000;

/// What a piece of work needs so that it has succeeded when its time has come.
#[derive(Debug)]
pub(super) struct Undertaking {
    work: Work,
    /// Those that are read from.
    sources: Vec<PeerTag>,
    filled: Vec<(u8, PeerTag)>,
}

impl World<'_> {
    /// A peer begins.
    pub(super) fn begin(&mut self, of: PeerTag, work: Work) {
        let (end, undertaking) = match &work {
            Work::Fill { group, seats } => self.fill(of, *group, seats.clone(), work.clone()),
            Work::Verify { group, slot, keeper } => {
                let (slot, keeper) = (*slot, *keeper);
                let reached = self.answers(of, keeper) && self.disks.holds(*group, slot, keeper);
                let reading = Duration::from_secs_f64(self.disks.slot_bytes(*group) as f64 / DISK_BYTES as f64);
                let time = if reached { self.network.round_trip() + reading } else { GIVE_UP };
                let filled = if reached { vec![(slot, keeper)] } else { Vec::new() };
                (later(self.queue.now(), time), Undertaking { work, sources: vec![keeper], filled })
            }
            // Fixed policies have one geometry, whatever peers there are.
            Work::Reencode { .. } => {
                (later(self.queue.now(), GIVE_UP), Undertaking { work, sources: Vec::new(), filled: Vec::new() })
            }
        };
        let life = self.machines.get(&of).map_or(0, |machine| machine.life);
        self.queue.at(end, Event::Worked { of, life, undertaking });
    }

    /// Whether that one is there, and hears and is heard.
    fn answers(&self, of: PeerTag, peer: PeerTag) -> bool {
        self.is_up(peer) && self.network.reaches(of, peer) && self.network.reaches(peer, of)
    }

    fn fill(&mut self, of: PeerTag, id: GroupId, seats: Vec<(u8, PeerTag)>, work: Work) -> (Instant, Undertaking) {
        let now = self.queue.now();
        let bytes = self.disks.slot_bytes(id);
        let limit = if self.case.healing.bandwidth == 0 { u64::MAX } else { self.case.healing.bandwidth };
        let mut reader = Reader { read: Vec::new(), from: now, at: now, bytes: 0 };
        let reachable: Vec<(u8, PeerTag)> = seats.into_iter().filter(|(_, peer)| self.answers(of, *peer)).collect();
        let (held, wanted): (Vec<_>, Vec<_>) =
            reachable.into_iter().partition(|(slot, peer)| self.disks.holds(id, *slot, *peer));
        let needed = self.namespace.group(id).map_or(0, |group| usize::from(group.geometry.data));
        // As the real peer: a single slot from who has its very shards, several from the k that give the blocks back.
        let read = match wanted.first() {
            None => true,
            Some((first, _)) => {
                let single = wanted.iter().all(|(slot, _)| slot == first);
                (single && self.read_slot(&mut reader, of, id, *first, bytes, limit))
                    || self.read_slots(&mut reader, of, id, needed, bytes, limit)
            }
        };
        let made = if read { wanted } else { Vec::new() };
        let mut end = reader.at;
        for (_, peer) in &made {
            self.figures.repair_made_bytes += bytes;
            if *peer != of {
                self.figures.repair_bytes += bytes;
                end = end.max(self.network.transfer(of, *peer, bytes, limit, now.max(reader.from)));
            }
        }
        let read = reader.read.len() as u64 * bytes;
        self.figures.repair_read_bytes += read;
        self.figures.repair_bytes += reader.bytes;
        self.check_reads(id, read);
        let sources = reader.read.iter().map(|(_, peer)| *peer).collect();
        if made.is_empty() && held.is_empty() {
            end = end.max(later(now, GIVE_UP));
        }
        let filled = made.into_iter().chain(held).collect();
        (later(end, self.network.round_trip()), Undertaking { work, sources, filled })
    }

    /// Reads one slot from a participant that has it; whether that went well.
    fn read_slot(&mut self, reader: &mut Reader, of: PeerTag, id: GroupId, slot: u8, bytes: u64, limit: u64) -> bool {
        let Some(group) = self.namespace.group(id) else { return false };
        let seated = group.slots.get(usize::from(slot)).into_iter().flatten().map(|seat| seat.peer);
        let mut believed: Vec<PeerTag> = seated.filter(|peer| self.believes(of, *peer)).collect();
        // One's own shards first: they need no network.
        believed.sort_by_key(|peer| *peer != of);
        for peer in believed {
            if !self.answers(of, peer) || !self.disks.holds(id, slot, peer) {
                reader.from = later(reader.from, HEDGE);
                continue;
            }
            if peer != of {
                reader.bytes += bytes;
                reader.at = reader.at.max(self.network.transfer(peer, of, bytes, limit, reader.from));
            }
            reader.read.push((slot, peer));
            return true;
        }
        false
    }

    /// Reads further slots until there are enough.
    fn read_slots(
        &mut self,
        reader: &mut Reader,
        of: PeerTag,
        id: GroupId,
        needed: usize,
        bytes: u64,
        limit: u64,
    ) -> bool {
        let slots = self.namespace.group(id).map_or(0, |group| group.slots.len() as u8);
        let mut order: Vec<u8> = (0..slots).collect();
        order.sort_by_key(|slot| !self.disks.holds(id, *slot, of));
        for slot in order {
            if reader.read.len() >= needed {
                break;
            }
            if !reader.has(slot) {
                self.read_slot(reader, of, id, slot, bytes, limit);
            }
        }
        reader.read.len() >= needed
    }

    /// The time of a piece of work is over: whoever it needed must still be there.
    pub(super) fn worked(&mut self, of: PeerTag, undertaking: Undertaking) {
        let Undertaking { work, sources, mut filled } = undertaking;
        let id = work.group();
        filled.retain(|(_, peer)| self.answers(of, *peer));
        let well = !filled.is_empty() && sources.iter().all(|peer| self.answers(of, *peer));
        let outcome = match (&work, well) {
            (Work::Fill { .. }, true) => {
                for (slot, peer) in &filled {
                    self.disks.put(id, *slot, *peer);
                }
                Outcome::Done { filled }
            }
            (Work::Verify { .. }, true) => Outcome::Done { filled: Vec::new() },
            _ => Outcome::Failed,
        };
        let Some(machine) = self.machines.get_mut(&of) else { return };
        let follows = machine.healing.done(&self.namespace, &work, outcome);
        self.healing_effects(of, follows);
        // What was put and nobody was seated for.
        self.drop_unseated(id);
    }
}

/// What a repair has read so far.
struct Reader {
    read: Vec<(u8, PeerTag)>,
    /// When the next is asked.
    from: Instant,
    /// When all has arrived.
    at: Instant,
    /// Over the network.
    bytes: u64,
}

impl Reader {
    fn has(&self, slot: u8) -> bool {
        self.read.iter().any(|(read, _)| *read == slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::churn::{Case, Scenario};

    const NINE: &str = r#"
title = "nine"
peers = 9
time = "60s"
policies = ["rs:4+2"]
[membership]
settings = "oracle"
[churn]
"#;

    #[test]
    fn whatever_a_repair_fills_it_reads_no_more_than_k_shards_a_block() {
        let case = Case::of(&Scenario::parse(NINE, &[]).expect("a scenario")).remove(0);
        let mut world = World::new(&case, 1);
        world.meet();
        world.fill_up();
        let id = world.disks.groups().next().expect("a group");
        let group = world.namespace.group(id).expect("a group");
        let seated: Vec<PeerTag> = group.slots.iter().map(|seats| seats[0].peer).collect();
        let others: Vec<PeerTag> = world.machines.keys().copied().filter(|peer| !seated.contains(peer)).collect();
        let bytes = world.disks.slot_bytes(id);
        world.disks.drop(id, 0, seated[0]);
        // One slot that is gone, and one that another participant has whole.
        let seats = vec![(0, others[0]), (5, others[1])];
        world.begin(seated[1], Work::Fill { group: id, seats });
        assert_eq!((world.figures.repair_read_bytes, world.figures.repair_made_bytes), (4 * bytes, 2 * bytes));
        world.begin(seated[1], Work::Fill { group: id, seats: vec![(5, others[2])] });
        assert_eq!((world.figures.repair_read_bytes, world.figures.repair_made_bytes), (5 * bytes, 3 * bytes));
        assert_eq!(world.figures.violations, Vec::<String>::new());
        world.check_reads(id, 4 * bytes + 1);
        assert!(world.figures.violations[0].contains("more than"), "{:?}", world.figures.violations);
    }
}
