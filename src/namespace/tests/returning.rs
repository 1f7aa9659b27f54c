//! A peer that was away for too long: what becomes of what it did, rule by rule.

use super::*;

const ROOT: Ino = Ino::ROOT;

/// Two peers that agree on some files, and a third.
fn world() -> (World, Ino, Ino) {
    let mut w = World::new(3);
    let dir = w.mkdir(0, ROOT, "d");
    let file = w.create(0, dir, "f");
    w.put(0, file, b"before");
    w.meet();
    w.meet();
    (w, dir, file)
}

/// The first two let go of the third, and go on without it.
fn let_go(w: &mut World) {
    let gone = w.peers[2].tag;
    w.change(0, Change::LetGo { peer: gone });
    for _ in 0..3 {
        w.send(0, 1);
        w.send(1, 0);
    }
    assert_eq!((w.ns(0).unstable(), w.ns(1).unstable()), (0, 0));
}

/// The third returns, and everybody hears of what it did.
fn comes_back(w: &mut World) -> Rebased {
    let rebased = rebase(w, 2, 1);
    w.peers[2].namespace = rebased.namespace.clone();
    w.meet();
    w.meet();
    assert_eq!((0..3).map(|at| w.ns(at).unstable()).max(), Some(0), "it counts again, and all is settled");
    rebased
}

/// What a peer goes on with when it takes a snapshot of another.
fn rebase(w: &mut World, at: usize, from: usize) -> Rebased {
    let tag = w.peers[at].tag;
    w.change(from, Change::TakeBack { peer: tag });
    let fresh = Namespace::restore(w.ns(from).snapshot()).unwrap();
    w.peers[at].epoch += 1;
    w.peers[at].counter += 1000;
    let author = Author::new(tag, w.peers[at].epoch);
    let (number, now) = (w.peers[at].counter, w.clock(at));
    w.peers[at].counter += 1000;
    w.ns(at).rebase(fresh, author, number, now).unwrap()
}

#[test]
fn nothing_waits_for_a_peer_that_was_let_go_and_it_counts_again_when_it_is_back() {
    let (mut w, ..) = world();
    let gone = w.peers[2].tag;
    w.create(0, ROOT, "while it is away");
    w.send(0, 1);
    w.send(1, 0);
    assert!(w.ns(0).unstable() > 0);
    assert_eq!(w.ns(0).lack(gone).ops, 1);
    assert!(w.ns(0).lack(gone).bytes > 0 && w.ns(0).lack(gone).oldest.is_some());
    assert_eq!(w.ns(0).lack(w.peers[1].tag).ops, 0);
    let_go(&mut w);
    assert!(w.ns(1).is_away(gone) && w.ns(1).peer(gone).is_some(), "it is on the roster still");
    assert_eq!(w.ns(0).missing(w.ns(2).vector(), 1000), Missing::Snapshot);
    assert!(w.ns(0).needed_by(gone, w.ns(2).vector()).is_some());
    w.create(2, ROOT, "alone");
    comes_back(&mut w);
    assert!(!w.ns(0).is_away(gone));
    assert_eq!(w.ns(0).needed_by(gone, w.ns(2).vector()), None);
    assert_eq!(w.names(0, ROOT), ["alone", "d", "while it is away"]);
    w.create(1, ROOT, "later");
    w.send(1, 0);
    w.send(0, 1);
    assert!(w.ns(1).unstable() > 0, "its word is needed again");
}

#[test]
fn one_that_has_not_heard_that_a_peer_was_let_go_is_waited_for() {
    let (mut w, ..) = world();
    let gone = w.peers[2].tag;
    w.create(2, ROOT, "unaware");
    w.change(0, Change::LetGo { peer: gone });
    // The second one takes what the third has before it hears of that.
    w.send(2, 1);
    assert!(w.ns(0).unstable() > 0);
    w.send(1, 0);
    assert_eq!(w.names(0, ROOT), ["d", "unaware"]);
    w.send(0, 1);
    w.send(1, 0);
    assert_eq!((w.ns(0).unstable(), w.ns(1).unstable()), (0, 0));
    let rebased = comes_back(&mut w);
    assert_eq!(rebased.carried, 0, "it is here already");
    assert_eq!(w.names(2, ROOT), ["d", "unaware"]);
}

