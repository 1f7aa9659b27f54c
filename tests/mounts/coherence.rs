//! Two mounts, one tree: what one machine has finished, the other sees at once.

use crate::harness::{Cluster, tree};
use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};

const ROUNDS: usize = 100;

fn two_mounts() -> (Cluster, PathBuf, PathBuf) {
    let mut cluster = Cluster::share(3);
    let (a, b) = (cluster.mount(0), cluster.mount(1));
    (cluster, a, b)
}

#[test]
fn what_was_closed_on_one_is_read_on_the_other_at_once() {
    let (_cluster, a, b) = two_mounts();
    let sizes = [0, 1, 4095, 4096, 4097, 5000, (1 << 20) - 1, 1 << 20, (1 << 20) + 1];
    for round in 0..ROUNDS {
        let bytes = tree::noise(round as u64 + 1, sizes[round % sizes.len()]);
        fs::write(a.join("same name"), &bytes).unwrap();
        assert!(fs::read(b.join("same name")).unwrap() == bytes, "round {round}: the other machine's old bytes");
        assert_eq!(fs::metadata(b.join("same name")).unwrap().len(), bytes.len() as u64);
    }
}

#[test]
fn a_name_that_was_missing_is_found_once_it_is_there() {
    let (_cluster, a, b) = two_mounts();
    for round in 0..ROUNDS {
        let name = format!("name-{round}");
        assert_eq!(fs::metadata(b.join(&name)).unwrap_err().kind(), ErrorKind::NotFound);
        fs::write(a.join(&name), b"x").unwrap();
        assert!(b.join(&name).exists(), "round {round}: a stale negative entry");
        fs::remove_file(a.join(&name)).unwrap();
        assert!(!b.join(&name).exists(), "round {round}: a stale entry");
    }
}

#[test]
fn a_name_that_is_replaced_is_never_missing_and_never_a_mixture() {
    let (_cluster, a, b) = two_mounts();
    let content = |round: usize| vec![b'a' + (round % 26) as u8; 20_000];
    fs::write(a.join("target"), content(0)).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut reads = 0;
            while !done.load(Ordering::Relaxed) {
                let found = fs::read(b.join("target")).expect("the name is always there");
                assert!(found.len() == 20_000 && found.iter().all(|byte| *byte == found[0]), "a mixture");
                reads += 1;
            }
            reads
        });
        for round in 1..=ROUNDS {
            fs::write(a.join("fresh"), content(round)).unwrap();
            fs::rename(a.join("fresh"), a.join("target")).unwrap();
        }
        done.store(true, Ordering::Relaxed);
        assert!(reader.join().unwrap() > 0);
    });
    assert!(fs::read(b.join("target")).unwrap() == content(ROUNDS));
}

#[test]
fn attributes_changed_on_one_are_those_of_the_other() {
    let (_cluster, a, b) = two_mounts();
    fs::write(a.join("file"), b"x").unwrap();
    for round in 0..ROUNDS as u32 {
        let mode = if round % 2 == 0 { 0o600 } else { 0o755 };
        fs::set_permissions(a.join("file"), fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(fs::metadata(b.join("file")).unwrap().permissions().mode() & 0o7777, mode, "round {round}");
        tree::set_xattr(&b.join("file"), "user.round", round.to_string().as_bytes());
        assert_eq!(tree::xattr(&a.join("file"), "user.round").unwrap(), round.to_string().as_bytes());
    }
}

#[test]
fn a_listing_holds_every_name_that_was_there_throughout_exactly_once() {
    let (_cluster, a, b) = two_mounts();
    let (a, b) = (a.join("dir"), b.join("dir"));
    fs::create_dir(&a).unwrap();
    let lasting: BTreeSet<String> = (0..300).map(|i| format!("lasting-{i:03}")).collect();
    lasting.iter().for_each(|name| fs::write(a.join(name), b"").unwrap());
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let lister = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let names: Vec<_> =
                    fs::read_dir(&b).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
                let seen: BTreeSet<_> = names.iter().filter(|n| n.starts_with("lasting")).cloned().collect();
                let all = names.iter().filter(|n| n.starts_with("lasting")).count();
                assert_eq!((seen.len(), all), (300, 300), "a listing lost or doubled a name");
            }
        });
        for round in 0..ROUNDS {
            fs::write(a.join(format!("passing-{round}")), b"").unwrap();
            if round >= 5 {
                fs::remove_file(a.join(format!("passing-{}", round - 5))).unwrap();
            }
        }
        done.store(true, Ordering::Relaxed);
        lister.join().unwrap();
    });
    let names: BTreeSet<_> = fs::read_dir(&b).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(names.len(), 305);
}

