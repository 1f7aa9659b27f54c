//! Two sides that did not see one another: what becomes of changes that do not fit together.

use super::*;

const ROOT: Ino = Ino::ROOT;

/// Two peers that agree on a tree with `d/f` holding "old".
fn apart() -> (World, Ino, Ino) {
    let mut w = World::new(2);
    let dir = w.mkdir(0, ROOT, "d");
    let file = w.create(0, dir, "f.txt");
    w.put(0, file, b"old");
    w.meet();
    (w, dir, file)
}

fn conflict(w: &World, at: usize, dir: Ino) -> Vec<Ino> {
    let marked = |name: &Bytes| String::from_utf8_lossy(name).contains("(conflict from p");
    w.ns(at).entries(dir).filter(|(name, _)| marked(name)).map(|(_, entry)| entry.ino).collect()
}

#[test]
fn the_later_of_two_equal_names_gets_a_conflict_name() {
    let (mut w, dir, _) = apart();
    let (first, second) = (w.create(0, dir, "new"), w.create(1, dir, "new"));
    w.meet();
    assert_eq!(w.ns(1).entry(dir, b"new").unwrap().ino, first);
    assert_eq!(conflict(&w, 0, dir), [second]);
}

#[test]
fn a_file_changed_on_two_sides_is_kept_in_both_versions() {
    let (mut w, dir, file) = apart();
    let base = w.ns(0).inode(file).unwrap().content;
    w.write(0, file, base, 0, b"AA", 3);
    let theirs = w.write(1, file, base, 1, b"BB", 3);
    let theirs = w.write(1, file, theirs, 3, b"C", 4);
    w.meet();
    let copies = conflict(&w, 0, dir);
    assert_eq!((w.read(0, file), copies.len()), (b"AAd".to_vec(), 1));
    assert_eq!(w.read(0, copies[0]), b"oBBC");
    assert_eq!(w.ns(0).line(file, theirs), Some(copies[0]));
    w.write(1, file, theirs, 0, b"D", 4);
    w.meet();
    assert_eq!((w.read(0, copies[0]), conflict(&w, 0, dir).len()), (b"DBBC".to_vec(), 1), "its writer goes on in it");
}

#[test]
fn a_removal_does_not_take_what_it_did_not_see() {
    let (mut w, dir, file) = apart();
    w.put(0, file, b"new");
    w.unlink(1, dir, "f.txt");
    w.meet();
    assert_eq!((w.names(1, dir), w.read(1, file)), (vec!["f.txt".to_owned()], b"new".to_vec()));
}

#[test]
fn sides_that_each_take_one_of_two_names_leave_the_file_with_the_one_taken_last() {
    let (mut w, dir, file) = apart();
    let time = w.clock(0);
    w.change(0, Change::Link { place: place(dir, "g.txt"), ino: file, time });
    w.meet();
    w.unlink(0, dir, "f.txt");
    let other = w.unlink(1, dir, "g.txt");
    w.meet();
    assert_eq!((w.names(1, dir), w.read(1, file)), (vec!["g.txt".to_owned()], b"old".to_vec()));
    let there = w.ns(0).conflicts().next().map(|(_, conflict)| conflict.there);
    assert_eq!(there, Some(Deed { what: Did::Deleted, stamp: other }), "the removal that came to nothing is told of");
    w.unlink(1, dir, "g.txt");
    w.meet();
    assert_eq!((w.names(0, dir), w.ns(0).conflicts().count()), (vec![], 0), "who sees it as the last takes it");
}

#[test]
fn a_version_whose_writer_removed_one_of_two_names_stays_when_the_other_side_took_the_other() {
    let (mut w, dir, file) = apart();
    let time = w.clock(0);
    w.change(0, Change::Link { place: place(dir, "g.txt"), ino: file, time });
    w.meet();
    w.put(0, file, b"one");
    w.unlink(0, dir, "f.txt");
    w.put(1, file, b"other");
    w.unlink(1, dir, "g.txt");
    w.meet();
    let copies = conflict(&w, 0, dir);
    assert_eq!((w.read(0, file), copies.len()), (b"one".to_vec(), 1));
    assert_eq!(w.read(0, copies[0]), b"other");
}

#[test]
fn a_write_brings_back_a_file_removed_unseen_and_even_reaped() {
    let (mut w, dir, file) = apart();
    w.unlink(1, dir, "f.txt");
    w.change(1, Change::Reap { ino: file });
    let time = w.clock(1);
    w.change(1, Change::Rmdir { place: place(ROOT, "d"), ino: dir, time });
    w.put(0, file, b"new");
    w.meet();
    assert_eq!((w.ns(1).resolve(b"d/f.txt"), w.read(1, file)), (Some(file), b"new".to_vec()));
}

