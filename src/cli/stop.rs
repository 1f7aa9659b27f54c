//! `shoal stop`: flush everything, unmount, end the peer.

use super::{CHANGE_DEADLINE, LOOK_DEADLINE, ask, output, unexpected};
use crate::io::control::{ControlReply, ControlRequest};
use anyhow::bail;
use std::path::Path;
use std::time::{Duration, Instant};

/// From the last answer to the end of the process: nothing is left to write.
const END_DEADLINE: Duration = Duration::from_secs(15);

pub fn run(home: &Path) -> anyhow::Result<()> {
    let pid = match ask(home, &ControlRequest::Ping, LOOK_DEADLINE)? {
        ControlReply::Pong { pid, .. } => pid,
        other => return Err(unexpected(&other)),
    };
    match ask(home, &ControlRequest::Stop, CHANGE_DEADLINE)? {
        ControlReply::Done => {}
        other => return Err(unexpected(&other)),
    }
    // So that the home is free, and another peer may start there, when this returns.
    let deadline = Instant::now() + END_DEADLINE;
    while alive(pid) {
        if Instant::now() >= deadline {
            bail!(
                "everything is flushed, but process {pid} has not ended within {} s; see {}",
                END_DEADLINE.as_secs(),
                home.join("peer.log").display()
            );
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    output::print("Everything is flushed; the peer has stopped.\n")
}

/// The process is there and has not ended (one that ended may wait for its parent to look).
fn alive(pid: u32) -> bool {
    match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => !stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with(['Z', 'X'])),
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ended_process_is_not_alive_even_before_its_parent_looks() {
        assert!(alive(std::process::id()));
        let mut child = std::process::Command::new("true").stdout(std::process::Stdio::piped()).spawn().unwrap();
        // Its end of the pipe closes as it ends.
        std::io::Read::read_to_end(child.stdout.as_mut().unwrap(), &mut Vec::new()).unwrap();
        while alive(child.id()) {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert!(!alive(child.id()));
    }
}
