//! What peers say to one another, byte for byte, and its bounds.
//!
//! Every message is a version byte followed by its postcard encoding; on a stream, a little-endian `u32` with
//! the length of both goes first. Nothing longer than its kind's limit is read, so no length from a peer is
//! ever allocated unchecked. Variants may be appended to an enum; a changed field needs a new version.
//! `docs/protocol.md` has every message with its limits.

mod base32;
mod control;
mod invite;
mod join;
mod lease;
mod lock;
mod request;
mod ticket;

pub use control::{ControlMessage, Preface};
pub use invite::{InviteBook, MAX_INVITATIONS};
pub use join::{JoinRefusal, JoinReply, JoinRequest, JoinWelcome, check_record};
pub use lease::{LeaseMessage, Named};
pub use lock::{LockMessage, LockOutcome, MAX_LOCKS};
pub use request::{
    Failure, Haste, MAX_NAMED, MAX_OPEN, PeerStats, PeerUpkeep, Request, Response, ShardHeader, decode_inos,
    decode_names, encode_inos, encode_names,
};
pub use ticket::{Inviter, Secret, Ticket, TicketError};

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Serialize, de::DeserializeOwned};

/// The protocol spoken here; the first byte of every message.
pub const VERSION: u8 = 1;
/// The most bytes of one control message, and of a join reply, version byte included.
pub const MAX_CONTROL_BYTES: usize = 4 << 20;
/// The most bytes of the header of a request or a response, version byte included.
pub const MAX_HEADER_BYTES: usize = 64 << 10;
/// The most bytes of one piece of a snapshot.
pub const MAX_CHUNK_BYTES: usize = 1 << 20;
/// The most pieces of one snapshot.
pub const MAX_CHUNKS: u32 = 1 << 16;
/// The most addresses of one peer.
pub const MAX_ADDRESSES: usize = 8;
/// The most inviters in a ticket.
pub const MAX_INVITERS: usize = 8;
/// The most peers in a roster, and so in a version vector.
pub const MAX_ROSTER: usize = 4096;
/// The most characters of a text a person chose: a peer's name, zone or host.
pub const MAX_TEXT: usize = 64;
/// The most bytes of a text that explains something.
pub const MAX_REASON: usize = 512;

/// Why bytes are no message. The sender is wrong or hostile: close the connection.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum WireError {
    /// Longer than its kind may be.
    #[error("a message of {bytes} bytes is over the limit of {limit}")]
    TooLarge { bytes: usize, limit: usize },
    /// Spoken by another version of the program.
    #[error("a message of protocol version {0}, but this program speaks {VERSION}: run the same release everywhere")]
    Version(u8),
    /// Not the encoding of such a message, or one with a field out of bounds.
    #[error("a malformed message: {0}")]
    Malformed(String),
}

/// A message with bounds of its own beyond what its encoding says.
pub trait Message: Serialize + DeserializeOwned {
    /// The most bytes of one, version byte included.
    const LIMIT: usize;

    /// Says what is out of bounds.
    fn check(&self) -> Result<(), WireError> {
        Ok(())
    }
}

/// The message with its version byte.
pub fn encode<M: Message>(message: &M) -> Result<Bytes, WireError> {
    let bytes = encode_after(message, Vec::new())?;
    Ok(bytes.into())
}

/// The message as a stream carries it: length, version byte, encoding.
pub fn frame<M: Message>(message: &M) -> Result<Bytes, WireError> {
    let mut bytes = encode_after(message, vec![0; 4])?;
    let length = (bytes.len() - 4) as u32;
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    Ok(bytes.into())
}

fn encode_after<M: Message>(message: &M, mut bytes: Vec<u8>) -> Result<Vec<u8>, WireError> {
    message.check()?;
    let prefix = bytes.len();
    bytes.push(VERSION);
    let bytes = postcard::to_extend(message, bytes).map_err(|error| malformed(error.to_string()))?;
    within(bytes.len() - prefix, M::LIMIT)?;
    Ok(bytes)
}

/// The message that these bytes, version byte first, are.
pub fn decode<M: Message>(bytes: &[u8]) -> Result<M, WireError> {
    within(bytes.len(), M::LIMIT)?;
    match bytes.split_first() {
        None => Err(malformed("it is empty")),
        Some((&VERSION, body)) => {
            let (message, rest) = postcard::take_from_bytes::<M>(body).map_err(|error| malformed(error.to_string()))?;
            if !rest.is_empty() {
                return Err(malformed(format!("{} bytes follow it", rest.len())));
            }
            message.check()?;
            Ok(message)
        }
        Some((&version, _)) => Err(WireError::Version(version)),
    }
}