#[test]
fn what_it_did_alone_is_done_anew_where_nobody_else_was() {
    let (mut w, dir, file) = world();
    w.rename(2, place(dir, "f"), place(ROOT, "g"));
    let version = w.put(2, file, b"alone");
    let made = w.mkdir(2, dir, "sub");
    let other = w.create(2, made, "new");
    w.put(2, other, b"content");
    w.create(0, ROOT, "theirs");
    let_go(&mut w);
    let rebased = comes_back(&mut w);
    assert_eq!(rebased.carried, 5);
    for at in 0..3 {
        assert_eq!(w.names(at, ROOT), ["d", "g", "theirs"]);
        assert_eq!(w.read(at, file), b"alone");
        assert_eq!(w.ns(at).inode(file).unwrap().content, version, "a version keeps its name");
        assert_eq!(w.read(at, other), b"content");
        assert_eq!(w.ns(at).path(other).unwrap(), b"/d/sub/new");
    }
}

#[test]
fn a_file_changed_on_both_sides_stays_in_both_versions_whole() {
    let (mut w, dir, file) = world();
    let first = w.put(2, file, b"alone");
    // Only a part of it, in several steps.
    w.write(2, file, first, 5, b" and more", 14);
    w.put(0, file, b"theirs");
    let_go(&mut w);
    comes_back(&mut w);
    for at in 0..3 {
        let names = w.names(at, dir);
        assert_eq!(names.len(), 2, "{names:?}");
        assert_eq!(w.read(at, file), b"theirs");
        let copy = w.ns(at).entry(dir, names[1].as_bytes()).unwrap().ino;
        assert!(names[1].starts_with(&format!("f (conflict from {} ", w.peers[2].tag)), "{names:?}");
        assert_eq!(w.read(at, copy), b"alone and more");
    }
    assert_eq!(w.names(0, dir), w.names(2, dir));
}

#[test]
fn what_the_others_removed_for_good_comes_back_if_it_was_changed() {
    let (mut w, dir, file) = world();
    let untouched = w.create(0, dir, "untouched");
    w.meet();
    w.put(2, file, b"changed");
    w.create(2, dir, "new");
    for name in ["f", "untouched"] {
        w.unlink(0, dir, name);
    }
    let time = w.clock(0);
    w.change(0, Change::Rmdir { place: place(ROOT, "d"), ino: dir, time });
    for ino in [file, untouched, dir] {
        w.change(0, Change::Reap { ino });
    }
    let_go(&mut w);
    let_go_of_everything(&mut w);
    assert!(w.ns(0).tree.inode(file).is_none() && w.ns(1).tree.inode(dir).is_none(), "they have forgotten it");
    comes_back(&mut w);
    for at in 0..3 {
        assert_eq!(w.names(at, ROOT), ["d"]);
        let dir = w.ns(at).entry(ROOT, b"d").unwrap().ino;
        assert_eq!(w.names(at, dir), ["f", "new"]);
        let file = w.ns(at).entry(dir, b"f").unwrap().ino;
        assert_eq!(w.read(at, file), b"changed");
    }
}

/// What was removed is forgotten once an op above that is stable as well.
fn let_go_of_everything(w: &mut World) {
    for _ in 0..2 {
        w.change(0, Change::SetPolicy { ino: ROOT, policy: None });
        w.send(0, 1);
        w.send(1, 0);
        w.send(0, 1);
    }
}

#[test]
fn blocks_that_the_others_forgot_are_told_anew_with_a_group_that_is_there() {
    let (mut w, dir, file) = world();
    let (old, new) = w.block(0, b"old block");
    let base = w.ns(0).inode(file).unwrap().content;
    w.write_extents(0, file, base, true, vec![(0, old)], new.into_iter().collect(), 9);
    w.meet();
    w.meet();
    let base = w.ns(2).inode(file).unwrap().content;
    w.write(2, file, base, 9, b" and a tail", 20);
    w.put(0, file, b"something else");
    let_go(&mut w);
    let_go_of_everything(&mut w);
    let group = w.peers[0].group;
    assert!(w.ns(0).is_empty_group(group), "the block is forgotten");
    w.change(0, Change::CloseGroup { group });
    w.send(0, 1);
    w.send(1, 0);
    comes_back(&mut w);
    for at in 0..3 {
        every_block_is_known(w.ns(at));
        let copy = w.names(at, dir)[1].clone();
        let copy = w.ns(at).entry(dir, copy.as_bytes()).unwrap().ino;
        assert_eq!(w.read(at, copy), b"old block and a tail");
    }
}

#[test]
fn of_several_who_bring_the_same_change_one_counts() {
    let mut w = World::new(4);
    let file = w.create(0, ROOT, "f");
    w.meet();
    w.meet();
    // Two are away together, and know of one another.
    w.put(2, file, b"two");
    w.create(2, ROOT, "made by two");
    w.send(2, 3);
    w.put(3, file, b"three");
    let gone = [w.peers[2].tag, w.peers[3].tag];
    for peer in gone {
        w.change(0, Change::LetGo { peer });
    }
    w.send(0, 1);
    w.send(1, 0);
    w.send(0, 1);
    let (three, two) = (rebase(&mut w, 3, 0), rebase(&mut w, 2, 1));
    assert!(three.carried >= 3 && two.carried >= 2);
    w.peers[3].namespace = three.namespace;
    w.peers[2].namespace = two.namespace;
    w.meet();
    for at in 0..4 {
        assert_eq!(w.names(at, ROOT), ["f", "made by two"]);
        assert_eq!(w.read(at, file), b"three");
    }
}

