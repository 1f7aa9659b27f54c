//! A real mount of a share of one machine. Needs `/dev/fuse` and the right to mount, and fails without.

use super::*;
use crate::id::Ino;
use crate::volume::attributes::AttributeChange;
use crate::volume::testing::Share;
use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::time::Duration;

struct World {
    // Dropped in this order: unmounted, then the runtime that serves, then the directory.
    mounted: Mounted,
    runtime: tokio::runtime::Runtime,
    _home: tempfile::TempDir,
}

/// A volume whose root belongs to who runs the tests.
fn own_volume(runtime: &tokio::runtime::Runtime) -> Volume {
    let volume = Share::new(1).volume(0);
    // SAFETY: takes no arguments and cannot fail.
    let uid = Some(unsafe { libc::geteuid() });
    let owner = AttributeChange { uid, ..Default::default() };
    runtime.block_on(volume.set_attributes(Ino::ROOT, owner, 0)).unwrap();
    volume
}

fn world() -> World {
    let home = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mounted = Mounted::mount(own_volume(&runtime), home.path(), runtime.handle().clone(), &MountOptions::default());
    let mounted = mounted.unwrap_or_else(|error| panic!("no mount is possible here: {error}"));
    World { mounted, runtime, _home: home }
}

impl World {
    fn path(&self, name: &str) -> std::path::PathBuf {
        self.mounted.mountpoint().join(name)
    }

    /// Unmounts and waits until the kernel has let go.
    fn end(self) {
        self.mounted.unmount().unwrap();
        let ended = async { tokio::time::timeout(Duration::from_secs(10), self.mounted.ended()).await };
        self.runtime.block_on(ended).expect("the mount ends when nothing there is open");
    }
}

fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap()
}

fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap()
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn set_xattr(path: &Path, name: &str, value: &[u8], flags: i32) -> Result<(), i32> {
    let name = CString::new(name).unwrap();
    // SAFETY: C strings and a buffer of the stated length.
    let result =
        unsafe { libc::setxattr(c_path(path).as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), flags) };
    if result == 0 { Ok(()) } else { Err(errno()) }
}

fn get_xattr(path: &Path, name: &str, room: usize) -> Result<Vec<u8>, i32> {
    let name = CString::new(name).unwrap();
    let mut value = vec![0u8; room];
    // SAFETY: C strings and a buffer of the stated length.
    let result = unsafe { libc::getxattr(c_path(path).as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), room) };
    if result < 0 {
        return Err(errno());
    }
    value.truncate(result as usize);
    Ok(value)
}

#[test]
fn files_are_written_read_renamed_and_removed() {
    let world = world();
    let (dir, file) = (world.path("dir"), world.path("dir/file"));
    fs::create_dir(&dir).unwrap();
    let content: Vec<u8> = (0..3_000_000u32).map(|at| (at * 7 / 3) as u8).collect();
    fs::write(&file, &content).unwrap();
    assert_eq!(fs::read(&file).unwrap(), content);
    assert_eq!(fs::metadata(&file).unwrap().len(), content.len() as u64);
    let moved = world.path("moved");
    fs::rename(&file, &moved).unwrap();
    assert_eq!(fs::read(&moved).unwrap(), content);
    assert_eq!(fs::metadata(&file).unwrap_err().kind(), ErrorKind::NotFound);
    fs::remove_dir(&dir).unwrap();
    OpenOptions::new().write(true).truncate(true).open(&moved).unwrap();
    assert_eq!(fs::metadata(&moved).unwrap().len(), 0);
    fs::remove_file(&moved).unwrap();
    assert_eq!(names(world.mounted.mountpoint()), Vec::<String>::new());
    world.end();
}

