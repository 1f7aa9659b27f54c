//! Bad input: one line that says what is wrong and what to do, exit code 1 (2 for wrong usage), nothing lost.

use crate::harness::{BOUND, Cluster, PATIENCE, Ran, SHOAL, run, tool, tree};
use std::fs;
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

#[track_caller]
fn refused(ran: Ran, words: &[&str]) {
    assert_eq!(ran.code, Some(1), "`{}`\n{}{}", ran.line, ran.stdout, ran.stderr);
    let message = ran.stderr.trim();
    assert_eq!(message.lines().count(), 1, "one line says it: {message}");
    let lower = message.to_lowercase();
    assert!(words.iter().all(|w| lower.contains(w)), "not all of {words:?} in: {message}");
    assert!(!lower.contains("panicked"), "{message}");
}

#[track_caller]
fn wrong_usage(ran: Ran) {
    assert_eq!(ran.code, Some(2), "`{}`\n{}{}", ran.line, ran.stdout, ran.stderr);
    assert!(!ran.stderr.is_empty() && !ran.stderr.contains("panicked"), "{}", ran.stderr);
}

/// A machine that founded a share and does not run.
fn a_home() -> Cluster {
    let mut cluster = Cluster::loopback(2);
    cluster.init(0);
    cluster
}

#[test]
fn a_mountpoint_must_exist_be_empty_and_be_free() {
    let mut cluster = a_home();
    let dir = cluster.scratch("mountpoints");
    let text = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    refused(cluster.run(0, &["mount", &text("missing")]), &["missing", "mkdir -p"]);
    fs::create_dir(dir.join("full")).unwrap();
    fs::write(dir.join("full/file"), b"x").unwrap();
    refused(cluster.run(0, &["mount", &text("full")]), &["not empty"]);
    fs::write(dir.join("file"), b"x").unwrap();
    refused(cluster.run(0, &["mount", &text("file")]), &["director"]);
    let mount = cluster.mount(0);
    refused(cluster.run(0, &["mount", mount.to_str().unwrap()]), &["already", "mount"]);
    assert!(cluster.is_mounted(0), "the mount that was there is untouched");
}

#[test]
fn a_home_is_founded_once() {
    let cluster = a_home();
    let before = tree::survey(&cluster.home(0));
    refused(cluster.run(0, &["init"]), &["already"]);
    let ticket = "shoal-ticket";
    let ran = cluster.run(0, &["join", ticket]);
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    tree::assert_same("what was refused changed nothing", &before, &tree::survey(&cluster.home(0)));
}

#[test]
fn commands_without_a_home_or_a_running_peer_say_so() {
    let mut cluster = a_home();
    for args in [&["status"][..], &["serve", "--foreground"], &["invite"], &["peers"], &["stop"]] {
        let ran = cluster.run(1, args);
        assert_eq!(ran.code, Some(1), "`{}`: {}", ran.line, ran.stderr);
        let message = ran.stderr.to_lowercase();
        assert!(message.contains("init") || message.contains("join") || message.contains("running"), "{message}");
    }
    for args in [&["status"][..], &["groups"], &["invite"]] {
        refused(cluster.run(0, args), &["no peer is running"]);
    }
    let mount = cluster.mount(0);
    refused(cluster.run(0, &["where", mount.join("missing").to_str().unwrap()]), &["missing"]);
    refused(cluster.run(0, &["where", "/no/such/file"]), &["/no/such/file"]);
    refused(cluster.run(0, &["unmount", "/"]), &["/"]);
}

#[test]
fn a_home_that_another_running_peer_holds_is_refused() {
    let mut cluster = a_home();
    cluster.serve(0);
    refused(cluster.run(0, &["serve", "--foreground"]), &["running"]);
    assert_eq!(cluster.run(0, &["status"]).code, Some(0), "the running one goes on");
}

#[test]
fn a_home_of_another_owner_is_refused() {
    let cluster = a_home();
    assert!(tree::is_root(), "this test gives a home to another user, and needs root for that");
    tool(&["chown", "-R", "12345", cluster.home(0).to_str().unwrap()]);
    refused(cluster.run(0, &["serve", "--foreground"]), &["belongs to"]);
}

