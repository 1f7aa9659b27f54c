//! Machines whose clocks are wrong.

use crate::harness::{BOUND, Cluster};
use serde_json::Value;
use std::fs;

/// What machine `i` says of the clock of machine `j`, in milliseconds.
fn clock_of(cluster: &Cluster, i: usize, j: usize) -> Option<i64> {
    let name = format!("peer{j}");
    let peers = cluster.json(i, &["peers"]);
    let peer = peers.as_array().unwrap().iter().find(|peer| peer["name"] == name.as_str()).cloned();
    peer.unwrap_or_default()["clock_ahead_ms"].as_i64()
}

#[test]
fn clocks_four_minutes_off_either_way_change_nothing_and_one_an_hour_off_is_named() {
    let mut cluster = Cluster::loopback(3);
    for (i, ahead) in [-240, 0, 240].into_iter().enumerate() {
        cluster.set_clock(i, ahead);
    }
    cluster.form(3);
    let mounts: Vec<_> = (0..3).map(|i| cluster.mount(i)).collect();
    fs::write(mounts[2].join("0"), b"").unwrap();
    for step in 0..30 {
        // Each does something to what the one before has just done.
        let (here, next) = (&mounts[step % 3], &mounts[(step + 1) % 3]);
        let (from, to) = (here.join(step.to_string()), here.join((step + 1).to_string()));
        fs::write(&from, format!("written in step {step}")).unwrap();
        fs::rename(from, to).unwrap();
        let read = fs::read_to_string(next.join((step + 1).to_string())).unwrap();
        assert_eq!(read, format!("written in step {step}"));
    }
    for mount in &mounts {
        let names: Vec<_> = fs::read_dir(mount).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["30"], "one file, under its last name");
    }
    cluster.wait_until(BOUND, "each clock is compared", |c| {
        clock_of(c, 0, 2).is_some_and(|ahead| ahead.abs_diff(480_000) < 10_000)
    });
    assert!(clock_of(&cluster, 2, 1).unwrap().abs_diff(-240_000) < 10_000);

    // One goes wrong by an hour: what it does is left out and reported, and the others go on.
    cluster.set_clock(2, 3600);
    let wrong = mounts[2].join("from an hour on");
    let writer = std::thread::spawn(move || fs::write(wrong, b"early"));
    cluster.wait_until(BOUND, "the others name it", |c| {
        let said = c.status(0)["refused"].as_array().cloned().unwrap_or_default();
        let names = |report: &Value| report["who"].as_str().is_some_and(|who| who.starts_with("peer2 ("));
        said.iter().any(|report| names(report) && report["what"].as_str().unwrap().contains("left out"))
    });
    cluster.wait_until(BOUND, "it knows that its clock is the wrong one", |c| {
        c.status(2)["clock_ahead_ms"].as_i64().is_some_and(|ahead| ahead > 3_000_000)
    });
    let shown = cluster.run(0, &["status"]).ok();
    assert!(shown.contains("The clock of peer2 is"), "{shown}");
    assert!(cluster.run(2, &["status"]).ok().contains("This machine's clock is"));
    fs::write(mounts[0].join("meanwhile"), b"meanwhile").unwrap();
    assert_eq!(fs::read(mounts[1].join("meanwhile")).unwrap(), b"meanwhile");
    assert!(!mounts[0].join("from an hour on").exists());

    // Once all are right, all of it is there.
    (0..3).for_each(|i| cluster.set_clock(i, 0));
    cluster.wait_until(BOUND * 2, "its changes are there", |c| {
        let there = |i: usize| fs::read(c.path(i).join("from an hour on")).is_ok_and(|bytes| bytes == b"early");
        there(0) && there(1)
    });
    // Whether its close waited long enough for that is all the same.
    let _ = writer.join().unwrap();
    fs::write(mounts[2].join("in time"), b"in time").unwrap();
    assert_eq!(fs::read(mounts[0].join("in time")).unwrap(), b"in time");
    cluster.wait_until(BOUND, "nobody calls it wrong any more", |c| {
        clock_of(c, 1, 2).is_none() && c.status(2)["clock_ahead_ms"].is_null()
    });
}