#[test]
fn overwriting_and_seeking_work_in_place() {
    let world = world();
    let path = world.path("file");
    let mut file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
    file.write_all(b"hello, world").unwrap();
    file.write_all_at(b"J", 0).unwrap();
    file.write_all_at(b"!", 5000).unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    let mut content = Vec::new();
    file.read_to_end(&mut content).unwrap();
    assert_eq!((content.len(), &content[..12], content[100], content[5000]), (5001, &b"Jello, world"[..], 0, b'!'));
    file.set_len(5).unwrap();
    file.sync_all().unwrap();
    drop(file);
    assert_eq!(fs::read(&path).unwrap(), b"Jello");
    assert_eq!(
        OpenOptions::new().write(true).create_new(true).open(&path).unwrap_err().kind(),
        ErrorKind::AlreadyExists
    );
    world.end();
}

#[test]
fn appenders_never_write_over_one_another() {
    let world = world();
    let path = world.path("log");
    let open = || OpenOptions::new().append(true).create(true).open(&path).unwrap();
    let (mut a, mut b) = (open(), open());
    for number in 0..50 {
        writeln!(a, "a{number:02}").unwrap();
        writeln!(b, "b{number:02}").unwrap();
    }
    drop((a, b));
    let text = fs::read_to_string(&path).unwrap();
    let expected: String = (0..50).map(|number| format!("a{number:02}\nb{number:02}\n")).collect();
    assert_eq!(text, expected);
    world.end();
}

#[test]
fn who_opens_a_file_that_is_being_replaced_gets_one_or_the_other() {
    let world = world();
    let (target, next) = (world.path("target"), world.path("next"));
    fs::write(&target, [b'x'; 1000]).unwrap();
    std::thread::scope(|scope| {
        let replacing = scope.spawn(|| {
            for round in 0..500u32 {
                fs::write(&next, [b'a' + (round % 26) as u8; 1000]).unwrap();
                fs::rename(&next, &target).unwrap();
            }
        });
        while !replacing.is_finished() {
            let content = fs::read(&target).unwrap();
            assert!(content.len() == 1000 && content.iter().all(|byte| *byte == content[0]));
        }
        replacing.join().unwrap();
    });
    world.end();
}

#[test]
fn names_that_stay_are_listed_once_while_others_come_and_go() {
    let world = world();
    let dir = world.path("dir");
    fs::create_dir(&dir).unwrap();
    for number in 0..300 {
        File::create(dir.join(format!("stays-{number}"))).unwrap();
    }
    std::thread::scope(|scope| {
        let churning = scope.spawn(|| {
            for number in 0..500 {
                let path = dir.join(format!("goes-{number}"));
                File::create(&path).unwrap();
                fs::remove_file(&path).unwrap();
            }
        });
        while !churning.is_finished() {
            let mut listed = names(&dir);
            listed.retain(|name| name.starts_with("stays"));
            assert_eq!(listed.len(), 300);
            listed.dedup();
            assert_eq!(listed.len(), 300);
        }
        churning.join().unwrap();
    });
    world.end();
}

#[test]
fn a_running_program_is_not_truncated() {
    let world = world();
    let path = world.path("program");
    fs::copy("/bin/sleep", &path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    let mut running = std::process::Command::new(&path).arg("60").spawn().unwrap();
    for flags in [libc::O_WRONLY, libc::O_RDONLY | libc::O_TRUNC] {
        // SAFETY: a C string.
        assert_eq!(unsafe { libc::open(c_path(&path).as_ptr(), flags) }, -1);
        assert_eq!(errno(), libc::ETXTBSY);
    }
    assert_eq!(fs::read(&path).unwrap(), fs::read("/bin/sleep").unwrap());
    assert!(running.try_wait().unwrap().is_none());
    running.kill().unwrap();
    running.wait().unwrap();
    fs::write(&path, "short").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"short");
    world.end();
}