#[test]
fn a_damaged_or_newer_home_is_refused_and_left_alone() {
    let mut cluster = a_home();
    let home = cluster.home(0);
    assert_eq!(fs::metadata(&home).unwrap().permissions().mode() & 0o077, 0, "a home is its owner's alone");
    for (file, content, words) in [
        ("format", "shoal 999\n", &["version 999", "upgrade"][..]),
        ("format", "\u{1}\u{2}\u{3}", &["damaged"]),
        ("key", "no key", &["key"]),
        ("share", "", &["damaged"]),
        ("config.toml", "detection_ms = 'soon'\n", &["config.toml", "line 1"]),
    ] {
        let good = fs::read(home.join(file)).unwrap();
        fs::write(home.join(file), content).unwrap();
        let before = tree::survey(&home);
        let mut serve = cluster.shoal(0, &["serve", "--foreground"]);
        refused(run(&mut serve, PATIENCE), words);
        let after = tree::survey(&home);
        let kept = before.iter().filter(|(path, _)| !path.is_empty() && *path != b"lock");
        kept.for_each(|(path, facts)| assert_eq!(after.get(path), Some(facts), "{}", String::from_utf8_lossy(path)));
        fs::write(home.join(file), good).unwrap();
    }
    cluster.serve(0);
}

#[test]
fn a_log_a_tree_or_invitations_that_rotted_are_named_and_left_alone() {
    let mut cluster = Cluster::loopback(1);
    cluster.init(0);
    cluster.serve(0);
    cluster.invite(0);
    cluster.stop(0);
    let home = cluster.home(0);
    let log = fs::read_dir(home.join("log")).unwrap().next().unwrap().unwrap().path();
    let log = log.strip_prefix(&home).unwrap().to_str().unwrap().to_owned();
    for file in [log.as_str(), "tree.redb", "invitations"] {
        let good = fs::read(home.join(file)).unwrap();
        let rotten = tree::noise(9, good.len().max(5000));
        fs::write(home.join(file), &rotten).unwrap();
        let mut serve = cluster.shoal(0, &["serve", "--foreground"]);
        let ran = run(&mut serve, PATIENCE);
        refused(ran, &["damaged", file]);
        assert!(fs::read(home.join(file)).unwrap() == rotten, "{file} is left for whoever can mend it");
        fs::write(home.join(file), good).unwrap();
    }
    cluster.serve(0);
}

#[test]
fn a_home_whose_log_was_taken_away_does_not_start_as_if_nothing_had_been_in_it() {
    let mut cluster = Cluster::loopback(1);
    cluster.init(0);
    let mount = cluster.mount(0);
    fs::write(mount.join("kept"), b"before the checkpoint").unwrap();
    cluster.stop(0);
    cluster.mount(0);
    fs::write(mount.join("last"), b"in the log alone").unwrap();
    cluster.kill(0);
    let (log, away) = (cluster.home(0).join("log"), cluster.home(0).join("log.away"));
    fs::rename(&log, &away).unwrap();
    for there in [false, true] {
        if there {
            fs::create_dir(&log).unwrap();
        }
        refused(cluster.run(0, &["serve", "--foreground"]), &["damaged", "log", "put it back", "shoal join"]);
    }
    fs::remove_dir(&log).unwrap();
    fs::rename(&away, &log).unwrap();
    cluster.mount(0);
    assert_eq!(fs::read(mount.join("last")).unwrap(), b"in the log alone");
}

