//! What membership datagrams are made of: a version byte, foca's header, and the news of some members.

use crate::id::PeerTag;
use crate::time::WallTime;
use bytes::{Buf, BufMut, Bytes};
use foca::Codec as _;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::fmt;

/// The longest datagram: fits QUIC's smallest path, 1200 bytes, with its own framing around it.
pub const DATAGRAM_BYTES: usize = 1100;

/// The first byte of every datagram.
const VERSION: u8 = 1;

/// The first byte of a datagram that is not foca's but tells of one member, whoever sends it.
const NEWS: u8 = 2;

/// Generations above this are not made and not believed, so that a peer can always draw a higher one.
const MAX_GENERATION: u64 = 1 << 62;

/// A peer as membership knows it: its tag, and which of its lives this is. A peer that was declared dead cannot
/// take that back, but come back as its next generation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Member {
    pub tag: PeerTag,
    /// Higher wins.
    pub generation: u64,
}

impl Member {
    /// A peer that starts now: the clock makes the generation higher than in its lives before. Where the clock
    /// was set back, rejoining makes up for it.
    pub fn starting(tag: PeerTag, now: WallTime) -> Member {
        Member { tag, generation: now.millis().max(1) }
    }

    /// Any life of this peer: good enough to call it by.
    pub(super) fn any(tag: PeerTag) -> Member {
        Member { tag, generation: 0 }
    }

    /// This peer so many generations later, if there are that many.
    pub(super) fn later(self, generations: u64) -> Option<Member> {
        let generation = self.generation.saturating_add(generations);
        (generation <= MAX_GENERATION).then_some(Member { tag: self.tag, generation })
    }
}

impl foca::Identity for Member {
    type Addr = PeerTag;

    fn renew(&self) -> Option<Member> {
        self.later(1)
    }

    fn addr(&self) -> PeerTag {
        self.tag
    }

    fn win_addr_conflict(&self, adversary: &Member) -> bool {
        self.generation > adversary.generation
    }
}

/// Postcard, with the bounds of this module.
#[derive(Clone, Copy, Debug)]
pub(super) struct Codec;

/// Why bytes are no datagram of ours, or something does not fit into one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct CodecError(&'static str);

impl fmt::Display for CodecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for CodecError {}

impl foca::Codec<Member> for Codec {
    type Error = CodecError;

    fn encode_header(&mut self, header: &foca::Header<Member>, mut buf: impl BufMut) -> Result<(), CodecError> {
        put(&(VERSION, header), &mut buf)
    }

    fn decode_header(&mut self, mut buf: impl Buf) -> Result<foca::Header<Member>, CodecError> {
        if buf.chunk().first() != Some(&VERSION) {
            return Err(CodecError("it is of another version: run the same shoal on all machines"));
        }
        buf.advance(1);
        let header: foca::Header<Member> = take(&mut buf)?;
        believable(&header.src)?;
        Ok(header)
    }

    fn encode_member(&mut self, member: &foca::Member<Member>, mut buf: impl BufMut) -> Result<(), CodecError> {
        put(member, &mut buf)
    }

    fn decode_member(&mut self, mut buf: impl Buf) -> Result<foca::Member<Member>, CodecError> {
        let member: foca::Member<Member> = take(&mut buf)?;
        believable(member.id())?;
        Ok(member)
    }
}

/// A datagram that tells of one member. It is addressed to no generation, and so reaches peers that its sender does not
/// watch.
pub(super) fn encode_news(news: &foca::Member<Member>) -> Result<Bytes, CodecError> {
    let mut bytes = vec![NEWS];
    Codec.encode_member(news, &mut bytes)?;
    Ok(bytes.into())
}

/// The member that a datagram tells of; `None` if it is one of foca's.
pub(super) fn decode_news(bytes: &[u8]) -> Result<Option<foca::Member<Member>>, CodecError> {
    let Some(mut rest) = bytes.strip_prefix(&[NEWS]) else { return Ok(None) };
    let news = Codec.decode_member(&mut rest)?;
    if rest.is_empty() { Ok(Some(news)) } else { Err(CodecError("it has bytes too many")) }
}

/// What a datagram is sent for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// Is that one alive?
    Probe,
    /// It is.
    Answer,
    /// The same by way of a third peer: the request, the probe, and the two answers.
    Indirect,
    /// A peer on the roster that is not alive is called, and the answer says who is.
    Call,
    Welcome,
    /// News alone, for those who need it at once.
    News,
    /// News for whoever is drawn.
    Gossip,
    /// Who sent something is told that it was declared dead.
    Refusal,
}

