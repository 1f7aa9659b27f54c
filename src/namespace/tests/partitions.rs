//! Two sides that work on one small tree without one another, and then meet: whole subtrees, and anything by chance.

use super::*;
use proptest::prelude::*;

const ROOT: Ino = Ino::ROOT;

/// The bytes of every file that has a name, as a peer sees it.
fn contents(w: &World, at: usize) -> BTreeSet<Vec<u8>> {
    let ns = w.ns(at);
    let files = ns.tree.iter().filter_map(|(key, record)| match (key, record) {
        (Key::Entry(..), Record::Entry(entry)) => Some(entry.ino),
        _ => None,
    });
    files.filter(|ino| ns.inode(*ino).unwrap().kind == Kind::File).map(|ino| w.read(at, ino)).collect()
}

/// Removes whatever has a name, and all below it, as `rm -r` does.
fn remove(w: &mut World, at: usize, parent: Ino, name: &str) {
    let Some(entry) = w.ns(at).entry(parent, name.as_bytes()) else { return };
    if w.ns(at).inode(entry.ino).unwrap().kind != Kind::Directory {
        w.unlink(at, parent, name);
        return;
    }
    for below in w.names(at, entry.ino) {
        remove(w, at, entry.ino, &below);
    }
    let time = w.clock(at);
    w.change(at, Change::Rmdir { place: place(parent, name), ino: entry.ino, time });
}

fn write(w: &mut World, at: usize, parent: Ino, name: &str, bytes: &[u8]) -> Ino {
    let ino = match w.ns(at).entry(parent, name.as_bytes()) {
        Some(entry) => entry.ino,
        None => w.create(at, parent, name),
    };
    if w.ns(at).inode(ino).unwrap().kind == Kind::File {
        w.put(at, ino, bytes);
    }
    ino
}

/// `d/e/f` and `d/e/g`, with content, known to both.
fn subtree() -> (World, Ino, Ino, Ino) {
    let mut w = World::new(2);
    let d = w.mkdir(0, ROOT, "d");
    let e = w.mkdir(0, d, "e");
    let f = write(&mut w, 0, e, "f", b"f");
    write(&mut w, 0, e, "g", b"g");
    w.meet();
    (w, d, e, f)
}

fn path(w: &World, ino: Ino) -> String {
    String::from_utf8(w.ns(0).path(ino).expect("it has a path")).unwrap()
}

#[test]
fn a_file_changed_in_a_subtree_that_the_other_side_deleted_stays_with_its_path() {
    for first in [0, 1] {
        let (mut w, _, _, f) = subtree();
        if first == 0 {
            remove(&mut w, 0, ROOT, "d");
            w.put(1, f, b"new");
        } else {
            w.put(1, f, b"new");
            remove(&mut w, 0, ROOT, "d");
        }
        w.meet();
        assert_eq!((path(&w, f), w.read(0, f)), ("/d/e/f".to_owned(), b"new".to_vec()));
        assert_eq!(contents(&w, 1), BTreeSet::from([b"new".to_vec()]), "what nobody changed is gone");
    }
}

#[test]
fn a_directory_moved_on_one_side_and_filled_on_the_other_is_full_where_it_went() {
    for first in [0, 1] {
        let (mut w, d, e, f) = subtree();
        let fill = |w: &mut World| {
            let sub = w.mkdir(1, e, "sub");
            write(w, 1, sub, "new", b"new");
            w.put(1, f, b"changed");
        };
        if first == 1 {
            fill(&mut w);
        }
        w.rename(0, place(ROOT, "d"), place(ROOT, "moved"));
        w.rename(0, place(d, "e"), place(ROOT, "apart"));
        if first == 0 {
            fill(&mut w);
        }
        w.meet();
        assert_eq!((w.names(0, ROOT), path(&w, f)), (vec!["apart".into(), "moved".to_owned()], "/apart/f".to_owned()));
        assert_eq!((w.ns(0).resolve(b"apart/sub/new").is_some(), w.read(0, f)), (true, b"changed".to_vec()));
    }
}