/// The bytes of a snapshot's piece as a stream carries them: length and content, apart so that nothing is copied.
pub fn chunk_frame(chunk: Bytes) -> Result<[Bytes; 2], WireError> {
    within(chunk.len(), MAX_CHUNK_BYTES)?;
    let mut length = BytesMut::with_capacity(4);
    length.put_u32_le(chunk.len() as u32);
    Ok([length.freeze(), chunk])
}

/// Refuses what is over a limit.
pub fn within(bytes: usize, limit: usize) -> Result<(), WireError> {
    if bytes > limit { Err(WireError::TooLarge { bytes, limit }) } else { Ok(()) }
}

pub(crate) fn malformed(what: impl Into<String>) -> WireError {
    WireError::Malformed(what.into())
}

/// At most [`MAX_REASON`] bytes of a text, cut between characters.
pub(crate) fn short(text: &str) -> String {
    let mut end = text.len().min(MAX_REASON);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, serde::Deserialize)]
    struct Note(Vec<u64>);

    impl Message for Note {
        const LIMIT: usize = 16;
    }

    #[test]
    fn a_frame_is_length_version_and_encoding() {
        assert_eq!(frame(&Note(vec![1, 300])).unwrap()[..], [5, 0, 0, 0, VERSION, 2, 1, 0xac, 2]);
    }

    #[test]
    fn every_way_to_be_no_message_is_told_apart() {
        assert_eq!(decode::<Note>(&[VERSION, 1, 7]), Ok(Note(vec![7])));
        assert_eq!(decode::<Note>(&[9, 1, 7]), Err(WireError::Version(9)));
        assert!(matches!(decode::<Note>(&[]), Err(WireError::Malformed(_))));
        assert!(matches!(decode::<Note>(&[VERSION, 3, 7]), Err(WireError::Malformed(_))));
        assert!(matches!(decode::<Note>(&[VERSION, 1, 7, 7]), Err(WireError::Malformed(_))));
        assert_eq!(decode::<Note>(&[VERSION; 17]), Err(WireError::TooLarge { bytes: 17, limit: 16 }));
        assert!(matches!(encode(&Note(vec![u64::MAX; 4])), Err(WireError::TooLarge { .. })));
    }

    #[test]
    fn a_huge_announced_length_allocates_nothing_like_it() {
        // 2^60 elements announced, none there.
        let bytes = [VERSION, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x10];
        assert!(matches!(decode::<Note>(&bytes), Err(WireError::Malformed(_))));
    }

    #[test]
    fn reasons_are_cut_between_characters() {
        assert_eq!(short(&"é".repeat(400)).len(), MAX_REASON);
        assert_eq!(short("fine"), "fine");
    }

    /// Decodes as a stranger's bytes are; what is taken for a message can be told on and is taken for it again.
    fn no_more_than_a_message<M: Message>(bytes: &[u8]) {
        if let Ok(message) = decode::<M>(bytes) {
            let told = encode(&message).expect("what was taken keeps to its bounds");
            let again = encode(&decode::<M>(&told).expect("what was told is taken")).expect("and told on");
            assert_eq!(told, again);
        }
    }

    proptest::proptest! {
        /// Small bytes are lengths and variants: of them most messages are made.
        #[test]
        fn any_bytes_are_a_message_within_its_bounds_or_an_error(
            small in proptest::collection::vec(0..12u8, 0..200),
            noise in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300),
            cut in 0..100usize,
        ) {
            let mixed = [&small[..cut.min(small.len())], &noise[..]].concat();
            for body in [small, noise, mixed] {
                let bytes = [&[VERSION], &body[..]].concat();
                no_more_than_a_message::<Preface>(&bytes);
                no_more_than_a_message::<ControlMessage>(&bytes);
                no_more_than_a_message::<Request>(&bytes);
                no_more_than_a_message::<Response>(&bytes);
                no_more_than_a_message::<JoinRequest>(&bytes);
                no_more_than_a_message::<JoinReply>(&bytes);
                let _ = decode_names(&bytes);
                let _ = String::from_utf8_lossy(&body).parse::<Ticket>();
            }
        }
    }
}
