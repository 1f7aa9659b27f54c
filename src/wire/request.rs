//! One question and its answer, on a stream of their own: a header, then raw bytes whose number the header says.

use super::{MAX_HEADER_BYTES, MAX_REASON, Message, WireError, malformed, short};
use crate::group::{ANNOUNCED, Done, Lacking, NAMED_LACKING};
use crate::id::{BlockName, GroupId, Ino, PeerTag};
use crate::namespace::BLOCK_BYTES;
use crate::policy::{Geometry, MAX_SHARDS};
use crate::volume::ports::{Shard, ShardError, ShardId, StoreUsage};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// What is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Request {
    /// Keep this shard; its bytes follow. Answer: `Stored`.
    PutShard(ShardHeader),
    /// Answer: `Shard` and its bytes.
    GetShard(ShardId),
    /// Put on stable storage every shard that I had you store. Answer: `Synced`.
    SyncShards,
    /// Answer: `Stats`.
    Stats,
    /// Answer: `Snapshot`, and its pieces.
    Snapshot,
    /// Forget cached blocks, so that what is measured next is cold. Answer: `Done`.
    DropCaches,
    /// Which of these shards do you not have, or, with `read`, cannot read whole? So many names follow. Answer:
    /// `Lacking`.
    Lacking { count: u16, read: bool },
    /// You should have this shard, but I could not get it whole from you: look to it. Answer: `Done`.
    Suspect(ShardId),
    /// How do you look after your shards? Answer: `Upkeep`.
    Upkeep,
    /// Do this now. Answer: `Done`, at once.
    Hurry(Haste),
    /// Which of these files do you have open? So many inodes follow. Answer: `Open`.
    Open { count: u16 },
}

/// What a peer does from time to time, and somebody wants done now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Haste {
    /// Look what the groups need, and try again what failed.
    Repair,
    /// Read and check every shard.
    Scrub,
}

/// What is answered.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Response {
    Stored,
    /// The shard's bytes follow.
    Shard(ShardHeader),
    Synced,
    Stats(PeerStats),
    /// So many pieces follow, each a little-endian `u32` length and that many bytes.
    Snapshot {
        chunks: u32,
    },
    Done,
    Error(Failure),
    /// The names of so many shards follow.
    Lacking {
        count: u16,
    },
    Upkeep(PeerUpkeep),
    /// So many inodes follow.
    Open {
        count: u16,
    },
}

/// The most inodes that one `Open` names.
pub const MAX_OPEN: usize = 1024;

/// Bytes of one inode's number where many follow a header.
const INO_BYTES: usize = 8;

/// Inodes, one behind the other, big-endian.
pub fn encode_inos(inos: &[Ino]) -> Bytes {
    inos.iter().flat_map(|ino| ino.0.to_be_bytes()).collect()
}

/// The inodes in these bytes.
pub fn decode_inos(bytes: &[u8]) -> Result<Vec<Ino>, WireError> {
    let (inos, rest) = bytes.as_chunks::<INO_BYTES>();
    if !rest.is_empty() {
        return Err(malformed("an inode's number is cut short"));
    }
    Ok(inos.iter().map(|bytes| Ino(u64::from_be_bytes(*bytes))).collect())
}

fn check_open(count: u16) -> Result<(), WireError> {
    if usize::from(count) > MAX_OPEN { Err(malformed(format!("{count} inodes in one question"))) } else { Ok(()) }
}

/// The most shards that one `Lacking` names.
pub const MAX_NAMED: usize = 512;

/// Bytes of one shard's name where many follow a header: block, data shards, parity shards, index.
const NAMED_BYTES: usize = 35;

/// Shards by name, one behind the other.
pub fn encode_names(ids: &[ShardId]) -> Bytes {
    let mut bytes = Vec::with_capacity(ids.len() * NAMED_BYTES);
    for ShardId { block, geometry, index } in ids {
        bytes.extend_from_slice(&block.0);
        bytes.extend_from_slice(&[geometry.data, geometry.parity, *index]);
    }
    bytes.into()
}

