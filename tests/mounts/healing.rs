//! Groups that come back to goldilocks by themselves: with real processes, real disks and real loss.

use crate::harness::{Cluster, tool, tree};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// Detection, the absence that is put up with, and the rebuilding of little data.
pub const HEALED: Duration = Duration::from_secs(60);

/// What nobody needs is kept for a minute after it was last put.
pub const FREED: Duration = Duration::from_secs(120);

/// A share whose machines wait only a second for one that is dead, mounted on machine 0.
pub fn impatient(machines: usize, policy: &str) -> Cluster {
    let mut cluster = Cluster::loopback(machines);
    (0..machines).for_each(|i| start(&mut cluster, i));
    cluster.all_in_sight();
    mounted(&mut cluster, policy);
    cluster
}

/// Starts a machine that waits only a second for one that is dead.
pub fn start(cluster: &mut Cluster, i: usize) {
    if i == 0 {
        cluster.init(0);
    } else {
        let ticket = cluster.invite(0);
        cluster.join(i, &ticket);
    }
    cluster.configure(i, "repair_after_s = 1");
    cluster.serve(i);
}

pub fn mounted(cluster: &mut Cluster, policy: &str) {
    let mountpoint = cluster.mount(0);
    cluster.run(0, &["policy", mountpoint.to_str().unwrap(), policy]).ok();
}

pub fn groups(cluster: &Cluster, i: usize) -> Vec<Value> {
    cluster.json(i, &["groups"]).as_array().unwrap().clone()
}

pub fn all_goldilocks(cluster: &Cluster, i: usize) -> bool {
    let groups = groups(cluster, i);
    !groups.is_empty() && groups.iter().all(|group| group["state"] == "goldilocks")
}

/// The live participants of all groups.
pub fn seated(cluster: &Cluster, i: usize) -> BTreeSet<String> {
    let participants = groups(cluster, i)
        .into_iter()
        .flat_map(|group| group["slots"].as_array().unwrap().clone())
        .flat_map(|slot| slot["participants"].as_array().unwrap().clone());
    participants.filter(|one| one["alive"] == true).map(|one| one["peer"].as_str().unwrap().to_owned()).collect()
}

pub fn id(cluster: &Cluster, i: usize) -> String {
    cluster.id(i).as_str().unwrap().to_owned()
}

pub fn same(path: &Path, content: &[u8]) -> bool {
    fs::read(path).is_ok_and(|found| found == content)
}

#[test]
fn dead_machines_slots_are_taken_over_and_one_that_returns_settles() {
    let mut cluster = impatient(8, "rs:4+2");
    let content = tree::noise(7, 9 << 20);
    fs::write(cluster.path(0).join("file"), &content).unwrap();
    let dead: Vec<usize> = (1..8).filter(|i| seated(&cluster, 0).contains(&id(&cluster, *i))).take(2).collect();
    let names: Vec<String> = dead.iter().map(|i| id(&cluster, *i)).collect();
    cluster.kill_all(&dead);
    cluster.wait_until(HEALED, "others hold the dead machines' slots", |c| {
        all_goldilocks(c, 0) && names.iter().all(|name| !seated(c, 0).contains(name))
    });
    assert_eq!(cluster.status(0)["survives_now"], 2);
    dead.iter().for_each(|i| cluster.restart(*i));
    cluster.all_in_sight();
    cluster.wait_until(HEALED, "the groups have settled", |c| all_goldilocks(c, 0));
    // Any two more, and the data is there.
    let more: Vec<usize> = (1..8).filter(|i| !dead.contains(i)).take(2).collect();
    let reader = dead[0];
    cluster.kill_all(&more);
    let mountpoint = cluster.mount(reader);
    assert!(same(&mountpoint.join("file"), &content));
}

