//! Stopping, starting, and what a peer costs while it only waits.

use crate::harness::{BOUND, Cluster, PATIENCE, full_size, memory_kib, run, tree};
use std::fs;
use std::io::{Read, Write};
use std::process::Command;

#[test]
fn a_stopped_share_starts_again_with_everything_in_it() {
    let mut cluster = Cluster::share(3);
    let mount = cluster.mount(0);
    let source = cluster.scratch("source").join("tree");
    tree::plant(&source, 150);
    crate::share::copy(&source, &mount.join("tree"));
    let expected = tree::survey(&source);
    (0..3).for_each(|i| cluster.stop(i));
    (0..3).for_each(|i| cluster.restart(i));
    cluster.all_in_sight();
    let other = cluster.mount(1);
    tree::assert_same("after stop and start", &expected, &tree::survey(&other.join("tree")));
    // And after the power failed: what was closed is at several peers, and their logs were synced at stop.
    cluster.kill_all(&[0, 1, 2]);
    (0..3).for_each(|i| cluster.restart(i));
    cluster.all_in_sight();
    tree::assert_same("after a crash of all", &expected, &tree::survey(&mount.join("tree")));
}

#[test]
fn a_peer_that_still_waits_for_the_others_stops_when_it_is_told_to() {
    let mut cluster = Cluster::share(2);
    cluster.kill_all(&[0, 1]);
    cluster.serve(0);
    cluster.stop(0);
}

#[test]
fn a_background_mount_returns_when_it_answers_and_stops_cleanly() {
    let mut cluster = Cluster::loopback(1);
    cluster.init(0);
    let mount = cluster.path(0);
    let text = mount.to_str().unwrap();
    cluster.run(0, &["mount", text]).ok();
    // It has returned, so the mount answers: no waiting here.
    fs::write(mount.join("file"), b"at once").unwrap();
    assert!(cluster.is_mounted(0));
    cluster.run(0, &["unmount", text]).ok();
    assert!(!cluster.is_mounted(0), "unmount lets go before it returns");
    assert_eq!(cluster.run(0, &["status"]).code, Some(0), "the peer goes on without its mount");
    cluster.run(0, &["mount", text]).ok();
    assert_eq!(fs::read(mount.join("file")).unwrap(), b"at once");
    cluster.run(0, &["stop"]).ok();
    assert!(!cluster.is_mounted(0), "stop takes the mount away");
    cluster.wait_until(BOUND, "the peer is gone", |c| c.run(0, &["status"]).code == Some(1));
}

#[test]
fn sigterm_and_umount_do_what_stop_and_unmount_do() {
    let mut cluster = Cluster::share(2);
    let (a, b) = (cluster.mount(0), cluster.mount(1));
    fs::write(a.join("file"), tree::noise(1, 3 << 20)).unwrap();
    run(Command::new("umount").arg(&a), PATIENCE).ok();
    cluster.wait_until(BOUND, "the peer lives on", |c| c.run(0, &["status"]).code == Some(0) && !c.is_mounted(0));
    cluster.mount(0);
    assert!(fs::read(a.join("file")).unwrap() == tree::noise(1, 3 << 20));
    let (code, said) = cluster.terminate(0);
    assert_eq!(code, Some(0), "{said}");
    assert!(!cluster.is_mounted(0), "SIGTERM takes the mount away");
    assert!(fs::read(b.join("file")).unwrap() == tree::noise(1, 3 << 20));
    cluster.restart(0);
    assert!(fs::read(a.join("file")).unwrap() == tree::noise(1, 3 << 20));
}

#[test]
fn stopping_with_a_file_still_open_keeps_what_was_written() {
    let mut cluster = Cluster::share(2);
    let (a, b) = (cluster.mount(0), cluster.mount(1));
    let mut open = fs::File::create(a.join("open")).unwrap();
    open.write_all(&tree::noise(1, 300_000)).unwrap();
    cluster.run(0, &["stop"]).ok();
    drop(open);
    assert!(fs::read(b.join("open")).unwrap() == tree::noise(1, 300_000));
}

/// Exit code 1 and one line that says which file is not safe.
#[track_caller]
fn says_what_is_not_safe(code: Option<i32>, said: &str, file: &str) {
    assert_eq!(code, Some(1), "{said}");
    let lines: Vec<&str> =
        said.lines().filter(|line| line.starts_with("shoal: ") && line.contains("not safe")).collect();
    assert!(lines.len() == 1 && lines[0].contains(file) && lines[0].contains("space"), "{file}: {said}");
}

