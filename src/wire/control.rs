//! What goes over the ordered control stream that each of two peers has to the other.

use super::{LeaseMessage, LockMessage, MAX_CONTROL_BYTES, MAX_ROSTER, MAX_TEXT, Message, WireError, malformed};
use crate::group::ANNOUNCED;
use crate::id::{GroupId, PeerTag, ShareId};
use crate::namespace::{Op, VersionVector};
use crate::overlay::SearchMessage;
use crate::time::WallTime;
use crate::volume::ports::StoreUsage;
use serde::{Deserialize, Serialize};

/// The first message on a control stream, written by the transport itself: the other side has accepted the
/// connection, and this is the run of the program that it is in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Preface {
    /// Drawn at random at each start: a peer that restarted is told from one that dialled twice.
    pub instance: u64,
}

/// One message of the control stream.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum ControlMessage {
    /// The first one on every new connection: who I am and what I have.
    Hello {
        protocol: u16,
        share: ShareId,
        /// Name and version of the program, for people.
        software: String,
        vector: VersionVector,
        /// Other peers that I am in touch with.
        near: Vec<PeerTag>,
    },
    /// Ops that you lack, in an order you can take.
    Ops(Vec<Op>),
    /// What I have applied, and what of it is on my stable storage. Not `sure`: I may have made more, and lost it.
    Have { vector: VersionVector, durable: VersionVector, sure: bool },
    /// Please put my ops of this epoch up to `seq` on stable storage and answer `Have`.
    SyncUpTo { epoch: u8, seq: u64 },
    /// You lack some of these ops, which my log no longer holds, or by which you were let go: I take none of yours until
    /// you have taken a snapshot.
    SnapshotNeeded { needed: VersionVector },
    /// What my store takes and could take.
    Load { usage: StoreUsage },
    /// I am about to stop; do not wait for me.
    Leaving,
    /// I am at work on these groups: leave them to me for now.
    Working { groups: Vec<GroupId> },
    /// Of a search for shards, this peer's or another's.
    Search(SearchMessage),
    /// What my clock says: told on a new connection, and now and then.
    Clock { now: WallTime },
    /// Of leases.
    Lease(LeaseMessage),
    /// Of file locks.
    Lock(LockMessage),
}

impl Message for Preface {
    const LIMIT: usize = 32;
}

impl Message for ControlMessage {
    const LIMIT: usize = MAX_CONTROL_BYTES;