#[test]
fn links_and_symlinks_lead_to_the_same_file() {
    let world = world();
    let (file, hard, soft) = (world.path("file"), world.path("hard"), world.path("soft"));
    fs::write(&file, "content").unwrap();
    fs::hard_link(&file, &hard).unwrap();
    std::os::unix::fs::symlink("file", &soft).unwrap();
    assert_eq!(fs::metadata(&file).unwrap().nlink(), 2);
    assert_eq!(fs::metadata(&file).unwrap().ino(), fs::metadata(&hard).unwrap().ino());
    assert_eq!(fs::read_link(&soft).unwrap(), Path::new("file"));
    assert_eq!(fs::symlink_metadata(&soft).unwrap().len(), 4);
    fs::remove_file(&file).unwrap();
    assert_eq!(fs::read_to_string(&hard).unwrap(), "content");
    assert_eq!(fs::metadata(&hard).unwrap().nlink(), 1);
    assert_eq!(fs::read(&soft).unwrap_err().kind(), ErrorKind::NotFound);
    world.end();
}

#[test]
fn a_removed_file_lives_until_it_is_closed() {
    let world = world();
    let path = world.path("file");
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
    file.write_all(b"before").unwrap();
    fs::remove_file(&path).unwrap();
    file.write_all(b" and after").unwrap();
    assert_eq!(file.metadata().unwrap().nlink(), 0);
    let mut content = [0; 16];
    file.read_exact_at(&mut content, 0).unwrap();
    assert_eq!(&content, b"before and after");
    drop(file);
    world.end();
}

#[test]
fn attributes_are_set_and_kept() {
    let world = world();
    let path = world.path("file");
    fs::write(&path, "x").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o4640)).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o4640);
    if mount::is_root() {
        std::os::unix::fs::chown(&path, Some(12), Some(34)).unwrap();
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!((metadata.uid(), metadata.gid(), metadata.mode() & 0o7777), (12, 34, 0o640));
    }
    let times = [
        libc::timespec { tv_sec: 1_000_000_000, tv_nsec: 123_456_789 },
        libc::timespec { tv_sec: -2, tv_nsec: 250_000_000 },
    ];
    // SAFETY: a C string and an array of two times.
    assert_eq!(unsafe { libc::utimensat(libc::AT_FDCWD, c_path(&path).as_ptr(), times.as_ptr(), 0) }, 0);
    let metadata = fs::metadata(&path).unwrap();
    assert_eq!((metadata.atime(), metadata.atime_nsec()), (1_000_000_000, 123_456_789));
    assert_eq!((metadata.mtime(), metadata.mtime_nsec()), (-2, 250_000_000));
    world.end();
}

#[test]
fn extended_attributes_are_as_the_manual_says() {
    let world = world();
    let path = world.path("file");
    fs::write(&path, "x").unwrap();
    set_xattr(&path, "user.colour", b"blue", 0).unwrap();
    assert_eq!(get_xattr(&path, "user.colour", 64).unwrap(), b"blue");
    assert_eq!(get_xattr(&path, "user.colour", 2), Err(libc::ERANGE));
    assert_eq!(get_xattr(&path, "user.shape", 64), Err(libc::ENODATA));
    assert_eq!(set_xattr(&path, "user.colour", b"red", libc::XATTR_CREATE), Err(libc::EEXIST));
    assert_eq!(get_xattr(&path, "system.posix_acl_access", 64), Err(libc::ENODATA));
    assert_eq!(get_xattr(&path, "system.other", 64), Err(libc::EOPNOTSUPP));
    assert_eq!(get_xattr(&path, "user.shoal.policy", 64).unwrap(), b"survive:2");
    set_xattr(world.mounted.mountpoint(), "user.shoal.policy", b"replicate:3", 0).unwrap();
    assert_eq!(get_xattr(world.mounted.mountpoint(), "user.shoal.policy", 64).unwrap(), b"replicate:3");
    assert_eq!(set_xattr(&path, "user.shoal.policy", b"thrice", 0), Err(libc::EINVAL));
    let mut list = [0u8; 256];
    // SAFETY: a C string and a buffer of the stated length.
    let listed = unsafe { libc::listxattr(c_path(&path).as_ptr(), list.as_mut_ptr().cast(), list.len()) };
    assert_eq!(&list[..listed as usize], b"user.colour\0");
    world.end();
}

