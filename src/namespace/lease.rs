//! Who holds which lease: the right to change the names of a directory, or the content, attributes and locks of a file.
//!
//! The ops say it, so every peer knows the holder of every lease, and a lease that stays where it is costs nothing. An
//! inode's lease is its creator's until the holder grants it to another peer. What a peer holds it holds in a
//! **tenure**, which ends when the peer is deposed: it left, or it is dead to those who are connected. All that it held
//! then passes to one heir, by one op. What it makes, or is granted, after that is held in its next tenure.

use super::apply::{DERIVED, Work};
use super::record::{Key, Record};
use super::tree::Tree;
use super::{Change, Namespace};
use crate::id::{Ino, PeerTag};
use serde::{Deserialize, Serialize};

/// A peer between two of its depositions: the `number`th one, from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Tenure {
    pub peer: PeerTag,
    pub number: u32,
}

/// A tenure that has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EndedTenure {
    /// The last counter of its peer that was known when it ended: inodes up to it, and above that of the tenure before,
    /// were made in it.
    pub last: u64,
    /// In which tenure what it held is held now: never one that has ended.
    pub heir: Tenure,
}

/// The lease that a move of a directory to another parent needs besides those of the two: of two such moves at once, each
/// may be no circle, and both together one. No inode has this number.
pub const MOVES: Ino = Ino(2);

impl Tree {
    pub fn is_peer(&self, peer: PeerTag) -> bool {
        self.get(&Key::Peer(peer)).is_some()
    }

    /// The roster.
    pub fn peers(&self) -> impl Iterator<Item = PeerTag> {
        let keys = self.range(Key::Peer(PeerTag(0)), Key::Peer(PeerTag(u32::MAX)));
        keys.filter_map(|(key, _)| if let Key::Peer(peer) = key { Some(*peer) } else { None })
    }

    fn all_tenures(&self) -> impl Iterator<Item = (PeerTag, &Record)> {
        let keys = self.range(Key::Tenures(PeerTag(0)), Key::Tenures(PeerTag(u32::MAX)));
        keys.filter_map(|(key, record)| if let Key::Tenures(peer) = key { Some((*peer, record)) } else { None })
    }

    pub fn tenures(&self, peer: PeerTag) -> &[EndedTenure] {
        match self.get(&Key::Tenures(peer)) {
            Some(Record::Tenures(ended)) => ended,
            _ => &[],
        }
    }

    /// The tenure a peer is in.
    pub fn tenure(&self, peer: PeerTag) -> Tenure {
        Tenure { peer, number: self.tenures(peer).len() as u32 }
    }

    /// The tenure in which the lease was granted, or its inode made.
    pub fn given(&self, ino: Ino) -> Tenure {
        match self.get(&Key::Lease(ino)) {
            Some(Record::Lease(tenure)) => *tenure,
            _ => {
                let peer = ino.creator();
                let number = self.tenures(peer).partition_point(|ended| ended.last < ino.counter()) as u32;
                Tenure { peer, number }
            }
        }
    }

    /// The tenure in which the lease is held now.
    pub fn held(&self, ino: Ino) -> Tenure {
        let given = self.given(ino);
        self.tenures(given.peer).get(given.number as usize).map_or(given, |ended| ended.heir)
    }
}

impl Namespace {
    /// Who holds the lease of an inode. The root's and that of [`MOVES`] are the founder's at first.
    pub fn holder(&self, ino: Ino) -> PeerTag {
        self.tree.held(ino).peer
    }

    /// Whether there is such a lease. An inode that was reaped has none: nothing is to be done under it, and it is forgotten
    /// here and there at different times.
    pub fn has_lease(&self, ino: Ino) -> bool {
        ino == MOVES || self.inode(ino).is_some()
    }

    /// Whether the lease came to its holder from a peer that was deposed.
    pub fn is_inherited(&self, ino: Ino) -> bool {
        self.tree.given(ino) != self.tree.held(ino)
    }

    /// Whether a peer has made an op of late that gives this lease to another, be it that it was not the peer's to give.
    pub fn has_tried_to_grant(&self, peer: PeerTag, ino: Ino, to: PeerTag) -> bool {
        let grant = Change::Grant { ino, to };
        self.log.iter().any(|logged| logged.op.stamp.author.peer() == peer && logged.op.change == grant)
    }