/// The shards named in these bytes.
pub fn decode_names(bytes: &[u8]) -> Result<Vec<ShardId>, WireError> {
    let (names, rest) = bytes.as_chunks::<NAMED_BYTES>();
    if !rest.is_empty() {
        return Err(malformed("a shard's name is cut short"));
    }
    let name = |bytes: &[u8; NAMED_BYTES]| {
        let (block, [data, parity, index]) = bytes.split_last_chunk().ok_or_else(|| malformed("a shard's name"))?;
        let block = BlockName(block.try_into().map_err(|_| malformed("a shard's name"))?);
        let id = ShardId { block, geometry: Geometry { data: *data, parity: *parity }, index: *index };
        check_shard(&id).map(|()| id)
    };
    names.iter().map(name).collect()
}

/// A shard but for its bytes, of which there are `id.geometry.shard_bytes(block_bytes)`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ShardHeader {
    pub id: ShardId,
    pub block_bytes: u32,
    pub crc: u32,
}

/// What a peer counts about itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct PeerStats {
    pub usage: StoreUsage,
    /// Bytes of content that its namespace holds itself: small files.
    pub inline_bytes: u64,
    /// Bytes of UDP payload since its start.
    pub sent_bytes: u64,
    pub received_bytes: u64,
    /// Processor time of the whole process, in microseconds.
    pub cpu_us: u64,
    pub resident_bytes: u64,
}

/// What a peer does for its shards and its groups, since its start where nothing else is said.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct PeerUpkeep {
    /// Shards it rebuilt, here and elsewhere, and their bytes.
    pub shards_rebuilt: u64,
    pub bytes_rebuilt: u64,
    /// Bytes a second that it rebuilds now.
    pub bytes_per_second: u64,
    /// Shards read by the scrub under way, and how many there are.
    pub scrubbed: u64,
    pub to_scrub: u64,
    /// The scrub under way goes on without rest, for somebody asked for it.
    pub scrub_hurried: bool,
    /// When a scrub last went through to its end, in milliseconds since 1970, later each time; 0: none did, ever.
    pub scrub_ended_ms: u64,
    /// Damaged shards found, and how many of them are whole again.
    pub rot_found: u64,
    pub rot_mended: u64,
    /// Files that were set aside in its store, ever: no shards, or damaged ones.
    pub set_aside: u64,
    /// Volumes of its store that were found cut short or damaged when it started.
    pub damaged_volumes: u64,
    /// The groups that it is at work on, [`ANNOUNCED`] at most, and what of each is done.
    pub under_way: Vec<(GroupId, Done)>,
    /// What its store lacks of what its seats say.
    pub lacking: Lacking,
}

/// Why a request was not done.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Failure {
    Missing,
    Damaged(String),
    Full,
    Disk(String),
    /// This peer cannot answer now.
    Unavailable(String),
}

impl ShardHeader {
    pub fn of(shard: &Shard) -> ShardHeader {
        ShardHeader { id: shard.id, block_bytes: shard.block_bytes, crc: shard.crc }
    }

    pub fn with(self, bytes: Bytes) -> Shard {
        Shard { id: self.id, block_bytes: self.block_bytes, crc: self.crc, bytes }
    }

    /// Bytes of the shard. The header must have passed `check`.
    pub fn shard_bytes(&self) -> usize {
        self.id.geometry.shard_bytes(self.block_bytes as usize)
    }

    fn check(&self) -> Result<(), WireError> {
        check_shard(&self.id)?;
        if self.block_bytes == 0 || self.block_bytes as usize > BLOCK_BYTES {
            return Err(malformed(format!("a block of {} bytes", self.block_bytes)));
        }
        Ok(())
    }
}

/// That there can be such a shard.
fn check_shard(ShardId { geometry, index, .. }: &ShardId) -> Result<(), WireError> {
    let shards = geometry.shards();
    if geometry.data == 0 || shards > usize::from(MAX_SHARDS) {
        return Err(malformed(format!("a geometry of {}+{} shards", geometry.data, geometry.parity)));
    }
    if usize::from(*index) >= shards {
        return Err(malformed(format!("shard {index} of {shards}")));
    }
    Ok(())
}

fn check_named(count: u16) -> Result<(), WireError> {
    if usize::from(count) > MAX_NAMED { Err(malformed(format!("{count} shards in one question"))) } else { Ok(()) }
}

impl Request {
    /// Bytes that follow the header.
    pub fn body_bytes(&self) -> usize {
        match self {
            Request::PutShard(header) => header.shard_bytes(),
            Request::Lacking { count, .. } => usize::from(*count) * NAMED_BYTES,
            Request::Open { count } => usize::from(*count) * INO_BYTES,
            Request::GetShard(_)
            | Request::SyncShards
            | Request::Stats
            | Request::Snapshot
            | Request::DropCaches
            | Request::Suspect(_)
            | Request::Upkeep
            | Request::Hurry(_) => 0,
        }
    }
}

