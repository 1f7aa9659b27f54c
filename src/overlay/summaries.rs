//! What may be found over which neighbour: attenuated Bloom filters (Rhea and Kubiatowicz, "Probabilistic location and
//! routing", 2002). A peer tells each neighbour what it has itself, then what its other neighbours told it, one step
//! further away: so the filter at place d of what a neighbour told affirms what peers d + 1 steps away hold.
//!
//! Where everybody is everybody's neighbour, one filter is enough.

use super::bloom::Bloom;
use crate::id::{BlockName, PeerTag};
use std::collections::BTreeMap;
use std::time::Duration;

/// The most filters that one neighbour tells.
pub const MAX_LEVELS: usize = 4;

/// How far summaries reach, and how often they are told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SummarySettings {
    /// How many steps away they tell of, 1 to [`MAX_LEVELS`].
    pub levels: usize,
    /// Bytes of each filter, at least. Filters that are laid over one another have to have room for what all of them
    /// hold.
    pub least_bytes: usize,
    /// A neighbour is told what changed no sooner than this after it was last told.
    pub period: Duration,
    /// Nor is it told more than so many bytes a second, on average.
    pub rate: u64,
}

/// One's own summary and those of the neighbours.
pub struct Summaries {
    settings: SummarySettings,
    own: Bloom,
    neighbours: BTreeMap<PeerTag, Neighbour>,
    /// Counts the changes of one's own and of what neighbours told.
    changes: u64,
}

struct Neighbour {
    /// What it told last.
    levels: Vec<Bloom>,
    /// A mark of what it was told last, how long ago, and up to which change it was looked whether that is right.
    /// Whoever was told nothing knows of nothing.
    told: u64,
    since: Duration,
    seen: Option<u64>,
    /// Before it is told anew.
    pause: Duration,
}

impl Summaries {
    pub fn new(settings: SummarySettings) -> Summaries {
        Summaries { settings, own: Bloom::default(), neighbours: BTreeMap::new(), changes: 0 }
    }

    /// A neighbour that has told nothing yet, and was told nothing.
    pub fn connect(&mut self, peer: PeerTag) {
        let told = mark(&vec![Bloom::default(); self.settings.levels]);
        let (since, pause) = (Duration::ZERO, self.settings.period);
        self.neighbours.insert(peer, Neighbour { levels: Vec::new(), told, since, seen: None, pause });
    }

    pub fn disconnect(&mut self, peer: PeerTag) {
        self.neighbours.remove(&peer);
        self.changes += 1;
    }

    pub fn neighbours(&self) -> impl Iterator<Item = PeerTag> {
        self.neighbours.keys().copied()
    }

    pub fn is_neighbour(&self, peer: PeerTag) -> bool {
        self.neighbours.contains_key(&peer)
    }

    /// What this peer's own store has now.
    pub fn set_own(&mut self, own: Bloom) {
        if self.own != own {
            self.own = own;
            self.changes += 1;
        }
    }

    /// Whether this peer's own store has it, or seems to.
    pub fn own_has(&self, block: &BlockName) -> bool {
        self.own.has(block)
    }

    pub fn heard(&mut self, from: PeerTag, mut levels: Vec<Bloom>) {
        levels.truncate(self.settings.levels);
        if let Some(neighbour) = self.neighbours.get_mut(&from) {
            neighbour.levels = levels;
            self.changes += 1;
        }
    }

    /// The neighbours over which the block may be found, and how many steps behind each at the least.
    pub fn leads(&self, block: &BlockName) -> Vec<(usize, PeerTag)> {
        let behind = |neighbour: &Neighbour| neighbour.levels.iter().position(|level| level.has(block));
        self.neighbours.iter().filter_map(|(peer, neighbour)| Some((behind(neighbour)?, *peer))).collect()
    }

