//! What groups need, carried out over a share in memory, and what it reads for that.

use super::*;
use crate::group::{Outcome, Work};
use crate::id::{GroupId, PeerTag};
use crate::namespace::Change;
use crate::policy::Geometry;
use std::sync::atomic::Ordering;

/// A share with a file under a policy, and its group.
struct Kept {
    share: Share,
    ino: Ino,
    data: Vec<u8>,
    group: GroupId,
    seats: Vec<PeerTag>,
}

async fn kept(peers: u8, text: &str) -> Kept {
    let share = Share::new(peers);
    let ino = share.create(0, "file", policy(text));
    let data = noise(77, 5 * MIB + 70_000);
    store(&share.volume(0), ino, &data).await.unwrap();
    let (group, seats) = {
        let namespace = share.namespace();
        let mut groups = namespace.groups().filter(|(_, group)| group.blocks > 0);
        let (id, group) = groups.next().expect("the file is in a group");
        assert!(groups.next().is_none(), "one group takes a file of 6 blocks");
        (id, group.slots.iter().map(|slot| slot[0].peer).collect())
    };
    Kept { share, ino, data, group, seats }
}

impl Kept {
    fn outsiders(&self) -> Vec<PeerTag> {
        self.share.peers().into_iter().filter(|peer| !self.seats.contains(peer)).collect()
    }

    fn place_of(&self, peer: PeerTag) -> usize {
        self.share.peers().iter().position(|one| *one == peer).unwrap()
    }

    fn blocks(&self) -> u64 {
        self.share.namespace().blocks_of(self.group).count() as u64
    }

    /// A participant that is left.
    fn leader(&self, dead: &[PeerTag]) -> Volume {
        let leader = self.seats.iter().find(|peer| !dead.contains(peer)).unwrap();
        self.share.volume(self.place_of(*leader))
    }

    fn seat(&self, seats: &[(u8, PeerTag)]) {
        let group = self.group;
        self.share
            .change(0, seats.iter().map(|(slot, peer)| Change::Seat { group, slot: *slot, peer: *peer }).collect());
    }

    /// Everything is read without these peers.
    async fn is_read_without(&self, dead: &[PeerTag]) {
        dead.iter().for_each(|peer| self.share.fault(*peer, Fault::Dead));
        let reader = self.share.peers().iter().position(|peer| !dead.contains(peer)).unwrap();
        assert!(read_all(&self.share.volume(reader), self.ino).await.unwrap() == self.data, "without {dead:?}");
        dead.iter().for_each(|peer| self.share.fault(*peer, Fault::None));
    }
}

/// Shards read, and shards rebuilt.
fn moved(volume: &Volume) -> (u64, u64) {
    let counters = volume.healing();
    (counters.shards_read.load(Ordering::Relaxed), counters.shards_rebuilt.load(Ordering::Relaxed))
}

#[test]
fn one_lost_participant_costs_k_shards_read_for_each_rebuilt() {
    run(async {
        let kept = kept(7, "rs:4+2").await;
        let (lost, recruit) = (kept.seats[2], kept.outsiders()[0]);
        kept.share.fault(lost, Fault::Dead);
        let leader = kept.leader(&[lost]);
        let asked = kept.share.gets();
        let outcome = leader.work(&Work::Fill { group: kept.group, seats: vec![(2, recruit)] }).await;
        assert_eq!(outcome, Outcome::Done { filled: vec![(2, recruit)] });
        let (read, rebuilt) = moved(&leader);
        assert_eq!((read, rebuilt), (4 * kept.blocks(), kept.blocks()));
        // What is counted is what was asked for; the leader reads one of the k from its own store.
        let asked = kept.share.gets() - asked;
        assert!(asked <= read * 105 / 100, "{asked} shards were asked for, {read} are needed");
        kept.seat(&[(2, recruit)]);
        kept.is_read_without(&[lost, kept.seats[0], kept.seats[1]]).await;
    });
}

