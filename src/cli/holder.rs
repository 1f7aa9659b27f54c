//! Who holds the connection of a mount that says nothing: a peer that lives and is slow, or one that was killed.
//!
//! A peer may be killed while a thread of it waits in the kernel for a read of the mount. That read is never answered, so the
//! thread does not end; the process cannot end without it, and the kernel keeps the mount for it.

use std::fs;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

/// What the kernel calls a peer: in the foreground, and in the background, where it is started by way of `/proc/self/exe`.
const OURS: [&str; 2] = ["shoal", "exe"];

/// How long looking at one process may take.
const LOOK_DEADLINE: Duration = Duration::from_secs(1);

/// Who holds a connection to the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Holder {
    /// A process that runs, or is only stopped.
    Living(u32),
    /// What is left of a process that was killed, and of no other.
    Killed(u32),
    /// Nobody who can be seen from here.
    Unseen,
}

/// Who holds the connection of the mount with this device. An older kernel does not say whose an open FUSE device is: there
/// every `shoal` that lives and has one counts as a holder, for its mount may be this one.
pub fn of(device: &str) -> Holder {
    let Some(connection) = device.strip_prefix("0:") else { return Holder::Unseen };
    let mut killed = Holder::Unseen;
    for process in numbers(Path::new("/proc")) {
        let (said, hears) = mpsc::channel();
        let connection = connection.to_owned();
        // Of a process that the kernel has wait in the very mount nothing can be read: the thread is left behind.
        std::thread::spawn(move || said.send(holds(process, &connection)));
        match hears.recv_timeout(LOOK_DEADLINE).unwrap_or(Holder::Unseen) {
            Holder::Unseen => {}
            Holder::Killed(process) => killed = Holder::Killed(process),
            living => return living,
        }
    }
    killed
}

fn holds(process: u32, connection: &str) -> Holder {
    let place = format!("/proc/{process}");
    let stat = fs::read_to_string(format!("{place}/stat")).unwrap_or_default();
    match name_and_state(&stat) {
        // The process has let go of what it had; a thread that is left has its own.
        Some((_, 'Z' | 'X')) => {
            let left = numbers(&Path::new(&place).join("task"));
            let holds = |thread: &u32| has(&format!("{place}/task/{thread}"), connection).unwrap_or(true);
            if left.iter().any(holds) { Holder::Killed(process) } else { Holder::Unseen }
        }
        Some((name, _)) if has(&place, connection).unwrap_or(OURS.contains(&&*name)) => Holder::Living(process),
        _ => Holder::Unseen,
    }
}

/// Whether a process or thread has the connection open; `None` if it has some FUSE device open and the kernel does not say
/// of which connection.
fn has(place: &str, connection: &str) -> Option<bool> {
    let mut found = Some(false);
    for descriptor in numbers(&Path::new(place).join("fd")) {
        let is_device = fs::read_link(format!("{place}/fd/{descriptor}")).is_ok_and(|to| to.starts_with("/dev/fuse"));
        if !is_device {
            continue;
        }
        match fs::read_to_string(format!("{place}/fdinfo/{descriptor}")).ok().as_deref().and_then(connection_in) {
            Some(of) if of == connection => return Some(true),
            Some(_) => {}
            None => found = None,
        }
    }
    found
}

/// The number of the connection, as the kernel describes an open FUSE device.
fn connection_in(description: &str) -> Option<&str> {
    description.lines().find_map(|line| line.strip_prefix("fuse_connection:")).map(str::trim)
}

/// `1234 (name) S ...`; the name may hold anything.
fn name_and_state(stat: &str) -> Option<(String, char)> {
    let (before, after) = stat.rsplit_once(')')?;
    Some((before.split_once('(')?.1.to_owned(), after.trim_start().chars().next()?))
}

fn numbers(directory: &Path) -> Vec<u32> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says_of_a_process_and_a_device_is_read() {
        assert_eq!(name_and_state("7 (a (b) c) D 1 2"), Some(("a (b) c".to_owned(), 'D')));
        assert_eq!(name_and_state(""), None);
        assert_eq!(connection_in("pos:\t0\nino:\t78\nfuse_connection:\t52\n"), Some("52"));
        assert_eq!(connection_in("pos:\t0\n"), None);
    }

    #[test]
    fn what_is_no_connection_has_no_holder() {
        assert_eq!(of("254:0"), Holder::Unseen, "a disk");
    }
}