#[test]
fn an_open_file_outlives_its_name_removed_by_the_other() {
    let (_cluster, a, b) = two_mounts();
    let bytes = tree::noise(3, 3 << 20);
    fs::write(a.join("doomed"), &bytes).unwrap();
    let mut open = File::open(b.join("doomed")).unwrap();
    let mut first = vec![0; 1000];
    open.read_exact(&mut first).unwrap();
    fs::remove_file(a.join("doomed")).unwrap();
    assert!(!b.join("doomed").exists());
    let mut rest = Vec::new();
    open.read_to_end(&mut rest).unwrap();
    assert!(first == bytes[..1000] && rest == bytes[1000..]);
}

#[test]
fn truncation_and_overwriting_show_on_the_other() {
    let (_cluster, a, b) = two_mounts();
    let mut expected = tree::noise(4, 3 << 20);
    fs::write(a.join("file"), &expected).unwrap();
    assert!(fs::read(b.join("file")).unwrap() == expected);
    for (offset, len) in [(0, 10), (4090, 20), ((1 << 20) - 5, 10), (2 << 20, 4096), ((3 << 20) - 1, 5)] {
        let patch = tree::noise(offset as u64 + 9, len);
        let file = OpenOptions::new().write(true).open(b.join("file")).unwrap();
        file.write_all_at(&patch, offset as u64).unwrap();
        drop(file);
        expected.resize(expected.len().max(offset + len), 0);
        expected[offset..offset + len].copy_from_slice(&patch);
        assert!(fs::read(a.join("file")).unwrap() == expected, "after writing {len} bytes at {offset}");
    }
    for size in [2_500_000u64, 1 << 20, 4097, 4096, 1, 0, 10_000] {
        OpenOptions::new().write(true).open(a.join("file")).unwrap().set_len(size).unwrap();
        expected.resize(size as usize, 0);
        assert!(fs::read(b.join("file")).unwrap() == expected, "after truncating to {size}");
    }
}

#[test]
fn an_open_file_sees_what_the_other_appends() {
    let (_cluster, a, b) = two_mounts();
    fs::write(a.join("log"), b"").unwrap();
    let mut reader = File::open(b.join("log")).unwrap();
    let mut expected = Vec::new();
    for round in 0..ROUNDS {
        let line = format!("line {round}\n");
        let mut writer = OpenOptions::new().append(true).open(a.join("log")).unwrap();
        writer.write_all(line.as_bytes()).unwrap();
        drop(writer);
        expected.extend_from_slice(line.as_bytes());
        let mut found = Vec::new();
        reader.seek(SeekFrom::Start(0)).unwrap();
        reader.read_to_end(&mut found).unwrap();
        assert_eq!(found, expected, "round {round}");
    }
}

#[test]
fn renames_of_directories_show_on_the_other() {
    let (_cluster, a, b) = two_mounts();
    fs::create_dir_all(a.join("one/two/three")).unwrap();
    fs::write(a.join("one/two/three/file"), b"x").unwrap();
    assert!(b.join("one/two/three/file").exists());
    for round in 0..ROUNDS / 4 {
        fs::rename(a.join("one/two"), a.join("moved")).unwrap();
        assert!(!b.join("one/two").exists() && b.join("moved/three/file").exists(), "round {round}");
        fs::rename(b.join("moved"), b.join("one/two")).unwrap();
        assert!(!a.join("moved").exists() && a.join("one/two/three/file").exists(), "round {round}");
    }
    let into_itself = fs::rename(a.join("one"), a.join("one/two/inside")).unwrap_err();
    assert_eq!(into_itself.raw_os_error(), Some(libc::EINVAL));
}

