//! The promises a person relies on, each with the machine that would break them killed.

use crate::harness::{BOUND, Cluster, DETECTION, tool, tree};
use std::fs;
use std::path::Path;
use std::time::Instant;

fn cp(from: &Path, to: &Path) {
    tool(&["cp", from.to_str().unwrap(), to.to_str().unwrap()]);
}

#[test]
fn what_cp_has_written_outlives_its_machine_the_moment_cp_returns() {
    let mut cluster = Cluster::share(6);
    (0..6).for_each(|i| drop(cluster.mount(i)));
    let policies = ["survive:2", "rs:4+2", "replicate:3"];
    for policy in policies {
        let dir = cluster.path(0).join(policy);
        fs::create_dir(&dir).unwrap();
        cluster.run(0, &["policy", dir.to_str().unwrap(), policy]).ok();
    }
    let sizes = [0, 1, 4096, 4097, (1 << 20) - 1, (1 << 20) + 1, 12 << 20];
    for (round, size) in sizes.into_iter().enumerate() {
        let writer = round % 6;
        let source = cluster.scratch("source").join(format!("file-{size}"));
        // Another one is the last each time: what its machine is killed right after.
        let copies = [0, 1, 2].map(|n| format!("{}/copy-{size}", policies[(round + n) % policies.len()]));
        // Of other bytes each, or the second would only name the blocks of the first.
        let expected: Vec<String> = copies
            .iter()
            .zip(0u64..)
            .map(|(copy, n)| {
                fs::write(&source, tree::noise(10 * n + round as u64 + 1, size)).unwrap();
                cp(&source, &cluster.path(writer).join(copy));
                tree::sha256(&source)
            })
            .collect();
        cluster.kill(writer);
        for reader in (0..6).filter(|r| *r != writer) {
            for (copy, expected) in copies.iter().zip(&expected) {
                let found = tree::sha256(&cluster.path(reader).join(copy));
                assert_eq!(&found, expected, "{copy} from peer{writer}, read by peer{reader}");
            }
        }
        cluster.restart(writer);
        cluster.all_in_sight();
    }
}

#[test]
fn what_was_closed_outlives_the_writer_and_one_more() {
    let mut cluster = Cluster::share(6);
    (0..4).for_each(|i| drop(cluster.mount(i)));
    let bytes = tree::noise(9, 7 << 20);
    fs::write(cluster.path(0).join("file"), &bytes).unwrap();
    cluster.kill_all(&[0, 4]);
    for reader in 1..4 {
        assert!(fs::read(cluster.path(reader).join("file")).unwrap() == bytes, "read by peer{reader}");
    }
}

#[test]
fn what_was_fsynced_outlives_the_death_of_every_machine_at_once() {
    let mut cluster = Cluster::share(3);
    let mount = cluster.mount(0);
    cluster.mount(1);
    let mut open = Vec::new();
    for (i, size) in [0, 5, 4097, 3 << 20].into_iter().enumerate() {
        let file = fs::File::create(mount.join(format!("file-{i}"))).unwrap();
        std::io::Write::write_all(&mut &file, &tree::noise(i as u64 + 1, size)).unwrap();
        file.sync_all().unwrap();
        open.push(file);
    }
    // All are still open: it is fsync that must have made them safe, not close.
    cluster.kill_all(&[0, 1, 2]);
    drop(open);
    (0..3).for_each(|i| cluster.restart(i));
    cluster.all_in_sight();
    for (i, size) in [0, 5, 4097, 3 << 20].into_iter().enumerate() {
        let found = fs::read(cluster.path(1).join(format!("file-{i}"))).unwrap();
        assert!(found == tree::noise(i as u64 + 1, size), "file-{i}");
    }
}

#[test]
fn a_dead_peer_is_reported_dead_and_a_restarted_one_alive() {
    let mut cluster = Cluster::share(4);
    cluster.kill(3);
    cluster.wait_until(DETECTION, "a killed peer is known dead", |c| (0..3).all(|i| !c.sees_alive(i, 3)));
    let status = cluster.status(0);
    let peers = status["peers"].as_array().expect("status lists peers");
    assert!(peers.iter().all(|p| p["alive"] == (p["name"] != "peer3")), "{status}");
    cluster.restart(3);
    cluster.all_in_sight();
    cluster.pause(2);
    cluster.wait_until(DETECTION, "a frozen peer is known dead", |c| !c.sees_alive(0, 2) && !c.sees_alive(1, 2));
    cluster.resume(2);
    cluster.all_in_sight();
}