impl Purpose {
    /// What these bytes, which membership wanted sent, are for; `None` if they are none of its datagrams.
    pub fn of(bytes: &[u8]) -> Option<Purpose> {
        if bytes.first() == Some(&NEWS) {
            return Some(Purpose::News);
        }
        let header = Codec.decode_header(bytes).ok()?;
        Some(match header.message {
            foca::Message::Ping(_) => Purpose::Probe,
            foca::Message::Ack(_) => Purpose::Answer,
            foca::Message::PingReq { .. }
            | foca::Message::IndirectPing { .. }
            | foca::Message::IndirectAck { .. }
            | foca::Message::ForwardedAck { .. } => Purpose::Indirect,
            foca::Message::Announce => Purpose::Call,
            foca::Message::Feed => Purpose::Welcome,
            foca::Message::Gossip | foca::Message::Broadcast => Purpose::Gossip,
            foca::Message::TurnUndead => Purpose::Refusal,
        })
    }
}

fn believable(member: &Member) -> Result<(), CodecError> {
    if member.generation <= MAX_GENERATION { Ok(()) } else { Err(CodecError("a generation in it is out of range")) }
}

fn put<T: Serialize>(value: &T, buf: &mut impl BufMut) -> Result<(), CodecError> {
    let bytes = postcard::to_stdvec(value).map_err(|_| CodecError("a member does not serialize"))?;
    if bytes.len() > buf.remaining_mut() {
        return Err(CodecError("the datagram is full"));
    }
    buf.put_slice(&bytes);
    Ok(())
}

/// foca reads from one slice, so that the first chunk is all there is.
fn take<T: DeserializeOwned>(buf: &mut impl Buf) -> Result<T, CodecError> {
    let chunk = buf.chunk();
    let (value, rest) = postcard::take_from_bytes(chunk).map_err(|_| CodecError("it is malformed"))?;
    let taken = chunk.len() - rest.len();
    buf.advance(taken);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use foca::Identity as _;

    #[test]
    fn the_wire_format_stays_as_it_is() {
        let member = |tag, generation| Member { tag: PeerTag(tag), generation };
        let header = foca::Header {
            src: member(5, 300),
            src_incarnation: 2,
            dst: member(6, 1),
            message: foca::Message::Ping(9),
        };
        let mut bytes = Vec::new();
        Codec.encode_header(&header, &mut bytes).unwrap();
        Codec.encode_member(&foca::Member::new(member(7, 8), 1, foca::State::Down), &mut bytes).unwrap();
        assert_eq!(bytes, [1, 5, 0xac, 2, 2, 6, 1, 0, 9, 7, 8, 1, 2]);
        let mut rest = &bytes[..];
        assert_eq!(Codec.decode_header(&mut rest).unwrap(), header);
        assert_eq!(Codec.decode_member(&mut rest).unwrap().id().tag, PeerTag(7));
        assert!(rest.is_empty());
    }

    #[test]
    fn news_stays_as_it_is_and_is_read_whole_or_not_at_all() {
        let news = foca::Member::new(Member { tag: PeerTag(7), generation: 8 }, 1, foca::State::Down);
        let bytes = encode_news(&news).unwrap();
        assert_eq!(bytes[..], [2, 7, 8, 1, 2]);
        assert_eq!(decode_news(&bytes), Ok(Some(news)));
        assert_eq!(decode_news(&[1, 5]), Ok(None));
        assert!(decode_news(&[2, 7, 8, 1, 2, 0]).is_err() && decode_news(&bytes[..4]).is_err());
    }

    #[test]
    fn a_full_datagram_refuses_more_without_writing() {
        let mut bytes = Vec::new();
        let member = foca::Member::alive(Member::any(PeerTag(1)));
        assert!(Codec.encode_member(&member, (&mut bytes).limit(2)).is_err());
        assert!(bytes.is_empty());
    }

    #[test]
    fn a_generation_out_of_range_is_not_believed() {
        let mut bytes = Vec::new();
        let member = Member { tag: PeerTag(1), generation: u64::MAX };
        Codec.encode_member(&foca::Member::alive(member), &mut bytes).unwrap();
        assert!(Codec.decode_member(&bytes[..]).is_err());
    }

    #[test]
    fn renewing_wins_until_the_generations_are_used_up() {
        let one = Member { tag: PeerTag(1), generation: 7 };
        assert!(one.renew().expect("there are more").win_addr_conflict(&one));
        assert_eq!(Member { tag: PeerTag(1), generation: MAX_GENERATION }.renew(), None);
    }
}
