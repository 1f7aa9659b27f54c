//! Every kind of call, one after the other, on one machine and seen from another.

use crate::harness::{BOUND, Cluster, PATIENCE, apart, full_size, run, tool, tree};
use std::collections::BTreeMap;
use std::ffi::{CString, OsStr};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;

fn two_mounts() -> (Cluster, PathBuf, PathBuf) {
    let mut cluster = Cluster::share(3);
    let (a, b) = (cluster.mount(0), cluster.mount(1));
    (cluster, a, b)
}

#[track_caller]
fn refused<T>(done: std::io::Result<T>) -> i32 {
    match done {
        Ok(_) => panic!("it is refused"),
        Err(error) => error.raw_os_error().unwrap(),
    }
}

fn checked(done: i64) -> std::io::Result<i64> {
    if done >= 0 { Ok(done) } else { Err(std::io::Error::last_os_error()) }
}

fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap()
}

fn read_write(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).unwrap()
}

fn seek(file: &File, at: u64, whence: i32) -> std::io::Result<u64> {
    // SAFETY: plain values and an open descriptor.
    checked(unsafe { libc::lseek(file.as_raw_fd(), at as i64, whence) }).map(|found| found as u64)
}

fn allocate(file: &File, mode: i32, at: u64, len: u64) -> std::io::Result<()> {
    // SAFETY: plain values and an open descriptor.
    checked(unsafe { libc::fallocate(file.as_raw_fd(), mode, at as i64, len as i64) }.into()).map(drop)
}

/// A shell's commands, as this user and group and in no other group.
#[track_caller]
fn as_user(id: u32, script: &str, dir: &Path) -> Option<i32> {
    run(Command::new("sh").args(["-c", script]).uid(id).gid(id).current_dir(dir), PATIENCE).code
}

/// A call, as this user and group and in no other group.
fn called_as(id: u32, call: impl FnMut() -> std::io::Result<()> + Send + Sync + 'static) -> std::io::Result<()> {
    let mut command = Command::new("true");
    command.uid(id).gid(id);
    // SAFETY: between fork and exec there are system calls only.
    unsafe { command.pre_exec(call) };
    apart(move || command.status()).map(drop)
}

/// An access control list as the kernel takes it: of tag, permissions and id.
fn access_list(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend_from_slice(&tag.to_le_bytes());
        bytes.extend_from_slice(&permissions.to_le_bytes());
        bytes.extend_from_slice(&id.to_le_bytes());
    }
    bytes
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