#[test]
fn two_lost_participants_cost_one_reading_of_k() {
    run(async {
        let kept = kept(8, "rs:4+2").await;
        let lost = [kept.seats[1], kept.seats[5]];
        let recruits = kept.outsiders();
        lost.iter().for_each(|peer| kept.share.fault(*peer, Fault::Dead));
        let leader = kept.leader(&lost);
        let seats = vec![(1, recruits[0]), (5, recruits[1])];
        let asked = kept.share.gets();
        let outcome = leader.work(&Work::Fill { group: kept.group, seats: seats.clone() }).await;
        assert_eq!(outcome, Outcome::Done { filled: seats.clone() });
        let (read, rebuilt) = moved(&leader);
        assert_eq!((read, rebuilt), (4 * kept.blocks(), 2 * kept.blocks()));
        let asked = kept.share.gets() - asked;
        assert!(asked <= read * 105 / 100, "{asked} shards were asked for, {read} are needed");
        kept.seat(&seats);
        kept.is_read_without(&[lost[0], lost[1], kept.seats[0], kept.seats[2]]).await;
    });
}

#[test]
fn a_slot_that_moves_costs_one_shard_read_for_each() {
    run(async {
        let kept = kept(7, "rs:4+2").await;
        let (leaver, recruit) = (kept.seats[3], kept.outsiders()[0]);
        let leader = kept.share.volume(kept.place_of(leaver));
        let outcome = leader.work(&Work::Fill { group: kept.group, seats: vec![(3, recruit)] }).await;
        assert_eq!(outcome, Outcome::Done { filled: vec![(3, recruit)] });
        assert_eq!(moved(&leader), (kept.blocks(), kept.blocks()));
    });
}

#[test]
fn what_was_done_before_is_not_done_again() {
    run(async {
        let kept = kept(7, "rs:4+2").await;
        let (lost, recruit) = (kept.seats[2], kept.outsiders()[0]);
        kept.share.fault(lost, Fault::Dead);
        let work = Work::Fill { group: kept.group, seats: vec![(2, recruit)] };
        kept.leader(&[lost]).work(&work).await;
        // Another leader, after the first one died before it could say what it had done.
        let next = kept.leader(&[lost, kept.seats[0]]);
        assert_eq!(next.work(&work).await, Outcome::Done { filled: vec![(2, recruit)] });
        assert_eq!(moved(&next), (0, 0));
    });
}

#[test]
fn a_full_recruit_is_not_seated_and_an_unreadable_group_fails() {
    run(async {
        let kept = kept(8, "rs:4+2").await;
        let (full, other) = (kept.outsiders()[0], kept.outsiders()[1]);
        kept.share.fault(kept.seats[0], Fault::Dead);
        kept.share.fault(full, Fault::Full);
        let leader = kept.leader(&kept.seats[..1]);
        let only = Work::Fill { group: kept.group, seats: vec![(0, full)] };
        assert_eq!(leader.work(&only).await, Outcome::Failed);
        kept.share.fault(kept.seats[1], Fault::Dead);
        let both = Work::Fill { group: kept.group, seats: vec![(0, full), (1, other)] };
        assert_eq!(leader.work(&both).await, Outcome::Done { filled: vec![(1, other)] });
        // That seat was never taken, and one more dies: a search finds the fourth shard where no seat says it is.
        kept.share.fault(kept.seats[2], Fault::Dead);
        let third = Work::Fill { group: kept.group, seats: vec![(2, other)] };
        assert_eq!(kept.leader(&kept.seats[..3]).work(&third).await, Outcome::Done { filled: vec![(2, other)] });
        // Two more die: three shards of four are left, wherever they are.
        kept.share.fault(kept.seats[4], Fault::Dead);
        kept.share.fault(kept.seats[5], Fault::Dead);
        let short = VolumeSettings { read_deadline: Duration::from_millis(300), ..Share::settings() };
        let leader = kept.share.volume_with(kept.place_of(kept.seats[3]), short);
        let last = Work::Fill { group: kept.group, seats: vec![(4, other)] };
        assert_eq!(leader.work(&last).await, Outcome::Failed);
    });
}