impl Response {
    /// Bytes that follow the header, a snapshot's pieces not counted.
    pub fn body_bytes(&self) -> usize {
        match self {
            Response::Shard(header) => header.shard_bytes(),
            Response::Lacking { count } => usize::from(*count) * NAMED_BYTES,
            Response::Open { count } => usize::from(*count) * INO_BYTES,
            Response::Stored
            | Response::Synced
            | Response::Stats(_)
            | Response::Snapshot { .. }
            | Response::Done
            | Response::Error(_)
            | Response::Upkeep(_) => 0,
        }
    }
}

impl Failure {
    /// The failure as the caller of [`crate::volume::ports::ShardNetwork`] sees it.
    pub fn about(self, id: ShardId, peer: PeerTag) -> ShardError {
        let ShardId { block, index, .. } = id;
        match self {
            Failure::Missing => ShardError::Missing { block, index },
            Failure::Damaged(what) => ShardError::Damaged { block, index, what },
            Failure::Full => ShardError::Full { peer },
            Failure::Disk(what) => ShardError::Disk(format!("at peer {peer}: {what}")),
            Failure::Unavailable(why) => ShardError::Unreachable { peer, why },
        }
    }
}

impl From<ShardError> for Failure {
    fn from(error: ShardError) -> Failure {
        match error {
            ShardError::Missing { .. } => Failure::Missing,
            ShardError::Damaged { what, .. } => Failure::Damaged(short(&what)),
            ShardError::Full { .. } => Failure::Full,
            ShardError::Disk(what) => Failure::Disk(short(&what)),
            ShardError::Unreachable { .. } => Failure::Unavailable(short(&error.to_string())),
        }
    }
}

impl Message for Request {
    const LIMIT: usize = MAX_HEADER_BYTES;

    fn check(&self) -> Result<(), WireError> {
        match self {
            Request::PutShard(header) => header.check(),
            Request::GetShard(id) | Request::Suspect(id) => check_shard(id),
            Request::Lacking { count, .. } => check_named(*count),
            Request::Open { count } => check_open(*count),
            Request::SyncShards
            | Request::Stats
            | Request::Snapshot
            | Request::DropCaches
            | Request::Upkeep
            | Request::Hurry(_) => Ok(()),
        }
    }
}

impl Message for Response {
    const LIMIT: usize = MAX_HEADER_BYTES;

