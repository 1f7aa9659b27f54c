//! What each op does where its wish can be met, and what it does where it cannot.

use super::*;

const ROOT: Ino = Ino::ROOT;

#[test]
fn creating_counts_links_files_and_numbers() {
    let mut w = World::new(1);
    let dir = w.mkdir(0, ROOT, "d");
    let file = w.create(0, dir, "f");
    let target = Bytes::from_static(b"../there");
    let link = w.make(0, dir, "s", Kind::Symlink { target });
    let ns = w.ns(0);
    assert_eq!((ns.inode(ROOT).unwrap().nlink, ns.inode(dir).unwrap().nlink), (3, 2));
    assert_eq!((ns.inode(file).unwrap().nlink, ns.inode(link).unwrap().size), (1, 8));
    assert_eq!(ns.files(), FilesSummary { files: 1, directories: 2, bytes: 0 });
    assert_eq!(ns.counter(w.peers[0].tag), link.counter());
    assert_eq!(ns.resolve(b"/d/f"), Some(file));
    assert_eq!(ns.path(file).as_deref(), Some(&b"/d/f"[..]));
    assert_eq!((ns.resolve(b"/"), ns.path(ROOT)), (Some(ROOT), Some(b"/".to_vec())));
    assert_eq!(ns.resolve(b"/d/none"), None);
    let after: Vec<_> = ns.entries_from(dir, Some(b"f")).map(|(name, _)| name.clone()).collect();
    assert_eq!(after, [Bytes::from_static(b"s")]);
    recount(ns);
}

#[test]
fn a_file_goes_with_its_last_name_and_is_gone_when_reaped() {
    let mut w = World::new(1);
    let file = w.create(0, ROOT, "f");
    w.put(0, file, b"hello");
    let time = w.clock(0);
    w.change(0, Change::Link { place: place(ROOT, "g"), ino: file, time });
    assert_eq!(w.ns(0).inode(file).unwrap().nlink, 2);
    w.unlink(0, ROOT, "f");
    assert_eq!(w.ns(0).inode(file).unwrap().orphaned, None);
    let last = w.unlink(0, ROOT, "g");
    assert_eq!(w.ns(0).inode(file).unwrap().orphaned, Some(last));
    assert_eq!(w.read(0, file), b"hello", "an open file can still be read");
    assert_eq!(w.ns(0).orphans_of(w.peers[0].tag), [file]);
    assert_eq!(w.ns(0).files().files, 0);
    w.change(0, Change::Reap { ino: file });
    assert!(w.ns(0).inode(file).is_none() && w.ns(0).orphans_of(w.peers[0].tag).is_empty());
    recount(w.ns(0));
}

#[test]
fn rmdir_takes_only_an_empty_directory() {
    let mut w = World::new(1);
    let dir = w.mkdir(0, ROOT, "d");
    w.create(0, dir, "f");
    let time = w.clock(0);
    w.change(0, Change::Rmdir { place: place(ROOT, "d"), ino: dir, time });
    assert_eq!(w.names(0, ROOT), ["d"]);
    w.unlink(0, dir, "f");
    w.change(0, Change::Rmdir { place: place(ROOT, "d"), ino: dir, time });
    assert!(w.names(0, ROOT).is_empty());
    assert_eq!(w.ns(0).inode(ROOT).unwrap().nlink, 2);
    recount(w.ns(0));
}

#[test]
fn rename_moves_replaces_and_never_makes_a_cycle() {
    let mut w = World::new(1);
    let (a, b) = (w.mkdir(0, ROOT, "a"), w.mkdir(0, ROOT, "b"));
    let file = w.create(0, a, "f");
    let other = w.create(0, b, "g");
    w.rename(0, place(a, "f"), place(b, "g"));
    assert_eq!(w.ns(0).entry(b, b"g").unwrap().ino, file);
    assert_eq!(w.ns(0).inode(other).unwrap().nlink, 0, "what was replaced lost its name");
    w.rename(0, place(ROOT, "b"), place(a, "b"));
    assert_eq!((w.ns(0).inode(ROOT).unwrap().nlink, w.ns(0).inode(a).unwrap().nlink), (3, 3));
    w.rename(0, place(ROOT, "a"), place(b, "a"));
    assert_eq!(w.ns(0).path(file).as_deref(), Some(&b"/a/b/g"[..]), "a directory does not go into itself");
    recount(w.ns(0));
}

