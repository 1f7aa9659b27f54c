//! The control socket: how commands reach the running peer of a home.
//!
//! A Unix socket in the home, for its owner and root only. A client connects, writes one request as one line of
//! JSON, and reads lines until the last one: any number of progress lines, then one reply or one error. One
//! request per connection. What the lines say is in [`message`], the reports that scripts may rely on in
//! [`report`]; [`server`] is the peer's end, [`client`] the command's.

pub mod client;
pub mod message;
pub mod report;
pub mod server;

pub use client::Client;
pub use message::{ByteText, ControlReply, ControlRequest, Progress};
pub use report::{
    AliveParticipant, BlockReport, CanStopReport, CheckReport, ConflictReport, ConflictsReport, DeedReport,
    EvictReport, GroupCounts, GroupReport, GroupsReport, HealingReport, LeaveReport, LogReport, MountReport,
    PartitionReport, PeerReport, PeersReport, PolicyReport, RefusedReport, ScrubReport, ScrubbedPeer, ShardReport,
    SlotReport, StatsReport, StatusReport, WhereReport,
};
pub use server::{Commands, ProgressSink, Server, serve};

use std::io;
use std::path::{Path, PathBuf};

/// Longest request line: two paths and the rest, with room.
pub const MAX_REQUEST_BYTES: usize = 64 * 1024;

/// Longest line of an answer. `where` on a file of a hundred thousand blocks takes about 64 MiB.
pub const MAX_REPLY_BYTES: u64 = 256 * 1024 * 1024;

/// The socket's name in the home.
pub const SOCKET_NAME: &str = "control.sock";

/// The kernel's limit on a socket address is 108 bytes with the closing zero.
const MAX_ADDRESS_BYTES: usize = 107;

/// Where the control socket of `home` lies.
pub fn socket_path(home: &Path) -> PathBuf {
    home.join(SOCKET_NAME)
}

/// Why a call of the control socket failed, by what the caller can do.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nobody listens: start the peer.
    #[error("no peer is running for {home}; start it with shoal mount or shoal serve")]
    NotRunning { home: PathBuf },
    /// The home is another user's: become that user, or root.
    #[error("{home} is another user's; run this as its owner or as root")]
    NotYours { home: PathBuf },
    /// Nothing was heard for the call's deadline: look at the peer's log.
    #[error("the peer of {home} said nothing for {seconds} s; its log is {log}", log = .home.join("peer.log").display())]
    Silent { home: PathBuf, seconds: u64 },
    /// The connection or what came over it is broken: the peer died, or is another version.
    #[error("the peer of {home} broke off: {why}; its log is {log}", log = .home.join("peer.log").display())]
    Broken { home: PathBuf, why: String },
    /// The caller stopped waiting; what was asked goes on.
    #[error("it was not waited for")]
    Abandoned,
    /// The peer did not do it, and says why.
    #[error("{0}")]
    Refused(String),
    /// The socket could not be made or opened.
    #[error("the control socket {path} cannot be used: {source}")]
    Socket { path: PathBuf, source: io::Error },
}

/// Runs `with` with a name of `path` short enough for a socket address: a long one is reached through an open
/// handle of its directory.
fn with_short_path<T>(path: &Path, with: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    use std::os::fd::AsRawFd;
    if path.as_os_str().len() <= MAX_ADDRESS_BYTES {
        return with(path);
    }
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return with(path);
    };
    let handle = std::fs::File::open(directory)?;
    with(&Path::new("/proc/self/fd").join(handle.as_raw_fd().to_string()).join(name))
}

#[cfg(test)]
mod tests;