#[test]
fn without_a_fuse_device_a_mount_is_refused_and_a_peer_without_one_is_not() {
    let mut cluster = a_home();
    let mount = cluster.path(0);
    let shoal = |args: &str| {
        // What a container without the device has there.
        let script = format!("mount --bind /dev/null /dev/fuse && exec '{}' {args}", *SHOAL);
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &script]).env("SHOAL_HOME", cluster.home(0));
        run(&mut command, PATIENCE)
    };
    refused(shoal(&format!("mount {}", mount.display())), &["/dev/fuse", "modprobe fuse"]);
    refused(shoal(&format!("mount {} --foreground", mount.display())), &["/dev/fuse", "modprobe fuse"]);
    assert_eq!(cluster.run(0, &["status"]).code, Some(1), "what could not mount does not stay behind");
    shoal("serve").ok();
    refused(cluster.run(0, &["mount", mount.to_str().unwrap()]), &["/dev/fuse"]);
    cluster.run(0, &["stop"]).ok();
    cluster.mount(0);
}

#[test]
fn an_address_in_use_is_refused() {
    let mut cluster = a_home();
    let taken = UdpSocket::bind(cluster.listen(0)).unwrap();
    refused(cluster.run(0, &["serve", "--foreground"]), &["in use", "config.toml"]);
    refused(cluster.run(1, &["init", "--listen", &cluster.listen(0)]), &["in use", "--listen"]);
    assert!(!cluster.home(1).exists(), "a refused init leaves no home");
    drop(taken);
    cluster.serve(0);
}

#[test]
fn a_policy_that_is_none_or_too_wide_is_refused() {
    let mut cluster = Cluster::loopback(2);
    cluster.init(0);
    let mount = cluster.mount(0);
    let dir = mount.to_str().unwrap().to_owned();
    let nonsense = ["raid:5", "rs:4", "rs:0+2", "rs:4+0", "rs:31+2", "replicate:0", "replicate:33", "survive:99", ""];
    for policy in nonsense {
        let ran = cluster.run(0, &["policy", &dir, policy]);
        assert_eq!(ran.code, Some(2), "'{policy}': {}", ran.stderr);
        assert!(ran.stderr.contains("rs:K+M"), "the message says what would be one: {}", ran.stderr);
    }
    let ran = cluster.run(1, &["init", "--policy", "raid:5"]);
    assert!(ran.code == Some(2) && ran.stderr.contains("rs:K+M"), "{:?} {}", ran.code, ran.stderr);
    assert!(!cluster.home(1).join("key").exists(), "a refused init leaves no home");
    cluster.run(1, &["init", "--listen", "127.0.0.1:0"]).ok();
}

#[test]
fn a_name_that_is_none_or_taken_is_refused() {
    let mut cluster = a_home();
    let other = cluster.home(1);
    for name in ["", "two\nlines"] {
        refused(cluster.run(1, &["init", "--listen", "127.0.0.1:0", "--name", name]), &["--name", "characters"]);
    }
    cluster.serve(0);
    let ticket = cluster.invite(0);
    let taken = ["join", &ticket, "--listen", "127.0.0.1:0", "--name", "peer0"];
    refused(cluster.run(1, &taken), &["already", "--name"]);
    assert!(!other.exists(), "what was refused leaves no home");
}

#[test]
fn a_mount_whose_peer_was_killed_is_named_as_that() {
    let mut cluster = a_home();
    let mount = cluster.path(0);
    let text = mount.to_str().unwrap();
    cluster.run(0, &["mount", text]).ok();
    let lock = fs::read_to_string(cluster.home(0).join("lock")).unwrap();
    let pid = lock.split_whitespace().next().unwrap();
    tool(&["kill", "-KILL", pid]);
    cluster.wait_until(BOUND, "the mount is dead", |_| fs::metadata(&mount).is_err());
    refused(cluster.run(0, &["mount", text]), &["gone", "shoal unmount"]);
    cluster.run(0, &["unmount", text]).ok();
    cluster.run(0, &["mount", text]).ok();
    cluster.run(0, &["stop"]).ok();
}

#[test]
fn wrong_usage_is_exit_code_2() {
    let cluster = a_home();
    for args in [&["fly"][..], &["mount"], &["join"], &["init", "--nonsense"], &["invite", "--uses", "many"], &[]] {
        wrong_usage(cluster.run(0, args));
    }
    let ran = cluster.run(0, &["init", "--listen", "nowhere"]);
    assert_eq!(ran.code, Some(2), "{}", ran.stderr);
    for args in [&["--help"][..], &["--version"], &["mount", "--help"]] {
        cluster.run(0, args).ok();
    }
}

