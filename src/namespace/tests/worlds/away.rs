//! A peer that is away for longer than the others' logs reach back, and returns with what it made alone.

use super::*;

/// The op as its maker made it first.
pub fn as_first_made(op: &Op) -> Op {
    match &op.change {
        Change::Again { stamp, seq, change } => Op { stamp: *stamp, seq: *seq, change: (*change.0).clone() },
        _ => op.clone(),
    }
}

impl Run {
    /// Some steps of anybody, without power cuts and evictions.
    fn steps(&mut self, steps: &[(usize, u8, u32, u32, u32)]) {
        for (at, action, x, y, z) in steps.iter().copied() {
            match action {
                21..=24 if z % 16 == 15 => {}
                37 => {}
                _ => self.step(at, action, x, y, z),
            }
        }
    }

    /// Those who are together have all that any of them has, and say so.
    fn meet_but(&mut self, apart: Option<usize>) {
        let together: Vec<usize> = (0..self.world.peers.len()).filter(|at| Some(*at) != apart).collect();
        for at in together.iter().copied() {
            let ops = self.made.iter().flat_map(|(author, ops)| {
                let reachable = self.reachable(at, *author);
                ops.iter().filter(move |op| op.seq <= reachable).cloned()
            });
            let ops = ops.collect();
            self.receive(at, ops);
        }
        for (at, from) in together.iter().flat_map(|at| together.iter().map(move |from| (*at, *from))) {
            self.tell(at, from as u32);
        }
    }

    /// The peer that is apart goes on from a snapshot of `from`.
    fn returns(&mut self, from: usize) -> Rebased {
        let at = self.apart.take().unwrap();
        let tag = self.world.peers[at].tag;
        self.change(from, Change::TakeBack { peer: tag });
        let snapshot = self.world.ns(from).snapshot();
        let fresh = Namespace::restore(snapshot.clone()).unwrap();
        self.world.peers[at].epoch += 1;
        let author = Author::new(tag, self.world.peers[at].epoch);
        self.world.peers[at].counter += 1 << 20;
        let (number, now) = (self.world.peers[at].counter, self.world.clock(at));
        let rebased = self.world.ns(at).rebase(fresh, author, number, now).unwrap();
        self.world.peers[at].counter += 1 << 20;
        self.world.peers[at].named.clear();
        // What only the one apart had is there as what it makes anew, and on nothing else.
        for (author, ops) in &mut self.made {
            let others = (0..self.world.peers.len()).filter(|other| *other != at);
            let kept = others.map(|other| self.world.ns(other).vector().get(*author)).max();
            ops.retain(|op| Some(op.seq) <= kept);
        }
        for op in &rebased.ops {
            self.seen.remove(&as_first_made(op).stamp);
            self.made.entry(author).or_default().push(op.clone());
        }
        let disk = &mut self.disks[at];
        disk.records = snapshot.base.into_iter().collect();
        (disk.vector, disk.frontier) = (snapshot.vector, snapshot.frontier);
        disk.log = snapshot.ops.iter().chain(&rebased.ops).cloned().collect();
        disk.synced = disk.log.len();
        recount(&rebased.namespace);
        self.goes_on(at, rebased.namespace.clone());
        let group = self.world.peers[at].group;
        if self.world.ns(at).group(group).is_none() {
            self.open_group(at, 0);
        }
        rebased
    }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn a_peer_that_was_let_go_comes_back_with_its_changes_and_all_agree(
        skews in prop::array::uniform3(-20i16..20),
        before in steps(),
        alone in steps(),
        after in steps(),
        from in 0..2usize,
        met in any::<bool>(),
    ) {
        let mut run = Run::new(3, &skews);
        run.steps(&before);
        if met {
            run.meet_but(None);
        }
        run.apart = Some(2);
        let (first, second) = alone.split_at(alone.len() / 2);
        run.steps(first);
        let gone = run.world.peers[2].tag;
        run.change(0, Change::LetGo { peer: gone });
        run.steps(second);
        run.meet_but(Some(2));
        run.meet_but(Some(2));
        for at in 0..2 {
            prop_assert_eq!(run.world.ns(at).unstable(), 0, "nobody waits for the one that is away");
            prop_assert!(run.world.ns(at).needed_by(gone, run.world.ns(2).vector()).is_some());
        }
        run.returns(from);
        run.steps(&after);
        run.finish();
    }
}
