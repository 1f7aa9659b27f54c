//! Directories that two sides gave one name: they become one, and whoever has hold of either has hold of that.

use super::*;

const ROOT: Ino = Ino::ROOT;

fn path(w: &World, at: usize, ino: Ino) -> String {
    String::from_utf8(w.ns(at).path(ino).expect("it has a path")).unwrap()
}

fn marked(w: &World, dir: Ino) -> Vec<Ino> {
    let marked = |name: &Bytes| String::from_utf8_lossy(name).contains("(conflict from p");
    w.ns(0).entries(dir).filter(|(name, _)| marked(name)).map(|(_, entry)| entry.ino).collect()
}

#[test]
fn two_directories_of_one_name_become_the_earlier_one_with_all_that_is_below() {
    let mut w = World::new(2);
    let (a, b) = (w.mkdir(0, ROOT, "d"), w.mkdir(1, ROOT, "d"));
    let (a_in, b_in) = (w.mkdir(0, a, "in"), w.mkdir(1, b, "in"));
    let (mine, theirs) = (w.create(0, a_in, "mine"), w.create(1, b_in, "theirs"));
    let (one, other) = (w.create(0, a_in, "same"), w.create(1, b_in, "same"));
    w.put(1, other, b"theirs");
    let only = w.mkdir(1, b, "only");
    w.meet();
    assert_eq!(w.names(0, ROOT), ["d"]);
    for ino in [a, b] {
        assert_eq!((w.ns(1).survivor(ino), path(&w, 1, ino)), (a, "/d".to_owned()));
        assert_eq!(w.names(0, ino), ["in", "only"], "either is the whole directory");
        assert_eq!(w.ns(0).inode(ino).unwrap().nlink, 4);
    }
    assert_eq!((path(&w, 0, mine), path(&w, 0, theirs)), ("/d/in/mine".to_owned(), "/d/in/theirs".to_owned()));
    assert_eq!((path(&w, 0, one), path(&w, 0, only)), ("/d/in/same".to_owned(), "/d/only".to_owned()));
    assert_eq!((marked(&w, a_in), w.ns(0).survivor(b_in)), (vec![other], a_in));
    assert!(path(&w, 0, other).starts_with(&format!("/d/in/same (conflict from {} ", w.peers[1].tag)));
    let conflicts: Vec<Ino> = w.ns(0).conflicts().map(|(_, conflict)| conflict.ino).collect();
    assert_eq!(conflicts, [other], "that they are one now is no conflict");
}

#[test]
fn ops_that_name_the_other_directory_land_in_the_one_that_is_left() {
    let mut w = World::new(2);
    let (a, b) = (w.mkdir(0, ROOT, "d"), w.mkdir(1, ROOT, "d"));
    w.exchange();
    let merges = w.ns(0).merges(w.clock(0), 9);
    assert_eq!(merges.len(), 1);
    w.change(0, merges[0].clone());
    // It does not know yet, and goes on in what it knows.
    let early = w.create(1, b, "early");
    let inner = w.mkdir(1, b, "inner");
    w.rename(1, place(b, "early"), place(inner, "moved"));
    w.meet();
    assert_eq!((path(&w, 0, early), w.names(0, ROOT)), ("/d/inner/moved".to_owned(), vec!["d".to_owned()]));
    // It knows, but a program still has the other one open.
    let late = w.create(1, b, "late");
    let set = SetAttributes { mode: Some(0o700), ..SetAttributes::default() };
    w.change(1, Change::SetAttributes { ino: b, set });
    let (name, time) = (Bytes::from_static(b"user.a"), w.clock(1));
    w.change(1, Change::SetXattr { ino: b, name: name.clone(), value: Some(name.clone()), ctime: time });
    w.change(1, Change::SetPolicy { ino: b, policy: Some(Policy::Replicate(2)) });
    w.unlink(1, inner, "moved");
    w.meet();
    assert_eq!((path(&w, 0, late), w.ns(0).xattr(b, &name)), ("/d/late".to_owned(), Some(&name)));
    assert_eq!(w.ns(0).inode(a).map(|inode| (inode.mode, inode.policy)), Some((0o700, Some(Policy::Replicate(2)))));
    assert_eq!(w.names(0, a), ["inner", "late"]);
}