#[test]
fn a_directory_removed_on_one_side_comes_back_for_what_the_other_put_there() {
    let (mut w, dir, _) = apart();
    w.unlink(0, dir, "f.txt");
    let inner = w.mkdir(0, dir, "inner");
    w.meet();
    let time = w.clock(0);
    w.change(0, Change::Rmdir { place: place(dir, "inner"), ino: inner, time });
    w.change(0, Change::Rmdir { place: place(ROOT, "d"), ino: dir, time });
    let taker = w.create(0, ROOT, "d");
    let file = w.create(1, inner, "x");
    w.meet();
    assert_eq!(w.ns(0).resolve(b"d"), Some(taker));
    assert_eq!(conflict(&w, 0, ROOT), [dir]);
    assert!(w.ns(0).path(file).unwrap().ends_with(b"/inner/x"));
}

#[test]
fn moves_that_would_make_a_cycle_together_are_not_both_made() {
    let mut w = World::new(2);
    let (a, b) = (w.mkdir(0, ROOT, "a"), w.mkdir(0, ROOT, "b"));
    w.meet();
    w.rename(0, place(ROOT, "a"), place(b, "a"));
    w.rename(1, place(ROOT, "b"), place(a, "b"));
    w.meet();
    assert_eq!((w.ns(0).resolve(b"b/a"), w.ns(0).resolve(b"b")), (Some(a), Some(b)));
}

#[test]
fn a_rename_over_what_it_did_not_see_takes_a_conflict_name() {
    let (mut w, dir, file) = apart();
    let other = w.create(1, dir, "g");
    w.put(0, file, b"new");
    w.rename(1, place(dir, "g"), place(dir, "f.txt"));
    w.meet();
    assert_eq!(w.ns(0).entry(dir, b"f.txt").unwrap().ino, file);
    assert_eq!((conflict(&w, 0, dir), w.read(0, file)), (vec![other], b"new".to_vec()));
}

#[test]
fn of_two_renames_of_one_file_the_first_counts() {
    let (mut w, dir, file) = apart();
    w.rename(0, place(dir, "f.txt"), place(dir, "x"));
    w.rename(1, place(dir, "f.txt"), place(dir, "y"));
    w.meet();
    assert_eq!((w.names(1, dir), w.ns(1).inode(file).unwrap().nlink), (vec!["x".to_owned()], 1));
}

#[test]
fn an_op_waits_for_what_it_builds_on() {
    let mut w = World::new(3);
    let dir = w.mkdir(0, ROOT, "d");
    let file = w.create(0, dir, "f");
    w.put(0, file, b"one");
    w.send(0, 1);
    let inner = w.mkdir(1, dir, "inner");
    w.put(1, file, b"two");
    let tag = w.peers[1].tag;
    let theirs: Vec<Op> = w.ns(1).log.iter().map(|l| l.op.clone()).filter(|op| op.stamp.author.peer() == tag).collect();
    let now = w.clock(2);
    let applied = w.peers[2].namespace.receive(theirs, now).unwrap();
    assert!(w.names(2, ROOT).is_empty(), "not in any other place, not in any other file");
    assert!(!applied.touched.contains(&Key::Inode(inner)));
    let touched = w.send(0, 2);
    assert!(touched.contains(&Key::Inode(inner)) && touched.contains(&Key::Inode(file)));
    assert_eq!((w.ns(2).resolve(b"d/inner"), w.read(2, file)), (Some(inner), b"two".to_vec()));
    w.meet();
}

#[test]
fn a_late_op_is_put_in_its_place_and_says_what_it_touched() {
    let (mut w, dir, _) = apart();
    let first = w.create(0, dir, "n");
    let second = w.create(1, dir, "n");
    let third = w.create(1, dir, "other");
    let touched = w.send(0, 1);
    let marked = w.ns(1).inode(second).unwrap().place.clone().unwrap();
    for key in [Key::Inode(first), Key::Inode(second), Key::Entry(dir, "n".into()), Key::Entry(dir, marked.name)] {
        assert!(touched.contains(&key), "{key:?}");
    }
    assert!(!touched.contains(&Key::Inode(third)), "undone and done again alike");
}

#[test]
fn a_file_that_comes_back_has_the_attributes_it_was_given_while_it_was_gone() {
    let (mut w, dir, file) = apart();
    w.unlink(0, dir, "f.txt");
    w.change(0, Change::Reap { ino: file });
    let set = SetAttributes { mode: Some(0o600), uid: Some(7), ..SetAttributes::default() };
    w.change(1, Change::SetAttributes { ino: file, set });
    let (name, value) = (Bytes::from_static(b"user.a"), Some(Bytes::from_static(b"1")));
    w.change(1, Change::SetXattr { ino: file, name: name.clone(), value: value.clone(), ctime: wall(9) });
    w.change(1, Change::SetPolicy { ino: file, policy: Some(Policy::Replicate(2)) });
    w.put(1, file, b"written by one who did not know");
    w.meet();
    let inode = w.ns(0).inode(file).expect("it is back");
    assert_eq!((inode.nlink, inode.mode, inode.uid, inode.policy), (1, 0o600, 7, Some(Policy::Replicate(2))));
    assert_eq!(w.ns(0).xattr(file, &name), value.as_ref());
}