#[test]
fn five_thousand_names_are_each_listed_once() {
    let world = world();
    let dir = world.path("dir");
    fs::create_dir(&dir).unwrap();
    let mut expected: Vec<String> = (0..5000).map(|number| format!("file-{number}")).collect();
    for name in &expected {
        File::create(dir.join(name)).unwrap();
    }
    expected.sort();
    assert_eq!(names(&dir), expected);
    let sizes: u64 = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    assert_eq!(sizes, 0);
    assert_eq!(fs::remove_dir(&dir).unwrap_err().raw_os_error(), Some(libc::ENOTEMPTY));
    world.end();
}

#[test]
fn mapped_pages_are_read_and_written() {
    let world = world();
    let path = world.path("file");
    fs::write(&path, vec![b'a'; 10_000]).unwrap();
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    // SAFETY: maps an open file of that length; the mapping is used within it and removed before the file closes.
    unsafe {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let at = libc::mmap(std::ptr::null_mut(), 10_000, protection, libc::MAP_SHARED, file.as_raw_fd(), 0);
        assert_ne!(at, libc::MAP_FAILED, "mmap: {}", std::io::Error::last_os_error());
        let bytes = std::slice::from_raw_parts_mut(at.cast::<u8>(), 10_000);
        assert!(bytes.iter().all(|byte| *byte == b'a'));
        bytes[5000] = b'b';
        assert_eq!(libc::msync(at, 10_000, libc::MS_SYNC), 0);
        libc::munmap(at, 10_000);
    }
    drop(file);
    let content = fs::read(&path).unwrap();
    assert_eq!((content.len(), content[4999], content[5000], content[5001]), (10_000, b'a', b'b', b'a'));
    world.end();
}

#[test]
fn a_page_mapped_through_an_appender_goes_where_it_came_from() {
    let world = world();
    let path = world.path("file");
    fs::write(&path, vec![b'a'; 5000]).unwrap();
    let file = OpenOptions::new().read(true).append(true).open(&path).unwrap();
    // SAFETY: as above.
    unsafe {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let at = libc::mmap(std::ptr::null_mut(), 5000, protection, libc::MAP_SHARED, file.as_raw_fd(), 0);
        assert_ne!(at, libc::MAP_FAILED, "mmap: {}", std::io::Error::last_os_error());
        *at.cast::<u8>() = b'b';
        assert_eq!(libc::msync(at, 5000, libc::MS_SYNC), 0);
        libc::munmap(at, 5000);
    }
    drop(file);
    let content = fs::read(&path).unwrap();
    assert_eq!((content.len(), content[0], content[1]), (5000, b'b', b'a'));
    world.end();
}

fn try_flock(file: &File, operation: i32) -> Result<(), i32> {
    // SAFETY: an open descriptor.
    if unsafe { libc::flock(file.as_raw_fd(), operation) } == 0 { Ok(()) } else { Err(errno()) }
}

fn try_record_lock(file: &File, kind: i32, start: i64, len: i64) -> Result<(), i32> {
    // SAFETY: all-zero is a valid flock.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    (lock.l_type, lock.l_start, lock.l_len) = (kind as i16, start, len);
    // SAFETY: an open descriptor and a live structure; open-file-description locks conflict within a process.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &lock) } == 0 { Ok(()) } else { Err(errno()) }
}

#[test]
fn whole_file_locks_exclude_and_end_with_the_file() {
    let world = world();
    let path = world.path("lock");
    let open = || OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).unwrap();
    let (a, b) = (open(), open());
    try_flock(&a, libc::LOCK_EX | libc::LOCK_NB).unwrap();
    assert_eq!(try_flock(&b, libc::LOCK_SH | libc::LOCK_NB), Err(libc::EWOULDBLOCK));
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| try_flock(&b, libc::LOCK_EX));
        drop(a);
        waiting.join().unwrap().unwrap();
    });
    let c = open();
    assert_eq!(try_flock(&c, libc::LOCK_SH | libc::LOCK_NB), Err(libc::EWOULDBLOCK));
    try_flock(&b, libc::LOCK_UN).unwrap();
    try_flock(&c, libc::LOCK_SH | libc::LOCK_NB).unwrap();
    drop((b, c));
    world.end();
}