#[test]
fn who_stays_in_a_slot_is_read_and_given_what_it_lacks() {
    run(async {
        let kept = kept(4, "replicate:3").await;
        let (mine, keeper) = (kept.seats[1], kept.outsiders()[0]);
        kept.seat(&[(1, keeper)]);
        let leader = kept.share.volume(kept.place_of(mine));
        let work = Work::Verify { group: kept.group, slot: 1, keeper };
        assert_eq!(leader.work(&work).await, Outcome::Done { filled: Vec::new() });
        assert_eq!(kept.share.shards(keeper) as u64, kept.blocks());
        let before = moved(&leader);
        assert_eq!(before, (kept.blocks(), kept.blocks()));
        assert_eq!(leader.work(&work).await, Outcome::Done { filled: Vec::new() });
        assert_eq!(moved(&leader), before, "what is there is only read by its holder");
        kept.share.fault(keeper, Fault::Silent);
        assert_eq!(leader.work(&work).await, Outcome::Failed, "nobody gives a slot up to one that does not answer");
    });
}

#[test]
fn blocks_move_to_a_group_of_the_geometry_that_their_policy_asks_for() {
    run(async {
        let share = Share::new(6);
        let data = noise(78, 5 * MIB + 70_000);
        // Written when there were three machines.
        let away: Vec<PeerTag> = share.peers()[3..].to_vec();
        away.iter().for_each(|peer| share.fault(*peer, Fault::Dead));
        let ino = share.create(0, "file", policy("survive:2"));
        store(&share.volume(0), ino, &data).await.unwrap();
        let small = group_at(&share, ino, 0).geometry;
        away.iter().for_each(|peer| share.fault(*peer, Fault::None));
        let from = share.namespace().groups().find(|(_, group)| group.blocks > 0).unwrap().0;
        let volume = share.volume(0);
        let outcome = volume.work(&Work::Reencode { group: from }).await;
        assert_eq!(outcome, Outcome::Done { filled: Vec::new() });
        let large = group_at(&share, ino, 0).geometry;
        assert!(small.shards() < large.shards() && large.shards() == 6, "{small:?} became {large:?}");
        assert_eq!(share.namespace().blocks_of(from).count(), 0);
        assert_eq!(moved(&volume).1, 6 * 6, "six shards of each of six blocks");
        let bytes: usize = [MIB, MIB, MIB, MIB, MIB, 70_000].map(|len| 6 * large.shard_bytes(len)).iter().sum();
        assert_eq!(volume.healing().bytes_rebuilt.load(Ordering::Relaxed), bytes as u64);
        let peers = share.peers();
        share.fault(peers[1], Fault::Dead);
        share.fault(peers[4], Fault::Dead);
        assert!(read_all(&share.volume(0), ino).await.unwrap() == data);
    });
}

#[test]
fn a_group_is_encoded_anew_only_as_far_as_there_is_room() {
    run(async {
        let share = Share::new(6);
        let peers = share.peers();
        peers[3..].iter().for_each(|peer| share.fault(*peer, Fault::Dead));
        let ino = share.create(0, "file", policy("survive:2"));
        let data = noise(79, 3 * MIB);
        store(&share.volume(0), ino, &data).await.unwrap();
        peers[3..].iter().for_each(|peer| share.fault(*peer, Fault::None));
        let from = share.namespace().groups().find(|(_, group)| group.blocks > 0).unwrap().0;
        share.report_free(peers[5], group::ROOM + 3 * MIB as u64 / 4);
        assert_eq!(share.volume(0).work(&Work::Reencode { group: from }).await, Outcome::Failed);
        assert_eq!(share.namespace().blocks_of(from).count(), 3, "nothing has moved");
        share.report_free(peers[5], group::ROOM + MIB as u64);
        let done = Outcome::Done { filled: Vec::new() };
        assert_eq!(share.volume(0).work(&Work::Reencode { group: from }).await, done);
        assert!(read_all(&share.volume(1), ino).await.unwrap() == data);
    });
}

