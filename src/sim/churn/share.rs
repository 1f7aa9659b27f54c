//! The share that a run begins with: a roster, and items, each in a group of its own, placed as a writer places them.

use super::Case;
use super::disk::Disks;
use crate::group::choose;
use crate::id::{Author, BlockName, GroupId, Ino, PeerKey, PeerTag};
use crate::namespace::{BLOCK_BYTES, Change, Extent, Kind, Namespace, NewBlock, PeerRecord, Place, Source};
use crate::sim::chance::Chance;
use crate::time::{Stamp, WallTime};
use crate::volume::ports::Candidate;
use bytes::Bytes;
use std::net::{IpAddr, Ipv4Addr};

/// What a clock shows when a run begins: some time in 2026.
const START: i64 = 1_790_000_000 * 1_000_000_000;

/// What clocks show, all the same.
pub fn wall(now: crate::time::Instant) -> WallTime {
    WallTime(START.saturating_add(i64::try_from(now.0).unwrap_or(i64::MAX - START)))
}

/// A key whose tag nobody has yet.
pub fn new_key(namespace: &Namespace, chance: &mut Chance) -> PeerKey {
    loop {
        let key = PeerKey(chance.bytes());
        if namespace.peer(key.tag()).is_none() {
            return key;
        }
    }
}

/// Where the peers of a subnet have their addresses. Without diversity nobody knows.
pub fn address(subnet: u32, diversity: bool) -> Option<IpAddr> {
    let [_, high, low, _] = (subnet << 8).to_be_bytes();
    diversity.then_some(IpAddr::V4(Ipv4Addr::new(10, high, low, 1)))
}

/// The roster gains a peer.
pub fn admit(key: PeerKey) -> Change {
    let name = key.tag().to_string();
    let peer = PeerRecord { key, name, addresses: Vec::new(), zone: String::new(), host: String::new() };
    Change::Admit { peer }
}

/// A peer stores an item: a group, a file, and its blocks.
pub fn store_item(
    namespace: &mut Namespace,
    disks: &mut Disks,
    chance: &mut Chance,
    case: &Case,
    writer: PeerTag,
    candidates: &[Candidate],
    now: WallTime,
) -> Option<GroupId> {
    let geometry = case.policy.geometry(candidates.len());
    let seats = choose(geometry.shards(), &[], candidates, Some(writer), chance.bits());
    let counter = namespace.counter(writer) + 1;
    let (group, ino) = (GroupId::new(writer, counter), Ino::new(writer, counter + 1));
    let place = Place { parent: Ino::ROOT, name: Bytes::from(format!("{ino}")) };
    let open = Change::OpenGroup { group, policy: case.policy, geometry, seats };
    let create = Change::Create { place, ino, kind: Kind::File, mode: 0o644, uid: 0, gid: 0, time: now };
    namespace.change(Author::new(writer, 0), now, vec![open, create]);
    let (mut extents, mut blocks) = (Vec::new(), Vec::new());
    let mut at = 0;
    while at < case.items.bytes {
        let len = (case.items.bytes - at).min(BLOCK_BYTES as u64) as u32;
        let name = BlockName(chance.bytes());
        extents.push((at, Extent { len, source: Source::Block { name, at: 0 } }));
        blocks.push(NewBlock { name, group, len });
        at += u64::from(len);
    }
    let slot_bytes = blocks.iter().map(|block| geometry.shard_bytes(block.len as usize) as u64).sum();
    let base = namespace.inode(ino).map_or(Stamp::default(), |inode| inode.content);
    let size = case.items.bytes;
    let (mtime, ctime) = (now, now);
    let write = Change::Write { ino, base, linked: true, extents, blocks, size, mtime, ctime, clear_suid: false };
    namespace.change(Author::new(writer, 0), now, vec![write]);
    disks.store(group, namespace.group(group)?, slot_bytes);
    Some(group)
}