#[test]
fn noise_on_the_peers_port_is_ignored() {
    let mut cluster = Cluster::share(2);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    for i in 0..2000u64 {
        let _ = socket.send_to(&tree::noise(i, (i % 1400) as usize), cluster.listen(0));
    }
    let (a, b) = (cluster.mount(0), cluster.mount(1));
    fs::write(a.join("file"), b"unimpressed").unwrap();
    assert_eq!(fs::read(b.join("file")).unwrap(), b"unimpressed");
}

#[test]
fn noise_on_the_control_socket_is_answered_or_dropped() {
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    let cluster = Cluster::share(1);
    let home = cluster.home(0);
    let sockets: Vec<_> = fs::read_dir(&home)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "sock"))
        .collect();
    assert!(!sockets.is_empty(), "no control socket in {}", home.display());
    for socket in sockets {
        let mode = fs::metadata(&socket).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "the control socket is its owner's alone");
        for i in 0..50 {
            let mut stream = UnixStream::connect(&socket).unwrap();
            let _ = stream.write_all(&tree::noise(i, 5000));
        }
    }
    assert_eq!(cluster.run(0, &["status"]).code, Some(0));
}

#[test]
fn a_full_disk_is_an_error_that_loses_nothing() {
    let mut cluster = Cluster::loopback(1);
    assert!(tree::is_root(), "this test mounts a small disk, and needs root for that");
    cluster.small_disk(0, 96);
    cluster.init(0);
    let mount = cluster.mount(0);
    let kept = tree::noise(1, 4 << 20);
    fs::write(mount.join("kept"), &kept).unwrap();
    let fill = |i: u64| tree::write_closed(&mount.join(format!("fill-{i}")), &tree::noise(i + 2, 8 << 20)).err();
    let error = (0..40).find_map(fill).expect("a disk of 96 MiB cannot take 320 MiB");
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{error}");
    assert!(fs::read(mount.join("kept")).unwrap() == kept, "what was there is still right");
    fs::remove_file(mount.join("kept")).unwrap();
    cluster.restart(0);
    assert!(!mount.join("kept").exists(), "a full disk still remembers what was done on it");
    cluster.wait_until(BOUND, "the peer answers", |c| c.run(0, &["status"]).code == Some(0));
}

#[test]
fn commands_on_a_full_disk_say_so_and_leave_nothing_half_made() {
    let mut cluster = Cluster::loopback(3);
    cluster.small_disk(0, 32);
    cluster.init(0);
    cluster.serve(0);
    let ticket = cluster.invite(0);
    let disk = cluster.scratch("disk");
    let disk_text = disk.to_str().unwrap().to_owned();
    tool(&["mount", "-t", "tmpfs", "-o", "size=12k", "tiny", &disk_text]);
    let home = disk.join("home");
    let on_it = |cluster: &Cluster, args: &[&str]| {
        let mut command = cluster.shoal(1, args);
        run(command.env("SHOAL_HOME", &home), PATIENCE)
    };
    for args in [&["init", "--listen", "127.0.0.1:0"][..], &["join", &ticket, "--listen", "127.0.0.1:0"]] {
        refused(on_it(&cluster, args), &["space"]);
        assert!(!home.exists(), "`{}` leaves no home", args[0]);
    }
    tool(&["mount", "-o", "remount,size=64m", &disk_text]);
    on_it(&cluster, &["join", &ticket, "--listen", "127.0.0.1:0"]).ok();

    let filler = cluster.home(0).join("filler");
    fs::write(&filler, vec![1; 64 << 20]).expect_err("the disk is full now");
    refused(cluster.run(0, &["invite"]), &["space"]);
    fs::remove_file(filler).unwrap();
    let ticket = cluster.invite(0);
    cluster.join(2, &ticket);
}
