//! The same on machines with a network of their own: dead, silent, cut off and come back.

use crate::harness::{BOUND, Cluster, DETECTION, PATIENCE, tree};
use crate::share::files_survive_two_dead_machines;
use std::fs;
use std::time::Instant;

#[test]
fn six_machines_carry_a_tree_through_the_death_of_any_two() {
    let mut cluster = Cluster::namespaces(6, 1);
    cluster.form(6);
    files_survive_two_dead_machines(&mut cluster);
}

#[test]
fn a_machine_without_its_cable_is_known_dead_and_comes_back_by_itself() {
    let mut cluster = Cluster::namespaces(6, 1);
    cluster.form(6);
    let (a, b) = (cluster.mount(0), cluster.mount(1));
    let before = tree::noise(1, 5 << 20);
    fs::write(a.join("before"), &before).unwrap();
    cluster.cut(5);
    cluster.wait_until(DETECTION, "the cut-off peer is known dead", |c| !c.sees_alive(0, 5) && !c.sees_alive(1, 5));
    // The others go on: what is written now reaches every machine that is there.
    let during = tree::noise(2, 5 << 20);
    fs::write(b.join("during"), &during).unwrap();
    assert_eq!(fs::read(a.join("during")).unwrap(), during);
    assert_eq!(fs::read(b.join("before")).unwrap(), before);
    cluster.mend(5);
    cluster.wait_until(BOUND, "the mended peer is back", |c| (0..5).all(|i| c.sees_alive(i, 5) && c.sees_alive(5, i)));
    let c = cluster.mount(5);
    assert_eq!(fs::read(c.join("during")).unwrap(), during);
    fs::write(c.join("after"), b"from the one who was away").unwrap();
    assert_eq!(fs::read(a.join("after")).unwrap(), b"from the one who was away");
}

#[test]
fn a_read_ends_within_its_bound_when_participants_fall_silent() {
    let mut cluster = Cluster::namespaces(6, 1);
    cluster.form(6);
    let (a, b) = (cluster.mount(0), cluster.mount(1));
    let bytes = tree::noise(3, 20 << 20);
    fs::write(a.join("file"), &bytes).unwrap();
    cluster.cut(4);
    cluster.cut(5);
    let started = Instant::now();
    assert!(fs::read(b.join("file")).unwrap() == bytes, "two silent machines change no byte");
    assert!(started.elapsed() < BOUND, "the read took {:?}", started.elapsed());
}

#[test]
fn a_machine_left_alone_answers_with_an_error_and_never_hangs() {
    let mut cluster = Cluster::namespaces(3, 1);
    cluster.form(3);
    let (a, b) = (cluster.mount(0), cluster.mount(1));
    let dir = a.join("far");
    fs::create_dir(&dir).unwrap();
    cluster.run(0, &["policy", dir.to_str().unwrap(), "rs:2+1"]).ok();
    let bytes = tree::noise(4, 6 << 20);
    fs::write(dir.join("file"), &bytes).unwrap();
    fs::write(a.join("seen"), b"x").unwrap();
    assert!(b.join("far/file").exists());
    cluster.cut(1);
    let started = Instant::now();
    let read = fs::read(b.join("far/file"));
    assert!(started.elapsed() < BOUND * 2, "the read took {:?}", started.elapsed());
    match read {
        Ok(found) => assert!(found == bytes, "wrong bytes are worse than an error"),
        Err(e) => assert_eq!(e.raw_os_error(), Some(libc::EIO), "{e}"),
    }
    cluster.mend(1);
    cluster.wait_until(BOUND, "the machine is back", |c| c.sees_alive(0, 1) && c.sees_alive(1, 0));
    assert!(fs::read(b.join("far/file")).unwrap() == bytes);
}

#[test]
fn any_one_of_three_subnets_may_be_lost() {
    let mut cluster = Cluster::namespaces(6, 3);
    cluster.form(6);
    let mounts: Vec<_> = (0..3).map(|i| cluster.mount(i)).collect();
    cluster.run(0, &["policy", mounts[0].to_str().unwrap(), "rs:4+2"]).ok();
    let bytes = tree::noise(5, 9 << 20);
    fs::write(mounts[0].join("file"), &bytes).unwrap();
    assert!(fs::read(mounts[1].join("file")).unwrap() == bytes);
    crate::groups::three_shards_lie_apart(&cluster, &mounts, |i| i % 3);
    for lost in 0..3 {
        let (gone, reader) = ([lost, lost + 3], (lost + 1) % 3);
        gone.iter().for_each(|i| cluster.cut(*i));
        cluster.wait_until(DETECTION, "both are known dead", |c| gone.iter().all(|i| !c.sees_alive(reader, *i)));
        // A reader that has just started has nothing in its memory.
        cluster.restart(reader);
        assert!(fs::read(mounts[reader].join("file")).unwrap() == bytes, "without subnet {lost}");
        gone.iter().for_each(|i| cluster.mend(*i));
        cluster.all_in_sight();
    }
}

#[test]
fn machines_whose_addresses_change_one_after_the_other_find_one_another() {
    let mut cluster = Cluster::namespaces(4, 1);
    cluster.form(3);
    (0..3).for_each(|i| cluster.stop(i));
    (0..3).for_each(|i| cluster.move_to(i, "0.0.0.0:7400"));
    (0..3).for_each(|i| cluster.restart(i));
    cluster.all_in_sight();
    // In the end none of them has an address that any other knew at the beginning.
    for i in [2, 1, 0] {
        cluster.readdress(i);
        cluster.wait_until(PATIENCE, "the peer with the new address was missed and is back", |c| {
            let shown = c.run((i + 1) % 3, &["peers"]).stdout;
            shown.contains(&c.address(i)) && (0..3).all(|j| c.sees_alive(i, j) && c.sees_alive(j, i))
        });
    }
    let ticket = cluster.invite(0);
    cluster.join(3, &ticket);
    let (a, b) = (cluster.mount(1), cluster.mount(3));
    cluster.all_in_sight();
    fs::write(a.join("file"), tree::noise(1, 2 << 20)).unwrap();
    assert!(fs::read(b.join("file")).unwrap() == tree::noise(1, 2 << 20));
}
