//! Setting attributes, and the figures that `df` shows.

use super::names::inode;
use super::ports::{Candidate, Errno, Planned};
use super::{Attributes, Volume};
use crate::id::Ino;
use crate::namespace::{Change, Inode, Kind, Namespace, SetAttributes};
use crate::policy::Geometry;
use crate::time::WallTime;

/// A time to set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TimeChange {
    Now,
    At(WallTime),
}

/// What `chmod`, `chown`, `truncate` and `utimensat` ask for. Nothing at all is `chown` with neither owner nor
/// group: it sets the change time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct AttributeChange {
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub size: Option<u64>,
    pub atime: Option<TimeChange>,
    pub mtime: Option<TimeChange>,
}

impl AttributeChange {
    fn chowns(&self) -> bool {
        self.uid.is_some() || self.gid.is_some() || *self == AttributeChange::default()
    }
}

/// What the share holds and could still hold, for `statfs`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Figures {
    /// Bytes of all files, each counted once.
    pub used: u64,
    /// Bytes of files that can still be stored under the policy of the root with the peers that are alive.
    pub free: u64,
    /// Files and directories.
    pub inodes: u64,
}

/// Permission bits without setuid, and without setgid where that means execution (not mandatory locking).
pub fn without_suid(mode: u32) -> u32 {
    let group_executes = mode & libc::S_IXGRP != 0;
    mode & !libc::S_ISUID & if group_executes { !libc::S_ISGID } else { !0 }
}

/// What gives a program rights of its own.
const CAPABILITIES: &[u8] = b"security.capability";

/// The change that takes a file's capabilities away, if it has any.
pub(super) fn without_capabilities(names: &Namespace, ino: Ino, ctime: WallTime) -> Option<Change> {
    names.xattr(ino, CAPABILITIES)?;
    Some(Change::SetXattr { ino, name: bytes::Bytes::from_static(CAPABILITIES), value: None, ctime })
}

impl Volume {
    /// Sets attributes for a caller with this user id. Whether it may is the kernel's to check.
    pub async fn set_attributes(&self, ino: Ino, change: AttributeChange, caller: u32) -> Result<Attributes, Errno> {
        if let Some(size) = change.size {
            self.truncate(ino, size).await?;
        }
        let control = self.control();
        let now = control.now();
        let time = |change: Option<TimeChange>| {
            change.map(|change| match change {
                TimeChange::Now => now,
                TimeChange::At(time) => time,
            })
        };
        let (atime, mtime) = (time(change.atime), time(change.mtime));
        let only_size = AttributeChange { size: change.size, ..Default::default() } == change && change.size.is_some();
        if !only_size {
            self.note_times(ino, mtime);
        }
        let plan = |names: &Namespace| {
            let inode = inode(names, ino)?;
            let mode = new_mode(inode, &change, caller);
            if only_size && mode.is_none() {
                return Ok(Planned::default());
            }
            let set = SetAttributes { mode, uid: change.uid, gid: change.gid, atime, mtime, ctime: Some(now) };
            let capabilities = if change.chowns() { without_capabilities(names, ino, now) } else { None };
            Ok(Planned::under(
                vec![ino],
                [Change::SetAttributes { ino, set }].into_iter().chain(capabilities).collect(),
            ))
        };
        let seq = self.change(plan).await?;
        self.settle(seq).await?;
        self.attributes(ino)
    }

    /// What the share holds and could still hold.
    pub fn figures(&self) -> Figures {
        let control = self.control();
        let candidates = control.candidates();
        let alive: Vec<&Candidate> = candidates.iter().filter(|peer| peer.alive).collect();
        let (policy, files) = {
            let names = control.namespace();
            (names.policy(Ino::ROOT), names.files())
        };
        Figures {
            used: files.bytes,
            free: storable(policy.geometry(alive.len()), &room(&alive)),
            inodes: files.files + files.directories,
        }
    }
}

