//! What can go wrong with a home, by what the person at the keyboard can do.

use std::io;
use std::path::{Path, PathBuf};

/// Why a home, its log or its tree cannot be used. Shards have `ShardError` instead: their callers are programs.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// `create` on a home that is in use as one.
    #[error("{} already is a peer; give another directory with --home, or mount or serve this one", .home.display())]
    AlreadyPeer { home: PathBuf },
    /// `create` on a directory that holds something else.
    #[error("{} holds other files ({entry}); give an empty or new directory with --home", .home.display())]
    NotEmpty { home: PathBuf, entry: String },
    /// `create` where the disk has too little space for an empty home.
    #[error("there is no space for {}: {free} bytes are free, and it takes {needed}; free some, or give another directory with --home", .home.display())]
    NoRoom { home: PathBuf, free: u64, needed: u64 },
    /// `open` before `create`.
    #[error("{} is no peer yet; run `shoal init` or `shoal join TICKET` first, or give its directory with --home", .home.display())]
    NotPeer { home: PathBuf },
    /// Another user's home.
    #[error("{} belongs to user {owner}, and this is user {me}; run as its owner, or give another directory with --home", .home.display())]
    Owner { home: PathBuf, owner: u32, me: u32 },
    /// A running peer holds the lock.
    #[error("{} is in use by a running peer ({who}); stop that one first with `shoal stop`, or give another directory with --home", .home.display())]
    Locked { home: PathBuf, who: String },
    /// Written by a later version of this program.
    #[error("{} has format version {found}, and this shoal knows up to {known}; upgrade shoal", .path.display())]
    Newer { path: PathBuf, found: u64, known: u64 },
    /// The bytes are not what was written.
    #[error("{} is damaged{}: {what}; check the disk, then let this machine join the share anew with another --home", .path.display(), at(.offset))]
    Damaged { path: PathBuf, offset: Option<u64>, what: String },
    /// One op alone does not fit a record.
    #[error("an op of {bytes} bytes is larger than a log record may be ({limit} bytes); nothing was logged")]
    TooLarge { bytes: usize, limit: usize },
    /// The log failed before and takes nothing more: what the disk then holds is unknown until it is read again.
    #[error("the op log {} cannot be written any more ({why}); check the disk, then stop and start this peer", .path.display())]
    LogStopped { path: PathBuf, why: String },
    /// The operating system refused.
    #[error("cannot {doing} {}: {error}; check the disk and the permissions", .path.display())]
    Io { doing: &'static str, path: PathBuf, error: io::Error },
}

fn at(offset: &Option<u64>) -> String {
    offset.map(|offset| format!(" at byte {offset}")).unwrap_or_default()
}

impl StoreError {
    /// For `map_err`: what was being done to which path.
    pub(super) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
        move |error| StoreError::Io { doing, path: path.to_owned(), error }
    }

    pub(super) fn damaged(path: &Path, offset: Option<u64>, what: impl Into<String>) -> StoreError {
        StoreError::Damaged { path: path.to_owned(), offset, what: what.into() }
    }

    /// The disk is full: the caller may go on when there is room again.
    pub fn is_full(&self) -> bool {
        matches!(self, StoreError::Io { error, .. }
            if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    }
}