#[test]
fn subtrees_moved_into_one_another_are_both_there_once() {
    let (mut w, d, _, f) = subtree();
    let other = w.mkdir(0, ROOT, "other");
    let g = write(&mut w, 0, other, "g", b"other");
    w.meet();
    w.rename(0, place(ROOT, "d"), place(other, "d"));
    w.rename(1, place(ROOT, "other"), place(d, "other"));
    w.meet();
    assert_eq!((path(&w, f), path(&w, g)), ("/other/d/e/f".to_owned(), "/other/g".to_owned()));
}

#[test]
fn files_changed_on_both_sides_all_over_a_subtree_are_kept_in_both_versions() {
    let (mut w, _, e, f) = subtree();
    for at in [0, 1] {
        w.put(at, f, &[b'0' + at as u8]);
        write(&mut w, at, e, "new", &[b'2' + at as u8]);
        remove(&mut w, at, e, "g");
    }
    w.meet();
    let all = [b"0", b"1", b"2", b"3"].map(|bytes| bytes.to_vec());
    assert_eq!((contents(&w, 0), w.names(0, e).len()), (BTreeSet::from(all), 4));
}

/// One thing that somebody does in a small tree, by chance.
fn act(w: &mut World, at: usize, action: u8, x: usize, y: usize, unique: usize) {
    let ns = w.ns(at);
    let mut directories: Vec<Ino> = vec![ROOT];
    let below = ns.tree.iter().filter_map(|(key, record)| match (key, record) {
        (Key::Entry(..), Record::Entry(entry)) => Some(entry.ino),
        _ => None,
    });
    directories.extend(below.filter(|ino| ns.inode(*ino).unwrap().kind == Kind::Directory));
    let dir = directories[x % directories.len()];
    let name = ["a", "b", "c"][y % 3];
    let there = ns.entry(dir, name.as_bytes());
    match action {
        0..=3 => {
            write(w, at, dir, name, format!("content {unique}").as_bytes());
        }
        4 | 5 if there.is_none() => {
            w.mkdir(at, dir, name);
        }
        6 => remove(w, at, dir, name),
        7..=9 => {
            let (to, new) = (directories[y / 3 % directories.len()], ["a", "b", "c"][x % 3]);
            let Some(moved) = there.filter(|entry| !ns.is_above(entry.ino, to)) else { return };
            let is_directory = |ino| ns.inode(ino).unwrap().kind == Kind::Directory;
            let may_go = |over: Ino| {
                is_directory(over) == is_directory(moved.ino) && ns.entries(over).next().is_none() && over != moved.ino
            };
            if ns.entry(to, new.as_bytes()).is_none_or(|entry| may_go(entry.ino)) {
                w.rename(at, place(dir, name), place(to, new));
            }
        }
        _ => {}
    }
}

proptest! {
    #![proptest_config(worlds::cases())]

    #[test]
    fn what_a_side_had_vanishes_only_where_a_side_that_knew_it_took_it_away(
        before in prop::collection::vec((0..10u8, 0..90usize, 0..90usize), 0..24),
        apart in prop::collection::vec((0..2usize, 0..10u8, 0..90usize, 0..90usize), 0..60),
    ) {
        let mut w = World::new(2);
        for (n, (action, x, y)) in before.iter().enumerate() {
            act(&mut w, 0, *action, *x, *y, n);
        }
        w.meet();
        let base = contents(&w, 0);
        for (n, (at, action, x, y)) in apart.iter().enumerate() {
            act(&mut w, *at, *action, *x, *y, 1000 + n);
        }
        let (one, other) = (contents(&w, 0), contents(&w, 1));
        w.meet();
        let all = contents(&w, 0);
        for bytes in one.union(&other) {
            let taken = base.contains(bytes) && !(one.contains(bytes) && other.contains(bytes));
            prop_assert!(taken || all.contains(bytes), "{} vanished", String::from_utf8_lossy(bytes));
        }
        prop_assert!(w.ns(0).merges(wall(0), 9).is_empty());
    }
}