#[test]
fn holes_are_found_made_and_cost_nothing() {
    let (cluster, a, b) = two_mounts();
    let file = read_write(&a.join("holes"));
    let data = tree::noise(1, MIB as usize);
    file.write_all_at(&data, 0).unwrap();
    file.write_all_at(&data, 5 * MIB).unwrap();
    let other = File::open(b.join("holes"));
    // Once not yet stored, and once stored, and on both.
    for (file, stored) in [(&file, false), (&file, true), (other.as_ref().unwrap(), true)] {
        if stored {
            file.sync_all().unwrap();
        }
        assert_eq!(seek(file, 0, libc::SEEK_HOLE).unwrap(), MIB);
        assert_eq!(seek(file, 17, libc::SEEK_DATA).unwrap(), 17);
        assert_eq!(seek(file, MIB, libc::SEEK_DATA).unwrap(), 5 * MIB);
        assert_eq!(seek(file, 5 * MIB, libc::SEEK_HOLE).unwrap(), 6 * MIB, "the end counts as a hole");
        assert_eq!(refused(seek(file, 6 * MIB, libc::SEEK_DATA)), libc::ENXIO);
        assert_eq!(refused(seek(file, 6 * MIB, libc::SEEK_HOLE)), libc::ENXIO);
    }

    let (keep, punch, zero) = (libc::FALLOC_FL_KEEP_SIZE, libc::FALLOC_FL_PUNCH_HOLE, libc::FALLOC_FL_ZERO_RANGE);
    let mut expected = vec![0; 6 << 20];
    expected[..MIB as usize].copy_from_slice(&data);
    expected[5 << 20..].copy_from_slice(&data);
    let mut same = |file: &File, len: usize, from: usize, to: usize| {
        expected.resize(len, 0);
        expected[from..to].fill(0);
        file.sync_all().unwrap();
        assert!(fs::read(b.join("holes")).unwrap() == expected, "zeros from {from} to {to} of {len}");
    };
    let blocks = || fs::metadata(b.join("holes")).unwrap().blocks();
    let before = blocks();
    allocate(&file, punch | keep, 100_000, 4 * MIB).unwrap();
    same(&file, 6 << 20, 100_000, 100_000 + (4 << 20));
    assert!(blocks() < before, "{} blocks of {before} are left", blocks());
    allocate(&file, zero, 5 * MIB + 5, 7).unwrap();
    same(&file, 6 << 20, (5 << 20) + 5, (5 << 20) + 12);
    allocate(&file, zero | keep, 6 * MIB - 3, 100).unwrap();
    same(&file, 6 << 20, (6 << 20) - 3, 6 << 20);
    allocate(&file, keep, 0, 20 * MIB).unwrap();
    same(&file, 6 << 20, 0, 0);
    allocate(&file, 0, 6 * MIB, 10).unwrap();
    same(&file, (6 << 20) + 10, 6 << 20, (6 << 20) + 10);
    allocate(&file, zero, 6 * MIB, 100).unwrap();
    same(&file, (6 << 20) + 100, 6 << 20, (6 << 20) + 100);
    let others = [
        punch,
        libc::FALLOC_FL_COLLAPSE_RANGE,
        libc::FALLOC_FL_INSERT_RANGE,
        libc::FALLOC_FL_UNSHARE_RANGE,
        libc::FALLOC_FL_UNSHARE_RANGE | keep,
    ];
    for mode in others {
        assert_eq!(refused(allocate(&file, mode, 0, MIB)), libc::EOPNOTSUPP, "mode {mode:#x}");
    }

    let (huge, size) = (read_write(&a.join("huge")), 16 << 40);
    huge.set_len(size).unwrap();
    huge.write_all_at(b"the end", size - 7).unwrap();
    tree::close(huge).unwrap();
    let huge = File::open(b.join("huge")).unwrap();
    let meta = huge.metadata().unwrap();
    assert_eq!(meta.len(), size);
    assert!(meta.blocks() <= MIB / 512, "16 TiB of hole take {} blocks", meta.blocks());
    assert_eq!(seek(&huge, 0, libc::SEEK_DATA).unwrap(), size - 7);
    let mut bytes = [1; 10];
    huge.read_exact_at(&mut bytes, size - 10).unwrap();
    assert_eq!(&bytes, b"\0\0\0the end");
    huge.read_exact_at(&mut bytes, 7 << 40).unwrap();
    assert_eq!(bytes, [0; 10]);
    assert_eq!(cluster.status(0)["blocks_unreadable"], 0);
}

#[test]
fn a_range_is_copied_by_sharing_its_blocks() {
    let (mut cluster, a, b) = two_mounts();
    cluster.run(0, &["policy", a.to_str().unwrap(), "replicate:2"]).ok();
    let content = tree::noise(2, 8 << 20);
    tree::write_closed(&a.join("source"), &content).unwrap();
    let stored = |cluster: &Cluster| cluster.status(0)["stored_bytes"].as_u64().unwrap();
    cluster.wait_until(BOUND, "both copies are counted", |c| stored(c) >= 16 << 20);
    let before = stored(&cluster);
    // On the other machine, and by way of another offset.
    let (source, target) = (File::open(b.join("source")).unwrap(), read_write(&b.join("target")));
    let (mut from, mut to) = (0i64, MIB as i64);
    while from < content.len() as i64 {
        // SAFETY: two open descriptors, and offsets that live through the call.
        let copied = unsafe {
            libc::copy_file_range(source.as_raw_fd(), &mut from, target.as_raw_fd(), &mut to, content.len(), 0)
        };
        assert!(checked(copied as i64).unwrap() > 0);
    }
    tree::close(target).unwrap();
    let found = fs::read(a.join("target")).unwrap();
    assert!(found[..1 << 20].iter().all(|byte| *byte == 0) && found[1 << 20..] == content[..]);
    // What the stores take is reported every few seconds: one more file shows that it was.
    tree::write_closed(&b.join("another"), &tree::noise(3, 2 << 20)).unwrap();
    cluster.wait_until(BOUND, "the other file is counted", |c| stored(c) >= before + (4 << 20));
    let more = stored(&cluster) - before;
    assert!(more < 6 << 20, "8 MiB were copied, and besides the other file {} bytes stored", more - (4 << 20));
    // Sharing is not seen: what is written to one is not in the other.
    File::options().write(true).open(a.join("source")).unwrap().write_all_at(b"changed", 0).unwrap();
    assert!(fs::read(b.join("target")).unwrap() == found);
    fs::remove_file(b.join("source")).unwrap();
    assert!(fs::read(a.join("target")).unwrap() == found);
}