#[test]
fn reads_and_writes_go_on_within_their_bounds_while_a_peer_is_frozen() {
    let mut cluster = Cluster::share(6);
    let (a, b) = (cluster.mount(0), cluster.mount(1));
    let old = tree::noise(1, 16 << 20);
    fs::write(a.join("old"), &old).unwrap();
    // A frozen process holds its connections open and answers nothing: the worst kind of dead.
    cluster.pause(5);
    let timed = |what: &str, job: &dyn Fn()| {
        let started = Instant::now();
        job();
        assert!(started.elapsed() < BOUND, "{what} took {:?} beside a frozen peer", started.elapsed());
    };
    timed("a read", &|| assert!(fs::read(b.join("old")).unwrap() == old));
    timed("a write", &|| fs::write(a.join("new"), tree::noise(2, 16 << 20)).unwrap());
    timed("a small write", &|| fs::write(a.join("small"), b"small").unwrap());
    timed("mkdir", &|| fs::create_dir(a.join("dir")).unwrap());
    timed("a rename", &|| fs::rename(a.join("small"), a.join("dir/small")).unwrap());
    timed("fsync", &|| fs::File::open(a.join("new")).unwrap().sync_all().unwrap());
    timed("a read of what was just written", &|| {
        assert!(fs::read(b.join("new")).unwrap() == tree::noise(2, 16 << 20));
        assert_eq!(fs::read(b.join("dir/small")).unwrap(), b"small");
    });
    cluster.resume(5);
    cluster.all_in_sight();
    let c = cluster.mount(5);
    assert_eq!(fs::read(c.join("dir/small")).unwrap(), b"small");
}

#[test]
fn a_peer_that_dies_during_a_write_is_replaced_in_its_slot() {
    let mut cluster = Cluster::share(6);
    let (a, b) = (cluster.mount(0), cluster.mount(1));
    let bytes = tree::noise(77, 48 << 20);
    let target = a.join("file");
    let writing = std::thread::spawn({
        let bytes = bytes.clone();
        move || fs::write(target, bytes)
    });
    cluster.wait_until(BOUND, "the write is under way", |_| fs::metadata(a.join("file")).is_ok());
    cluster.kill(4);
    writing.join().unwrap().expect("a write survives the loss of a participant");
    cluster.kill(0);
    assert!(fs::read(b.join("file")).unwrap() == bytes);
}

#[test]
fn with_too_few_survivors_a_read_is_an_error_and_never_wrong_bytes() {
    let mut cluster = Cluster::share(6);
    let mount = cluster.mount(0);
    let dir = mount.join("dir");
    fs::create_dir(&dir).unwrap();
    cluster.run(0, &["policy", dir.to_str().unwrap(), "rs:4+2"]).ok();
    fs::write(dir.join("file"), tree::noise(5, 4 << 20)).unwrap();
    cluster.kill_all(&[0, 3, 4, 5]);
    cluster.restart(0);
    let started = Instant::now();
    let error = fs::read(mount.join("dir/file")).expect_err("three shards of four give no block");
    assert_eq!(error.raw_os_error(), Some(libc::EIO), "{error}");
    assert!(started.elapsed() < BOUND * 2, "the error took {:?}", started.elapsed());
    let shown = cluster.json(0, &["where", dir.join("file").to_str().unwrap()]);
    let log = cluster.log(0);
    let mut said = log.lines().filter(|line| line.contains("a block cannot be read"));
    let names = |line: &str, block: &serde_json::Value| {
        let named = |field: &str| line.contains(block[field].as_str().expect("a text"));
        let asked = |shard: &serde_json::Value| line.contains(shard["peer"].as_str().expect("a text"));
        named("block") && named("group") && block["shards"].as_array().expect("a list").iter().all(asked)
    };
    let blocks = shown["blocks"].as_array().expect("a list of blocks");
    assert!(said.any(|line| blocks.iter().any(|block| names(line, block))), "{shown}\n{log}");
    cluster.restart(3);
    cluster.wait_until(BOUND, "with a fourth shard the file is back", |_| {
        fs::read(mount.join("dir/file")).is_ok_and(|found| found == tree::noise(5, 4 << 20))
    });
}

#[test]
fn rot_on_one_disk_changes_no_byte_that_is_read() {
    let mut cluster = Cluster::share(3);
    let mount = cluster.mount(0);
    let bytes = tree::noise(6, 8 << 20);
    fs::write(mount.join("file"), &bytes).unwrap();
    cluster.kill_all(&[0, 1]);
    let flipped = tree::flip_shards(&cluster.home(1));
    assert!(flipped > 0, "no shard files were found in {}", cluster.home(1).display());
    cluster.restart(1);
    cluster.restart(0);
    cluster.all_in_sight();
    assert!(fs::read(mount.join("file")).unwrap() == bytes, "rot in {flipped} files of peer1 showed through");
}
