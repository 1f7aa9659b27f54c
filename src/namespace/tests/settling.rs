//! Taking ops, refusing ops, becoming stable, snapshots and checkpoints.

use super::*;

const ROOT: Ino = Ino::ROOT;

fn log_of(w: &World, at: usize) -> Vec<Op> {
    w.ns(at).log.iter().map(|logged| logged.op.clone()).collect()
}

#[test]
fn alone_every_op_is_stable_at_once() {
    let mut w = World::new(1);
    w.create(0, ROOT, "f");
    assert_eq!(w.ns(0).unstable(), 0);
    assert_eq!(w.ns(0).missing(&VersionVector::default(), 1000), Missing::Snapshot);
    assert_eq!(w.ns(0).missing(w.ns(0).vector(), 1000), Missing::Ops(vec![]));
}

#[test]
fn an_op_is_stable_when_every_peer_said_it_has_it() {
    let mut w = World::new(3);
    w.meet();
    w.meet();
    assert_eq!((0..3).map(|at| w.ns(at).unstable()).max(), Some(0));
    w.create(0, ROOT, "f");
    w.send(0, 1);
    assert_eq!(w.ns(0).unstable(), 1, "the third has not got it");
    w.send(0, 2);
    assert_eq!(w.ns(0).unstable(), 0);
    assert_eq!(w.ns(1).unstable(), 1, "the second has not heard that");
}

#[test]
fn an_evicted_peer_is_not_waited_for_once_all_know() {
    let mut w = World::new(3);
    w.meet();
    w.meet();
    let gone = w.peers[2].tag;
    w.create(2, ROOT, "last words");
    w.send(2, 1);
    w.change(0, Change::Evict { peer: gone });
    let stamp = w.change(1, Change::SetPolicy { ino: ROOT, policy: None });
    w.send(0, 1);
    w.send(1, 0);
    w.send(0, 1);
    assert_eq!(w.names(0, ROOT), ["last words"]);
    assert_eq!((w.ns(0).unstable(), w.ns(1).unstable()), (0, 0));
    assert!(w.ns(0).frontier >= stamp);
    w.create(2, ROOT, "too late");
    let late = log_of(&w, 2).last().unwrap().clone();
    let now = w.clock(0);
    let refused = w.peers[0].namespace.receive(vec![late], now);
    assert!(matches!(refused, Err(OpError::Stranger { .. } | OpError::TooOld { .. })), "{refused:?}");
}

#[test]
fn nobody_but_the_founder_comes_onto_the_roster_by_his_own_word() {
    let mut w = World::new(3);
    w.meet();
    let gone = w.peers[2].tag;
    w.change(0, Change::Evict { peer: gone });
    w.change(2, Change::Admit { peer: PeerRecord { zone: "moved".into(), ..record(3) } });
    w.send(2, 1);
    w.send(0, 1);
    w.send(1, 0);
    assert!(w.ns(0).peer(gone).is_none() && w.ns(1).peer(gone).is_none(), "an evicted peer stays off");
    w.change(1, Change::Admit { peer: record(3) });
    assert!(w.ns(1).peer(gone).is_some(), "unless another admits it again");

    let stranger = PeerKey([9; 32]).tag();
    let author = Author::new(stranger, 0);
    let stamp = Stamp { time: w.ns(0).clock().next(w.clock(0)), author };
    let op = Op { stamp, seq: 1, change: Change::Admit { peer: record(9) } };
    let now = w.clock(0);
    assert_eq!(w.peers[0].namespace.receive(vec![op], now), Err(OpError::Stranger { author, seq: 1 }));
}

#[test]
fn what_an_evicted_peer_did_before_it_was_known_is_kept_over_a_restart() {
    let mut w = World::new(4);
    w.meet();
    w.meet();
    let gone = w.peers[3].tag;
    w.change(0, Change::Evict { peer: gone });
    w.create(3, ROOT, "unaware");
    w.send(0, 2);
    w.send(3, 1);
    w.send(0, 1);
    w.send(1, 0);
    assert_eq!(w.names(0, ROOT), ["unaware"]);
    let again = Namespace::restore(w.ns(0).snapshot()).unwrap();
    assert_same(w.ns(0), &again);
    w.send(0, 2);
    w.send(0, 1);
    w.send(2, 1);
    assert_eq!((w.names(2, ROOT), w.ns(0).unstable()), (vec!["unaware".to_owned()], 0));
}

#[test]
fn reaped_inodes_are_forgotten_when_that_is_stable() {
    let mut w = World::new(2);
    let file = w.create(0, ROOT, "f");
    w.put(0, file, b"x");
    w.unlink(0, ROOT, "f");
    w.change(0, Change::Reap { ino: file });
    assert!(w.ns(0).tree.inode(file).is_some());
    w.meet();
    w.meet();
    for at in 0..2 {
        assert!(w.ns(at).tree.inode(file).is_none());
        assert_eq!(w.ns(at).extents(file, 0, 10).count(), 0);
    }
}