#[test]
fn names_and_kinds_of_files_are_the_same_on_both() {
    let (_cluster, a, b) = two_mounts();
    let links = |path: &Path| fs::symlink_metadata(path).unwrap().nlink();
    fs::write(a.join("one"), b"content").unwrap();
    fs::hard_link(a.join("one"), a.join("two")).unwrap();
    fs::hard_link(b.join("two"), b.join("three")).unwrap();
    for mount in [&a, &b] {
        assert_eq!(["one", "two", "three"].map(|name| links(&mount.join(name))), [3; 3]);
    }
    fs::remove_file(b.join("one")).unwrap();
    fs::rename(a.join("two"), a.join("four")).unwrap();
    for mount in [&a, &b] {
        assert_eq!(["three", "four"].map(|name| links(&mount.join(name))), [2; 2]);
    }
    fs::create_dir_all(a.join("directory/inside")).unwrap();
    assert_eq!(links(&b.join("directory")), 3);
    assert_eq!(refused(fs::hard_link(b.join("directory"), b.join("again"))), libc::EPERM);

    let target = "t/".repeat(2047) + "t";
    assert_eq!(target.len(), 4095);
    symlink(&target, a.join("long")).unwrap();
    assert_eq!(fs::read_link(b.join("long")).unwrap().as_os_str(), OsStr::new(&target));
    assert_eq!(refused(symlink(target + "t", a.join("longer"))), libc::ENAMETOOLONG);
    let make = |name: &str, mode, device| {
        // SAFETY: the path is terminated.
        checked(unsafe { libc::mknod(c_path(&a.join(name)).as_ptr(), mode, device) }.into()).unwrap();
    };
    make("fifo", libc::S_IFIFO | 0o600, 0);
    make("character", libc::S_IFCHR | 0o600, libc::makedev(1, 3));
    make("block", libc::S_IFBLK | 0o600, libc::makedev(7, 255));
    drop(std::os::unix::net::UnixListener::bind(a.join("socket")).unwrap());
    let meta = |name: &str| fs::symlink_metadata(b.join(name)).unwrap();
    assert!(meta("fifo").file_type().is_fifo() && meta("socket").file_type().is_socket());
    assert!(meta("character").file_type().is_char_device() && meta("character").rdev() == libc::makedev(1, 3));
    assert!(meta("block").file_type().is_block_device() && meta("block").rdev() == libc::makedev(7, 255));
    assert_eq!(refused(File::open(b.join("character"))), libc::EACCES, "the mount has no devices");
    std::thread::scope(|scope| {
        scope.spawn(|| fs::write(b.join("fifo"), b"through a pipe").unwrap());
        assert_eq!(fs::read(b.join("fifo")).unwrap(), b"through a pipe");
    });

    let name: Vec<u8> = (0..255u8).map(|byte| if matches!(byte, 0 | b'/') { 0xff } else { byte }).collect();
    let name = OsStr::from_bytes(&name);
    fs::write(a.join(name), b"named by bytes").unwrap();
    assert_eq!(fs::read(b.join(name)).unwrap(), b"named by bytes");
    assert!(fs::read_dir(&b).unwrap().any(|entry| entry.unwrap().file_name() == name));
    assert_eq!(refused(File::create(a.join("n".repeat(256)))), libc::ENAMETOOLONG);
    assert_eq!(refused(fs::symlink_metadata(b.join("n".repeat(256)))), libc::ENAMETOOLONG);

    // As long as a path may be: 4095 bytes, and its end.
    let mut path = a.clone();
    while path.as_os_str().len() + 256 < 4095 - 200 {
        path.push("d".repeat(255));
    }
    fs::create_dir_all(&path).unwrap();
    let last = "f".repeat(4095 - path.as_os_str().len() - 1);
    fs::write(path.join(&last), b"at the end of the way").unwrap();
    let there = b.join(path.strip_prefix(&a).unwrap()).join(&last);
    assert_eq!(there.as_os_str().len(), 4095);
    assert_eq!(fs::read(&there).unwrap(), b"at the end of the way");
    assert_eq!(refused(File::create(path.join(last + "f"))), libc::ENAMETOOLONG);
}