#[test]
fn a_clock_that_was_ahead_leaves_no_trace_in_what_is_made_anew() {
    let (mut w, _, file) = world();
    w.peers[2].skew = 3_600_000;
    w.put(2, file, b"from the future");
    w.put(2, file, b"from the future, too");
    let made = w.create(2, ROOT, "new");
    let_go(&mut w);
    w.peers[2].skew = 0;
    let rebased = rebase(&mut w, 2, 0);
    let now = w.clock(2);
    assert!(rebased.namespace.clock().millis() <= now.millis() + 1000);
    w.peers[0].namespace.receive(rebased.ops.clone(), now).unwrap();
    assert_eq!(w.read(0, file), b"from the future, too");
    assert!(w.ns(0).inode(made).is_some());
    assert_same(w.ns(0), &rebased.namespace);
}

#[test]
fn an_older_snapshot_is_not_gone_on_from() {
    let (mut w, ..) = world();
    let old = w.ns(0).snapshot();
    w.create(0, ROOT, "later");
    w.meet();
    w.meet();
    let fresh = Namespace::restore(old).unwrap();
    let author = Author::new(w.peers[2].tag, 1);
    let refused = w.ns(2).rebase(fresh, author, 1 << 20, w.clock(2)).err();
    assert_eq!(refused, Some(OpError::Behind));
}

#[test]
fn what_is_done_for_another_peer_holds_one_change_to_names_and_no_more() {
    let stamp = Stamp { time: Hlc(5), author: Author::new(PeerTag(7), 0) };
    let wished = |change: Change| Change::For { peer: PeerTag(8), wish: 1, change: Wished(Box::new(change)) };
    let again = |change: Change| Change::Again { stamp, seq: 1, change: Carried(Box::new(change)) };
    let encoded = |change: &Change| postcard::to_stdvec(change).unwrap();
    let time = WallTime(3);
    let rmdir = Change::Rmdir { place: place(ROOT, "d"), ino: Ino(9), time };
    for right in [wished(rmdir.clone()), again(wished(rmdir.clone()))] {
        assert_eq!(postcard::from_bytes::<Change>(&encoded(&right)).unwrap(), right);
    }
    let mut nested = wished(rmdir.clone());
    for _ in 0..100 {
        nested = wished(nested);
    }
    for wrong in [nested, wished(again(rmdir.clone())), again(wished(wished(rmdir.clone())))] {
        assert!(postcard::from_bytes::<Change>(&encoded(&wrong)).is_err(), "{wrong:?}");
    }
    let make = |creator| {
        let (place, ino) = (place(ROOT, "f"), Ino::new(PeerTag(creator), 1));
        Change::Create { place, ino, kind: Kind::File, mode: 0o644, uid: 0, gid: 0, time }
    };
    for right in [rmdir, make(8)] {
        assert_eq!(validate::check_change(stamp, &wished(right)), Ok(()));
    }
    for wrong in [make(7), Change::Reap { ino: Ino(9) }, Change::LetGo { peer: PeerTag(1) }] {
        assert!(validate::check_change(stamp, &wished(wrong)).is_err());
    }
}

#[test]
fn a_change_in_a_change_in_a_change_is_refused_before_it_is_read() {
    let stamp = Stamp { time: Hlc(5), author: Author::new(PeerTag(7), 0) };
    let again = |change: Change| Change::Again { stamp, seq: 1, change: Carried(Box::new(change)) };
    let once = again(Change::Reap { ino: Ino(9) });
    let bytes = postcard::to_stdvec(&once).unwrap();
    assert_eq!(postcard::from_bytes::<Change>(&bytes).unwrap(), once);
    let mut nested = once;
    for _ in 0..100 {
        nested = again(nested);
    }
    assert!(postcard::from_bytes::<Change>(&postcard::to_stdvec(&nested).unwrap()).is_err());
    let above = Stamp { time: Hlc(6), ..stamp };
    for wrong in [again(Change::LetGo { peer: PeerTag(1) }), again(Change::Reap { ino: ROOT })] {
        assert!(validate::check_change(above, &wrong).is_err());
    }
    assert!(validate::check_change(stamp, &again(Change::Reap { ino: Ino(9) })).is_err(), "not of the time to come");
    assert!(validate::check_change(above, &again(Change::Reap { ino: Ino(9) })).is_ok());
}