#[test]
fn record_locks_exclude_only_where_they_overlap() {
    let world = world();
    let path = world.path("lock");
    let open = || OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).unwrap();
    let (a, b) = (open(), open());
    try_record_lock(&a, libc::F_WRLCK, 0, 10).unwrap();
    try_record_lock(&b, libc::F_WRLCK, 10, 10).unwrap();
    assert_eq!(try_record_lock(&b, libc::F_RDLCK, 5, 1), Err(libc::EAGAIN));
    try_record_lock(&a, libc::F_UNLCK, 5, 1).unwrap();
    try_record_lock(&b, libc::F_RDLCK, 5, 1).unwrap();
    drop((a, b));
    world.end();
}

#[test]
fn a_signal_ends_the_wait_for_a_lock() {
    let world = world();
    let path = world.path("lock");
    let held = File::create(&path).unwrap();
    try_flock(&held, libc::LOCK_EX).unwrap();
    let mut waiter = std::process::Command::new("flock").arg(&path).arg("true").spawn().unwrap();
    let state = format!("/proc/{}/stat", waiter.id());
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    // Until it waits in the kernel for an answer, uninterruptibly once it was read.
    while !fs::read_to_string(&state).unwrap().contains("(flock) S") {
        assert!(std::time::Instant::now() < deadline && waiter.try_wait().unwrap().is_none());
        std::thread::yield_now();
    }
    waiter.kill().unwrap();
    assert!(!waiter.wait().unwrap().success());
    drop(held);
    world.end();
}

#[test]
fn special_files_keep_their_kind() {
    let world = world();
    let fifo = world.path("fifo");
    // SAFETY: a C string.
    assert_eq!(unsafe { libc::mkfifo(c_path(&fifo).as_ptr(), 0o600) }, 0);
    assert_eq!(fs::symlink_metadata(&fifo).unwrap().mode(), libc::S_IFIFO | 0o600);
    drop(std::os::unix::net::UnixListener::bind(world.path("socket")).unwrap());
    assert_eq!(fs::symlink_metadata(world.path("socket")).unwrap().mode() & libc::S_IFMT, libc::S_IFSOCK);
    if mount::is_root() {
        let device = world.path("null");
        // SAFETY: a C string.
        assert_eq!(unsafe { libc::mknod(c_path(&device).as_ptr(), libc::S_IFCHR | 0o666, libc::makedev(1, 3)) }, 0);
        assert_eq!(fs::symlink_metadata(&device).unwrap().rdev(), libc::makedev(1, 3));
    }
    world.end();
}

#[test]
fn the_free_space_is_that_of_the_share() {
    let world = world();
    // SAFETY: all-zero is a valid statvfs, which the call fills.
    let figures = unsafe {
        let mut figures: libc::statvfs = std::mem::zeroed();
        assert_eq!(libc::statvfs(c_path(world.mounted.mountpoint()).as_ptr(), &mut figures), 0);
        figures
    };
    let free = Share::new(1).volume(0).figures().free;
    assert_eq!(figures.f_bavail * figures.f_frsize, free);
    assert_eq!(figures.f_namemax, 255);
    world.end();
}

#[test]
fn a_mount_in_use_goes_when_its_last_file_is_closed() {
    let world = world();
    let mut file = File::create(world.path("file")).unwrap();
    world.mounted.unmount().unwrap();
    assert_eq!(names(world.mounted.mountpoint()), Vec::<String>::new());
    let soon = async { tokio::time::timeout(Duration::from_millis(50), world.mounted.ended()).await };
    assert!(world.runtime.block_on(soon).is_err(), "a file is open");
    file.write_all(b"still served").unwrap();
    drop(file);
    let ended = async { tokio::time::timeout(Duration::from_secs(10), world.mounted.ended()).await };
    world.runtime.block_on(ended).unwrap();
}