#[test]
fn a_directory_of_many_names_is_listed_whole_while_others_come_and_go() {
    let (_cluster, a, b) = two_mounts();
    let (files, makers) = (if full_size() { 100_000 } else { 10_000 }, 4);
    fs::create_dir(a.join("many")).unwrap();
    let started = Instant::now();
    std::thread::scope(|scope| {
        for maker in 0..makers {
            let dir = a.join("many");
            scope.spawn(move || {
                (maker..files)
                    .step_by(makers)
                    .for_each(|n| drop(File::create(dir.join(format!("stays-{n}"))).unwrap()));
            });
        }
    });
    println!("{files} files were made in {:?}", started.elapsed());
    let (done, mut lists) = (AtomicBool::new(false), 0);
    std::thread::scope(|scope| {
        let (done, dir) = (&done, a.join("many"));
        scope.spawn(move || {
            for n in 0.. {
                let path = dir.join(format!("goes-{n}"));
                fs::write(&path, b"x").unwrap();
                fs::rename(&path, dir.join(format!("went-{n}"))).unwrap();
                fs::remove_file(dir.join(format!("went-{n}"))).unwrap();
                if done.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        while lists < 5 {
            let started = Instant::now();
            let mut seen: BTreeMap<String, usize> = BTreeMap::new();
            for entry in fs::read_dir(b.join("many")).unwrap() {
                *seen.entry(entry.unwrap().file_name().into_string().unwrap()).or_default() += 1;
            }
            seen.retain(|name, _| name.starts_with("stays-"));
            let twice = seen.values().filter(|times| **times > 1).count();
            if seen.len() != files || twice > 0 {
                done.store(true, Ordering::Relaxed);
                panic!("{} of {files} names are listed, {twice} more than once", seen.len());
            }
            lists += 1;
            println!("listed in {:?}", started.elapsed());
        }
        done.store(true, Ordering::Relaxed);
    });
    // From both ends, and what is left is what nobody has removed.
    let gone = files / 10;
    std::thread::scope(|scope| {
        for (end, mount) in [&a, &b].into_iter().enumerate() {
            let dir = mount.join("many");
            scope.spawn(move || {
                (end..gone).step_by(2).for_each(|n| fs::remove_file(dir.join(format!("stays-{n}"))).unwrap());
            });
        }
    });
    for mount in [&a, &b] {
        assert_eq!(fs::read_dir(mount.join("many")).unwrap().count(), files - gone, "in {}", mount.display());
    }
}

#[test]
fn attributes_of_every_kind_are_kept_and_cleared_as_they_should_be() {
    let (mut cluster, a, b) = two_mounts();
    let file = a.join("attributed");
    fs::write(&file, b"x").unwrap();
    for (name, size) in [("user.empty", 0), ("user.large", 65_536), ("trusted.one", 7), ("security.one", 9)] {
        tree::set_xattr(&file, name, &tree::noise(size as u64 + 1, size));
        assert!(tree::xattr(&b.join("attributed"), name).unwrap() == tree::noise(size as u64 + 1, size), "{name}");
    }
    let set = |name: &str, len: usize| tree::try_set_xattr(&file, name, &vec![7; len]);
    assert_eq!(refused(set("user.larger", 65_537)), libc::E2BIG);
    assert_eq!(refused(set("system.other", 1)), libc::EOPNOTSUPP);
    assert_eq!(refused(set("other.one", 1)), libc::EOPNOTSUPP);
    set(&format!("user.{}", "n".repeat(250)), 1).unwrap();
    assert_eq!(refused(set(&format!("user.{}", "n".repeat(251)), 1)), libc::ERANGE);
    let list = |room: usize| {
        let mut names = vec![0u8; room];
        // SAFETY: the path is terminated, and the buffer as long as is said.
        let path = c_path(&b.join("attributed"));
        checked(unsafe { libc::llistxattr(path.as_ptr(), names.as_mut_ptr().cast(), room) } as i64)
    };
    let length = list(0).unwrap();
    assert_eq!(length as usize, "user.empty user.large trusted.one security.one ".len() + 256);
    assert_eq!(list(length as usize).unwrap(), length);
    assert_eq!(refused(list(length as usize - 1)), libc::ERANGE);
    tree::remove_xattr(&file, "user.empty").unwrap();
    assert_eq!(refused(tree::xattr(&b.join("attributed"), "user.empty")), libc::ENODATA);

    // Owners who may not what root may.
    let dir = a.join("everybody's");
    fs::create_dir(&dir).unwrap();
    set_mode(&dir, 0o1777);
    let there = b.join("everybody's");
    assert_eq!(as_user(1000, "umask 027; touch file; mkdir dir; mkfifo fifo; ln -s x link", &dir), Some(0));
    assert_eq!(["file", "dir", "fifo", "link"].map(|name| mode(&there.join(name))), [0o640, 0o750, 0o640, 0o777]);
    assert_eq!(fs::metadata(there.join("file")).unwrap().uid(), 1000);
    for attempt in ["rm -f file", "mv file other", "rmdir dir", "echo > mine && mv mine file", "chmod 666 file"] {
        assert_ne!(as_user(1001, attempt, &there), Some(0), "{attempt}");
    }
    assert_eq!(as_user(1001, "cat file", &there), Some(1), "others may not read it");
    assert_eq!(as_user(1000, "mv file other && mv other file && rmdir dir", &there), Some(0));

    let program = dir.join("program");
    let reset = |mode: u32| {
        fs::write(&program, b"#!/bin/sh\n").unwrap();
        std::os::unix::fs::chown(&program, Some(1000), Some(1000)).unwrap();
        set_mode(&program, mode);
    };
    let seen = there.join("program");
    for (before, after) in [(0o6755, 0o755), (0o4755, 0o755), (0o2755, 0o755), (0o2745, 0o2745)] {
        reset(before);
        File::options().append(true).open(&program).unwrap().write_all(b"# by root\n").unwrap();
        assert_eq!(mode(&seen), before, "root's own writing takes nothing away");
        assert_eq!(as_user(1000, "echo '# by its owner' >> program", &dir), Some(0));
        assert_eq!(mode(&seen), after, "what its owner has written to");
        reset(before);
        assert_eq!(as_user(1000, "truncate -s 3 program", &dir), Some(0));
        assert_eq!(mode(&seen), after, "what its owner has cut off");
        reset(before);
        assert_eq!(as_user(1000, "fallocate --punch-hole --length 5 program", &dir), Some(0));
        assert_eq!(mode(&seen), after, "what its owner has made a hole in");
        reset(before);
        std::os::unix::fs::chown(&program, Some(1001), None).unwrap();
        assert_eq!(mode(&seen), after, "what has another owner");
    }

    // What a program may do beyond its user goes when it is changed, whoever does.
    let capable = |path: &Path| tree::xattr(path, "security.capability").is_ok();
    let changes: [(&str, &dyn Fn()); 3] = [
        ("written to", &|| File::options().append(true).open(&program).unwrap().write_all(b"#").unwrap()),
        ("cut off", &|| File::options().write(true).open(&program).unwrap().set_len(3).unwrap()),
        ("given away", &|| std::os::unix::fs::chown(&program, Some(1002), None).unwrap()),
    ];
    for (what, change) in changes {
        reset(0o755);
        tool(&["setcap", "cap_net_bind_service=ep", program.to_str().unwrap()]);
        assert!(capable(&seen));
        change();
        assert!(!capable(&seen), "{what}");
    }

    // Times to the nanosecond, on every kind.
    symlink("nowhere", a.join("timed link")).unwrap();
    fs::create_dir(a.join("timed directory")).unwrap();
    for (n, name) in ["attributed", "timed link", "timed directory"].into_iter().enumerate() {
        let time = |seconds: i64| libc::timespec { tv_sec: seconds, tv_nsec: 999_999_990 + n as i64 };
        let times = [time(5_000_000_000), time(-1)];
        // SAFETY: the path is terminated, and there are two times.
        let done = unsafe {
            let path = c_path(&a.join(name));
            libc::utimensat(libc::AT_FDCWD, path.as_ptr(), times.as_ptr(), libc::AT_SYMLINK_NOFOLLOW)
        };
        checked(done.into()).unwrap();
        let meta = fs::symlink_metadata(b.join(name)).unwrap();
        assert_eq!((meta.atime(), meta.atime_nsec()), (5_000_000_000, times[0].tv_nsec), "{name}");
        assert_eq!((meta.mtime(), meta.mtime_nsec()), (-1, times[1].tv_nsec), "{name}");
    }

    // The same numbers on both, and after a restart; and what is left says the same.
    let numbers = |mount: &Path| {
        let names = ["attributed", "everybody's", "everybody's/file", "timed link", "timed directory"];
        names.map(|name| fs::symlink_metadata(mount.join(name)).unwrap().ino())
    };
    let before = numbers(&a);
    assert_eq!(numbers(&b), before);
    let space = |mount: &Path| {
        // SAFETY: all-zero is a valid statvfs, which the call fills; the path is terminated.
        unsafe {
            let mut figures: libc::statvfs = std::mem::zeroed();
            checked(libc::statvfs(c_path(mount).as_ptr(), &mut figures).into()).unwrap();
            figures
        }
    };
    let (here, other) = (space(&a), space(&b));
    assert_eq!((here.f_namemax, here.f_frsize, here.f_bsize), (255, other.f_frsize, other.f_bsize));
    assert!(here.f_bavail > 0 && here.f_bavail <= here.f_bfree && here.f_bfree <= here.f_blocks);
    assert_eq!(here.f_files - here.f_ffree, other.f_files - other.f_ffree, "files and directories");
    cluster.kill_all(&[0, 1]);
    cluster.start_all(&[0, 1]);
    cluster.all_in_sight();
    assert_eq!(numbers(&a), before);
    assert_eq!(numbers(&b), before);
    assert_eq!(tree::xattr(&b.join("attributed"), "trusted.one").unwrap(), tree::noise(8, 7));
}

#[test]
fn access_control_lists_hold_on_every_machine_and_are_handed_down() {
    const ACCESS: &str = "system.posix_acl_access";
    const DEFAULT: &str = "system.posix_acl_default";
    let (_cluster, a, b) = two_mounts();
    let nobody = u32::MAX;
    let list = |user: u16, mask: u16, other: u16| {
        access_list(&[(1, 6, nobody), (2, user, 1000), (4, 4, nobody), (0x10, mask, nobody), (0x20, other, nobody)])
    };
    let reads = |id: u32, mount: &Path| as_user(id, "cat file", mount) == Some(0);
    fs::write(a.join("file"), b"for some").unwrap();
    set_mode(&a.join("file"), 0o600);
    assert!(!reads(1000, &b) && !reads(1001, &b));
    tree::set_xattr(&a.join("file"), ACCESS, &list(4, 4, 0));
    assert_eq!(mode(&b.join("file")), 0o640, "the mask shows where the group's permissions do");
    assert!(reads(1000, &b) && !reads(1001, &b));
    assert!(reads(1000, &a) && !reads(1001, &a));
    assert_ne!(as_user(1000, "echo >> file", &b), Some(0));
    set_mode(&b.join("file"), 0o600);
    assert_eq!(tree::xattr(&a.join("file"), ACCESS).unwrap(), list(4, 0, 0), "a chmod changes the mask");
    assert!(!reads(1000, &a) && !reads(1001, &a));
    tree::set_xattr(&b.join("file"), ACCESS, &list(6, 6, 0));
    assert_eq!(as_user(1000, "echo >> file", &a), Some(0));
    assert!(tree::xattrs(&a.join("file")).contains_key(ACCESS), "it is listed");
    tree::remove_xattr(&a.join("file"), ACCESS).unwrap();
    assert_eq!(refused(tree::xattr(&b.join("file"), ACCESS)), libc::ENODATA);
    assert!(!reads(1000, &b));
    let plain = access_list(&[(1, 7, nobody), (4, 5, nobody), (0x20, 1, nobody)]);
    tree::set_xattr(&a.join("file"), ACCESS, &plain);
    assert_eq!(mode(&b.join("file")), 0o751);
    assert_eq!(refused(tree::xattr(&b.join("file"), ACCESS)), libc::ENODATA, "the mode says it all");
    assert_eq!(refused(tree::try_set_xattr(&a.join("file"), DEFAULT, &list(4, 4, 0))), libc::EACCES);
    let without_owner = access_list(&[(4, 5, nobody), (0x20, 1, nobody)]);
    assert_eq!(refused(tree::try_set_xattr(&a.join("file"), ACCESS, &without_owner)), libc::EINVAL);

    let dir = a.join("handed down");
    fs::create_dir(&dir).unwrap();
    set_mode(&dir, 0o777);
    let down = |owner: u16, mask: u16, other: u16| {
        access_list(&[(1, owner, nobody), (2, 7, 1000), (4, 5, nobody), (0x10, mask, nobody), (0x20, other, nobody)])
    };
    tree::set_xattr(&dir, DEFAULT, &down(7, 7, 5));
    assert_eq!(mode(&b.join("handed down")), 0o777, "it says nothing of the directory itself");
    let there = b.join("handed down");
    let script = "umask 077; mkdir dir; touch dir/file; mkfifo dir/fifo; ln -s x dir/link";
    assert_eq!(as_user(1001, script, &there), Some(0));
    assert_eq!(["dir", "dir/file", "dir/fifo"].map(|name| mode(&dir.join(name))), [0o775, 0o664, 0o664], "no umask");
    // No more than was asked for.
    for (name, list) in [("dir", down(7, 7, 5)), ("dir/file", down(6, 6, 4)), ("dir/fifo", down(6, 6, 4))] {
        assert_eq!(tree::xattr(&dir.join(name), ACCESS).unwrap(), list, "{name}");
    }
    assert_eq!(tree::xattr(&dir.join("dir"), DEFAULT).unwrap(), down(7, 7, 5));
    assert_eq!(as_user(1000, "echo >> dir/file && touch dir/by-another", &there), Some(0));
    assert_ne!(as_user(1002, "echo >> dir/file", &there), Some(0));
    fs::OpenOptions::new().write(true).create_new(true).mode(0o400).open(dir.join("private")).unwrap();
    assert_eq!(mode(&there.join("private")), 0o400);
    assert_ne!(as_user(1000, "cat private", &there), Some(0));
    tree::remove_xattr(&dir, DEFAULT).unwrap();
    assert_eq!(as_user(1001, "umask 077; touch later", &there), Some(0));
    assert_eq!(mode(&dir.join("later")), 0o600);

    // Who is not of the group cannot leave its right behind in a list.
    let shared = dir.join("shared");
    for (group, kept) in [(50, 0), (1000, libc::S_ISGID)] {
        fs::write(&shared, b"x").unwrap();
        std::os::unix::fs::chown(&shared, Some(1000), Some(group)).unwrap();
        set_mode(&shared, 0o2750);
        let (path, value) = (there.join("shared"), list(4, 4, 0));
        called_as(1000, move || tree::try_set_xattr(&path, ACCESS, &value)).unwrap();
        assert_eq!(mode(&shared), 0o640 | kept, "of group {group}");
    }
    let (path, value) = (there.join("shared"), list(4, 4, 0));
    assert_eq!(refused(called_as(1001, move || tree::try_set_xattr(&path, ACCESS, &value))), libc::EPERM);
}

/// A page of memory, for what wants to be aligned.
#[repr(align(4096))]
struct Page([u8; 4096]);

#[test]
fn open_files_are_mapped_written_through_emptied_and_lost() {
    let (mut cluster, a, b) = two_mounts();
    let len = 10_000;
    fs::write(a.join("mapped"), vec![b'a'; len]).unwrap();
    let (here, there) = (read_write(&a.join("mapped")), read_write(&b.join("mapped")));
    // SAFETY: the mappings are `len` bytes of files that are `len` bytes long; they are used within that, and taken
    // away at the end.
    unsafe {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let map = |file: &File, kind| {
            let at = libc::mmap(std::ptr::null_mut(), len, access, kind, file.as_raw_fd(), 0);
            assert_ne!(at, libc::MAP_FAILED, "mmap: {}", std::io::Error::last_os_error());
            std::slice::from_raw_parts_mut(at.cast::<u8>(), len)
        };
        let (shared, private) = (map(&here, libc::MAP_SHARED), map(&here, libc::MAP_PRIVATE));
        let seen = map(&there, libc::MAP_SHARED);
        private[0] = b'p';
        shared[5000] = b's';
        assert_eq!((private[5000], shared[0], seen[5000]), (b's', b'a', b'a'));
        checked(libc::msync(shared.as_mut_ptr().cast(), len, libc::MS_SYNC).into()).unwrap();
        let found = fs::read(b.join("mapped")).unwrap();
        assert_eq!((found.len(), found[0], found[5000]), (len, b'a', b's'));
        assert_eq!(seen[5000], b's', "a page that was mapped before is read anew");
        for part in [shared, private, seen] {
            libc::munmap(part.as_mut_ptr().cast(), len);
        }
    }
    drop((here, there));

    let direct = |path: &Path| OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(path);
    fs::write(a.join("direct"), b"").unwrap();
    let mut page = Page([b'd'; 4096]);
    direct(&a.join("direct")).unwrap().write_all_at(&page.0, 4096).unwrap();
    page.0.fill(0);
    direct(&b.join("direct")).unwrap().read_exact_at(&mut page.0, 4096).unwrap();
    assert_eq!(page.0, [b'd'; 4096]);
    assert_eq!(fs::read(b.join("direct")).unwrap()[..4096], [0; 4096]);

    for flag in [libc::O_SYNC, libc::O_DSYNC] {
        let mut open = OpenOptions::new();
        let mut file = open.write(true).create(true).truncate(true).custom_flags(flag).open(a.join("synced")).unwrap();
        file.write_all(b"written through").unwrap();
        assert_eq!(fs::read(b.join("synced")).unwrap(), b"written through", "before it is closed");
    }
    let open = File::open(b.join("synced")).unwrap();
    drop(OpenOptions::new().write(true).truncate(true).open(a.join("synced")).unwrap());
    assert_eq!(open.metadata().unwrap().len(), 0);
    assert_eq!(fs::read(b.join("synced")).unwrap(), b"");

    let mut open = read_write(&b.join("unlinked"));
    open.write_all(&tree::noise(5, 100_000)).unwrap();
    open.sync_all().unwrap();
    fs::remove_file(a.join("unlinked")).unwrap();
    assert!(!b.join("unlinked").exists());
    assert_eq!(open.metadata().unwrap().nlink(), 0);
    std::thread::sleep(Duration::from_secs(3));
    open.write_all(b"more").unwrap();
    let mut bytes = vec![0; 100_004];
    open.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes[..100_000] == tree::noise(5, 100_000) && &bytes[100_000..] == b"more");
    drop(open);

    // A restart takes open files away: every call on them fails at once, and says so.
    fs::write(a.join("lost"), vec![b'l'; 100_000]).unwrap();
    let mut lost = read_write(&a.join("lost"));
    lost.write_all(b"never stored").unwrap();
    let directory = File::open(&a).unwrap();
    cluster.restart(0);
    let mut byte = [0];
    let answers = [
        refused(lost.write(b"x")),
        refused(lost.read(&mut byte)),
        refused(lost.metadata()),
        refused(lost.sync_all()),
        refused(tree::close(lost)),
        refused(directory.metadata()),
    ];
    assert_eq!(answers, [libc::ENOTCONN; 6]);
    assert!(fs::read(a.join("lost")).unwrap().iter().all(|byte| *byte == b'l'), "opened anew it is there");
}