#[test]
fn a_mapped_file_written_on_one_is_read_on_the_other() {
    let (_cluster, a, b) = two_mounts();
    fs::write(a.join("mapped"), vec![0; 100_000]).unwrap();
    for round in 1..=20u8 {
        let file = OpenOptions::new().read(true).write(true).open(a.join("mapped")).unwrap();
        map_and_fill(&file, 100_000, round);
        drop(file);
        let found = fs::read(b.join("mapped")).unwrap();
        assert!(found.len() == 100_000 && found.iter().all(|byte| *byte == round), "round {round}");
    }
}

/// Fills a file through a shared mapping, and waits until the mapping is written back.
fn map_and_fill(file: &File, len: usize, byte: u8) {
    use std::os::fd::AsRawFd;
    // SAFETY: the mapping is `len` bytes of a file that is `len` bytes long, is used only here, and is unmapped
    // at the end.
    unsafe {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let map = libc::mmap(std::ptr::null_mut(), len, access, libc::MAP_SHARED, file.as_raw_fd(), 0);
        assert_ne!(map, libc::MAP_FAILED, "mmap: {}", std::io::Error::last_os_error());
        std::ptr::write_bytes(map.cast::<u8>(), byte, len);
        assert_eq!(libc::msync(map, len, libc::MS_SYNC), 0, "msync: {}", std::io::Error::last_os_error());
        libc::munmap(map, len);
    }
}

#[test]
fn on_one_machine_exactly_one_of_many_wins_a_name() {
    let (_cluster, a, b) = two_mounts();
    let race = |name: String, attempt: &(dyn Fn(PathBuf) -> std::io::Result<()> + Sync)| {
        let start = Barrier::new(4);
        let wins: usize = std::thread::scope(|scope| {
            let runners: Vec<_> = (0..4)
                .map(|_| {
                    let path = a.join(&name);
                    let start = &start;
                    scope.spawn(move || {
                        start.wait();
                        usize::from(attempt(path).is_ok())
                    })
                })
                .collect();
            runners.into_iter().map(|r| r.join().unwrap()).sum()
        });
        assert_eq!(wins, 1, "{name}");
        assert!(b.join(&name).exists(), "{name} shows on the other machine");
    };
    fs::write(a.join("source"), b"x").unwrap();
    for round in 0..ROUNDS / 4 {
        race(format!("excl-{round}"), &|path| OpenOptions::new().write(true).create_new(true).open(path).map(drop));
        race(format!("dir-{round}"), &|path| fs::create_dir(path));
        race(format!("link-{round}"), &|path| fs::hard_link(a.join("source"), path));
    }
}

#[test]
fn a_rename_keeps_to_its_flags_and_is_seen_elsewhere() {
    let (_cluster, a, b) = two_mounts();
    fs::write(a.join("one"), b"one").unwrap();
    fs::create_dir(a.join("two")).unwrap();
    fs::write(a.join("two/inside"), b"inside").unwrap();
    let rename = |from: &str, to: &str, flags| tree::rename_with(&a.join(from), &a.join(to), flags);
    rename("one", "two", libc::RENAME_EXCHANGE).unwrap();
    assert_eq!(fs::read(b.join("two")).unwrap(), b"one");
    assert_eq!(fs::read(b.join("one/inside")).unwrap(), b"inside");
    let code = |done: std::io::Result<()>| done.unwrap_err().raw_os_error();
    assert_eq!(code(rename("one", "two", libc::RENAME_NOREPLACE)), Some(libc::EEXIST));
    assert_eq!(code(rename("one", "none", libc::RENAME_EXCHANGE)), Some(libc::ENOENT));
    assert_eq!(code(rename("one", "one/inside", libc::RENAME_EXCHANGE)), Some(libc::EINVAL));
    assert_eq!(code(rename("two", "three", libc::RENAME_WHITEOUT)), Some(libc::EINVAL));
    rename("two", "three", libc::RENAME_NOREPLACE).unwrap();
    assert_eq!(fs::read(b.join("three")).unwrap(), b"one");
    assert!(!b.join("two").exists());
}