    /// The tenure a peer is in: every deposition begins another.
    pub fn tenure(&self, peer: PeerTag) -> Tenure {
        self.tree.tenure(peer)
    }
}

impl Work<'_> {
    /// A lease goes from its holder to another peer. Nobody else can give it away.
    pub fn grant(&mut self, ino: Ino, to: PeerTag) {
        // The lease of an inode that was forgotten is not to be remembered.
        let known = ino == MOVES || self.tree.inode(ino).is_some();
        if known && self.tree.held(ino).peer == self.stamp.author.peer() && self.tree.is_peer(to) {
            self.give(ino, to);
        }
    }

    fn give(&mut self, ino: Ino, to: PeerTag) {
        let tenure = self.tree.tenure(to);
        self.put(Key::Lease(ino), None);
        // A number that was derived says nothing of when it was made.
        if self.tree.given(ino) != tenure || ino.counter() >= DERIVED {
            self.put(Key::Lease(ino), Some(Record::Lease(tenure)));
        }
    }

    /// The copy of a file is held by who made it.
    pub fn hold_copy(&mut self, ino: Ino) {
        self.give(ino, ino.creator());
    }

    /// Who inherits from a peer that is taken off the roster: who did it, or any other where it went by itself.
    pub fn heir_of_evicted(&self, peer: PeerTag) -> Option<PeerTag> {
        let author = self.stamp.author.peer();
        if author != peer && self.tree.is_peer(author) {
            return Some(author);
        }
        self.tree.peers().find(|other| *other != peer)
    }

    /// Ends a peer's tenure: what it held passes to `heir`.
    pub fn depose(&mut self, peer: PeerTag, heir: PeerTag) {
        if peer == heir {
            return;
        }
        let (over, heir) = (self.tree.tenure(peer), self.tree.tenure(heir));
        // What it had inherited goes on to the heir, so that nobody has to follow a chain.
        let heirs: Vec<PeerTag> = self.tree.all_tenures().map(|(peer, _)| peer).collect();
        for of in heirs {
            let mut ended = self.tree.tenures(of).to_vec();
            if ended.iter().any(|ended| ended.heir == over) {
                ended.iter_mut().filter(|ended| ended.heir == over).for_each(|ended| ended.heir = heir);
                self.put(Key::Tenures(of), Some(Record::Tenures(ended)));
            }
        }
        let mut ended = self.tree.tenures(peer).to_vec();
        let last = ended.last().map_or(0, |ended| ended.last).max(self.counter(peer));
        ended.push(EndedTenure { last, heir });
        self.put(Key::Tenures(peer), Some(Record::Tenures(ended)));
    }

    fn counter(&self, peer: PeerTag) -> u64 {
        match self.tree.get(&Key::Counter(peer)) {
            Some(Record::Counter(counter)) => *counter,
            _ => 0,
        }
    }

    /// The founder comes before anybody else, and holds what nobody made.
    pub fn hold_the_root(&mut self, founder: PeerTag) {
        let nobody = PeerTag::default();
        if self.tree.tenures(nobody).is_empty() {
            let heir = self.tree.tenure(founder);
            self.put(Key::Tenures(nobody), Some(Record::Tenures(vec![EndedTenure { last: DERIVED, heir }])));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{World, place};
    use super::*;
    use crate::namespace::{Change, Kind};

    fn create(world: &mut World, by: usize, name: &str) -> Ino {
        let ino = world.number(by);
        let time = world.clock(by);
        let place = place(Ino::ROOT, name);
        world.change(by, Change::Create { place, ino, kind: Kind::File, mode: 0o644, uid: 0, gid: 0, time });
        ino
    }

    fn holder(world: &World, at: usize, ino: Ino) -> usize {
        let holder = world.ns(at).holder(ino);
        world.peers.iter().position(|peer| peer.tag == holder).unwrap()
    }

    #[test]
    fn a_lease_is_its_creators_and_goes_where_its_holder_gives_it() {
        let mut world = World::new(3);
        let tags: Vec<PeerTag> = world.peers.iter().map(|peer| peer.tag).collect();
        let ino = create(&mut world, 1, "a");
        world.meet();
        assert_eq!(holder(&world, 0, ino), 1);
        assert_eq!(holder(&world, 1, Ino::ROOT), 0, "the founder's");
        assert_eq!(holder(&world, 1, MOVES), 0);
        world.change(2, Change::Grant { ino, to: tags[2] });
        world.meet();
        assert_eq!(holder(&world, 0, ino), 1, "nobody takes one by himself");
        world.change(1, Change::Grant { ino, to: tags[2] });
        world.meet();
        assert_eq!(holder(&world, 1, ino), 2);
        world.change(2, Change::Grant { ino, to: tags[1] });
        world.meet();
        assert_eq!(holder(&world, 0, ino), 1);
        assert!(world.ns(0).tree.get(&Key::Lease(ino)).is_none(), "back with its creator, nothing is to be said");
    }

    #[test]
    fn all_that_a_deposed_peer_held_passes_to_its_heir_and_what_it_makes_later_is_its_own() {
        let mut world = World::new(3);
        let tags: Vec<PeerTag> = world.peers.iter().map(|peer| peer.tag).collect();
        let (made, granted) = (create(&mut world, 1, "made"), create(&mut world, 0, "granted"));
        world.change(0, Change::Grant { ino: granted, to: tags[1] });
        world.meet();
        world.change(2, Change::Depose { peer: tags[1], heir: tags[2] });
        world.meet();
        assert_eq!([made, granted].map(|ino| holder(&world, 1, ino)), [2, 2]);
        assert!(world.ns(0).is_inherited(made) && world.ns(0).is_inherited(granted));
        let later = create(&mut world, 1, "later");
        world.meet();
        assert_eq!(holder(&world, 0, later), 1);
        // The heir goes in its turn: nothing is left behind, and nothing that others hold goes with it.
        world.change(0, Change::Depose { peer: tags[2], heir: tags[0] });
        world.meet();
        assert_eq!([made, granted, later].map(|ino| holder(&world, 2, ino)), [0, 0, 1]);
        world.change(0, Change::Depose { peer: tags[0], heir: tags[1] });
        world.meet();
        assert_eq!([made, granted, later, Ino::ROOT].map(|ino| holder(&world, 2, ino)), [1; 4]);
        for at in 0..3 {
            for peer in &tags {
                for ended in world.ns(at).tree.tenures(*peer) {
                    assert_eq!(ended.heir, world.ns(at).tenure(ended.heir.peer), "no chains");
                }
            }
        }
    }

    #[test]
    fn only_the_heir_or_the_peer_itself_deposes() {
        let mut world = World::new(3);
        let tags: Vec<PeerTag> = world.peers.iter().map(|peer| peer.tag).collect();
        let change = Change::Depose { peer: tags[1], heir: tags[2] };
        let author = crate::id::Author::new(tags[0], 0);
        assert!(world.ns(0).check(author, world.clock(0), &change).is_err());
        world.change(1, Change::Depose { peer: tags[1], heir: tags[2] });
        world.meet();
        assert_eq!(world.ns(2).tenure(tags[1]).number, 1);
    }

    #[test]
    fn an_evicted_peer_holds_nothing() {
        let mut world = World::new(3);
        let tags: Vec<PeerTag> = world.peers.iter().map(|peer| peer.tag).collect();
        let ino = create(&mut world, 1, "a");
        world.meet();
        world.change(2, Change::Evict { peer: tags[1] });
        world.send(2, 0);
        assert_eq!(holder(&world, 0, ino), 2);
        world.change(2, Change::Grant { ino, to: tags[1] });
        assert_eq!(holder(&world, 2, ino), 2, "nor is it given anything");
    }

    #[test]
    fn two_sides_that_depose_one_another_agree_when_they_meet() {
        let mut world = World::new(2);
        let tags: Vec<PeerTag> = world.peers.iter().map(|peer| peer.tag).collect();
        let (mine, theirs) = (create(&mut world, 0, "mine"), create(&mut world, 1, "theirs"));
        world.meet();
        world.change(0, Change::Depose { peer: tags[1], heir: tags[0] });
        world.change(1, Change::Depose { peer: tags[0], heir: tags[1] });
        assert_eq!((holder(&world, 0, theirs), holder(&world, 1, mine)), (0, 1));
        world.meet();
        for ino in [mine, theirs, Ino::ROOT] {
            assert_eq!(holder(&world, 0, ino), holder(&world, 1, ino));
        }
    }
}
