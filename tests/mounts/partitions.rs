//! Two machines cut off from two others: both sides work, and meet.

use crate::harness::{BOUND, Cluster, DETECTION, PATIENCE, tree};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Four machines with mounts, two in each of two subnets: 0 and 2, 1 and 3.
fn two_and_two() -> (Cluster, Vec<PathBuf>) {
    let mut cluster = Cluster::namespaces(4, 2);
    cluster.form(4);
    let mounts = (0..4).map(|i| cluster.mount(i)).collect();
    (cluster, mounts)
}

fn part(cluster: &mut Cluster) {
    cluster.part();
    cluster.wait_until(DETECTION + DETECTION, "each side knows the other dead", |c| {
        (0..4).all(|i| (0..4).all(|j| c.sees_alive(i, j) == (i % 2 == j % 2)))
    });
}

fn meet(cluster: &mut Cluster) {
    cluster.join_again();
    cluster.wait_until(PATIENCE, "all see one another", |c| (0..4).all(|i| (0..4).all(|j| c.sees_alive(i, j))));
}

fn refused(done: std::io::Result<()>) -> bool {
    done.expect_err("this side is no majority").raw_os_error() == Some(libc::EROFS)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// What the files of a directory hold, whatever their names.
fn contents(dir: &Path) -> BTreeSet<Vec<u8>> {
    let files = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
    files.map(|path| fs::read(path).unwrap()).collect()
}

fn conflicts(cluster: &Cluster, i: usize) -> Vec<Value> {
    cluster.json(i, &["conflicts"])["conflicts"].as_array().expect("a list").clone()
}

/// The conflict about the path that ends so, or whose other version's does.
fn about<'a>(conflicts: &'a [Value], end: &str) -> &'a Value {
    let ends = |value: &Value| value.as_str().is_some_and(|path| path.ends_with(end));
    let found = conflicts.iter().find(|conflict| ends(&conflict["path"]) || ends(&conflict["other_path"]));
    found.unwrap_or_else(|| panic!("no conflict about {end}: {conflicts:?}"))
}

/// What both sides did, and who, in order.
fn deeds(conflict: &Value) -> BTreeSet<(String, String)> {
    let deed = |side: &str| {
        let word = |field: &str| conflict[side][field].as_str().unwrap().to_owned();
        (word("what"), word("by"))
    };
    [deed("this"), deed("other")].into()
}

fn pairs(deeds: [(&str, &str); 2]) -> BTreeSet<(String, String)> {
    deeds.map(|(what, by)| (what.to_owned(), by.to_owned())).into()
}