#[test]
fn a_reaped_directory_is_remembered_as_long_as_something_may_come_back_to_it() {
    let mut w = World::new(2);
    let dir = w.mkdir(0, ROOT, "d");
    let below = w.mkdir(0, dir, "below");
    let time = w.clock(0);
    w.change(0, Change::Rmdir { place: place(dir, "below"), ino: below, time });
    w.change(0, Change::Rmdir { place: place(ROOT, "d"), ino: dir, time });
    w.change(0, Change::Reap { ino: dir });
    w.meet();
    w.meet();
    assert_eq!((w.ns(0).unstable(), w.ns(1).unstable()), (0, 0));
    let file = w.create(1, below, "f");
    w.meet();
    assert_eq!(w.ns(0).resolve(b"d/below/f"), Some(file));
    w.unlink(0, below, "f");
    w.change(0, Change::Reap { ino: file });
    for (parent, name, ino) in [(dir, "below", below), (ROOT, "d", dir)] {
        w.change(0, Change::Rmdir { place: place(parent, name), ino, time });
        w.change(0, Change::Reap { ino });
    }
    w.meet();
    w.meet();
    assert!(w.ns(1).tree.inode(below).is_none(), "nothing has its place there");
    w.create(1, ROOT, "g");
    w.meet();
    assert!(w.ns(1).tree.inode(dir).is_none());
}

#[test]
fn ops_are_refused_whole_and_say_why() {
    let mut w = World::new(2);
    w.meet();
    for name in ["a", "b", "c"] {
        w.create(0, ROOT, name);
    }
    let ops: Vec<Op> = log_of(&w, 0).into_iter().rev().take(3).rev().collect();
    let before = visible(w.ns(1));
    let now = w.clock(1);
    let refusal = |ops: &[Op]| w.ns(1).clone().receive(ops.to_vec(), now).unwrap_err();
    let altered = |change: &dyn Fn(&mut Op)| {
        let mut op = ops[0].clone();
        change(&mut op);
        vec![op]
    };
    assert!(matches!(refusal(&ops[1..]), OpError::Gap { got, expected, .. } if got == expected + 1));
    let stranger = altered(&|op| {
        op.stamp.author = Author::new(PeerTag(7), 0);
        op.seq = 1;
        op.change = Change::Evict { peer: PeerTag(7) };
    });
    assert!(matches!(refusal(&stranger), OpError::Stranger { .. }));
    let ahead = |ms: u64| altered(&|op| op.stamp.time = Hlc((now.millis() + ms) << 16));
    assert!(
        matches!(refusal(&ahead(CLOCK_AHEAD_MS + 1)), OpError::Future { ahead_ms, .. } if ahead_ms == CLOCK_AHEAD_MS + 1)
    );
    assert!(w.ns(1).clone().receive(ahead(CLOCK_AHEAD_MS), now).is_ok());
    assert!(matches!(refusal(&altered(&|op| op.stamp.time = Hlc(1))), OpError::TooOld { .. }));
    let mut backwards = ops.clone();
    backwards[1].seq = ops[2].seq;
    backwards[2].seq = ops[1].seq;
    assert!(w.ns(1).clone().receive(backwards, now).is_err());
    let mut twice = ops.clone();
    twice.push(Op { change: Change::Evict { peer: PeerTag(1) }, ..ops[0].clone() });
    twice[3].stamp.time = Hlc(twice[3].stamp.time.0 + 1);
    assert!(matches!(refusal(&twice), OpError::Clash { .. }));
    assert_eq!(visible(w.ns(1)), before);
    let mut doubled = ops.clone();
    doubled.extend(ops.iter().rev().cloned());
    assert_eq!(w.peers[1].namespace.receive(doubled, now).unwrap().ops, ops);
    assert_eq!(w.peers[1].namespace.receive(ops, now).unwrap(), Applied::default());
}

