//! Who is seated: as diverse as possible, then by free space, then by chance.

use crate::id::PeerTag;
use crate::volume::ports::Candidate;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// A peer that could take less than this, in bytes, counts as full: room for the largest shard there is, and for what
/// others put there before the peer has said how much is left.
pub const ROOM: u64 = 2 << 20;

/// A peer for each of `slots` slots, in slot order. Those in `keep` (by slot; missing ones are vacant) stay where
/// they are, whatever the candidates say of them. A vacant slot goes to a live candidate that stays and has free
/// space, by these rules, each deciding only where those before it see no difference:
///
/// 1. the peer with the fewest slots of this group: two only when there are fewer peers than slots;
/// 2. `prefer_local` (the writer): a shard that stays here needs no network;
/// 3. the least used zone, then subnet (/24, or /64), then host;
/// 4. chance, weighted by free space.
///
/// The same input gives the same answer; other `random` bits another one. Empty if a slot is vacant and there is
/// nobody to seat.
pub fn choose(
    slots: usize,
    keep: &[Option<PeerTag>],
    candidates: &[Candidate],
    prefer_local: Option<PeerTag>,
    random: u64,
) -> Vec<PeerTag> {
    let mut random = SplitMix64(random);
    let known: BTreeMap<PeerTag, &Candidate> = candidates.iter().map(|one| (one.peer, one)).collect();
    let usable: Vec<&Candidate> =
        known.values().copied().filter(|one| one.alive && !one.leaving && one.free > 0).collect();
    let mut seats: Vec<Option<PeerTag>> = (0..slots).map(|slot| keep.get(slot).copied().flatten()).collect();

    let mut crowd = Crowd::default();
    for peer in seats.iter().flatten() {
        crowd.seat(*peer, known.get(peer).copied());
    }
    let mut vacant: Vec<usize> = (0..slots).filter(|slot| seats[*slot].is_none()).collect();
    if !vacant.is_empty() && usable.is_empty() {
        return Vec::new();
    }
    // Who is chosen first must not always hold the same shard: data shards are read more than parity.
    random.shuffle(&mut vacant);
    for slot in vacant {
        let rank = |one: &Candidate| (crowd.slots_of(one.peer), Some(one.peer) != prefer_local, crowd.likeness(one));
        let best = usable.iter().map(|one| rank(one)).min();
        let equals: Vec<&Candidate> = usable.iter().copied().filter(|one| Some(rank(one)) == best).collect();
        let chosen = equals[random.weighted(&equals)];
        crowd.seat(chosen.peer, Some(chosen));
        seats[slot] = Some(chosen.peer);
    }
    seats.into_iter().flatten().collect()
}

/// Who is seated already, and where those are.
#[derive(Default)]
pub(super) struct Crowd {
    slots: BTreeMap<PeerTag, usize>,
    zones: BTreeMap<String, usize>,
    subnets: BTreeMap<Option<[u8; 8]>, usize>,
    hosts: BTreeMap<String, usize>,
}

impl Crowd {
    /// Peers that are on nobody's list any more have no known place.
    pub(super) fn seat(&mut self, peer: PeerTag, candidate: Option<&Candidate>) {
        *self.slots.entry(peer).or_default() += 1;
        if let Some(one) = candidate {
            *self.zones.entry(one.zone.clone()).or_default() += 1;
            *self.subnets.entry(subnet(one.address)).or_default() += 1;
            if !one.host.is_empty() {
                *self.hosts.entry(one.host.clone()).or_default() += 1;
            }
        }
    }

    fn slots_of(&self, peer: PeerTag) -> usize {
        self.slots.get(&peer).copied().unwrap_or(0)
    }

    /// How many seated share its zone, its subnet, its host; an unknown host is nobody else's.
    pub(super) fn likeness(&self, one: &Candidate) -> [usize; 3] {
        [
            self.zones.get(&one.zone).copied().unwrap_or(0),
            self.subnets.get(&subnet(one.address)).copied().unwrap_or(0),
            self.hosts.get(&one.host).copied().unwrap_or(0),
        ]
    }
}