    fn check(&self) -> Result<(), WireError> {
        let bounded = |vector: &VersionVector| {
            if vector.0.len() > MAX_ROSTER { Err(malformed("a vector of too many authors")) } else { Ok(()) }
        };
        match self {
            ControlMessage::Hello { software, vector, near, .. } => {
                if near.len() > MAX_ROSTER {
                    return Err(malformed("more peers than a share has"));
                }
                if software.len() > MAX_TEXT {
                    return Err(malformed("the program's name is too long"));
                }
                bounded(vector)
            }
            ControlMessage::SnapshotNeeded { needed } => bounded(needed),
            ControlMessage::Have { vector, durable, .. } => bounded(vector).and_then(|()| bounded(durable)),
            ControlMessage::Working { groups } if groups.len() > ANNOUNCED => Err(malformed("work on too many groups")),
            ControlMessage::Search(message) => message.check().map_err(malformed),
            ControlMessage::Lease(message) => message.check().map_err(malformed),
            ControlMessage::Lock(message) => message.check().map_err(malformed),
            ControlMessage::Working { .. }
            | ControlMessage::Ops(_)
            | ControlMessage::SyncUpTo { .. }
            | ControlMessage::Load { .. }
            | ControlMessage::Clock { .. }
            | ControlMessage::Leaving => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{Author, BlockName, Ino, hex};
    use crate::namespace::{Change, Lock, LockKind, LockOwner, LockRequest, Naming, Place, Tenure};
    use crate::overlay::{Answer, Bloom, Piece, Query, QueryId, Spread};
    use crate::policy::Geometry;
    use crate::time::{Hlc, Stamp, WallTime};
    use crate::wire::{LockOutcome, Named, decode, encode};

    fn vector() -> VersionVector {
        VersionVector([(Author::new(PeerTag(7), 0), 300), (Author::new(PeerTag(0xabcdef), 0), 1)].into())
    }

    #[test]
    fn every_control_message_has_its_golden_bytes() {
        let stamp = Stamp { time: Hlc(5), author: Author::new(PeerTag(7), 0) };
        let id = QueryId { asker: PeerTag(7), number: 300 };
        let owner = LockOwner { peer: PeerTag(7), number: 5 };
        let lock = Lock { owner, kind: LockKind::Exclusive, first: 2, last: 9, pid: 300 };
        let query = |spread| Query { id, block: BlockName([0x22; 32]), hops: 2, spread };
        let pieces = vec![Piece { geometry: Geometry { data: 4, parity: 2 }, index: 3 }];
        let block = "22".repeat(32);
        let asked = ["00", "0132", "02"].map(|spread| format!("01080007ac02{block}02{spread}"));
        let golden = [
            (
                ControlMessage::Hello {
                    protocol: 1,
                    share: ShareId([0x11; 16]),
                    software: "shoal 0.1.0".into(),
                    vector: vector(),
                    near: vec![PeerTag(9)],
                },
                "010001111111111111111111111111111111110b73686f616c20302e312e300207ac02ef9baf05010109",
            ),
            (ControlMessage::Ops(vec![Op { stamp, seq: 2, change: Change::Reap { ino: Ino(9) } }]), "0101010507020609"),
            (
                ControlMessage::Have { vector: vector(), durable: VersionVector::default(), sure: true },
                "01020207ac02ef9baf05010001",
            ),
            (ControlMessage::SyncUpTo { epoch: 2, seq: 300 }, "010302ac02"),
            (ControlMessage::SnapshotNeeded { needed: vector() }, "01040207ac02ef9baf0501"),
            (
                ControlMessage::Load { usage: StoreUsage { stored: 1, free: 2, capacity: 300, disk: 4 } },
                "01050102ac0204",
            ),
            (ControlMessage::Leaving, "0106"),
            (ControlMessage::Working { groups: vec![GroupId(5)] }, "01070105"),
            (ControlMessage::Search(SearchMessage::Query(query(Spread::All))), &asked[0]),
            (ControlMessage::Search(SearchMessage::Query(query(Spread::Share(50)))), &asked[1]),
            (ControlMessage::Search(SearchMessage::Query(query(Spread::Guided))), &asked[2]),
            (
                ControlMessage::Search(SearchMessage::Answer(Answer { id, holder: PeerTag(1), pieces, hops: 1 })),
                "01080107ac02010104020301",
            ),
            (ControlMessage::Search(SearchMessage::Summary(vec![Bloom::default()])), "01080201080000000000000000"),
            (ControlMessage::Clock { now: WallTime(300) }, "0109d804"),
            (ControlMessage::Lease(LeaseMessage::Beat { sent: 300 }), "010a00ac02"),
            (ControlMessage::Lease(LeaseMessage::Answer { sent: 300 }), "010a01ac02"),
            (ControlMessage::Lease(LeaseMessage::Want { ino: Ino(9) }), "010a0209"),
            (
                ControlMessage::Lease(LeaseMessage::Granted { ino: Ino(9), vector: vector(), locks: vec![lock] }),
                "010a03090207ac02ef9baf0501010705010209ac02",
            ),
            (
                ControlMessage::Lease(LeaseMessage::Elsewhere { ino: Ino(9), vector: vector() }),
                "010a04090207ac02ef9baf0501",
            ),
            (ControlMessage::Lease(LeaseMessage::Lack { vector: vector() }), "010a050207ac02ef9baf0501"),
            (
                ControlMessage::Lock(LockMessage::Request {
                    id: 3,
                    ino: Ino(9),
                    request: LockRequest::Take { lock, wait: true },
                }),
                "010b000309010705010209ac0201",
            ),
            (
                ControlMessage::Lock(LockMessage::Request { id: 3, ino: Ino(9), request: LockRequest::Test { lock } }),
                "010b000309000705010209ac02",
            ),
            (
                ControlMessage::Lock(LockMessage::Outcome {
                    id: 3,
                    outcome: LockOutcome::Held(lock),
                    vector: vector(),
                }),
                "010b0103010705010209ac020207ac02ef9baf0501",
            ),
            (ControlMessage::Lock(LockMessage::Unlock { ino: Ino(9), owner: 5, first: 2, last: 9 }), "010b0209050209"),
            (ControlMessage::Lock(LockMessage::Withdraw { id: 3 }), "010b0303"),
            (
                ControlMessage::Lock(LockMessage::Holds { locks: vec![(Ino(9), lock)], all: true }),
                "010b0401090705010209ac0201",
            ),
            (
                ControlMessage::Lock(LockMessage::Elsewhere { ino: Ino(9), owner: 5, first: 2, last: 9 }),
                "010b0509050209",
            ),
            (
                ControlMessage::Lock(LockMessage::Unlocked { ino: Ino(9), owner: 5, first: 2, last: 9 }),
                "010b0609050209",
            ),
            (ControlMessage::Lock(LockMessage::Tell), "010b07"),
            (ControlMessage::Lock(LockMessage::Keeps { ino: Ino(9), locks: vec![lock] }), "010b0809010705010209ac02"),
            (ControlMessage::Lock(LockMessage::Lost { ino: Ino(9), owner: 5 }), "010b090905"),
            (
                ControlMessage::Lease(LeaseMessage::Vacant { tenure: Tenure { peer: PeerTag(7), number: 2 } }),
                "010a060702",
            ),
            (ControlMessage::Lease(LeaseMessage::Depose { peer: PeerTag(7), round: 300 }), "010a0707ac02"),
            (
                ControlMessage::Lease(LeaseMessage::Name {
                    wish: 300,
                    ino: Ino(9),
                    naming: Naming::Rmdir { place: Place { parent: Ino(9), name: "d".into() }, time: WallTime(1) },
                }),
                "010a09ac02090309016402",
            ),
            (
                ControlMessage::Lease(LeaseMessage::Named {
                    wish: 300,
                    outcome: Named::Done { gone: Some(Ino(9)) },
                    vector: vector(),
                }),
                "010a0aac020001090207ac02ef9baf0501",
            ),
            (
                ControlMessage::Lease(LeaseMessage::Agreed { peer: PeerTag(7), round: 1, vector: vector() }),
                "010a0807010207ac02ef9baf0501",
            ),
        ];
        for (message, bytes) in golden {
            assert_eq!(hex(&encode(&message).unwrap()), bytes, "{message:?}");
            assert_eq!(decode::<ControlMessage>(&encode(&message).unwrap()).unwrap(), message);
        }
        assert_eq!(hex(&encode(&Preface { instance: 1 }).unwrap()), "0101");
    }

    #[test]
    fn a_filter_of_an_odd_size_is_refused() {
        for bytes in ["010802010401020304", "0108020109000000000000000000"] {
            let bytes: Vec<u8> = bytes
                .as_bytes()
                .chunks(2)
                .map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap())
                .collect();
            assert!(matches!(decode::<ControlMessage>(&bytes), Err(WireError::Malformed(_))));
        }
    }

    #[test]
    fn a_boastful_program_name_and_a_vast_vector_are_refused() {
        let hello = ControlMessage::Hello {
            protocol: 1,
            share: ShareId([0; 16]),
            software: "x".repeat(65),
            vector: VersionVector::default(),
            near: Vec::new(),
        };
        assert!(matches!(encode(&hello), Err(WireError::Malformed(_))));
        let vast = VersionVector((1..=MAX_ROSTER as u32 + 1).map(|tag| (Author::new(PeerTag(tag), 0), 1)).collect());
        let have = ControlMessage::Have { vector: vast, durable: VersionVector::default(), sure: true };
        assert!(matches!(encode(&have), Err(WireError::Malformed(_))));
    }
}