#[test]
fn changes_out_of_bounds_are_refused() {
    let peer = PeerTag(5);
    let stamp = Stamp { time: Hlc(100), author: Author::new(peer, 0) };
    let name = |name: &[u8]| Place { parent: ROOT, name: Bytes::copy_from_slice(name) };
    let create = |place, ino, kind| Change::Create { place, ino, kind, mode: 0, uid: 0, gid: 0, time: wall(0) };
    let file = |bytes: &[u8]| create(name(bytes), Ino::new(peer, 1), Kind::File);
    let write = |extents, size| Change::Write {
        ino: ROOT,
        base: Stamp::default(),
        linked: true,
        extents,
        blocks: vec![],
        size,
        mtime: wall(0),
        ctime: wall(0),
        clear_suid: false,
    };
    let bad_inline = Extent { len: 2, source: Source::Inline(Bytes::from_static(b"x")) };
    let past_block = Extent { len: 2, source: Source::Block { name: BlockName([0; 32]), at: BLOCK_BYTES as u32 - 1 } };
    let open = |seats: usize, geometry| Change::OpenGroup {
        group: GroupId::new(peer, 1),
        policy: Policy::Replicate(1),
        geometry,
        seats: vec![peer; seats],
    };
    let xattr = |name: usize, value: usize| Change::SetXattr {
        ino: ROOT,
        name: vec![b'x'; name].into(),
        value: Some(vec![0; value].into()),
        ctime: wall(0),
    };
    let symlink =
        |target: usize| create(name(b"s"), Ino::new(peer, 1), Kind::Symlink { target: vec![b'x'; target].into() });
    let named = |n: usize| Change::Admit { peer: PeerRecord { name: "x".repeat(n), ..record(1) } };
    let bad = [
        file(b""),
        file(b"."),
        file(b".."),
        file(b"a/b"),
        file(b"a\0"),
        file(&[b'x'; 256]),
        create(name(b"f"), Ino::new(PeerTag(6), 1), Kind::File),
        create(name(b"f"), Ino::new(peer, apply::DERIVED), Kind::File),
        create(name(b"f"), Ino::new(peer, 1), Kind::Special { format: 0o100_000, device: 0 }),
        symlink(0),
        symlink(TARGET_BYTES + 1),
        xattr(0, 0),
        xattr(256, 0),
        xattr(1, XATTR_BYTES + 1),
        write(vec![], 1 << 63),
        write(vec![(0, bad_inline)], 2),
        write(vec![(0, past_block)], 2),
        write(vec![(0, Extent { len: 0, source: Source::Hole })], 2),
        write(vec![(0, inline(b"ab")), (1, inline(b"c"))], 2),
        write(vec![(u64::MAX, inline(b"ab"))], 2),
        write((0..=WRITE_EXTENTS as u64).map(|at| (at, inline(b"x"))).collect(), 2),
        open(1, Geometry { data: 1, parity: 1 }),
        open(0, Geometry { data: 0, parity: 0 }),
        open(33, Geometry { data: 32, parity: 1 }),
        Change::SetPolicy { ino: ROOT, policy: Some(Policy::ReedSolomon { data: 255, parity: 255 }) },
        Change::Seat { group: GroupId(1), slot: 32, peer },
        named(0),
        named(65),
    ];
    for change in bad {
        assert!(validate::check_change(stamp, &change).is_err(), "{change:?}");
    }
    let good = [file(b"a"), file(&[b'x'; 255]), symlink(TARGET_BYTES), xattr(255, XATTR_BYTES), named(64)];
    for change in good {
        assert_eq!(validate::check_change(stamp, &change), Ok(()), "{change:?}");
    }
}

#[test]
fn missing_ops_come_in_parts_within_bounds() {
    let mut w = World::new(2);
    for n in 0..20 {
        w.create(0, ROOT, &format!("f{n}"));
    }
    let mut parts = 0;
    loop {
        let Missing::Ops(ops) = w.ns(0).missing(w.ns(1).vector(), 200) else { panic!("the log reaches back") };
        if ops.is_empty() {
            break;
        }
        let bytes: usize = ops.iter().map(|op| postcard::to_stdvec(op).unwrap().len()).sum();
        assert!(bytes <= 200);
        let now = w.clock(1);
        w.peers[1].namespace.receive(ops, now).unwrap();
        parts += 1;
    }
    assert!(parts > 1);
    assert_eq!(w.names(1, ROOT).len(), 20);
    let Missing::Ops(one) = w.ns(0).missing(&w.ns(0).base, 0) else { panic!("the log reaches back") };
    assert_eq!(one.len(), 1, "never stuck");
}

#[test]
fn a_damaged_snapshot_is_refused() {
    let mut w = World::new(2);
    w.create(0, ROOT, "f");
    let good = w.ns(0).snapshot();
    let bytes = postcard::to_stdvec(&good).unwrap();
    let back: Snapshot = postcard::from_bytes(&bytes).unwrap();
    assert_same(w.ns(0), &Namespace::restore(back).unwrap());
    let damaged = |damage: &dyn Fn(&mut Snapshot)| {
        let mut snapshot = good.clone();
        damage(&mut snapshot);
        Namespace::restore(snapshot).unwrap_err()
    };
    damaged(&|s| s.base.clear());
    damaged(&|s| s.base.push((Key::Counter(PeerTag(1)), Record::Xattr(Bytes::new()))));
    damaged(&|s| s.frontier.time = Hlc(u64::MAX));
    damaged(&|s| s.vector.0.extend([(Author::new(PeerTag(1), 0), u64::MAX)]));
    damaged(&|s| s.ops = s.ops.split_off(1));
}
