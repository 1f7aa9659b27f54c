//! The handshake by which a machine with a ticket becomes a peer.

use super::{
    MAX_ADDRESSES, MAX_CONTROL_BYTES, MAX_HEADER_BYTES, MAX_REASON, MAX_ROSTER, MAX_TEXT, Message, Secret, WireError,
    malformed,
};
use crate::id::{PeerTag, ShareId};
use crate::namespace::PeerRecord;
use serde::{Deserialize, Serialize};

/// What the joiner says, once, on the only stream it may open.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct JoinRequest {
    pub share: ShareId,
    pub secret: Secret,
    /// How it wants to stand in the roster. The key must be the one its TLS session proves.
    pub record: PeerRecord,
}

/// The inviter's answer. After `Welcome` the snapshot's pieces follow on the same stream.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum JoinReply {
    Welcome { welcome: JoinWelcome, chunks: u32 },
    Refused(JoinRefusal),
}

/// What a new peer learns first.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct JoinWelcome {
    pub your_tag: PeerTag,
    pub roster: Vec<(PeerTag, PeerRecord)>,
}

/// Why a joiner is not let in.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error, Serialize, Deserialize)]
pub enum JoinRefusal {
    #[error("this ticket is for another share than the one this peer carries; ask for a new ticket")]
    WrongShare,
    #[error("the inviter does not know this ticket; ask for a new one ('shoal invite')")]
    UnknownTicket,
    #[error("this ticket has expired; ask for a new one ('shoal invite')")]
    Expired,
    #[error("this ticket has been used up; ask for a new one ('shoal invite')")]
    UsedUp,
    #[error("another peer of the share has the same tag; try again with a new key (remove the unfinished home)")]
    TagTaken,
    #[error("a peer named '{0}' is already in the share; choose another with --name")]
    NameTaken(String),
    #[error("what this machine says of itself cannot stand in the roster: {0}")]
    BadRecord(String),
    #[error("the inviter cannot admit a peer now: {0}; try again, or another inviter")]
    Unavailable(String),
}

/// Whether a record may stand in a roster.
pub fn check_record(record: &PeerRecord) -> Result<(), WireError> {
    let length = record.name.chars().count();
    if length == 0 || length > MAX_TEXT || record.name.chars().any(char::is_control) {
        return Err(malformed(format!("a name must have 1 to {MAX_TEXT} printable characters")));
    }
    if record.zone.chars().count() > MAX_TEXT || record.host.chars().count() > MAX_TEXT {
        return Err(malformed(format!("a zone or host has more than {MAX_TEXT} characters")));
    }
    if record.addresses.len() > MAX_ADDRESSES {
        return Err(malformed(format!("a peer has more than {MAX_ADDRESSES} addresses")));
    }
    Ok(())
}

impl Message for JoinRequest {
    const LIMIT: usize = MAX_HEADER_BYTES;

    fn check(&self) -> Result<(), WireError> {
        check_record(&self.record)
    }
}

impl Message for JoinReply {
    const LIMIT: usize = MAX_CONTROL_BYTES;

    fn check(&self) -> Result<(), WireError> {
        match self {
            JoinReply::Welcome { welcome, chunks } => {
                if welcome.roster.len() > MAX_ROSTER || *chunks > super::MAX_CHUNKS {
                    return Err(malformed("a welcome with too many peers or pieces"));
                }
                welcome.roster.iter().try_for_each(|(_, record)| check_record(record))
            }
            JoinReply::Refused(
                JoinRefusal::NameTaken(text) | JoinRefusal::BadRecord(text) | JoinRefusal::Unavailable(text),
            ) if text.len() > MAX_REASON => Err(malformed("its reason is too long")),
            JoinReply::Refused(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{PeerKey, hex};
    use crate::wire::{decode, encode};

    fn record() -> PeerRecord {
        PeerRecord {
            key: PeerKey([4; 32]),
            name: "ada".into(),
            addresses: vec!["192.0.2.1:7400".parse().unwrap()],
            zone: "z".into(),
            host: String::new(),
        }
    }

    #[test]
    fn the_join_messages_have_their_golden_bytes() {
        let key = "04".repeat(32);
        let record_bytes = format!("{key}03616461" /* name */) + "0100c0000201e839" + "017a" + "00";
        let request = JoinRequest { share: ShareId([1; 16]), secret: Secret([3; 32]), record: record() };
        assert_eq!(hex(&encode(&request).unwrap()), format!("01{}{}{record_bytes}", "01".repeat(16), "03".repeat(32)));
        let welcome = JoinWelcome { your_tag: PeerTag(300), roster: vec![(PeerTag(7), record())] };
        let replies = [
            (JoinReply::Welcome { welcome, chunks: 2 }, format!("0100ac020107{record_bytes}02")),
            (JoinReply::Refused(JoinRefusal::WrongShare), "010100".into()),
            (JoinReply::Refused(JoinRefusal::UnknownTicket), "010101".into()),
            (JoinReply::Refused(JoinRefusal::Expired), "010102".into()),
            (JoinReply::Refused(JoinRefusal::UsedUp), "010103".into()),
            (JoinReply::Refused(JoinRefusal::TagTaken), "010104".into()),
            (JoinReply::Refused(JoinRefusal::NameTaken("a".into())), "0101050161".into()),
            (JoinReply::Refused(JoinRefusal::BadRecord("a".into())), "0101060161".into()),
            (JoinReply::Refused(JoinRefusal::Unavailable("a".into())), "0101070161".into()),
        ];
        for (message, bytes) in replies {
            assert_eq!(hex(&encode(&message).unwrap()), bytes, "{message:?}");
            assert_eq!(decode::<JoinReply>(&encode(&message).unwrap()).unwrap(), message);
        }
    }

    #[test]
    fn a_record_out_of_bounds_is_refused() {
        let wrong = [
            PeerRecord { name: String::new(), ..record() },
            PeerRecord { name: "x".repeat(65), ..record() },
            PeerRecord { name: "a\nb".into(), ..record() },
            PeerRecord { zone: "x".repeat(65), ..record() },
            PeerRecord { addresses: vec![record().addresses[0]; 9], ..record() },
        ];
        for record in wrong {
            assert!(check_record(&record).is_err(), "{record:?}");
        }
    }

    #[test]
    fn each_refusal_says_something_of_its_own() {
        let all = [
            JoinRefusal::WrongShare,
            JoinRefusal::UnknownTicket,
            JoinRefusal::Expired,
            JoinRefusal::UsedUp,
            JoinRefusal::TagTaken,
        ];
        let messages: std::collections::BTreeSet<String> = all.iter().map(ToString::to_string).collect();
        assert_eq!(messages.len(), all.len());
    }
}
