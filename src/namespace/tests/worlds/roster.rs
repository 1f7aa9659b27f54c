//! Random changes of groups and of the roster.

use super::*;

impl Run {
    pub fn roster_or_group(&mut self, at: usize, x: u32, y: u32, z: u32) {
        match z % 16 {
            0..=2 => self.relocate(at, x, y),
            3..=5 => self.open_group(at, x),
            6..=8 => self.close_groups(at),
            9 | 10 => self.seat(at, x, y),
            11 | 12 => self.unseat(at, x, y),
            13 => self.standing(at, x, y),
            14 => self.readmit(at, y),
            _ => self.evict(at, x, y),
        }
    }

    fn some_peer(&self, chance: u32) -> PeerTag {
        self.world.peers[chance as usize % self.world.peers.len()].tag
    }

    /// This peer's group takes over some of what another keeps.
    fn relocate(&mut self, at: usize, x: u32, y: u32) {
        let groups: Vec<GroupId> = self.world.ns(at).groups().map(|(id, _)| id).collect();
        let (Some(from), to) = (pick(&groups, x), self.world.peers[at].group) else { return };
        let blocks = self.world.ns(at).blocks_of(from).map(|(name, _)| name).take(y as usize % 4).collect();
        self.change(at, Change::Relocate { from, to, blocks });
    }

    /// What this peer writes from now on goes to a new group.
    pub fn open_group(&mut self, at: usize, x: u32) {
        let group = GroupId(self.world.number(at).0);
        let (policy, geometry) = match x % 3 {
            0 => (Policy::Replicate(1), Geometry { data: 1, parity: 0 }),
            1 => (Policy::Survive(1), Geometry { data: 1, parity: 1 }),
            _ => (Policy::ReedSolomon { data: 2, parity: 1 }, Geometry { data: 2, parity: 1 }),
        };
        let seats = (0..geometry.shards() as u32).map(|slot| self.some_peer(x / 3 + slot)).collect();
        self.world.peers[at].group = group;
        self.change(at, Change::OpenGroup { group, policy, geometry, seats });
    }

    /// As a volume does: groups that nothing refers to and that nobody will put anything into. After a power cut it waits
    /// until it has what others have of its ops.
    fn close_groups(&mut self, at: usize) {
        let tag = self.world.peers[at].tag;
        let unheard = |(author, ops): (&Author, &Vec<Op>)| {
            author.peer() == tag && ops.last().is_some_and(|last| last.seq > self.world.ns(at).vector().get(*author))
        };
        if self.made.iter().any(unheard) {
            return;
        }
        let peer = &self.world.peers[at];
        let ns = &peer.namespace;
        let ours = |id: &GroupId| id.creator() == peer.tag || !ns.is_member(id.creator());
        let empty = ns.groups().map(|(id, _)| id).filter(|id| ours(id) && *id != peer.group && ns.is_empty_group(*id));
        for group in empty.collect::<Vec<_>>() {
            self.change(at, Change::CloseGroup { group });
        }
    }

    fn seat(&mut self, at: usize, x: u32, y: u32) {
        let groups: Vec<GroupId> = self.world.ns(at).groups().map(|(id, _)| id).collect();
        let Some(group) = pick(&groups, x) else { return };
        self.change(at, Change::Seat { group, slot: (y % 3) as u8, peer: self.some_peer(y / 3) });
    }

    fn unseat(&mut self, at: usize, x: u32, y: u32) {
        let groups: Vec<GroupId> = self.world.ns(at).groups().map(|(id, _)| id).collect();
        let Some(group) = pick(&groups, x) else { return };
        let keeper = (!y.is_multiple_of(5)).then(|| self.some_peer(y / 15));
        self.change(at, Change::Unseat { group, slot: (y % 3) as u8, peer: self.some_peer(y / 3), keeper });
    }

    fn standing(&mut self, at: usize, x: u32, y: u32) {
        let standing = Standing { leaving: y.is_multiple_of(2), maintenance_until: wall(i64::from(y % 3)) };
        self.change(at, Change::SetStanding { peer: self.some_peer(x), standing });
    }

    /// This machine is called something else now.
    fn readmit(&mut self, at: usize, y: u32) {
        let zone = format!("zone {y}");
        self.change(at, Change::Admit { peer: PeerRecord { zone, ..record(at as u8 + 1) } });
    }

    /// One peer of the share is taken off the roster, perhaps by itself.
    fn evict(&mut self, at: usize, x: u32, y: u32) {
        let gone = x as usize % self.world.peers.len();
        if self.evicted.is_none() && y.is_multiple_of(2) {
            self.evicted = Some(gone);
            self.change(at, Change::Evict { peer: self.world.peers[gone].tag });
        }
    }

    /// Whether a peer knows that one is off the roster.
    pub fn knows_evicted(&self, at: usize, gone: usize) -> bool {
        self.world.ns(at).peer(self.world.peers[gone].tag).is_none()
    }

    /// Those who are still of the share at the end: not the evicted one, unless nobody heard that it is.
    pub fn members(&self) -> Vec<usize> {
        let others = |gone: usize| (0..self.world.peers.len()).filter(move |at| *at != gone);
        match self.evicted.filter(|gone| others(*gone).any(|at| self.knows_evicted(at, *gone))) {
            Some(gone) => others(gone).collect(),
            None => (0..self.world.peers.len()).collect(),
        }
    }

    /// How many of an author's ops may reach `at`: of an evicted one only what another still has, or had before it knew.
    pub fn reachable(&self, at: usize, author: Author) -> u64 {
        let of_apart = |apart: usize| self.world.peers[apart].tag == author.peer();
        if self.apart.is_some_and(|apart| (apart == at) != of_apart(apart)) {
            // No more than it has, or than those have who are together.
            let side = (0..self.world.peers.len()).filter(|one| (Some(*one) == self.apart) == (Some(at) == self.apart));
            return side.map(|one| self.world.ns(one).vector().get(author)).max().unwrap_or(0);
        }
        let Some(gone) = self.evicted.filter(|gone| self.world.peers[*gone].tag == author.peer() && *gone != at) else {
            return u64::MAX;
        };
        if !self.knows_evicted(at, gone) {
            return u64::MAX;
        }
        let others = (0..self.world.peers.len()).filter(|other| *other != gone);
        others.map(|other| self.world.ns(other).vector().get(author)).max().unwrap_or(0)
    }
}
