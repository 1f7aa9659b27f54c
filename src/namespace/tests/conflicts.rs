//! The record of conflicts: what each side did, and what comes of settling it.

use super::*;

const ROOT: Ino = Ino::ROOT;

/// Two peers that agree on `d/f` holding "old".
fn apart() -> (World, Ino, Ino) {
    let mut w = World::new(2);
    let dir = w.mkdir(0, ROOT, "d");
    let file = w.create(0, dir, "f");
    w.put(0, file, b"old");
    w.meet();
    (w, dir, file)
}

/// The only conflict, its path, and what was done by whom on this side and on the other.
fn only(w: &World) -> (String, Conflict, [(Did, Author); 2]) {
    let all: Vec<_> = w.ns(1).conflicts().collect();
    let [(place, conflict)] = all.as_slice() else { panic!("{all:?}") };
    let deed = |deed: Deed| (deed.what, deed.stamp.author);
    (w.ns(1).shown(place), (*conflict).clone(), [deed(conflict.here), deed(conflict.there)])
}

fn author(w: &World, at: usize) -> Author {
    Author::new(w.peers[at].tag, 0)
}

/// What a person decides on peer 1 is carried out there, and reaches everybody.
fn resolve(w: &mut World, path: &str, how: Resolution) -> Result<usize, String> {
    let changes = w.ns(1).resolution(path.as_bytes(), how, w.clock(1))?;
    for change in &changes {
        w.change(1, change.clone());
    }
    w.meet();
    Ok(changes.len())
}

#[test]
fn a_file_changed_on_both_sides_is_recorded_with_both_and_settled_in_three_ways() {
    for (how, expected) in [
        (Resolution::KeepThis, vec![&b"one"[..]]),
        (Resolution::KeepOther, vec![&b"other"[..]]),
        (Resolution::KeepBoth, vec![b"one", b"other"]),
    ] {
        for by_copy in [false, true] {
            let (mut w, dir, file) = apart();
            let one = w.put(0, file, b"one");
            let other = w.put(1, file, b"other");
            w.meet();
            let (copy, conflict, deeds) = only(&w);
            assert_eq!(deeds, [(Did::Changed, author(&w, 1)), (Did::Changed, author(&w, 0))]);
            assert_eq!((conflict.here.stamp, conflict.there.stamp), (other, one));
            assert_eq!((conflict.beside(), copy.starts_with("/d/f (conflict")), (Some(&place(dir, "f")), true));
            let path = if by_copy { copy.as_str() } else { "/d/f" };
            assert_eq!(resolve(&mut w, path, how), Ok(1));
            assert_eq!(w.ns(0).conflicts().count(), 0);
            let mut held: Vec<_> = w.ns(0).entries(dir).map(|(_, entry)| w.read(0, entry.ino)).collect();
            held.sort();
            assert_eq!(held, expected);
            let plain = w.ns(0).resolve(b"d/f").unwrap();
            assert_eq!(w.read(0, plain), if how == Resolution::KeepOther { &b"other"[..] } else { b"one" });
        }
    }
}

#[test]
fn names_that_clash_are_recorded_until_the_later_one_has_another() {
    let (mut w, dir, _) = apart();
    let (first, second) = (w.create(0, dir, "new"), w.create(1, dir, "new"));
    w.meet();
    let (path, conflict, deeds) = only(&w);
    assert_eq!(deeds, [(Did::Created, author(&w, 1)), (Did::Created, author(&w, 0))]);
    assert_eq!((conflict.ino, conflict.beside()), (second, Some(&place(dir, "new"))));
    let name = path.strip_prefix("/d/").unwrap().to_owned();
    w.rename(1, place(dir, &name), place(dir, "mine"));
    w.meet();
    assert_eq!((w.ns(0).conflicts().count(), w.ns(0).resolve(b"d/new")), (0, Some(first)));
}

#[test]
fn a_deletion_that_was_not_met_is_recorded_whichever_came_first() {
    for first in [0, 1] {
        for how in [Resolution::KeepThis, Resolution::KeepOther] {
            let (mut w, dir, file) = apart();
            if first == 0 {
                w.unlink(0, dir, "f");
                w.put(1, file, b"new");
            } else {
                w.put(1, file, b"new");
                w.unlink(0, dir, "f");
            }
            w.meet();
            let (path, conflict, deeds) = only(&w);
            assert_eq!((path.as_str(), &conflict.other), ("/d/f", &None));
            assert_eq!(deeds, [(Did::Changed, author(&w, 1)), (Did::Deleted, author(&w, 0))]);
            assert_eq!(resolve(&mut w, "/d/f", how), Ok(1));
            assert_eq!(w.ns(0).conflicts().count(), 0);
            assert_eq!(w.ns(0).resolve(b"d/f").is_some(), how == Resolution::KeepThis);
        }
    }
}

#[test]
fn two_moves_of_one_file_are_recorded_and_the_other_can_still_be_made() {
    let (mut w, dir, file) = apart();
    w.rename(0, place(dir, "f"), place(dir, "x"));
    w.rename(1, place(dir, "f"), place(ROOT, "y"));
    w.meet();
    let (path, conflict, deeds) = only(&w);
    assert_eq!((path.as_str(), conflict.other.clone(), conflict.beside()), ("/d/x", Some(place(ROOT, "y")), None));
    assert_eq!(deeds, [(Did::Moved, author(&w, 0)), (Did::Moved, author(&w, 1))]);
    let taken = w.create(0, ROOT, "y");
    w.meet();
    let refused = resolve(&mut w, "/d/x", Resolution::KeepOther).unwrap_err();
    assert!(refused.contains("/y is taken"), "{refused}");
    w.rename(1, place(ROOT, "y"), place(ROOT, "z"));
    assert_eq!(resolve(&mut w, "/d/x", Resolution::KeepOther), Ok(1));
    assert_eq!((w.ns(0).resolve(b"y"), w.ns(0).resolve(b"z")), (Some(file), Some(taken)));
    assert_eq!(w.ns(0).conflicts().count(), 0);
}