/// The mode to set, if any: what was asked for, or the present one without setuid and setgid where changing the
/// owner, or a truncation by anyone but root, takes these away.
fn new_mode(inode: &Inode, change: &AttributeChange, caller: u32) -> Option<u32> {
    if let Some(mode) = change.mode {
        return Some(mode & 0o7777);
    }
    let truncated = change.size.is_some() && caller != 0;
    let cleared = without_suid(inode.mode);
    let clears = (change.chowns() || truncated) && !matches!(inode.kind, Kind::Directory) && cleared != inode.mode;
    clears.then_some(cleared)
}

/// Bytes that each of these peers has for itself: what a file system has free is shared by those that lie on it.
fn room(peers: &[&Candidate]) -> Vec<u64> {
    let on = |disk: u64| peers.iter().filter(|other| other.disk == disk).count() as u64;
    peers.iter().map(|peer| if peer.disk == 0 { peer.free } else { peer.free / on(peer.disk) }).collect()
}

/// Bytes of content that fit in peers with this much room. Each block puts its shards on distinct peers, or as
/// evenly as can be where there are fewer, so that a roomy peer among full ones is of little use: the most blocks
/// are the largest B for which the peers, each taking at most its fair part of B, take all B times n shards.
pub fn storable(geometry: Geometry, free: &[u64]) -> u64 {
    let shards = geometry.shards() as u128;
    if free.is_empty() {
        return 0;
    }
    let slots_each = shards.div_ceil(free.len() as u128);
    let fits = |shard_bytes: u128| {
        let taken: u128 = free.iter().map(|free| u128::from(*free).min(slots_each * shard_bytes)).sum();
        taken >= shards * shard_bytes
    };
    // Bytes in one slot of all blocks together: the condition holds up to some point and not past it.
    let (mut low, mut high) = (0u128, u128::from(u64::MAX));
    while low < high {
        let middle = (low + high).div_ceil(2);
        if fits(middle) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    u64::try_from(low * u128::from(geometry.data)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn equal_peers_hold_their_sum_over_the_overhead() {
        assert_eq!(storable(Geometry { data: 4, parity: 2 }, &[GIB; 6]), 4 * GIB);
        assert_eq!(storable(Geometry { data: 1, parity: 2 }, &[GIB; 6]), 2 * GIB);
        assert_eq!(storable(Geometry { data: 1, parity: 0 }, &[GIB]), GIB);
    }

    #[test]
    fn a_roomy_peer_among_full_ones_is_of_little_use() {
        assert_eq!(storable(Geometry { data: 1, parity: 2 }, &[100 * GIB, GIB, GIB]), GIB);
        assert_eq!(storable(Geometry { data: 1, parity: 1 }, &[100 * GIB, GIB, GIB]), 2 * GIB);
        assert_eq!(storable(Geometry { data: 1, parity: 2 }, &[100 * GIB, GIB, 0]), 0);
    }

    #[test]
    fn fewer_peers_than_shards_take_several_each() {
        assert_eq!(storable(Geometry { data: 4, parity: 2 }, &[3 * GIB; 3]), 6 * GIB);
        assert_eq!(storable(Geometry { data: 1, parity: 2 }, &[3 * GIB]), GIB);
        assert_eq!(storable(Geometry { data: 4, parity: 2 }, &[]), 0);
    }

    #[test]
    fn a_disk_that_several_lie_on_is_counted_once() {
        let on = |disk: u64, free: u64| Candidate { disk, free, ..candidate() };
        let (a, b, c, unknown) = (on(7, 6 * GIB), on(7, 6 * GIB), on(8, GIB), on(0, 2 * GIB));
        assert_eq!(room(&[&a, &b, &c, &unknown, &unknown]), [3 * GIB, 3 * GIB, GIB, 2 * GIB, 2 * GIB]);
    }

    fn candidate() -> Candidate {
        Candidate {
            peer: crate::id::PeerTag(1),
            alive: true,
            zone: String::new(),
            address: None,
            host: String::new(),
            free: 0,
            stored: 0,
            disk: 0,
            leaving: false,
        }
    }

    #[test]
    fn immense_disks_do_not_overflow() {
        assert_eq!(storable(Geometry { data: 30, parity: 2 }, &[u64::MAX; 100]), u64::MAX);
    }

    #[test]
    fn setgid_without_group_execution_stays() {
        assert_eq!(without_suid(0o6755), 0o755);
        assert_eq!(without_suid(0o6745), 0o2745);
    }
}
