//! The probe that is under way, known from the datagrams that go out and come in, and a probe of our own making: foca
//! keeps both to itself.

use super::codec::{Codec, CodecError, Member};
use bytes::{BufMut, Bytes};
use foca::{Codec as _, Header, Incarnation, Message};

/// What this peer last said of itself, and whom it probes.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Probe {
    incarnation: Incarnation,
    outstanding: Option<Outstanding>,
}

#[derive(Clone, Copy, Debug)]
struct Outstanding {
    target: Member,
    number: foca::ProbeNumber,
}

impl Probe {
    /// foca sends this.
    pub fn sent(&mut self, bytes: &[u8]) {
        let Ok(header) = header(bytes) else { return };
        self.incarnation = header.src_incarnation;
        if let Message::Ping(number) = header.message {
            self.outstanding = Some(Outstanding { target: header.dst, number });
        }
    }

    /// This came in, and was taken.
    pub fn received(&mut self, bytes: &[u8]) {
        let (Some(probe), Ok(header)) = (self.outstanding, header(bytes)) else { return };
        let answered = match header.message {
            Message::Ack(number) => header.src == probe.target && number == probe.number,
            Message::ForwardedAck { origin, probe_number } => origin == probe.target && probe_number == probe.number,
            _ => false,
        };
        if answered {
            self.outstanding = None;
        }
    }

    /// Whether someone was probed and has not answered.
    pub fn is_unanswered(&self) -> bool {
        self.outstanding.is_some()
    }

    /// The time of the probe is up: who has not answered.
    pub fn end(&mut self) -> Option<Member> {
        self.outstanding.take().map(|probe| probe.target)
    }

    /// One more probe of a suspect, that tells it that it is one: its answer objects. The number belongs to no probe
    /// of foca's, which takes the objection and no more.
    pub fn last_chance(&self, me: Member, suspect: &foca::Member<Member>) -> Result<Bytes, CodecError> {
        let (src_incarnation, dst) = (self.incarnation, *suspect.id());
        let mut bytes = Vec::with_capacity(64);
        Codec.encode_header(&Header { src: me, src_incarnation, dst, message: Message::Ping(0) }, &mut bytes)?;
        bytes.put_u16(1);
        Codec.encode_member(suspect, &mut bytes)?;
        Ok(bytes.into())
    }
}

fn header(mut bytes: &[u8]) -> Result<Header<Member>, CodecError> {
    Codec.decode_header(&mut bytes)
}
