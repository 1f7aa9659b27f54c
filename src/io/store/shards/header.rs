//! The 64 bytes before every shard on disk: they name it, and let its holder find rot by itself.

use crate::id::BlockName;
use crate::namespace::BLOCK_BYTES;
use crate::policy::{Geometry, MAX_SHARDS};
use crate::volume::ports::{Shard, ShardId};

/// Bytes of a header; records also start at multiples of it.
pub(super) const HEADER: usize = 64;

/// Which code made the shard, frozen on disk: 1 is the systematic Reed-Solomon code over GF(2^8) with polynomial
/// 0x11d, its matrix a Vandermonde matrix times the inverse of its upper square; with one data shard, copies.
pub const CODE: u8 = 1;

const MAGIC: &[u8; 4] = b"SHRD";
const VERSION: u8 = 1;
const LIVE: u8 = 1;
const DEAD: u8 = 2;

/// What a shard is, without its name and its bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Form {
    /// That of the name, which says how long the shard is.
    pub geometry: Geometry,
    pub block_bytes: u32,
    /// CRC32C of the bytes.
    pub crc: u32,
}

impl Form {
    pub fn of(shard: &Shard) -> Form {
        Form { geometry: shard.id.geometry, block_bytes: shard.block_bytes, crc: shard.crc }
    }

    /// Bytes of the shard.
    pub fn bytes(&self) -> usize {
        self.geometry.shard_bytes(self.block_bytes as usize)
    }

    /// Whether a shard `index` of this form can be: every bound holds.
    pub fn allows(&self, index: u8) -> bool {
        self.geometry.data >= 1
            && self.geometry.shards() <= usize::from(MAX_SHARDS)
            && usize::from(index) < self.geometry.shards()
            && (1..=BLOCK_BYTES).contains(&(self.block_bytes as usize))
    }
}

/// Where a header belongs. Its checksum covers this too, so that bytes of another volume, or of a shoal file that
/// somebody stored in a share, are never taken for a header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place {
    /// The volume's random number.
    pub salt: u64,
    /// Bytes before the header in the volume.
    pub offset: u64,
}

/// A header as it was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Header {
    pub id: ShardId,
    pub form: Form,
    /// Removed: its bytes may be gone.
    pub dead: bool,
}

impl Header {
    pub fn encode(&self, place: Place) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..4].copy_from_slice(MAGIC);
        bytes[4] = VERSION;
        bytes[5] = if self.dead { DEAD } else { LIVE };
        bytes[6] = CODE;
        bytes[7] = self.form.geometry.data;
        bytes[8] = self.form.geometry.parity;
        bytes[9] = self.id.index;
        bytes[12..16].copy_from_slice(&self.form.block_bytes.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.form.crc.to_le_bytes());
        bytes[20..52].copy_from_slice(&self.id.block.0);
        let crc = checksum(&bytes, place);
        bytes[60..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The header in these bytes, or what is wrong with them.
    pub fn decode(bytes: &[u8], place: Place) -> Result<Header, &'static str> {
        let Some(bytes) = bytes.first_chunk::<HEADER>() else { return Err("it is shorter than a header") };
        if !bytes.starts_with(MAGIC) {
            return Err("it does not start like a shard");
        }
        if checksum(bytes, place).to_le_bytes() != bytes[60..] {
            return Err("its header fails its checksum");
        }
        if bytes[4] != VERSION || bytes[6] != CODE || !matches!(bytes[5], LIVE | DEAD) {
            return Err("it is of a version or code that this shoal does not know");
        }
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let mut block = [0; 32];
        block.copy_from_slice(&bytes[20..52]);
        let geometry = Geometry { data: bytes[7], parity: bytes[8] };
        let header = Header {
            id: ShardId { block: BlockName(block), geometry, index: bytes[9] },
            form: Form { geometry, block_bytes: word(12), crc: word(16) },
            dead: bytes[5] == DEAD,
        };
        if header.form.allows(header.id.index) { Ok(header) } else { Err("its header is out of bounds") }
    }
}

fn checksum(bytes: &[u8; HEADER], place: Place) -> u32 {
    let crc = crc32c::crc32c(&bytes[..60]);
    crc32c::crc32c_append(crc32c::crc32c_append(crc, &place.salt.to_le_bytes()), &place.offset.to_le_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_good_only_whole_and_in_its_place() {
        let form = Form { geometry: Geometry { data: 4, parity: 2 }, block_bytes: 1 << 20, crc: 0xdead_beef };
        let header =
            Header { id: ShardId { block: BlockName([7; 32]), geometry: form.geometry, index: 5 }, form, dead: false };
        let place = Place { salt: 99, offset: 640 };
        let bytes = header.encode(place);
        assert_eq!(Header::decode(&bytes, place), Ok(header));
        for elsewhere in [Place { salt: 98, ..place }, Place { offset: 704, ..place }] {
            assert!(Header::decode(&bytes, elsewhere).is_err());
        }
        for bit in 0..HEADER * 8 {
            let mut bytes = bytes;
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::decode(&bytes, place).is_err(), "bit {bit}");
        }
        assert!(Header::decode(&bytes[..63], place).is_err());
    }
}