#[test]
fn what_a_side_made_of_its_own_directory_before_they_met_is_done_to_it_alone() {
    let mut w = World::new(2);
    let (a, b) = (w.mkdir(0, ROOT, "New Folder"), w.mkdir(1, ROOT, "New Folder"));
    let (f, g) = (w.create(0, a, "f"), w.create(1, b, "g"));
    w.rename(0, place(ROOT, "New Folder"), place(ROOT, "Photos"));
    w.rename(1, place(ROOT, "New Folder"), place(ROOT, "Bills"));
    let (c, gone) = (w.mkdir(0, ROOT, "tmp"), w.mkdir(1, ROOT, "tmp"));
    let time = w.clock(1);
    w.change(1, Change::Rmdir { place: place(ROOT, "tmp"), ino: gone, time });
    let (kept, removed) = (w.create(0, ROOT, "x"), w.create(1, ROOT, "x"));
    w.unlink(1, ROOT, "x");
    w.meet();
    assert_eq!(w.names(0, ROOT), ["Bills", "Photos", "tmp", "x"]);
    assert_eq!((path(&w, 0, f), path(&w, 0, g)), ("/Photos/f".to_owned(), "/Bills/g".to_owned()));
    assert_eq!((w.ns(0).resolve(b"tmp"), w.ns(0).resolve(b"x")), (Some(c), Some(kept)));
    assert!([gone, removed].iter().all(|ino| w.ns(0).inode(*ino).unwrap().nlink == 0));
    assert_eq!(w.ns(0).conflicts().count(), 0, "nothing is in anyone's way any more");
}

#[test]
fn a_directory_moved_to_the_name_of_another_becomes_one_with_it() {
    let mut w = World::new(2);
    let (old, inner) = (w.mkdir(0, ROOT, "old"), w.mkdir(0, ROOT, "other"));
    let file = w.create(0, old, "f");
    w.meet();
    let new = w.mkdir(0, ROOT, "new");
    let there = w.create(0, new, "g");
    w.rename(1, place(ROOT, "old"), place(ROOT, "new"));
    w.rename(1, place(ROOT, "other"), place(old, "other"));
    w.meet();
    assert_eq!(
        (w.names(1, ROOT), w.names(1, new)),
        (vec!["new".to_owned()], vec!["f".into(), "g".into(), "other".into()])
    );
    assert_eq!((path(&w, 1, file), path(&w, 1, there)), ("/new/f".to_owned(), "/new/g".to_owned()));
    assert_eq!((w.ns(0).survivor(old), path(&w, 0, inner)), (new, "/new/other".to_owned()));
}

#[test]
fn a_directory_moved_out_to_the_new_name_of_the_one_it_was_in_is_put_back_into_it() {
    let mut w = World::new(2);
    let a = w.mkdir(0, ROOT, "a");
    let deep = w.mkdir(0, a, "deep");
    let file = w.create(0, deep, "f");
    w.meet();
    w.rename(0, place(ROOT, "a"), place(ROOT, "z"));
    w.rename(1, place(a, "deep"), place(ROOT, "z"));
    w.meet();
    assert_eq!((w.names(0, ROOT), w.ns(0).survivor(deep)), (vec!["z".to_owned()], a));
    assert_eq!(path(&w, 0, file), "/z/f");
}

#[test]
fn a_removed_directory_that_comes_back_becomes_one_with_that_in_its_place() {
    let mut w = World::new(2);
    let dir = w.mkdir(0, ROOT, "d");
    w.meet();
    let time = w.clock(0);
    w.change(0, Change::Rmdir { place: place(ROOT, "d"), ino: dir, time });
    w.change(0, Change::Reap { ino: dir });
    let new = w.mkdir(0, ROOT, "d");
    let file = w.create(1, dir, "x");
    w.meet();
    assert_eq!((w.names(1, ROOT), path(&w, 1, file)), (vec!["d".to_owned()], "/d/x".to_owned()));
    assert_eq!((w.ns(0).survivor(dir), w.ns(0).resolve(b"d")), (new, Some(new)));
}

#[test]
fn what_became_one_outlives_restarts_and_goes_when_it_is_removed() {
    let mut w = World::new(2);
    let (a, b) = (w.mkdir(0, ROOT, "d"), w.mkdir(1, ROOT, "d"));
    w.meet();
    let restored = Namespace::restore(w.ns(0).snapshot()).unwrap();
    assert_eq!((restored.survivor(b), restored.inode(b)), (a, restored.inode(a)));
    let time = w.clock(0);
    w.change(0, Change::Rmdir { place: place(ROOT, "d"), ino: a, time });
    w.change(0, Change::Reap { ino: a });
    w.meet();
    w.create(0, ROOT, "so that the frontier moves");
    w.meet();
    assert_eq!(w.ns(0).unstable(), 0);
    assert!(w.ns(0).inode(b).is_none());
    let left = w.ns(0).tree.iter().filter(|(key, _)| matches!(key, Key::Merged(_))).count();
    assert_eq!(left, 0, "nothing is kept of it");
}
