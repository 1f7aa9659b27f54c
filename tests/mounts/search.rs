//! Shards that lie elsewhere than every record says are found all the same.

use crate::harness::{Cluster, tree};
use std::fs;
use std::time::{Duration, Instant};

/// A search of three rounds for each of a few blocks, on a busy machine.
const FOUND: Duration = Duration::from_secs(30);

#[test]
fn shards_that_lie_elsewhere_than_all_records_say_are_found() {
    let machines = 4;
    let mut cluster = Cluster::share(machines);
    let mountpoint = cluster.mount(0);
    cluster.run(0, &["policy", mountpoint.to_str().unwrap(), "rs:2+1"]).ok();
    let content = tree::noise(11, 5 << 20);
    fs::write(mountpoint.join("file"), &content).unwrap();
    (0..machines).for_each(|i| cluster.stop(i));
    // Each machine has the disk of the one before it.
    let store = |i: usize| cluster.home(i).join("shards");
    let aside = cluster.scratch("shards");
    fs::rename(store(machines - 1), &aside).unwrap();
    (1..machines).rev().for_each(|i| fs::rename(store(i - 1), store(i)).unwrap());
    fs::rename(&aside, store(0)).unwrap();
    (0..machines).for_each(|i| cluster.restart(i));
    cluster.all_in_sight();
    let mut searched = false;
    for i in 1..3 {
        let file = cluster.mount(i).join("file");
        let started = Instant::now();
        assert!(fs::read(file).is_ok_and(|found| found == content), "on machine {i}");
        assert!(started.elapsed() < FOUND, "on machine {i} it took {:?}", started.elapsed());
        searched |= (0..machines).any(|i| cluster.log(i).contains("found by a search"));
    }
    assert!(searched, "nothing was searched for");
}
