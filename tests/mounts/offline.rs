//! A machine that is away for longer than the others keep their log for it.

use crate::harness::{BOUND, Cluster, DETECTION, PATIENCE, tree};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// After this a machine is let go, and what was deleted meanwhile is freed: half a minute, and then a minute in which
/// everybody is heard, and the rounds of the store.
const LET_GO: Duration = Duration::from_secs(180);

/// Every file below a directory with its content.
fn contents(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut below = vec![root.to_owned()];
    while let Some(dir) = below.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                below.push(path);
            } else {
                let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                found.insert(name, fs::read(path).unwrap());
            }
        }
    }
    found
}

#[test]
fn a_machine_that_was_away_for_too_long_comes_back_with_its_changes_and_all_agree() {
    let mut cluster = Cluster::namespaces(3, 1);
    cluster.takes_longer(LET_GO);
    cluster.form(3);
    for i in 0..3 {
        cluster.stop(i);
        cluster.configure(i, "away_log = \"16 KiB\"");
    }
    let mounts: Vec<_> = (0..3).map(|i| cluster.mount(i)).collect();
    cluster.all_in_sight();
    let (a, c) = (&mounts[0], &mounts[2]);
    let (deleted, both) = (tree::noise(1, 12 << 20), tree::noise(2, 2 << 20));
    fs::create_dir(a.join("dir")).unwrap();
    fs::write(a.join("deleted"), &deleted).unwrap();
    fs::write(a.join("dir/both"), &both).unwrap();
    fs::write(a.join("moved"), b"moved").unwrap();
    assert!(fs::read(c.join("dir/both")).unwrap() == both);

    cluster.cut(2);
    cluster.wait_until(DETECTION, "it is known dead", |c| !c.sees_alive(0, 2) && !c.sees_alive(2, 0));
    // It works on alone ...
    let alone = tree::noise(3, 3 << 20);
    fs::write(c.join("dir/alone"), &alone).unwrap();
    fs::write(c.join("dir/both"), b"changed by the one that is away").unwrap();
    fs::rename(c.join("moved"), c.join("dir/moved")).unwrap();
    fs::create_dir(c.join("made alone")).unwrap();
    fs::write(c.join("made alone/small"), b"small").unwrap();
    // ... and so do the others.
    fs::write(a.join("dir/both"), b"changed by the others").unwrap();
    fs::remove_file(a.join("deleted")).unwrap();
    for n in 0..200 {
        fs::write(a.join(format!("file {n}")), format!("content {n}")).unwrap();
    }
    let let_go = |cluster: &Cluster, i: usize| {
        let status = cluster.status(i);
        status["peers"].as_array().unwrap().iter().any(|peer| peer["name"] == "peer2" && peer["let_go"] == true)
    };
    let before = cluster.status(0);
    assert!(before["log"]["ops"].as_u64().unwrap() > 200, "{}", before["log"]);
    cluster.wait_until(LET_GO, "it is let go", |c| let_go(c, 0) && let_go(c, 1));
    cluster.wait_until(PATIENCE, "the log is empty", |c| (0..2).all(|i| c.status(i)["log"]["ops"] == 0));
    let stored = |status: &serde_json::Value| status["stored_bytes"].as_u64().unwrap();
    cluster.wait_until(LET_GO, "what was deleted is freed", |c| {
        stored(&c.status(0)) + (deleted.len() as u64) < stored(&before)
    });
    assert!(!let_go(&cluster, 2), "the one that is alone lets go of nobody");

    cluster.mend(2);
    cluster.wait_until(BOUND * 2, "it is back and counts again", |c| {
        (0..3).all(|i| c.status(i)["peers"].as_array().unwrap().len() == 3 && !let_go(c, i))
            && c.path(2).join("file 199").exists()
            && c.path(0).join("made alone/small").exists()
    });
    let found = contents(a);
    assert!(found["dir/alone"] == alone);
    assert_eq!(found["dir/moved"], b"moved");
    assert_eq!(found["made alone/small"], b"small");
    assert_eq!(found["dir/both"], b"changed by the others");
    let copies: Vec<_> = found.iter().filter(|(name, _)| name.starts_with("dir/both (conflict")).collect();
    assert_eq!(copies.len(), 1, "{:?}", found.keys());
    assert_eq!(copies[0].1, b"changed by the one that is away");
    assert!((0..200).all(|n| found[&format!("file {n}")] == format!("content {n}").into_bytes()));
    assert!(!found.contains_key("deleted") && !found.contains_key("moved"));
    for mount in &mounts[1..] {
        assert!(contents(mount) == found, "all mounts are equal");
    }
    // Its mount went on, and its changes are seen at once; also after all of them were killed.
    fs::write(c.join("after"), b"after").unwrap();
    assert_eq!(fs::read(a.join("after")).unwrap(), b"after");
    cluster.kill_all(&[0, 1, 2]);
    (0..3).for_each(|i| cluster.restart(i));
    cluster.all_in_sight();
    let again = contents(&cluster.path(2));
    assert_eq!(again.len(), found.len() + 1);
    assert!(again == contents(&cluster.path(0)));
}
