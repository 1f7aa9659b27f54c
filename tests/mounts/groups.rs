//! What `status`, `groups`, `where`, `peers` and `policy` say, in their JSON shapes and in plain words.

use crate::harness::{BOUND, Cluster, DETECTION, tree};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Panics unless `value` has the field and it is of that kind.
#[track_caller]
fn field<'a>(value: &'a Value, name: &str, kind: &str) -> &'a Value {
    let found = value.get(name).unwrap_or_else(|| panic!("no field '{name}' in {value}"));
    let is = match kind {
        "text" => found.is_string(),
        "flag" => found.is_boolean(),
        "number" => found.is_number(),
        "list" => found.is_array(),
        "object" => found.is_object(),
        "name" => found.is_string() || found.is_number(),
        "any" => true,
        _ => unreachable!("{kind}"),
    };
    assert!(is, "field '{name}' of {value} is no {kind}");
    found
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    field(value, name, "list").as_array().unwrap()
}

/// A file of 9 MiB under rs:4+2 in a share of six, on the mount of machine 0.
fn a_coded_file() -> (Cluster, std::path::PathBuf) {
    let mut cluster = Cluster::share(6);
    let dir = cluster.mount(0).join("dir");
    fs::create_dir(&dir).unwrap();
    cluster.run(0, &["policy", dir.to_str().unwrap(), "rs:4+2"]).ok();
    fs::write(dir.join("file"), tree::noise(1, 9 << 20)).unwrap();
    (cluster, dir)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn status_has_the_shape_scripts_rely_on() {
    let (cluster, _) = a_coded_file();
    let status = cluster.status(0);
    field(&status, "share", "text");
    field(&status, "peer", "name");
    for name in ["survives_now", "survives_healed", "files_bytes", "stored_bytes", "overhead"] {
        field(&status, name, "number");
    }
    let peers = list(&status, "peers");
    assert_eq!(peers.len(), 6);
    for peer in peers {
        for name in ["id", "name", "address"] {
            field(peer, name, "text");
        }
        for name in ["alive", "here"] {
            field(peer, name, "flag");
        }
    }
    assert_eq!(peers.iter().filter(|p| p["here"] == true).count(), 1);
    let groups = field(&status, "groups", "object");
    for state in ["cold", "goldilocks", "hot"] {
        field(groups, state, "number");
    }
    assert_eq!(status["files_bytes"], 9 << 20);
    assert_eq!(status["survives_now"], 2);
}

#[test]
fn where_names_every_shard_of_a_file() {
    let (mut cluster, dir) = a_coded_file();
    let file = dir.join("file");
    let answer = cluster.json(0, &["where", text(&file)]);
    field(&answer, "path", "text");
    assert_eq!((&answer["size"], &answer["policy"]), (&Value::from(9 << 20), &Value::from("rs:4+2")));
    assert_eq!(answer["inline_bytes"], 0);
    let blocks = list(&answer, "blocks");
    assert_eq!(blocks.len(), 9, "nine blocks of 1 MiB");
    for (index, block) in blocks.iter().enumerate() {
        assert_eq!(block["index"], index);
        assert_eq!(block["bytes"], 1 << 20);
        assert_eq!(field(block, "block", "text").as_str().unwrap().len(), 64);
        field(block, "group", "name");
        assert_eq!(block["state"], "goldilocks");
        let shards = list(block, "shards");
        let holders: BTreeSet<_> = shards.iter().map(|s| s["peer"].to_string()).collect();
        let slots: Vec<_> = shards.iter().map(|s| s["slot"].as_u64().unwrap()).collect();
        assert_eq!((holders.len(), slots), (6, vec![0, 1, 2, 3, 4, 5]), "six shards on six machines");
        assert!(shards.iter().all(|s| s["alive"] == true));
    }
    cluster.kill(3);
    cluster.wait_until(DETECTION, "a shard of every block is reported dead", |c| {
        let answer = c.json(0, &["where", text(&file)]);
        list(&answer, "blocks").iter().all(|b| list(b, "shards").iter().filter(|s| s["alive"] == false).count() == 1)
    });
}

#[test]
fn where_says_that_a_small_file_is_inline() {
    let mut cluster = Cluster::share(3);
    let file = cluster.mount(0).join("small");
    fs::write(&file, b"a few bytes").unwrap();
    let answer = cluster.json(0, &["where", text(&file)]);
    assert_eq!((&answer["size"], &answer["inline_bytes"]), (&Value::from(11), &Value::from(11)));
    assert_eq!(list(&answer, "blocks").len(), 0);
}

#[test]
fn groups_has_the_shape_scripts_rely_on() {
    let (cluster, _) = a_coded_file();
    let groups = cluster.json(0, &["groups"]);
    let groups = groups.as_array().expect("a list of groups");
    assert!(!groups.is_empty());
    for group in groups {
        field(group, "id", "name");
        field(group, "policy", "text");
        assert_eq!(group["state"], "goldilocks");
        field(group, "blocks", "number");
        for (index, slot) in list(group, "slots").iter().enumerate() {
            assert_eq!(slot["slot"], index);
            for participant in list(slot, "participants") {
                field(participant, "peer", "name");
                field(participant, "alive", "flag");
            }
        }
    }
    let coded = groups.iter().find(|g| list(g, "slots").len() == 6).expect("a group of six slots");
    assert_eq!(coded["blocks"], 9);
}

/// Of every file of three shards, whichever machine wrote it, each lies with a machine of another `kind`.
#[track_caller]
pub fn three_shards_lie_apart(cluster: &Cluster, mounts: &[PathBuf], kind: impl Fn(usize) -> usize) {
    let machines: Vec<String> = (0..6).map(|i| cluster.id(i).as_str().unwrap().to_owned()).collect();
    for policy in ["replicate:3", "rs:2+1"] {
        let dir = mounts[0].join(format!("apart under {policy}"));
        fs::create_dir(&dir).unwrap();
        cluster.run(0, &["policy", text(&dir), policy]).ok();
        for (writer, mount) in mounts.iter().enumerate() {
            let file = mount.join(dir.file_name().unwrap()).join(format!("from {writer}"));
            fs::write(&file, tree::noise(100 + writer as u64, 100_000)).unwrap();
            let answer = cluster.json(writer, &["where", text(&file)]);
            for block in list(&answer, "blocks") {
                let holders = list(block, "shards").iter().map(|shard| shard["peer"].as_str().unwrap());
                let kinds: BTreeSet<_> =
                    holders.map(|id| kind(machines.iter().position(|machine| machine == id).unwrap())).collect();
                assert_eq!(kinds.len(), 3, "{policy} written by peer{writer}: {answer}");
            }
        }
    }
}

#[test]
fn shards_lie_in_different_zones_where_there_are_enough() {
    let mut cluster = Cluster::loopback(6);
    let zone = |i: usize| i / 2;
    cluster.init(0);
    for i in 0..6 {
        if i > 0 {
            let ticket = cluster.invite(0);
            cluster.join(i, &ticket);
        }
        cluster.configure(i, &format!("zone = 'room {}'", zone(i)));
        cluster.serve(i);
    }
    cluster.all_in_sight();
    let mounts: Vec<_> = (0..3).map(|i| cluster.mount(i)).collect();
    three_shards_lie_apart(&cluster, &mounts, zone);
}

#[test]
fn a_group_that_lost_a_participant_says_that_it_is_cold_and_new_writes_seat_live_peers() {
    let mut cluster = Cluster::share(7);
    let dir = cluster.mount(0).join("dir");
    fs::create_dir(&dir).unwrap();
    cluster.run(0, &["policy", text(&dir), "rs:4+2"]).ok();
    fs::write(dir.join("old"), tree::noise(1, 3 << 20)).unwrap();
    let holders = |cluster: &Cluster, file: &str| -> BTreeSet<String> {
        let answer = cluster.json(0, &["where", text(&dir.join(file))]);
        let blocks = list(&answer, "blocks").to_vec();
        blocks.iter().flat_map(|b| list(b, "shards").to_vec()).map(|s| s["peer"].to_string()).collect()
    };
    let seated = holders(&cluster, "old");
    let ids: Vec<String> = (0..7).map(|i| cluster.id(i).to_string()).collect();
    let names: Vec<String> = (0..7).map(|i| format!("\"peer{i}\"")).collect();
    let victim = (1..7).find(|i| seated.contains(&ids[*i]) || seated.contains(&names[*i])).expect("a seated peer");
    cluster.kill(victim);
    cluster.wait_until(DETECTION, "a group is reported cold", |c| c.status(0)["groups"]["cold"].as_u64() > Some(0));
    let status = cluster.status(0);
    assert_eq!(status["survives_now"], 1, "one of two allowed losses has happened: {status}");
    assert_eq!(status["survives_healed"], 2, "{status}");
    assert!(cluster.run(0, &["status"]).ok().to_lowercase().contains("cold"), "plain status names cold groups");
    assert!(cluster.run(0, &["groups"]).ok().to_lowercase().contains("cold"), "plain groups names cold groups");

    fs::write(dir.join("new"), tree::noise(2, 3 << 20)).unwrap();
    let answer = cluster.json(0, &["where", text(&dir.join("new"))]);
    for block in list(&answer, "blocks") {
        assert_eq!(block["state"], "goldilocks", "{block}");
        assert!(list(block, "shards").iter().all(|s| s["alive"] == true), "{block}");
    }
    let seated = holders(&cluster, "new");
    assert!(!seated.contains(&ids[victim]) && !seated.contains(&names[victim]));

    cluster.restart(victim);
    cluster.wait_until(BOUND, "the group is whole again when its participant is back", |c| {
        c.status(0)["groups"]["cold"] == 0
    });
}

#[test]
fn fewer_machines_than_slots_is_cold_and_says_what_it_survives() {
    let mut cluster = Cluster::share(3);
    let dir = cluster.mount(0).join("dir");
    fs::create_dir(&dir).unwrap();
    cluster.run(0, &["policy", text(&dir), "rs:4+2"]).ok();
    fs::write(dir.join("file"), tree::noise(1, 2 << 20)).unwrap();
    let status = cluster.status(0);
    assert!(status["groups"]["cold"].as_u64() > Some(0), "{status}");
    assert_eq!(status["survives_now"], 1, "two shards on each of three machines: one may go: {status}");
    cluster.kill(2);
    let mount = cluster.path(0);
    assert!(fs::read(mount.join("dir/file")).unwrap() == tree::noise(1, 2 << 20));
}

#[test]
fn a_policy_is_inherited_and_is_an_extended_attribute_too() {
    let mut cluster = Cluster::share(3);
    let (a, b) = (cluster.mount(0), cluster.mount(1));
    let dir = a.join("dir");
    fs::create_dir(&dir).unwrap();
    tree::set_xattr(&dir, "user.shoal.policy", b"replicate:2");
    fs::create_dir(dir.join("below")).unwrap();
    fs::write(dir.join("below/file"), tree::noise(1, 100_000)).unwrap();
    let shown = cluster.run(1, &["policy", text(&b.join("dir/below"))]).ok();
    assert!(shown.contains("replicate:2"), "{shown}");
    assert_eq!(cluster.json(1, &["where", text(&b.join("dir/below/file"))])["policy"], "replicate:2");
    assert_eq!(tree::xattr(&b.join("dir"), "user.shoal.policy").unwrap(), b"replicate:2");
    let refused = tree::try_set_xattr(&dir, "user.shoal.policy", b"raid:5").expect_err("no policy");
    assert_eq!(refused.raw_os_error(), Some(libc::EINVAL));
    std::os::unix::fs::symlink("below", dir.join("link")).unwrap();
    let on_link = cluster.run(1, &["policy", text(&b.join("dir/link")), "rs:2+1"]);
    assert!(on_link.code == Some(1) && on_link.stderr.contains("neither a file nor"), "{}", on_link.stderr);
}

#[test]
fn a_file_has_a_policy_of_its_own_for_what_is_written_from_then_on() {
    let mut cluster = Cluster::share(3);
    let (a, b) = (cluster.mount(0), cluster.mount(1));
    for (name, policy) in [("by command", "replicate:2"), ("by attribute", "rs:2+1")] {
        let (file, there) = (a.join(name), b.join(name));
        fs::write(&file, b"").unwrap();
        assert!(cluster.run(0, &["policy", text(&file)]).ok().contains("survive:2"), "what it was created under");
        if name == "by command" {
            cluster.run(0, &["policy", text(&file), policy]).ok();
        } else {
            tree::set_xattr(&file, "user.shoal.policy", policy.as_bytes());
        }
        assert!(cluster.run(1, &["policy", text(&there)]).ok().contains(policy), "{policy}");
        assert_eq!(tree::xattr(&there, "user.shoal.policy").unwrap(), policy.as_bytes());
        fs::write(&there, tree::noise(3, 2 << 20)).unwrap();
        let answer = cluster.json(0, &["where", text(&file)]);
        let shards = if policy == "rs:2+1" { 3 } else { 2 };
        assert_eq!(answer["policy"], policy);
        assert!(list(&answer, "blocks").iter().all(|block| list(block, "shards").len() == shards), "{answer}");
    }
}

#[test]
fn peers_lists_every_machine() {
    let cluster = Cluster::share(3);
    let peers = cluster.json(1, &["peers"]);
    let peers = peers.as_array().cloned().unwrap_or_else(|| list(&peers, "peers").to_vec());
    assert_eq!(peers.len(), 3);
    let plain = cluster.run(1, &["peers"]).ok();
    for i in 0..3 {
        assert!(plain.contains(&format!("peer{i}")) && plain.contains(&cluster.listen(i)), "{plain}");
    }
}
