//! The network between the peers of a run: how long a datagram takes or whether it is lost, how long a transfer takes,
//! and who is cut off from whom, both ways or one way only.

use super::chance::Chance;
use super::queue::later;
use crate::id::PeerTag;
use crate::time::Instant;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What all links are like.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Links {
    /// From one peer to another, at least.
    pub latency: Duration,
    /// Up to this much more, drawn for each datagram: so they overtake one another.
    pub jitter: Duration,
    /// The chance that a datagram is lost.
    pub loss: f64,
    /// Bytes a second of each peer, out and in.
    pub bandwidth: u64,
}

/// Peers that are not heard by the others, or do not hear them, or both.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cut {
    pub peers: BTreeSet<PeerTag>,
    /// What they send arrives all the same.
    pub heard: bool,
}

/// Links with who is cut off, and until when each is busy.
pub struct Network {
    links: Links,
    cut: Option<Cut>,
    out: BTreeMap<PeerTag, Instant>,
    into: BTreeMap<PeerTag, Instant>,
}

impl Network {
    pub fn new(links: Links) -> Network {
        Network { links, cut: None, out: BTreeMap::new(), into: BTreeMap::new() }
    }

    /// From now on; `None` joins all again.
    pub fn cut(&mut self, cut: Option<Cut>) {
        self.cut = cut;
    }

    pub fn is_cut(&self) -> bool {
        self.cut.is_some()
    }

    /// Whether what `from` sends can arrive at `to`.
    pub fn reaches(&self, from: PeerTag, to: PeerTag) -> bool {
        let Some(cut) = &self.cut else { return true };
        match (cut.peers.contains(&from), cut.peers.contains(&to)) {
            (true, false) => cut.heard,
            (false, true) => false,
            _ => true,
        }
    }

    /// How long a datagram takes; `None` if it does not arrive.
    pub fn datagram(&self, from: PeerTag, to: PeerTag, chance: &mut Chance) -> Option<Duration> {
        let delay = self.links.latency + chance.up_to(self.links.jitter);
        (!chance.happens(self.links.loss) && self.reaches(from, to)).then_some(delay)
    }

    /// There and back.
    pub fn round_trip(&self) -> Duration {
        2 * self.links.latency + self.links.jitter
    }

    /// When a transfer has arrived that starts now, at most at `limit` bytes a second; both ends carry one at a time.
    pub fn transfer(&mut self, from: PeerTag, to: PeerTag, bytes: u64, limit: u64, now: Instant) -> Instant {
        let free = |busy: &BTreeMap<PeerTag, Instant>, peer| busy.get(&peer).copied().unwrap_or_default();
        let start = now.max(free(&self.out, from)).max(free(&self.into, to));
        let rate = self.links.bandwidth.min(limit).max(1);
        let end = later(start, Duration::from_secs_f64(bytes as f64 / rate as f64));
        self.out.insert(from, end);
        self.into.insert(to, end);
        later(end, self.links.latency)
    }

    /// A peer that is gone carries nothing any more.
    pub fn forget(&mut self, peer: PeerTag) {
        self.out.remove(&peer);
        self.into.remove(&peer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: PeerTag = PeerTag(1);
    const TWO: PeerTag = PeerTag(2);

    fn network(loss: f64) -> Network {
        let latency = Duration::from_millis(10);
        Network::new(Links { latency, jitter: Duration::from_millis(5), loss, bandwidth: 1000 })
    }

    #[test]
    fn datagrams_take_their_time_and_get_lost_as_often_as_was_said() {
        let (network, mut chance) = (network(0.25), Chance::new(3));
        let arrived: Vec<Duration> = (0..10_000).filter_map(|_| network.datagram(ONE, TWO, &mut chance)).collect();
        assert!((7300..7700).contains(&arrived.len()), "{}", arrived.len());
        assert!(arrived.iter().all(|time| (10..=15).contains(&time.as_millis())));
    }

    #[test]
    fn a_cut_may_be_one_way() {
        let mut network = network(0.0);
        network.cut(Some(Cut { peers: BTreeSet::from([ONE]), heard: false }));
        assert!(!network.reaches(ONE, TWO) && !network.reaches(TWO, ONE));
        network.cut(Some(Cut { peers: BTreeSet::from([ONE]), heard: true }));
        assert!(network.reaches(ONE, TWO) && !network.reaches(TWO, ONE));
        network.cut(None);
        assert!(network.reaches(TWO, ONE));
    }

    #[test]
    fn transfers_of_one_peer_queue_and_keep_to_their_limit() {
        let mut network = network(0.0);
        let ms = |at: Instant| at.0 / 1_000_000;
        assert_eq!(ms(network.transfer(ONE, TWO, 500, u64::MAX, Instant(0))), 510);
        assert_eq!(ms(network.transfer(ONE, PeerTag(3), 500, u64::MAX, Instant(0))), 1010);
        assert_eq!(ms(network.transfer(PeerTag(4), PeerTag(5), 500, 100, Instant(0))), 5010);
    }
}