/// The /24 or /64 an address lies in. Loopback addresses, and peers without one, say nothing about the network:
/// they count as one subnet.
fn subnet(address: Option<IpAddr>) -> Option<[u8; 8]> {
    match address?.to_canonical() {
        address if address.is_loopback() => None,
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            // No IPv6 network in use starts with these bytes, so the two kinds stay apart.
            Some([0, 0, 0, 0, 4, a, b, c])
        }
        IpAddr::V6(v6) => v6.octets().first_chunk().copied(),
    }
}

/// Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014: good bits from any seed.
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is not 0; the bias is below 2^-32 for every bound that occurs.
    fn below(&mut self, bound: u128) -> u128 {
        (u128::from(self.next()) * bound) >> 64
    }

    fn shuffle(&mut self, items: &mut [usize]) {
        for last in (1..items.len()).rev() {
            let other = self.below(last as u128 + 1) as usize;
            items.swap(last, other);
        }
    }

    /// The place of one of them, the likelier the more free space it has. One that has not reported its space yet
    /// (`u64::MAX`) counts like the roomiest that has.
    fn weighted(&mut self, among: &[&Candidate]) -> usize {
        let roomiest = among.iter().map(|one| one.free).filter(|free| *free != u64::MAX).max().unwrap_or(1);
        let weights: Vec<u128> = among.iter().map(|one| u128::from(one.free.min(roomiest))).collect();
        // The sum is cut to 64 bits so that its product with 64 random bits fits; no disks are that large.
        let total: u128 = weights.iter().sum();
        let mut at = self.below(u128::from(u64::try_from(total).unwrap_or(u64::MAX)));
        for (place, weight) in weights.iter().enumerate() {
            if at < *weight {
                return place;
            }
            at -= weight;
        }
        among.len() - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// A live peer with a gigabyte free.
    fn peer(tag: u32, zone: &str, address: &str, host: &str) -> Candidate {
        Candidate {
            peer: PeerTag(tag),
            alive: true,
            zone: zone.to_owned(),
            address: address.parse().ok(),
            host: host.to_owned(),
            free: 1 << 30,
            stored: 0,
            disk: 0,
            leaving: false,
        }
    }

    fn loopback(tag: u32) -> Candidate {
        peer(tag, "", "127.0.0.1", "box")
    }

    fn count<T: Ord>(seats: &[PeerTag], candidates: &[Candidate], key: impl Fn(&Candidate) -> T) -> Vec<usize> {
        let mut counts: BTreeMap<T, usize> = BTreeMap::new();
        for seat in seats {
            let one = candidates.iter().find(|one| one.peer == *seat).expect("seated peers are candidates");
            *counts.entry(key(one)).or_default() += 1;
        }
        counts.into_values().collect()
    }

    fn distinct(seats: &[PeerTag]) -> BTreeSet<PeerTag> {
        seats.iter().copied().collect()
    }

    #[test]
    fn three_subnets_of_two_machines_get_two_slots_each() {
        let all: Vec<_> = (0..6).map(|i| peer(i + 1, "", &format!("10.0.{}.{i}", i / 2), &format!("h{i}"))).collect();
        for random in 0..100 {
            let seats = choose(6, &[], &all, Some(PeerTag(1 + random as u32 % 6)), random);
            assert_eq!(distinct(&seats).len(), 6);
            assert_eq!(count(&seats, &all, |one| subnet(one.address)), [2, 2, 2]);
        }
    }

    #[test]
    fn subnets_are_balanced_also_when_some_are_larger() {
        // Seven peers on the first network, two on each of the others.
        let nets = [0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 2];
        let all: Vec<_> = (nets.iter().enumerate())
            .map(|(i, net)| peer(i as u32 + 1, "", &format!("10.0.{net}.{i}"), &format!("h{i}")))
            .collect();
        for random in 0..100 {
            let seats = choose(6, &[], &all, Some(PeerTag(3)), random);
            assert_eq!(count(&seats, &all, |one| subnet(one.address)), [2, 2, 2]);
            assert!(seats.contains(&PeerTag(3)));
        }
    }

    #[test]
    fn zones_come_before_subnets_and_subnets_before_hosts() {
        let mut all = vec![peer(1, "attic", "10.0.0.1", "a"), peer(2, "attic", "10.0.1.1", "b")];
        all.push(peer(3, "cellar", "10.0.0.2", "a"));
        for random in 0..50 {
            assert!(choose(2, &[], &all, Some(PeerTag(1)), random).contains(&PeerTag(3)));
        }
        let all = [peer(1, "", "10.0.0.1", "a"), peer(2, "", "10.0.0.2", "b"), peer(3, "", "10.0.1.1", "a")];
        for random in 0..50 {
            assert!(choose(2, &[], &all, Some(PeerTag(1)), random).contains(&PeerTag(3)));
        }
        let all = [peer(1, "", "10.0.0.1", "a"), peer(2, "", "10.0.0.2", "a"), peer(3, "", "10.0.0.3", "b")];
        for random in 0..50 {
            assert!(choose(2, &[], &all, Some(PeerTag(1)), random).contains(&PeerTag(3)));
        }
    }

    #[test]
    fn dead_and_full_peers_are_not_seated() {
        let mut all: Vec<_> = (1..=5).map(loopback).collect();
        all[0].alive = false;
        all[1].free = 0;
        for random in 0..50 {
            let seats = choose(3, &[], &all, Some(PeerTag(1)), random);
            assert_eq!(distinct(&seats), [3, 4, 5].map(PeerTag).into());
        }
        assert!(choose(2, &[], &all[..2], Some(PeerTag(1)), 0).is_empty());
        assert!(choose(2, &[], &[], None, 0).is_empty());
    }

    #[test]
    fn too_few_peers_share_the_slots_evenly() {
        let all: Vec<_> = (1..=4).map(loopback).collect();
        for random in 0..50 {
            let seats = choose(6, &[], &all, Some(PeerTag(2)), random);
            let mut slots = count(&seats, &all, |one| one.peer);
            slots.sort_unstable();
            assert_eq!(slots, [1, 1, 2, 2]);
        }
    }

    #[test]
    fn who_is_kept_stays_in_its_slot_and_only_the_vacant_one_is_filled() {
        let all: Vec<_> = (1..=6).map(loopback).collect();
        let keep = [Some(PeerTag(4)), None, Some(PeerTag(9))];
        for random in 0..50 {
            let seats = choose(3, &keep, &all, Some(PeerTag(4)), random);
            assert_eq!((seats[0], seats[2]), (PeerTag(4), PeerTag(9)));
            assert_ne!(seats[1], PeerTag(4));
        }
        assert_eq!(choose(1, &[Some(PeerTag(9))], &[], None, 0), [PeerTag(9)]);
    }

    #[test]
    fn free_space_weighs_among_equals() {
        let mut all: Vec<_> = (1..=2).map(loopback).collect();
        all[1].free = 9 << 30;
        let second = (0..1000).filter(|random| choose(1, &[], &all, None, *random) == [PeerTag(2)]).count();
        assert!((850..950).contains(&second), "{second} of 1000 instead of about 900");
        all[0].free = u64::MAX;
        let second = (0..1000).filter(|random| choose(1, &[], &all, None, *random) == [PeerTag(2)]).count();
        assert!((430..570).contains(&second), "{second} of 1000 instead of about 500");
    }

    #[test]
    fn every_slot_is_held_by_every_peer_some_time() {
        let all: Vec<_> = (1..=3).map(loopback).collect();
        let local: BTreeSet<usize> = (0..50)
            .map(|random| {
                let seats = choose(3, &[], &all, Some(PeerTag(1)), random);
                seats.iter().position(|seat| *seat == PeerTag(1)).expect("the writer is seated")
            })
            .collect();
        assert_eq!(local.len(), 3);
    }

    proptest! {
        #[test]
        fn seats_are_as_many_as_slots_on_as_many_peers_as_there_are(
            slots in 1usize..=32, peers in 1u32..40, random: u64, order: bool,
        ) {
            let mut all: Vec<_> = (1..=peers)
                .map(|i| peer(i, ["", "a", "b"][i as usize % 3], &format!("10.0.{}.{i}", i % 5), &format!("h{}", i % 7)))
                .collect();
            let seats = choose(slots, &[], &all, Some(PeerTag(1)), random);
            prop_assert_eq!(seats.len(), slots);
            prop_assert_eq!(distinct(&seats).len(), slots.min(peers as usize));
            prop_assert!(seats.contains(&PeerTag(1)));
            if order {
                all.reverse();
            }
            prop_assert_eq!(choose(slots, &[], &all, Some(PeerTag(1)), random), seats);
        }
    }
}