#[test]
fn a_machine_whose_disk_was_wiped_counts_as_empty_and_is_made_up_for() {
    let mut cluster = impatient(4, "replicate:3");
    let content = tree::noise(8, 3 << 20);
    fs::write(cluster.path(0).join("file"), &content).unwrap();
    let wiped = (1..4).find(|i| seated(&cluster, 0).contains(&id(&cluster, *i))).unwrap();
    cluster.kill(wiped);
    fs::remove_dir_all(cluster.home(wiped).join("shards")).unwrap();
    cluster.restart(wiped);
    cluster.all_in_sight();
    cluster.wait_until(HEALED, "every block has three copies again", |c| {
        let stored = c.status(0)["stored_bytes"].as_u64().unwrap();
        all_goldilocks(c, 0) && stored >= 3 * content.len() as u64
    });
    let others: Vec<usize> = (1..4).filter(|i| *i != wiped).collect();
    cluster.kill_all(&others);
    assert!(same(&cluster.path(0).join("file"), &content));
}

#[test]
fn a_share_grows_into_better_geometry_and_gives_back_what_is_deleted() {
    let mut cluster = Cluster::loopback(3);
    start(&mut cluster, 0);
    mounted(&mut cluster, "survive:2");
    let content = tree::noise(9, 4 << 20);
    fs::write(cluster.path(0).join("file"), &content).unwrap();
    assert_eq!(groups(&cluster, 0)[0]["geometry"], "1 copy");
    (1..3).for_each(|i| start(&mut cluster, i));
    cluster.all_in_sight();
    cluster.wait_until(HEALED, "what was written before has the redundancy of three machines", |c| {
        all_goldilocks(c, 0) && groups(c, 0).iter().all(|group| group["geometry"] == "2+1")
    });
    cluster.kill(2);
    let mountpoint = cluster.mount(1);
    assert!(same(&mountpoint.join("file"), &content));
    cluster.restart(2);
    cluster.all_in_sight();
    fs::remove_file(mountpoint.join("file")).unwrap();
    cluster.wait_until(FREED, "the space of what was deleted is back", |c| {
        let status = c.status(0);
        status["peers_answered"] == 3 && status["stored_bytes"].as_u64().unwrap() < content.len() as u64 / 100
    });
}

#[test]
fn rot_that_a_read_meets_is_rebuilt() {
    let mut cluster = impatient(3, "replicate:3");
    let content = tree::noise(10, 8 << 20);
    fs::write(cluster.path(0).join("file"), &content).unwrap();
    cluster.kill(1);
    let spoilt = tree::flip_shards(&cluster.home(1)) as u64;
    assert!(spoilt > 0, "there are shards to spoil");
    // Its own copy is the first one that a reader tries.
    let mountpoint = cluster.mount(1);
    assert!(same(&mountpoint.join("file"), &content), "what is rotten here is read from others");
    cluster.wait_until(HEALED, "what is rotten was found and is rebuilt", |c| {
        let scrub = &c.status(1)["scrub"];
        scrub["rot_found"].as_u64() >= Some(spoilt) && scrub["rot_mended"] == scrub["rot_found"]
    });
    cluster.kill_all(&[0, 1, 2]);
    cluster.mount(1);
    assert!(same(&mountpoint.join("file"), &content), "the copy that was rotten is whole");
}

/// Gives a machine that does not run yet a disk of so many MiB.
fn small_disk(cluster: &Cluster, i: usize, mib: usize) {
    assert!(tree::is_root(), "this test mounts a small disk, and needs root for that");
    let home = cluster.home(i);
    fs::create_dir_all(&home).unwrap();
    tool(&["mount", "-t", "tmpfs", "-o", &format!("size={mib}m,mode=0700"), "small", home.to_str().unwrap()]);
    fs::write(home.join("config.toml"), "reserve_percent = 1\nreserve_bytes = '1 MiB'\n").unwrap();
}

#[test]
fn a_disk_that_is_nearly_full_is_passed_over() {
    let mut cluster = Cluster::loopback(4);
    // The writer's, which takes a copy of everything as long as it can.
    small_disk(&cluster, 0, 96);
    (0..4).for_each(|i| start(&mut cluster, i));
    cluster.all_in_sight();
    mounted(&mut cluster, "replicate:2");
    let name = |i: u64| format!("file-{i}");
    let files = 40;
    for i in 0..files {
        fs::write(cluster.path(0).join(name(i)), tree::noise(i + 100, 8 << 20)).unwrap();
    }
    let peers = cluster.json(0, &["peers"]);
    let full = peers.as_array().unwrap().iter().find(|peer| peer["here"] == true).unwrap();
    assert!(full["stored_bytes"].as_u64().unwrap() > 64 << 20, "it took what it could: {full}");
    let last = cluster.json(0, &["where", cluster.path(0).join(name(files - 1)).to_str().unwrap()]);
    let shards = last["blocks"].as_array().unwrap().iter().flat_map(|block| block["shards"].as_array().unwrap());
    let holders: BTreeSet<&str> = shards.map(|shard| shard["peer"].as_str().unwrap()).collect();
    assert!(holders.len() == 2 && !holders.contains(full["id"].as_str().unwrap()), "passed over: {last}");
    cluster.wait_until(HEALED, "all files have their two copies", |c| all_goldilocks(c, 0));
    cluster.kill(1);
    for i in 0..files {
        assert!(same(&cluster.path(0).join(name(i)), &tree::noise(i + 100, 8 << 20)), "file {i}");
    }
}