/// At this rate what is counted takes much longer than the work itself.
const PACE: u64 = 8 << 20;

fn paced() -> VolumeSettings {
    VolumeSettings { repair: RepairBounds { bytes_per_second: PACE, busy_percent: 100 }, ..Share::settings() }
}

/// The least time in which so many bytes are moved, the last `in_one` of them at once.
fn least(bytes: usize, in_one: usize) -> Duration {
    Duration::from_secs_f64((bytes - in_one) as f64 / PACE as f64)
}

#[test]
fn what_repair_reads_and_what_it_stores_keeps_to_the_bandwidth() {
    run(async {
        let kept = kept(7, "rs:4+2").await;
        let (lost, recruit) = (kept.seats[2], kept.outsiders()[0]);
        kept.share.fault(lost, Fault::Dead);
        let leader = kept.share.volume_with(kept.place_of(kept.seats[0]), paced());
        let started = std::time::Instant::now();
        let outcome = leader.work(&Work::Fill { group: kept.group, seats: vec![(2, recruit)] }).await;
        assert_eq!(outcome, Outcome::Done { filled: vec![(2, recruit)] });
        // Four shards are read and one is stored of each block, several blocks side by side.
        let geometry = Geometry { data: 4, parity: 2 };
        let moved = 5 * (5 * geometry.shard_bytes(MIB) + geometry.shard_bytes(70_000));
        assert!(started.elapsed() >= least(moved, MIB), "{moved} bytes in {:?}", started.elapsed());
    });
}

#[test]
fn encoding_a_group_anew_keeps_to_the_bandwidth_with_all_that_it_stores() {
    run(async {
        let share = Share::new(6);
        let peers = share.peers();
        peers[3..].iter().for_each(|peer| share.fault(*peer, Fault::Dead));
        let ino = share.create(0, "file", policy("survive:2"));
        store(&share.volume(0), ino, &noise(80, 5 * MIB)).await.unwrap();
        peers[3..].iter().for_each(|peer| share.fault(*peer, Fault::None));
        let from = share.namespace().groups().find(|(_, group)| group.blocks > 0).unwrap().0;
        let started = std::time::Instant::now();
        let outcome = share.volume_with(0, paced()).work(&Work::Reencode { group: from }).await;
        assert_eq!(outcome, Outcome::Done { filled: Vec::new() });
        // A block's two data shards are read, and six shards of a quarter of it stored.
        let moved = 5 * (MIB + 6 * MIB / 4);
        assert!(started.elapsed() >= least(moved, MIB + 6 * MIB / 4), "{moved} bytes in {:?}", started.elapsed());
    });
}

#[test]
fn how_far_work_is_can_be_seen_while_it_goes_on() {
    run(async {
        let kept = kept(8, "rs:4+2").await;
        let recruits = kept.outsiders();
        [1, 5].into_iter().for_each(|slot| kept.share.fault(kept.seats[slot], Fault::Dead));
        let leader = kept.share.volume_with(kept.place_of(kept.seats[0]), paced());
        let work = Work::Fill { group: kept.group, seats: vec![(1, recruits[0]), (5, recruits[1])] };
        let working = tokio::spawn({
            let leader = leader.clone();
            async move { leader.work(&work).await }
        });
        let mut seen = Vec::new();
        while !working.is_finished() {
            seen.extend(leader.healing().under_way().get(&kept.group).copied());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        assert!(matches!(working.await.unwrap(), Outcome::Done { .. }));
        assert!(seen.is_sorted_by_key(|done| (done.blocks, done.bytes)));
        let whole = 2 * Geometry { data: 4, parity: 2 }.shard_bytes(MIB) as u64;
        let part = seen.iter().find(|done| (1..kept.blocks()).contains(&done.blocks)).expect("it was seen on its way");
        assert!(part.bytes > 0 && part.bytes <= part.blocks * whole, "{part:?}");
        assert!(leader.healing().under_way().is_empty(), "what is over is told by the seats");
    });
}
