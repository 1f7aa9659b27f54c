//! What an op from outside must satisfy before it is looked at further: every length and number within bounds.

use super::apply::DERIVED;
use super::op::*;
use crate::id::{Author, Ino, PeerTag};
use crate::policy::{Geometry, MAX_SHARDS, Policy};
use crate::time::Stamp;

/// The longest name of an extended attribute, in bytes.
pub const XATTR_NAME_BYTES: usize = 255;
/// The longest name, zone or machine identity of a peer, in bytes.
const PEER_TEXT_BYTES: usize = 256;
/// The most characters of a peer's name.
const PEER_NAME_CHARS: usize = 64;
/// The most addresses of a peer.
const PEER_ADDRESSES: usize = 8;
/// The largest size of a file: what a system call can say.
const SIZE_BYTES: u64 = i64::MAX as u64;

/// `S_IFIFO`, `S_IFCHR`, `S_IFBLK`, `S_IFSOCK`.
const SPECIAL_FORMATS: [u32; 4] = [0o010_000, 0o020_000, 0o060_000, 0o140_000];

/// Why ops or a snapshot were refused, by what the caller can do. Nothing of the batch was taken.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OpError {
    /// An op breaks a bound: its sender is faulty, or another version. Drop the connection.
    #[error("op {seq} of peer {author} is not valid: {what}; the peer that sent it is faulty or of another version")]
    Invalid { author: Author, seq: u64, what: &'static str },
    /// Ops between are missing: ask again with the vector.
    #[error("op {got} of peer {author} came, but {expected} is next; the ops between must come first")]
    Gap { author: Author, expected: u64, got: u64 },
    /// The op's peer is not on the roster, and no op in the batch admits it.
    #[error("op {seq} is of peer {author}, which is not on the roster; admit it first")]
    Stranger { author: Author, seq: u64 },
    /// Stamped ahead of this machine's clock: one of the two clocks is wrong. Try again after setting it.
    #[error("op {seq} of peer {author} is stamped {ahead_ms} ms ahead of this machine's clock; set both clocks right")]
    Future { author: Author, seq: u64, ahead_ms: u64 },
    /// Stamped below what every peer has settled: its peer must take a snapshot and make its changes anew.
    #[error("op {seq} of peer {author} is older than what is settled; that peer must take a snapshot first")]
    TooOld { author: Author, seq: u64 },
    /// Two different ops of one peer bear the same number: it lost its log and went on. It must join again.
    #[error("peer {author} made two different ops {seq}: its log was lost or copied; evict it and let it join again")]
    Clash { author: Author, seq: u64 },
    /// The snapshot lacks what is settled here: it is older. Ask another peer for one.
    #[error("the snapshot lacks what is settled here; fetch one from another peer")]
    Behind,
    /// A peer has begun to number its ops anew as often as it can. It must join again, with another key.
    #[error("this machine has used up its epochs; let it join anew with another --home")]
    NoEpoch,
    /// A snapshot that is no namespace.
    #[error("the snapshot is damaged: {what}; fetch another")]
    Damaged { what: &'static str },
}

/// Checks a name of a directory entry.
pub fn check_name(name: &[u8]) -> Result<(), &'static str> {
    match name {
        b"" => Err("a name is empty"),
        b"." | b".." => Err("a name is \".\" or \"..\""),
        name if name.len() > NAME_BYTES => Err("a name is too long"),
        name if name.iter().any(|byte| matches!(byte, b'/' | 0)) => Err("a name holds '/' or NUL"),
        _ => Ok(()),
    }
}

/// Checks an op on its own.
pub(super) fn check_op(op: &Op) -> Result<(), OpError> {
    let invalid = |what| OpError::Invalid { author: op.stamp.author, seq: op.seq, what };
    if op.seq == 0 || op.stamp.author.peer() == PeerTag::default() {
        return Err(invalid("it has no number or no peer"));
    }
    check_change(op.stamp, &op.change).map_err(invalid)
}

/// Checks a change that is to get this stamp.
pub(super) fn check_change(stamp: Stamp, change: &Change) -> Result<(), &'static str> {
    check_change_for(stamp.author.peer(), stamp, change)
}