#[test]
fn both_sides_of_a_partition_work_on_and_have_one_tree_when_they_meet() {
    let (mut cluster, mounts) = two_and_two();
    let (a, b) = (&mounts[0], &mounts[1]);
    let large = |seed| tree::noise(seed, 300_000);
    for dir in ["d/e", "x", "y"] {
        fs::create_dir_all(a.join(dir)).unwrap();
    }
    for name in ["d/e/f", "d/e/g", "changed", "moved", "x/in x", "y/in y"] {
        fs::write(a.join(name), name).unwrap();
    }
    fs::write(a.join("large"), large(1)).unwrap();
    assert_eq!(fs::read(b.join("large")).unwrap(), large(1));
    part(&mut cluster);
    // One side, on both of its machines.
    fs::create_dir_all(a.join("shared/in")).unwrap();
    fs::write(mounts[2].join("shared/in/same"), "of one").unwrap();
    fs::write(mounts[2].join("shared/only one"), "only one").unwrap();
    fs::write(a.join("changed"), "changed by one").unwrap();
    fs::write(a.join("large"), large(2)).unwrap();
    fs::remove_dir_all(a.join("d")).unwrap();
    fs::rename(a.join("moved"), a.join("moved by one")).unwrap();
    fs::rename(a.join("x"), a.join("y/x")).unwrap();
    fs::create_dir(a.join("New Folder")).unwrap();
    fs::write(a.join("New Folder/photo"), "photo").unwrap();
    fs::rename(a.join("New Folder"), a.join("Photos")).unwrap();
    // The other side.
    fs::create_dir_all(b.join("shared/in")).unwrap();
    fs::write(mounts[3].join("shared/in/same"), "of other").unwrap();
    fs::write(mounts[3].join("shared/only other"), "only other").unwrap();
    fs::write(b.join("changed"), "changed by other").unwrap();
    fs::write(b.join("large"), large(3)).unwrap();
    fs::write(b.join("d/e/f"), "still wanted").unwrap();
    fs::rename(b.join("moved"), b.join("moved by other")).unwrap();
    fs::rename(b.join("y"), b.join("x/y")).unwrap();
    fs::create_dir(b.join("New Folder")).unwrap();
    fs::write(b.join("New Folder/bill"), "bill").unwrap();
    fs::rename(b.join("New Folder"), b.join("Bills")).unwrap();
    // A program on this side still stands in its directory when it becomes a part of the other.
    let standing = fs::File::open(b.join("shared/in")).unwrap();

    meet(&mut cluster);
    let one = |mount: &Path| contents(&mount.join("shared")).len() == 2 && !mount.join("New Folder").exists();
    cluster.wait_until(PATIENCE, "the directories of one name are one", |_| mounts.iter().all(|mount| one(mount)));
    let expected = tree::survey(a);
    for mount in &mounts[1..] {
        tree::assert_same("the tree after they met", &expected, &tree::survey(mount));
    }
    let all = |words: [&str; 2]| BTreeSet::from(words.map(|words| words.as_bytes().to_vec()));
    assert_eq!(contents(&b.join("shared")), all(["only one", "only other"]));
    assert_eq!(contents(&b.join("shared/in")), all(["of one", "of other"]));
    {
        use std::os::fd::AsRawFd;
        let through = PathBuf::from(format!("/proc/self/fd/{}", standing.as_raw_fd()));
        assert_eq!(contents(&through), all(["of one", "of other"]), "an open directory shows the whole");
    }
    let in_root = contents(b);
    for bytes in [b"changed by one".to_vec(), b"changed by other".to_vec(), large(2), large(3), b"moved".to_vec()] {
        assert!(in_root.contains(&bytes), "{} bytes are lost", bytes.len());
    }
    assert_eq!((fs::read(b.join("d/e/f")).unwrap(), b.join("d/e/g").exists()), (b"still wanted".to_vec(), false));
    assert_eq!((contents(&b.join("Photos")).len(), contents(&b.join("Bills")).len()), (1, 1));
    let nested = |mount: &Path| [mount.join("x/y/in y"), mount.join("y/x/in x")].iter().any(|path| path.exists());
    assert!(mounts.iter().all(|mount| nested(mount)), "one of the two is in the other");

    // Who did what.
    let listed = conflicts(&cluster, 3);
    assert_eq!(deeds(about(&listed, "/changed")), pairs([("changed", "peer0"), ("changed", "peer1")]));
    assert_eq!(deeds(about(&listed, "/shared/in/same")), pairs([("created", "peer2"), ("created", "peer3")]));
    assert_eq!(deeds(about(&listed, "/d/e/f")), pairs([("changed", "peer1"), ("deleted", "peer0")]));
    let moved = listed.iter().find(|c| c["path"].as_str().unwrap().contains("moved by")).expect("a move is listed");
    assert_eq!(deeds(moved), pairs([("moved", "peer0"), ("moved", "peer1")]));
    assert!(listed.iter().any(|c| c["other"]["what"] == "moved-in-circle"), "{listed:?}");
    assert!(listed.iter().all(|c| !c["path"].as_str().unwrap().contains("New Folder")), "{listed:?}");
    assert_eq!(cluster.status(0)["conflicts"], listed.len());
    let said = cluster.run(0, &["conflicts", text(&a.join("d"))]).ok();
    assert!(said.contains("/d/e/f\n") && said.contains("deleted by peer0") && !said.contains("/changed"), "{said}");

    // And what becomes of it.
    let unknown = cluster.run(0, &["conflicts", text(&a.join("Photos/photo")), "--resolve", "keep-this"]);
    assert!(unknown.code == Some(1) && unknown.stderr.contains("shoal conflicts lists"), "{}", unknown.stderr);
    let copy = about(&listed, "/changed")["path"].as_str().unwrap().to_owned();
    let other = fs::read(b.join(&copy[1..])).unwrap();
    cluster.run(2, &["conflicts", text(&mounts[2].join("changed")), "--resolve", "keep-other"]).ok();
    assert_eq!((fs::read(b.join("changed")).unwrap(), b.join(&copy[1..]).exists()), (other, false));
    let copy = about(&listed, "/shared/in/same")["path"].as_str().unwrap().to_owned();
    let this = fs::read(a.join("shared/in/same")).unwrap();
    cluster.run(1, &["conflicts", &copy, "--resolve", "keep-this"]).ok();
    assert_eq!(contents(&a.join("shared/in")), BTreeSet::from([this]));
    for conflict in conflicts(&cluster, 1) {
        cluster.run(1, &["conflicts", conflict["path"].as_str().unwrap(), "--resolve", "keep-both"]).ok();
    }
    for i in 0..4 {
        assert_eq!((conflicts(&cluster, i).len(), &cluster.status(i)["conflicts"]), (0, &Value::from(0)));
    }
    assert_eq!(cluster.run(0, &["conflicts"]).ok(), "No conflicts.\n");
}