#[test]
fn exchange_swaps_and_moves_subdirectory_counts() {
    let mut w = World::new(1);
    let a = w.mkdir(0, ROOT, "a");
    let sub = w.mkdir(0, a, "x");
    let file = w.create(0, ROOT, "f");
    let time = w.clock(0);
    let swap = |a_ino, b_ino| Change::Exchange { a: place(a, "x"), a_ino, b: place(ROOT, "f"), b_ino, time };
    w.change(0, swap(sub, file));
    assert_eq!((w.ns(0).resolve(b"a/x"), w.ns(0).resolve(b"f")), (Some(file), Some(sub)));
    assert_eq!((w.ns(0).inode(ROOT).unwrap().nlink, w.ns(0).inode(a).unwrap().nlink), (4, 2));
    let swap = Change::Exchange { a: place(ROOT, "a"), a_ino: a, b: place(a, "x"), b_ino: file, time };
    w.change(0, swap);
    assert_eq!(w.ns(0).resolve(b"a/x"), Some(file), "nothing goes below itself");
    recount(w.ns(0));
}

#[test]
fn writes_cut_extents_punch_holes_and_truncate() {
    let mut w = World::new(1);
    let file = w.create(0, ROOT, "f");
    let (extent, new) = w.block(0, b"0123456789");
    let name = BlockName::of(b"0123456789");
    let base = w.ns(0).inode(file).unwrap().content;
    let base = w.write_extents(0, file, base, true, vec![(0, extent)], vec![new.unwrap()], 10);
    let group = w.peers[0].group;
    assert_eq!((w.ns(0).block(&name).unwrap().uses, w.ns(0).group(group).unwrap().blocks), (1, 1));
    let base = w.write(0, file, base, 3, b"abc", 10);
    assert_eq!((w.read(0, file), w.ns(0).block(&name).unwrap().uses), (b"012abc6789".to_vec(), 2));
    let hole = Extent { len: 3, source: Source::Hole };
    let base = w.write_extents(0, file, base, true, vec![(5, hole)], vec![], 10);
    assert_eq!(w.read(0, file), b"012ab\x00\x00\x0089");
    let base = w.write_extents(0, file, base, true, vec![], vec![], 2);
    assert_eq!((w.read(0, file), w.ns(0).block(&name).unwrap().uses), (b"01".to_vec(), 1));
    let base = w.write_extents(0, file, base, true, vec![], vec![], 4);
    assert_eq!((w.read(0, file), w.ns(0).files().bytes), (b"01\0\0".to_vec(), 4));
    assert!(!w.ns(0).is_empty_group(group));
    w.write_extents(0, file, base, true, vec![], vec![], 0);
    assert_eq!((w.ns(0).block(&name), w.ns(0).group(group).unwrap().blocks), (None, 0));
    assert!(w.ns(0).is_empty_group(group));
    recount(w.ns(0));
}

#[test]
fn extents_are_found_from_within() {
    let mut w = World::new(1);
    let file = w.create(0, ROOT, "f");
    let base = w.put(0, file, b"0123456789");
    w.write(0, file, base, 20, b"abc", 23);
    let found = |from, to| w.ns(0).extents(file, from, to).map(|(at, _)| at).collect::<Vec<_>>();
    assert_eq!(found(5, 6), [0]);
    assert_eq!(found(9, 21), [0, 20]);
    assert_eq!(found(10, 20), [] as [u64; 0]);
    assert_eq!(found(22, u64::MAX), [20]);
    assert_eq!(found(7, 7), [] as [u64; 0]);
    assert_eq!(found(9, 2), [] as [u64; 0]);
}