    fn check(&self) -> Result<(), WireError> {
        match self {
            Response::Shard(header) => header.check(),
            Response::Lacking { count } => check_named(*count),
            Response::Open { count } => check_open(*count),
            Response::Snapshot { chunks } if *chunks > super::MAX_CHUNKS => {
                Err(malformed(format!("a snapshot of {chunks} pieces")))
            }
            Response::Error(Failure::Damaged(text) | Failure::Disk(text) | Failure::Unavailable(text))
                if text.len() > MAX_REASON =>
            {
                Err(malformed("its reason is too long"))
            }
            Response::Stored
            | Response::Synced
            | Response::Stats(_)
            | Response::Snapshot { .. }
            | Response::Done
            | Response::Error(_) => Ok(()),
            Response::Upkeep(upkeep)
                if upkeep.under_way.len() > ANNOUNCED || upkeep.lacking.groups.len() > NAMED_LACKING =>
            {
                Err(malformed("too many groups"))
            }
            Response::Upkeep(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::hex;
    use crate::wire::{decode, encode};

    fn header() -> ShardHeader {
        ShardHeader {
            id: ShardId { block: BlockName([0x22; 32]), geometry: Geometry { data: 4, parity: 2 }, index: 3 },
            block_bytes: 1 << 20,
            crc: 5,
        }
    }

    #[test]
    fn every_request_and_response_has_its_golden_bytes() {
        let name = "22".repeat(32);
        let id = format!("{name}040203");
        let shard = format!("{id}80804005");
        let requests = [
            (Request::PutShard(header()), format!("0100{shard}")),
            (Request::GetShard(header().id), format!("0101{id}")),
            (Request::SyncShards, "0102".into()),
            (Request::Stats, "0103".into()),
            (Request::Snapshot, "0104".into()),
            (Request::DropCaches, "0105".into()),
            (Request::Lacking { count: 300, read: true }, "0106ac0201".into()),
            (Request::Suspect(header().id), format!("0107{id}")),
            (Request::Upkeep, "0108".into()),
            (Request::Hurry(Haste::Repair), "010900".into()),
            (Request::Hurry(Haste::Scrub), "010901".into()),
            (Request::Open { count: 300 }, "010aac02".into()),
        ];
        for (message, bytes) in requests {
            assert_eq!(hex(&encode(&message).unwrap()), bytes, "{message:?}");
            assert_eq!(decode::<Request>(&encode(&message).unwrap()).unwrap(), message);
        }
        let stats = PeerStats {
            usage: StoreUsage { stored: 1, free: 2, capacity: 3, disk: 4 },
            inline_bytes: 5,
            sent_bytes: 6,
            received_bytes: 7,
            cpu_us: 8,
            resident_bytes: 9,
        };
        let upkeep = PeerUpkeep {
            shards_rebuilt: 1,
            bytes_rebuilt: 2,
            bytes_per_second: 3,
            scrubbed: 4,
            to_scrub: 5,
            scrub_hurried: true,
            scrub_ended_ms: 7,
            rot_found: 8,
            rot_mended: 9,
            set_aside: 10,
            damaged_volumes: 11,
            under_way: vec![(GroupId(12), Done { blocks: 13, bytes: 14 })],
            lacking: Lacking { sure: true, groups: vec![GroupId(15)] },
        };
        let responses = [
            (Response::Stored, "0100".to_owned()),
            (Response::Shard(header()), format!("0101{shard}")),
            (Response::Synced, "0102".into()),
            (Response::Stats(stats), "0103010203040506070809".into()),
            (Response::Snapshot { chunks: 300 }, "0104ac02".into()),
            (Response::Done, "0105".into()),
            (Response::Lacking { count: 300 }, "0107ac02".into()),
            (Response::Upkeep(upkeep), "01080102030405010708090a0b010c0d0e01010f".into()),
            (Response::Open { count: 300 }, "0109ac02".into()),
            (Response::Error(Failure::Missing), "010600".into()),
            (Response::Error(Failure::Damaged("rot".into())), "01060103726f74".into()),
            (Response::Error(Failure::Full), "010602".into()),
            (Response::Error(Failure::Disk("io".into())), "01060302696f".into()),
            (Response::Error(Failure::Unavailable("no".into())), "010604026e6f".into()),
        ];
        for (message, bytes) in responses {
            assert_eq!(hex(&encode(&message).unwrap()), bytes, "{message:?}");
            assert_eq!(decode::<Response>(&encode(&message).unwrap()).unwrap(), message);
        }
    }

    #[test]
    fn names_of_shards_survive_and_impossible_ones_are_refused() {
        let names = [header().id, ShardId { index: 5, ..header().id }];
        assert_eq!(decode_names(&encode_names(&names)).unwrap(), names);
        assert!(decode_names(&encode_names(&names)[1..]).is_err());
        assert!(decode_names(&encode_names(&[ShardId { index: 6, ..header().id }])).is_err());
        assert!(encode(&Request::Lacking { count: 513, read: false }).is_err());
    }

    #[test]
    fn a_shard_that_cannot_be_is_refused_before_its_length_is_believed() {
        let wrong = [
            ShardHeader { id: ShardId { geometry: Geometry { data: 0, parity: 4 }, ..header().id }, ..header() },
            ShardHeader { id: ShardId { geometry: Geometry { data: 30, parity: 3 }, ..header().id }, ..header() },
            ShardHeader { id: ShardId { index: 6, ..header().id }, ..header() },
            ShardHeader { block_bytes: 0, ..header() },
            ShardHeader { block_bytes: (1 << 20) + 1, ..header() },
        ];
        for header in wrong {
            // Encoded past the check, as a hostile peer would.
            let mut bytes = vec![crate::wire::VERSION];
            bytes.extend(postcard::to_stdvec(&Request::PutShard(header)).unwrap());
            assert!(matches!(decode::<Request>(&bytes), Err(WireError::Malformed(_))), "{header:?}");
        }
        assert_eq!(Request::PutShard(header()).body_bytes(), 1 << 18);
    }
}