#[test]
fn a_directory_that_refuses_is_read_only_where_there_is_no_majority() {
    let (mut cluster, mounts) = two_and_two();
    let strict = |i: usize| mounts[i].join("strict");
    fs::create_dir_all(strict(0).join("below")).unwrap();
    fs::write(strict(0).join("below/file"), "there before").unwrap();
    fs::write(mounts[0].join("free"), "free").unwrap();
    cluster.run(0, &["policy", text(&strict(0)), "--partition", "refuse"]).ok();
    let shown = cluster.run(3, &["policy", text(&strict(3).join("below"))]).ok();
    assert!(shown.contains("in a partition: refuse (inherited)"), "{shown}");
    assert!(cluster.run(3, &["policy", text(&mounts[3])]).ok().contains("keep-both"));
    assert!(cluster.status(0)["partition"].is_null());

    part(&mut cluster);
    for (i, mount) in mounts.iter().enumerate() {
        let below = strict(i).join("below");
        assert!(refused(fs::write(below.join(format!("new {i}")), "x")));
        assert!(refused(fs::create_dir(below.join("dir"))));
        assert!(refused(fs::remove_file(below.join("file"))));
        assert!(refused(fs::rename(below.join("file"), mount.join("out"))));
        assert!(refused(fs::rename(mount.join("free"), below.join("in"))));
        assert!(refused(fs::hard_link(below.join("file"), below.join("link"))));
        let file = fs::OpenOptions::new().write(true).open(below.join("file"));
        assert!(refused(file.and_then(|mut file| std::io::Write::write_all(&mut file, b"y"))));
        assert_eq!(fs::read(below.join("file")).unwrap(), b"there before", "reads go on");
        fs::write(mount.join(format!("beside {i}")), "x").unwrap();
        let partition = cluster.status(i)["partition"].clone();
        let other = BTreeSet::from([format!("peer{}", 1 - i % 2), format!("peer{}", 3 - i % 2)]);
        let cut_off = partition["cut_off"].as_array().expect("there is a partition").iter();
        assert_eq!(cut_off.map(|name| name.as_str().unwrap().to_owned()).collect::<BTreeSet<_>>(), other);
        let counted = (&partition["here"], &partition["machines"], &partition["majority"]);
        assert_eq!(counted, (&Value::from(2), &Value::from(4), &Value::from(false)));
    }
    let said = cluster.run(0, &["status"]).ok();
    assert!(
        said.contains("Cut off from peer1, peer3 since") || said.contains("Cut off from peer3, peer1 since"),
        "{said}"
    );
    assert!(said.contains("2 of 4 machines, no majority"), "{said}");
    let refused = cluster.run(0, &["policy", text(&strict(0)), "--partition", "keep-both"]);
    assert!(refused.code == Some(1) && refused.stderr.contains("no majority"), "{}", refused.stderr);

    meet(&mut cluster);
    fs::write(strict(3).join("below/new"), "x").unwrap();
    cluster.wait_until(BOUND, "all have what was done beside", |_| {
        mounts.iter().all(|mount| (0..4).all(|i| mount.join(format!("beside {i}")).exists()))
    });
    assert_eq!(fs::read(strict(0).join("below/new")).unwrap(), b"x");
    // One that was stopped is no partition, and three of four are a majority.
    cluster.stop(1);
    cluster.wait_until(DETECTION, "it is known to be gone", |c| !c.sees_alive(0, 1));
    let status = cluster.status(0);
    assert_eq!((&status["partition"], &status["stopped"]), (&Value::Null, &Value::from(vec!["peer1"])));
    fs::write(strict(0).join("below/three of four"), "x").unwrap();
}