#[test]
fn attributes_policies_and_suid_bits() {
    let mut w = World::new(1);
    let dir = w.mkdir(0, ROOT, "d");
    let file = w.create(0, dir, "f");
    w.change(0, Change::SetPolicy { ino: dir, policy: Some(Policy::Replicate(3)) });
    assert_eq!(w.ns(0).policy(file), Policy::Replicate(3));
    assert_eq!(w.ns(0).policy(ROOT), crate::policy::DEFAULT_POLICY);
    let set = SetAttributes { mode: Some(0o6755), uid: Some(7), ..Default::default() };
    w.change(0, Change::SetAttributes { ino: file, set });
    w.put(0, file, b"x");
    let inode = w.ns(0).inode(file).unwrap();
    assert_eq!((inode.mode, inode.uid, inode.gid), (0o755, 7, 2));
    let set = |value| Change::SetXattr { ino: file, name: Bytes::from_static(b"user.a"), value, ctime: wall(9) };
    w.change(0, set(Some(Bytes::from_static(b"1"))));
    assert_eq!((w.ns(0).xattr(file, b"user.a").unwrap().as_ref(), w.ns(0).xattrs(file).count()), (&b"1"[..], 1));
    w.change(0, set(None));
    assert_eq!(w.ns(0).xattr(file, b"user.a"), None);
}

#[test]
fn seats_come_and_go() {
    let mut w = World::new(2);
    w.meet();
    let (group, other) = (w.peers[0].group, w.peers[1].tag);
    w.change(0, Change::Seat { group, slot: 0, peer: other });
    w.change(0, Change::Seat { group, slot: 0, peer: other });
    w.change(0, Change::Seat { group, slot: 9, peer: other });
    assert_eq!(w.ns(0).group(group).unwrap().slots[0].len(), 2);
    let tag = w.peers[0].tag;
    for (peer, keeper) in [(tag, tag), (tag, PeerTag(9)), (tag, other), (other, tag)] {
        w.change(0, Change::Unseat { group, slot: 0, peer, keeper: Some(keeper) });
    }
    let seats: Vec<_> = w.ns(0).group(group).unwrap().slots[0].iter().map(|seat| seat.peer).collect();
    assert_eq!(seats, [other], "of two that leave the slot to one another one stays");
    w.change(0, Change::Unseat { group, slot: 0, peer: other, keeper: None });
    assert!(w.ns(0).group(group).unwrap().slots[0].is_empty());
    w.change(0, Change::Evict { peer: other });
    assert_eq!(w.ns(0).peers().count(), 1);
}

#[test]
fn blocks_move_to_another_group_and_empty_groups_close() {
    let mut w = World::new(2);
    w.meet();
    let file = w.create(0, ROOT, "f");
    w.put(0, file, b"0123456789");
    let (extent, new) = w.block(0, b"abcdefghij");
    let name = BlockName::of(b"abcdefghij");
    let base = w.ns(0).inode(file).unwrap().content;
    w.write_extents(0, file, base, true, vec![(0, extent)], vec![new.unwrap()], 10);
    w.meet();
    let (from, to) = (w.peers[0].group, w.peers[1].group);
    w.change(0, Change::CloseGroup { group: from });
    assert!(w.ns(0).group(from).is_some(), "a group that keeps something stays");
    w.change(1, Change::Relocate { from, to, blocks: vec![name, BlockName([1; 32])] });
    w.change(1, Change::Relocate { from, to, blocks: vec![name] });
    w.meet();
    assert_eq!(w.ns(0).block(&name).unwrap().group, to);
    assert_eq!((w.ns(0).group(from).unwrap().blocks, w.ns(0).group(to).unwrap().blocks), (0, 1));
    recount(w.ns(0));
    w.change(0, Change::CloseGroup { group: from });
    w.meet();
    assert!(w.ns(1).group(from).is_none() && w.ns(1).groups_of(w.peers[0].tag).count() == 0);
    assert_eq!(w.ns(1).blocks_of(to).map(|(name, _)| name).collect::<Vec<_>>(), [name]);
}

