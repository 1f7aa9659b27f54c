//! Cleaning up: after a cluster, and after test processes that died before they could.

use std::ffi::CString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Directories of clusters are `shoal-test-PID-NUMBER`, their namespaces `shPIDcNUMBER...`.
pub const DIRECTORY: &str = "shoal-test-";
pub const NAMESPACE: &str = "sh";

/// Removes what test processes that no longer exist have left behind.
pub fn sweep() {
    let entries = |dir: &Path| {
        let names = fs::read_dir(dir).into_iter().flatten().flatten();
        names.map(|e| e.path()).collect::<Vec<_>>()
    };
    for dir in entries(&std::env::temp_dir()) {
        if creator(&dir, DIRECTORY, '-').is_some_and(is_dead) {
            clear(&dir);
        }
    }
    for namespace in entries(Path::new("/run/netns")) {
        if creator(&namespace, NAMESPACE, 'c').is_some_and(is_dead) {
            let name = namespace.file_name().unwrap_or_default();
            let _ = Command::new("ip").args(["netns", "del"]).arg(name).stderr(Stdio::null()).status();
        }
    }
}

/// Ends every peer whose home is under `dir`, takes its mounts away, and deletes it.
pub fn clear(dir: &Path) {
    for pid in peers_under(dir) {
        kill(pid, libc::SIGKILL);
    }
    let unmount_all = || mounts_under(dir).iter().for_each(|mountpoint| unmount(mountpoint));
    // Before they have ended, for the kernel may keep one for its mount; and after, for one may have been mounting.
    unmount_all();
    let deadline = Instant::now() + Duration::from_secs(10);
    while !peers_under(dir).is_empty() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    unmount_all();
    // Never delete through a mount: it would be someone's files.
    if mounts_under(dir).is_empty() {
        let _ = fs::remove_dir_all(dir);
    } else {
        eprintln!("{} is left behind: something is still mounted there", dir.display());
    }
}

/// Lets a mount go at once, whether or not anyone still answers for it: every call that waits in it fails.
pub fn unmount(mountpoint: &Path) {
    use std::os::unix::ffi::OsStrExt;
    let path = CString::new(mountpoint.as_os_str().as_bytes()).unwrap();
    let flags = libc::MNT_FORCE | libc::MNT_DETACH | libc::UMOUNT_NOFOLLOW;
    // Not the program, which may look at the mount first.
    // SAFETY: the path is a string that ends with a zero byte and lives through the call.
    if unsafe { libc::umount2(path.as_ptr(), flags) } != 0 {
        eprintln!("{} cannot be unmounted: {}", mountpoint.display(), std::io::Error::last_os_error());
    }
}

/// Mountpoints at or below `dir`, the newest first.
pub fn mounts_under(dir: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut found: Vec<_> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(PathBuf::from)
        .filter(|mountpoint| mountpoint.starts_with(dir))
        .collect();
    found.reverse();
    found
}

/// Processes that were started with a home under `dir`.
pub fn peers_under(dir: &Path) -> Vec<i32> {
    let setting = format!("SHOAL_HOME={}/", dir.display());
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            let ours = environment.split(|b| *b == 0).any(|v| v.starts_with(setting.as_bytes()));
            ours && !is_zombie(*pid)
        })
        .collect()
}

fn is_zombie(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'))
}

pub fn kill(pid: i32, signal: i32) {
    // SAFETY: kill takes two numbers and touches no memory of ours.
    unsafe { libc::kill(pid, signal) };
}

fn creator(path: &Path, prefix: &str, end: char) -> Option<i32> {
    path.file_name()?.to_str()?.strip_prefix(prefix)?.split_once(end)?.0.parse().ok()
}

fn is_dead(pid: i32) -> bool {
    // One that waits in a mount which nobody serves any more is no longer there, and not gone either.
    !Path::new(&format!("/proc/{pid}")).exists() || is_zombie(pid)
}