/// Checks a change that somebody wished.
fn check_change_for(wisher: PeerTag, stamp: Stamp, change: &Change) -> Result<(), &'static str> {
    let drawn = |creator, counter| match creator == wisher && counter < DERIVED {
        true => Ok(()),
        false => Err("a number is not its peer's to draw"),
    };
    match change {
        Change::Create { place, ino, kind, .. } => {
            check_name(&place.name)?;
            drawn(ino.creator(), ino.counter())?;
            match kind {
                Kind::Symlink { target } => ensure((1..=TARGET_BYTES).contains(&target.len()), "a symlink's target"),
                Kind::Special { format, .. } => ensure(SPECIAL_FORMATS.contains(format), "a special file of no kind"),
                Kind::File | Kind::Directory => Ok(()),
            }
        }
        Change::Link { place, .. } | Change::Unlink { place, .. } | Change::Rmdir { place, .. } => {
            check_name(&place.name)
        }
        Change::Rename { from, to, .. } => check_name(&from.name).and(check_name(&to.name)),
        Change::Exchange { a, b, .. } => check_name(&a.name).and(check_name(&b.name)),
        Change::Reap { ino } => ensure(*ino != Ino::ROOT, "it reaps the root"),
        Change::SetAttributes { .. } => Ok(()),
        Change::SetXattr { name, value, .. } => {
            ensure((1..=XATTR_NAME_BYTES).contains(&name.len()), "an attribute's name is empty or too long")?;
            ensure(value.as_ref().is_none_or(|value| value.len() <= XATTR_BYTES), "an attribute is too long")
        }
        Change::Write { base, extents, blocks, size, .. } => {
            ensure(*base < stamp, "it builds on what came after it")?;
            ensure(*size <= SIZE_BYTES, "a size is too large")?;
            check_extents(extents)?;
            ensure(blocks.len() <= extents.len(), "it has more blocks than extents")?;
            let right = |block: &NewBlock| block.len >= 1 && block.len as usize <= BLOCK_BYTES;
            ensure(blocks.iter().all(right), "a block's length is out of range")
        }
        Change::SetPolicy { policy, .. } => policy.map_or(Ok(()), check_policy),
        Change::OpenGroup { group, policy, geometry, seats } => {
            drawn(group.creator(), group.counter())?;
            check_policy(*policy)?;
            check_geometry(*geometry)?;
            ensure(seats.len() == geometry.shards(), "a group has not one seat a slot")
        }
        Change::Seat { slot, .. } | Change::Unseat { slot, .. } => ensure(*slot < MAX_SHARDS, "a slot is out of range"),
        Change::Admit { peer } => check_peer(peer),
        Change::Merge { from, ino, .. } => {
            check_name(&from.name)?;
            ensure(*ino != Ino::ROOT, "it merges the root into another directory")
        }
        Change::Settle { place, .. } => check_name(&place.name),
        Change::SetPartition { .. } | Change::Evict { .. } | Change::CloseGroup { .. } | Change::SetStanding { .. } => {
            Ok(())
        }
        Change::Grant { .. } => Ok(()),
        Change::Depose { peer, heir } => {
            ensure([*peer, *heir].contains(&stamp.author.peer()), "it deposes a peer in another's favour")
        }
        Change::Relocate { blocks, .. } => ensure(blocks.len() <= RELOCATED_BLOCKS, "it moves too many blocks"),
        Change::LetGo { .. } | Change::TakeBack { .. } => Ok(()),
        Change::For { peer, change, .. } => {
            ensure(change.0.is_to_names(), "what it does for another peer is no change to names")?;
            check_change_for(*peer, stamp, &change.0)
        }
        Change::Again { stamp: first, seq, change } => {
            ensure(*first < stamp, "it makes anew what came after it")?;
            ensure(
                *seq > 0 && first.author.peer() != PeerTag::default(),
                "it makes anew what has no number or no peer",
            )?;
            ensure(change.0.outlives_its_log(), "it makes anew what meant something at its own place only")?;
            check_change(*first, &change.0)
        }
    }
}

fn ensure(right: bool, what: &'static str) -> Result<(), &'static str> {
    if right { Ok(()) } else { Err(what) }
}

pub(super) fn check_extents(extents: &[(u64, Extent)]) -> Result<(), &'static str> {
    ensure(extents.len() <= WRITE_EXTENTS, "it has too many extents")?;
    let mut end = 0;
    for (at, extent) in extents {
        ensure(*at >= end, "its extents overlap or descend")?;
        end =
            at.checked_add(u64::from(extent.len)).filter(|end| *end <= SIZE_BYTES).ok_or("an extent is too far out")?;
        check_extent(extent)?;
    }
    Ok(())
}

pub(super) fn check_extent(extent: &Extent) -> Result<(), &'static str> {
    let len = extent.len as usize;
    ensure(len > 0, "an extent is empty")?;
    match &extent.source {
        Source::Inline(bytes) => ensure(bytes.len() == len && len <= INLINE_BYTES, "inline bytes of a wrong length"),
        Source::Block { at, .. } => ensure(*at as usize + len <= BLOCK_BYTES, "an extent reaches out of its block"),
        Source::Hole => Ok(()),
    }
}

fn check_policy(policy: Policy) -> Result<(), &'static str> {
    let right = match policy {
        Policy::Replicate(copies) => (1..=MAX_SHARDS).contains(&copies),
        Policy::ReedSolomon { data, parity } => {
            data > 0 && parity > 0 && data.checked_add(parity).is_some_and(|shards| shards <= MAX_SHARDS)
        }
        Policy::Survive(losses) => losses <= 16,
    };
    ensure(right, "a policy is out of range")
}

fn check_geometry(geometry: Geometry) -> Result<(), &'static str> {
    ensure(geometry.data > 0 && geometry.shards() <= usize::from(MAX_SHARDS), "a geometry is out of range")
}

fn check_peer(peer: &PeerRecord) -> Result<(), &'static str> {
    let name = peer.name.chars().count();
    ensure((1..=PEER_NAME_CHARS).contains(&name), "a peer's name is empty or too long")?;
    ensure(
        peer.zone.len() <= PEER_TEXT_BYTES && peer.host.len() <= PEER_TEXT_BYTES,
        "a peer's zone or host is too long",
    )?;
    ensure(peer.addresses.len() <= PEER_ADDRESSES, "a peer has too many addresses")
}