#[test]
fn a_block_moves_with_the_others_even_if_an_op_unseen_put_something_in_its_place() {
    let mut w = World::new(3);
    let file = w.create(0, ROOT, "f");
    let (extent, new) = w.block(0, b"abcdefghij");
    let created = w.ns(0).inode(file).unwrap().content;
    let base = w.write_extents(0, file, created, true, vec![(0, extent)], vec![new.unwrap()], 10);
    w.meet();
    let (from, to) = (w.peers[0].group, w.peers[1].group);
    w.put(2, file, b"unseen");
    w.change(1, Change::Relocate { from, to, blocks: vec![BlockName::of(b"abcdefghij")] });
    w.send(1, 0);
    w.change(0, Change::CloseGroup { group: from });
    w.write(0, file, base, 10, b"k", 11);
    w.meet();
    every_block_is_known(w.ns(2));
    let copy = w.ns(2).entries(ROOT).map(|(_, entry)| entry.ino).find(|ino| *ino != file).unwrap();
    assert_eq!((w.read(2, file), w.read(2, copy)), (b"unseen".to_vec(), b"abcdefghijk".to_vec()));
}

#[test]
fn a_block_that_nothing_names_is_forgotten_when_that_is_stable() {
    let mut w = World::new(2);
    w.meet();
    let file = w.create(0, ROOT, "f");
    let (extent, new) = w.block(0, b"abcdefghij");
    let name = BlockName::of(b"abcdefghij");
    let base = w.ns(0).inode(file).unwrap().content;
    w.write_extents(0, file, base, true, vec![(0, extent)], vec![new.unwrap()], 10);
    w.meet();
    w.put(0, file, b"x");
    assert_eq!(w.ns(0).block(&name).unwrap().uses, 0);
    let again = Namespace::restore(w.ns(0).snapshot()).unwrap();
    assert_eq!(again.block(&name).unwrap().uses, 0);
    w.meet();
    w.meet();
    for at in 0..2 {
        assert!(w.ns(at).block(&name).is_none(), "peer {at}");
        assert!(w.ns(at).is_empty_group(w.peers[0].group));
    }
}

#[test]
fn a_standing_goes_with_its_peer() {
    let mut w = World::new(2);
    w.meet();
    let peer = w.peers[1].tag;
    let leaving = Standing { leaving: true, ..Standing::default() };
    w.change(0, Change::SetStanding { peer, standing: leaving });
    assert!(w.ns(0).standing(peer).leaving && w.ns(0).peers().count() == 2);
    w.change(0, Change::SetStanding { peer, standing: Standing::default() });
    assert_eq!(w.ns(0).standing(peer), Standing::default());
    w.change(0, Change::SetStanding { peer, standing: leaving });
    w.change(0, Change::Evict { peer });
    assert_eq!(w.ns(0).standing(peer), Standing::default());
}

#[test]
fn a_change_of_an_inode_that_is_gone_is_not_taken() {
    let mut w = World::new(1);
    let me = w.peers[0].tag;
    let now = w.clock(0);
    let gone = Change::SetPolicy { ino: Ino::new(me, 99), policy: None };
    let applied = w.peers[0].namespace.change(Author::new(me, 0), now, vec![gone]);
    assert_eq!(applied, Applied::default());
    assert!(w.ns(0).check(Author::new(me, 0), now, &Change::Reap { ino: ROOT }).is_err());
}

#[test]
fn conflict_names_keep_the_extension_and_fit() {
    let stamp = Stamp { time: Hlc(5000 << 16), author: Author::new(PeerTag(0xabc), 0) };
    let name =
        |text: &str, attempt| String::from_utf8(conflict::conflict_name(text.as_bytes(), stamp, attempt).to_vec());
    assert_eq!(name("a.txt", 1).unwrap(), "a (conflict from p000abc 5000).txt");
    assert_eq!(name("a.txt", 2).unwrap(), "a (conflict from p000abc 5000 2).txt");
    assert_eq!(name(".profile", 1).unwrap(), ".profile (conflict from p000abc 5000)");
    let long = name(&format!("{}.tar", "é".repeat(125)), 1).unwrap();
    assert!(long.len() <= NAME_BYTES && long.ends_with("5000).tar"));
}