#[test]
fn someone_elses_umount_is_noticed_and_a_second_mount_is_refused() {
    let world = world();
    let handle = world.runtime.handle().clone();
    let again =
        Mounted::mount(Share::new(1).volume(0), world.mounted.mountpoint(), handle.clone(), &MountOptions::default());
    assert!(matches!(again, Err(MountError::AlreadyMounted(_))));
    let program: &[&str] = if mount::is_root() { &["umount"] } else { &["fusermount3", "-u"] };
    let status = std::process::Command::new(program[0]).args(&program[1..]).arg(world.mounted.mountpoint()).status();
    assert!(status.unwrap().success());
    let ended = async { tokio::time::timeout(Duration::from_secs(10), world.mounted.ended()).await };
    world.runtime.block_on(ended).unwrap();
    world.mounted.unmount().unwrap();
    let next = Mounted::mount(own_volume(&world.runtime), world.mounted.mountpoint(), handle, &MountOptions::default())
        .unwrap();
    world.mounted.unmount().unwrap();
    fs::write(next.mountpoint().join("file"), "the newer mount is left alone").unwrap();
    next.unmount().unwrap();
}

#[test]
fn attributes_that_change_elsewhere_are_seen_at_once_when_announced() {
    let home = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (volume, forever) =
        (own_volume(&runtime), MountOptions { cache_for: Duration::from_secs(3600), ..Default::default() });
    let mounted = Mounted::mount(volume.clone(), home.path(), runtime.handle().clone(), &forever).unwrap();
    let path = mounted.mountpoint().join("file");
    fs::write(&path, "x").unwrap();
    let mode = || fs::metadata(&path).unwrap().mode() & 0o7777;
    assert_ne!(mode(), 0o600);
    let ino = volume.lookup(Ino::ROOT, b"file").unwrap().ino;
    let change = AttributeChange { mode: Some(0o600), ..Default::default() };
    runtime.block_on(volume.set_attributes(ino, change, 0)).unwrap();
    assert_ne!(mode(), 0o600, "the kernel keeps what it was not told of");
    mounted.invalidate(&BTreeSet::from([ino]));
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while mode() != 0o600 {
        assert!(std::time::Instant::now() < deadline, "the old mode is still cached");
        std::thread::yield_now();
    }
}

#[test]
fn what_one_machine_writes_another_reads() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let share = Share::new(3);
    let mount = |n| {
        let home = tempfile::tempdir().unwrap();
        let mounted =
            Mounted::mount(share.volume(n), home.path(), runtime.handle().clone(), &MountOptions::default()).unwrap();
        (mounted, home)
    };
    // SAFETY: takes no arguments and cannot fail.
    let owner = AttributeChange { uid: Some(unsafe { libc::geteuid() }), ..Default::default() };
    runtime.block_on(share.volume(0).set_attributes(Ino::ROOT, owner, 0)).unwrap();
    let ((a, _a_home), (b, _b_home)) = (mount(0), mount(1));
    let (at_a, at_b) = (a.mountpoint().join("file"), b.mountpoint().join("file"));
    let first = vec![1; 100_000];
    fs::write(&at_a, &first).unwrap();
    assert_eq!(fs::read(&at_b).unwrap(), first);
    let held = File::open(&at_b).unwrap();
    let second = vec![2; 3_000_000];
    fs::write(&at_a, &second).unwrap();
    let ino = Ino(fs::metadata(&at_a).unwrap().ino());
    share.volume(1).invalidated(ino);
    b.invalidate(&BTreeSet::from([ino]));
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while fs::read(&at_b).unwrap() != second {
        assert!(std::time::Instant::now() < deadline, "the old content is still cached");
        std::thread::yield_now();
    }
    let mut page = [0; 4096];
    held.read_exact_at(&mut page, 0).unwrap();
    assert_eq!(page, [2; 4096], "a file open all along shows it too");
}

/// For the public suites.
#[test]
#[ignore = "serves until it is unmounted"]
fn serve() {
    let world = world();
    println!("{}", world.mounted.mountpoint().display());
    world.runtime.block_on(world.mounted.ended());
}
