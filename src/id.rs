//! Identities: peers, inodes, groups, blocks. Values only; nothing here has behaviour beyond printing and parsing.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A peer's Ed25519 public key: who it is, for as long as it lives.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PeerKey(pub [u8; 32]);

/// A peer's short name inside one share: the first 24 bits of the SHA-256 of its key, never 0.
/// Stamps, inode numbers and seats carry it instead of the 32-byte key. Unique in the roster: an
/// inviter refuses a joiner whose tag is taken, and the joiner draws another key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PeerTag(pub u32);

/// Who made an op: a peer, in one of its epochs (tag in bits 0..24, epoch above). A peer numbers its ops without gaps in
/// each epoch, and begins the next one when it cannot know which numbers it has given out: its power was cut, and
/// some other peer, which may have ops that this one's disk lost, cannot be asked.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Author(u32);

/// The share's identity, drawn at random by its first peer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ShareId(pub [u8; 16]);

/// An inode number: creator's tag in bits 40..64, its counter below. Never reused, the same on every machine.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ino(pub u64);

/// A group's number, made like an [`Ino`] and drawn from the same counter.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct GroupId(pub u64);

/// A block's name: the SHA-256 of its content.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BlockName(pub [u8; 32]);

/// Bits of a number below the tag of the peer that drew it.
pub const COUNTER_BITS: u32 = 40;

impl PeerKey {
    /// The tag this key has in every share.
    pub fn tag(&self) -> PeerTag {
        use sha2::Digest;
        let hash = sha2::Sha256::digest(self.0);
        let tag = u32::from_be_bytes([0, hash[0], hash[1], hash[2]]);
        PeerTag(tag.max(1))
    }

    /// Parses 64 hexadecimal digits.
    pub fn parse(text: &str) -> Option<PeerKey> {
        unhex(text).map(PeerKey)
    }
}

impl Author {
    /// The peer in this epoch.
    pub const fn new(peer: PeerTag, epoch: u8) -> Author {
        Author(peer.0 & 0xff_ffff | (epoch as u32) << 24)
    }

    pub fn peer(self) -> PeerTag {
        PeerTag(self.0 & 0xff_ffff)
    }

    /// How often the peer has begun to number its ops anew.
    pub fn epoch(self) -> u8 {
        (self.0 >> 24) as u8
    }
}

impl Ino {
    /// The root directory of every share.
    pub const ROOT: Ino = Ino(1);

    /// The number that `peer` draws with its `counter` (below 2^40).
    pub fn new(peer: PeerTag, counter: u64) -> Ino {
        Ino(number(peer, counter))
    }

    pub fn creator(self) -> PeerTag {
        PeerTag((self.0 >> COUNTER_BITS) as u32)
    }

    pub fn counter(self) -> u64 {
        self.0 & ((1 << COUNTER_BITS) - 1)
    }
}

impl GroupId {
    /// The number that `peer` draws with its `counter` (below 2^40).
    pub fn new(peer: PeerTag, counter: u64) -> GroupId {
        GroupId(number(peer, counter))
    }

    pub fn creator(self) -> PeerTag {
        PeerTag((self.0 >> COUNTER_BITS) as u32)
    }

    pub fn counter(self) -> u64 {
        self.0 & ((1 << COUNTER_BITS) - 1)
    }
}

fn number(peer: PeerTag, counter: u64) -> u64 {
    assert!(counter < 1 << COUNTER_BITS, "peer {peer} has drawn 2^{COUNTER_BITS} numbers");
    (u64::from(peer.0) << COUNTER_BITS) | counter
}

impl BlockName {
    /// The name of this content.
    pub fn of(content: &[u8]) -> BlockName {
        use sha2::Digest;
        BlockName(sha2::Sha256::digest(content).into())
    }

    /// Parses 64 hexadecimal digits.
    pub fn parse(text: &str) -> Option<BlockName> {
        unhex(text).map(BlockName)
    }
}

/// Bytes as lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    use fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Exactly `N` bytes from `2 N` hexadecimal digits.
pub fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let text = text.as_bytes();
    if text.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        let digit = |c: u8| (c as char).to_digit(16);
        *byte = (digit(pair[0])? * 16 + digit(pair[1])?) as u8;
    }
    Some(bytes)
}

macro_rules! printed_as {
    ($($name:ident => $how:expr),* $(,)?) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let text: String = $how(self);
                f.write_str(&text)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    )*};
}

printed_as! {
    PeerKey => |id: &PeerKey| hex(&id.0),
    PeerTag => |id: &PeerTag| format!("p{:06x}", id.0),
    Author => |id: &Author| match id.epoch() {
        0 => id.peer().to_string(),
        epoch => format!("{}+{epoch}", id.peer()),
    },
    ShareId => |id: &ShareId| hex(&id.0),
    Ino => |id: &Ino| format!("i{:x}", id.0),
    GroupId => |id: &GroupId| format!("g{:x}", id.0),
    BlockName => |id: &BlockName| hex(&id.0),
}