#[test]
fn a_move_to_one_place_by_both_sides_is_no_conflict() {
    let (mut w, dir, _) = apart();
    for at in [0, 1] {
        w.rename(at, place(dir, "f"), place(dir, "x"));
    }
    w.meet();
    assert_eq!((w.names(0, dir), w.ns(0).conflicts().count()), (vec!["x".to_owned()], 0));
}

#[test]
fn moves_that_would_make_a_circle_are_recorded() {
    let mut w = World::new(2);
    let (a, b) = (w.mkdir(0, ROOT, "a"), w.mkdir(0, ROOT, "b"));
    w.meet();
    w.rename(0, place(ROOT, "a"), place(b, "a"));
    w.rename(1, place(ROOT, "b"), place(a, "b"));
    w.meet();
    let (path, conflict, deeds) = only(&w);
    assert_eq!((path.as_str(), &conflict.other), ("/b", &Some(place(a, "b"))));
    assert_eq!(deeds, [(Did::Moved, author(&w, 0)), (Did::MovedInCircle, author(&w, 1))]);
    let refused = resolve(&mut w, "/b", Resolution::KeepOther).unwrap_err();
    assert!(refused.contains("lies below"), "{refused}");
    assert_eq!(resolve(&mut w, "/b/", Resolution::KeepBoth), Ok(1));
    assert_eq!(w.ns(0).conflicts().count(), 0);
}

#[test]
fn a_directory_with_something_in_it_that_the_other_side_deleted_is_recorded_once() {
    for first in [0, 1] {
        let mut w = World::new(2);
        let d = w.mkdir(0, ROOT, "d");
        let e = w.mkdir(0, d, "e");
        w.meet();
        if first == 1 {
            w.create(1, e, "new");
        }
        for (parent, name, ino) in [(d, "e", e), (ROOT, "d", d)] {
            let time = w.clock(0);
            w.change(0, Change::Rmdir { place: place(parent, name), ino, time });
        }
        if first == 0 {
            w.create(1, e, "new");
        }
        w.meet();
        let (path, _, deeds) = only(&w);
        assert_eq!(deeds, [(Did::Changed, author(&w, 1)), (Did::Deleted, author(&w, 0))], "{path}");
        assert!(w.ns(0).resolve(b"d/e/new").is_some());
        let refused = resolve(&mut w, &path, Resolution::KeepOther).unwrap_err();
        assert!(refused.contains("by hand"), "{refused}");
        assert_eq!(resolve(&mut w, &path, Resolution::KeepThis), Ok(1));
    }
}

#[test]
fn of_several_versions_the_one_to_keep_must_be_named() {
    let mut w = World::new(3);
    let file = w.create(0, ROOT, "f");
    w.meet();
    for (at, bytes) in [(0, b"0"), (1, b"1"), (2, b"2")] {
        w.put(at, file, bytes);
    }
    w.meet();
    let refused = resolve(&mut w, "/f", Resolution::KeepOther).unwrap_err();
    assert!(refused.contains("2 versions beside /f"), "{refused}");
    let copies: Vec<String> = w.ns(1).conflicts().map(|(place, _)| w.ns(1).shown(&place)).collect();
    assert_eq!(resolve(&mut w, &copies[0], Resolution::KeepOther), Ok(1));
    assert_eq!((w.ns(0).conflicts().count(), w.names(0, ROOT).len()), (1, 2));
    assert_eq!(resolve(&mut w, "/f", Resolution::KeepThis), Ok(1));
    assert_eq!(w.names(0, ROOT), ["f"]);
}

#[test]
fn what_is_in_no_conflict_cannot_be_settled() {
    let (mut w, _, _) = apart();
    for path in ["/d/f", "/d", "/", "", "/none/at/all", "d/f"] {
        let refused = resolve(&mut w, path, Resolution::KeepBoth).unwrap_err();
        assert!(refused.contains("shoal conflicts"), "{refused}");
    }
    assert!("keep".parse::<Resolution>().unwrap_err().contains("keep-other"));
    for how in [Resolution::KeepThis, Resolution::KeepOther, Resolution::KeepBoth] {
        assert_eq!(how.to_string().parse(), Ok(how));
    }
}

#[test]
fn who_removes_the_version_that_became_a_copy_removes_the_copy() {
    for over in [false, true] {
        let (mut w, dir, file) = apart();
        let new = w.create(1, dir, "new");
        w.put(0, file, b"one");
        w.put(1, file, b"other");
        if over {
            w.put(1, new, b"newest");
            w.rename(1, place(dir, "new"), place(dir, "f"));
        } else {
            w.unlink(1, dir, "f");
            w.unlink(1, dir, "new");
        }
        w.meet();
        assert_eq!(w.read(0, file), b"one");
        let held: BTreeSet<_> = w.ns(0).entries(dir).map(|(_, entry)| w.read(0, entry.ino)).collect();
        let newest: BTreeSet<_> = over.then(|| b"newest".to_vec()).into_iter().collect();
        assert_eq!(held, &newest | &BTreeSet::from([b"one".to_vec()]));
        assert_eq!(w.ns(0).conflicts().count(), 1);
    }
}