#[test]
fn what_cannot_be_made_safe_is_said_by_unmount_stop_and_sigterm() {
    let mut cluster = Cluster::loopback(1);
    cluster.small_disk(0, 64);
    cluster.init(0);
    let mount = cluster.mount(0);
    let fill = |i: u64| tree::write_closed(&mount.join(format!("fill-{i}")), &tree::noise(i + 10, 500_000)).is_err();
    assert!((0..200).any(fill), "a disk of 64 MiB cannot take 100 MB");
    let unsaved = |name: &str| {
        let file = fs::File::create(mount.join(name)).unwrap();
        // Less than what is written out at once: the writer is not told yet.
        (&file).write_all(&tree::noise(2, 900_000)).unwrap();
        file
    };
    let open = unsaved("one");
    let ran = cluster.run(0, &["unmount", mount.to_str().unwrap()]);
    assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
    says_what_is_not_safe(ran.code, &ran.stderr, "/one");
    assert!(!cluster.is_mounted(0), "it lets go all the same");
    drop(open);
    cluster.mount(0);
    let open = unsaved("two");
    let ran = cluster.run(0, &["stop"]);
    assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
    says_what_is_not_safe(ran.code, &ran.stderr, "/two");
    drop(open);
    cluster.restart(0);
    let open = unsaved("three");
    let (code, said) = cluster.terminate(0);
    says_what_is_not_safe(code, &said, "/three");
    drop(open);
    cluster.restart(0);
    assert!(fs::read(mount.join("fill-3")).unwrap() == tree::noise(13, 500_000));
}

#[test]
fn stopping_with_a_file_still_mapped_keeps_what_was_changed() {
    use std::os::fd::AsRawFd;
    let len = 1 << 20;
    let mut cluster = Cluster::share(2);
    let (a, b) = (cluster.mount(0), cluster.mount(1));
    let file = fs::File::options().read(true).write(true).create_new(true).open(a.join("mapped")).unwrap();
    file.set_len(len as u64).unwrap();
    // SAFETY: the mapping is `len` bytes of a file that is `len` bytes long, and is used only here. It is left to
    // the end of the process: nobody serves it after the stop.
    unsafe {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let map = libc::mmap(std::ptr::null_mut(), len, access, libc::MAP_SHARED, file.as_raw_fd(), 0);
        assert_ne!(map, libc::MAP_FAILED, "mmap: {}", std::io::Error::last_os_error());
        std::ptr::write_bytes(map.cast::<u8>(), 7, len);
    }
    cluster.run(0, &["stop"]).ok();
    let found = fs::read(b.join("mapped")).unwrap();
    assert!(found.len() == len && found.iter().all(|byte| *byte == 7), "what was mapped is flushed too");
}

#[test]
fn an_idle_peer_takes_under_64_mib_and_a_copy_under_512() {
    let mut cluster = Cluster::share(6);
    cluster.mount(0);
    for i in 0..6 {
        let resident = memory_kib(cluster.pid(i), "VmRSS:");
        assert!(resident < 64 * 1024, "peer{i} takes {resident} KiB when idle");
    }
    let megabytes = if full_size() { 4096 } else { 384 };
    let mut file = fs::File::create(cluster.path(0).join("file")).unwrap();
    for i in 0..megabytes {
        file.write_all(&tree::noise(i + 1, 1 << 20)).unwrap();
    }
    drop(file);
    for i in 0..6 {
        let peak = memory_kib(cluster.pid(i), "VmHWM:");
        println!("peer{i} took at most {peak} KiB while {megabytes} MiB were copied");
        assert!(peak < 512 * 1024, "peer{i} took {peak} KiB during a copy");
    }
    // One that has done nothing but read, too.
    let reader = cluster.mount(5).join("file");
    let mut bytes = 0;
    let mut file = fs::File::open(reader).unwrap();
    let mut piece = vec![0; 1 << 20];
    while let Some(len) = Some(file.read(&mut piece).unwrap()).filter(|len| *len > 0) {
        bytes += len as u64;
    }
    assert_eq!(bytes, megabytes << 20);
    drop(file);
    cluster.wait_until(PATIENCE, "every peer is idle again and takes under 64 MiB", |c| {
        (0..6).all(|i| memory_kib(c.pid(i), "VmRSS:") < 64 * 1024)
    });
}

#[test]
fn a_killed_peer_comes_back_with_what_it_missed() {
    let mut cluster = Cluster::share(3);
    let (a, c) = (cluster.mount(0), cluster.mount(2));
    fs::write(a.join("before"), b"1").unwrap();
    cluster.kill(2);
    for i in 0..50 {
        fs::write(a.join(format!("missed-{i}")), tree::noise(i, 10_000)).unwrap();
    }
    fs::rename(a.join("before"), a.join("renamed")).unwrap();
    cluster.restart(2);
    cluster.wait_until(BOUND, "the peer has caught up", |_| c.join("renamed").exists());
    for i in 0..50 {
        assert!(fs::read(c.join(format!("missed-{i}"))).unwrap() == tree::noise(i, 10_000));
    }
    assert!(!c.join("before").exists());
}