    /// What neighbours are to be told now, when so much time has passed.
    pub fn tick(&mut self, elapsed: Duration) -> Vec<(PeerTag, Vec<Bloom>)> {
        let mut due = Vec::new();
        for (peer, neighbour) in &mut self.neighbours {
            neighbour.since += elapsed;
            if neighbour.since >= neighbour.pause && neighbour.seen != Some(self.changes) {
                neighbour.seen = Some(self.changes);
                due.push(*peer);
            }
        }
        let mut told = Vec::new();
        for peer in due {
            let levels = self.tells(peer);
            let (mark, bytes) = (mark(&levels), levels.iter().map(Bloom::size).sum::<usize>());
            let Some(neighbour) = self.neighbours.get_mut(&peer) else { continue };
            if neighbour.told == mark {
                continue;
            }
            neighbour.told = mark;
            neighbour.since = Duration::ZERO;
            let slow = Duration::from_secs_f64(bytes as f64 / self.settings.rate.max(1) as f64);
            neighbour.pause = self.settings.period.max(slow);
            told.push((peer, levels));
        }
        told
    }

    /// What this neighbour is told: nothing that it told itself.
    fn tells(&self, to: PeerTag) -> Vec<Bloom> {
        let others = self.neighbours.iter().filter(|(peer, _)| **peer != to).map(|(_, neighbour)| neighbour);
        let level = |step: usize| Bloom::union(others.clone().filter_map(move |other| other.levels.get(step)));
        std::iter::once(self.own.clone()).chain((1..self.settings.levels).map(|step| level(step - 1))).collect()
    }
}

/// Tells one summary from another, but for one time in 2^64 (FNV-1a).
fn mark(levels: &[Bloom]) -> u64 {
    let mut mark = 0xcbf2_9ce4_8422_2325_u64;
    for bytes in levels.iter().map(|level| bytes::Bytes::from(level.clone())) {
        let (words, _) = bytes.as_chunks::<8>();
        for word in words {
            mark = (mark ^ u64::from_le_bytes(*word)).wrapping_mul(0x0100_0000_01b3);
        }
        mark = (mark ^ bytes.len() as u64).wrapping_mul(0x0100_0000_01b3);
    }
    mark
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const TWO: PeerTag = PeerTag(2);
    const THREE: PeerTag = PeerTag(3);

    fn summaries(levels: usize) -> Summaries {
        let mut summaries =
            Summaries::new(SummarySettings { levels, least_bytes: 64, period: 10 * SECOND, rate: 1024 });
        summaries.connect(TWO);
        summaries.connect(THREE);
        summaries
    }

    fn holding(number: u8) -> Bloom {
        Bloom::of([name(number)].into_iter(), 64)
    }

    fn name(number: u8) -> BlockName {
        BlockName::of(&[number])
    }

    #[test]
    fn what_a_neighbour_told_is_told_to_the_others_one_step_further() {
        let mut summaries = summaries(3);
        summaries.set_own(holding(1));
        summaries.heard(TWO, vec![holding(2), holding(4), holding(5), holding(6)]);
        let told: BTreeMap<_, _> = summaries.tick(10 * SECOND).into_iter().collect();
        assert_eq!(told[&THREE], [holding(1), holding(2), holding(4)]);
        assert_eq!(told[&TWO], [holding(1), Bloom::default(), Bloom::default()]);
        assert_eq!(summaries.leads(&name(4)), [(1, TWO)]);
        assert_eq!(summaries.leads(&name(6)), [], "no more is kept than was agreed");
        summaries.disconnect(TWO);
        assert_eq!(summaries.leads(&name(2)), []);
    }

    #[test]
    fn only_changes_are_told_and_those_slowly() {
        let mut summaries = summaries(1);
        assert!(summaries.tick(60 * SECOND).is_empty(), "nothing is there to be told of");
        summaries.connect(TWO);
        summaries.connect(THREE);
        summaries.set_own(holding(2));
        assert!(summaries.tick(9 * SECOND).is_empty());
        assert_eq!(summaries.tick(SECOND).len(), 2);
        assert!(summaries.tick(60 * SECOND).is_empty(), "nothing is new");
        summaries.set_own(Bloom::of((0..=255).map(name).collect::<Vec<_>>().into_iter(), 64 << 10));
        assert_eq!(summaries.tick(SECOND).len(), 2, "it was long ago");
        summaries.set_own(holding(1));
        assert!(summaries.tick(63 * SECOND).is_empty(), "64 KiB are a minute's worth");
        assert_eq!(summaries.tick(SECOND).len(), 2);
        summaries.connect(TWO);
        assert_eq!(summaries.tick(10 * SECOND).len(), 1, "who connects anew is told again");
    }
}