#[test]
fn a_full_share_says_so_loses_nothing_and_takes_files_again_when_some_are_deleted() {
    let mut cluster = Cluster::loopback(3);
    (0..3).for_each(|i| small_disk(&cluster, i, 96));
    (0..3).for_each(|i| start(&mut cluster, i));
    cluster.all_in_sight();
    mounted(&mut cluster, "replicate:2");
    let (dir, elsewhere) = (cluster.path(0), cluster.mount(1));
    let name = |i: u64| format!("file-{i}");
    let content = |i: u64| tree::noise(i + 200, 8 << 20);
    let write = |i: u64| tree::write_closed(&dir.join(name(i)), &content(i));
    let (last, error) = (0..40).find_map(|i| write(i).err().map(|error| (i, error))).expect("288 MiB take no 640 MiB");
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{error}");
    for i in 0..last {
        assert!(same(&elsewhere.join(name(i)), &content(i)), "file {i} of {last} was acknowledged");
    }
    // What could not be written is the beginning of the file, or nothing; it is never anything else.
    let part = fs::read(elsewhere.join(name(last))).unwrap_or_default();
    assert!(content(last).starts_with(&part), "{} bytes of the last file are wrong", part.len());
    assert!(last > 4, "only {last} files of 8 MiB fit in two copies on 288 MiB");
    (0..last / 2).chain([last]).for_each(|i| fs::remove_file(dir.join(name(i))).unwrap());
    cluster.wait_until(FREED, "there is room again", |_| {
        let fits = write(last).is_ok();
        if !fits {
            std::thread::sleep(Duration::from_secs(2));
        }
        fits
    });
    for i in last / 2..=last {
        assert!(same(&elsewhere.join(name(i)), &content(i)), "file {i}");
    }
}

#[test]
fn a_slot_moves_to_an_empty_disk_that_comes_and_then_all_stay() {
    let mut cluster = Cluster::loopback(3);
    (0..3).for_each(|i| small_disk(&cluster, i, 96));
    (0..2).for_each(|i| start(&mut cluster, i));
    cluster.all_in_sight();
    mounted(&mut cluster, "replicate:2");
    cluster.mount(1);
    // Each writer has a group of its own, with a third of a disk in each slot.
    let content = |i: usize| tree::noise(i as u64 + 300, 30 << 20);
    (0..2).for_each(|i| fs::write(cluster.path(i).join(format!("file-{i}")), content(i)).unwrap());
    let slots_of = |c: &Cluster, i: usize| {
        let slots = groups(c, 0).into_iter().flat_map(|group| group["slots"].as_array().unwrap().clone());
        let seats = slots.flat_map(|slot| slot["participants"].as_array().unwrap().clone());
        seats.filter(|seat| seat["peer"] == id(c, i)).count()
    };
    assert_eq!([0, 1].map(|i| slots_of(&cluster, i)), [2, 2]);
    start(&mut cluster, 2);
    cluster.all_in_sight();
    cluster.wait_until(HEALED, "one slot has moved", |c| slots_of(c, 2) == 1 && all_goldilocks(c, 0));
    // A second one would only make this disk as full as the fullest.
    std::thread::sleep(Duration::from_secs(10));
    assert!(slots_of(&cluster, 2) == 1 && all_goldilocks(&cluster, 0));
    cluster.kill(0);
    (0..2).for_each(|i| assert!(same(&cluster.path(1).join(format!("file-{i}")), &content(i)), "file {i}"));
}
