//! What peers say to one another about leases: see `peer/leases`, `peer/heirs` and `peer/touch`.

use super::{MAX_LOCKS, MAX_ROSTER};
use crate::id::{Ino, PeerTag};
use crate::namespace::{Errno, Lock, Naming, Tenure, VersionVector};
use serde::{Deserialize, Serialize};

/// One message about leases, on the control stream.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum LeaseMessage {
    /// Do you count on me? Sent at this time of the sender's steady clock, in nanoseconds.
    Beat { sent: u64 },
    /// I do: nothing I change is done without you for some time from then on.
    Answer { sent: u64 },
    /// Please grant me this lease, which you hold.
    Want { ino: Ino },
    /// I did; use it when you have all of this.
    Granted {
        ino: Ino,
        vector: VersionVector,
        /// The file's locks.
        locks: Vec<Lock>,
    },
    /// I do not hold it, or not for you: who has all of this knows who does.
    Elsewhere { ino: Ino, vector: VersionVector },
    /// I have this much, and need at once what you have besides.
    Lack { vector: VersionVector },
    /// This peer is dead; somebody needs what it held in this tenure, and you are its heir.
    Vacant { tenure: Tenure },
    /// May I take over what this dead peer held?
    Depose { peer: PeerTag, round: u64 },
    /// You may, in that round, when you have all that I have.
    Agreed { peer: PeerTag, round: u64, vector: VersionVector },
    /// Please have this done to names, for which I need this lease, which you hold: do it yourself if you are busy under
    /// it, else grant it to me. The number tells this wish from all others that any peer ever has.
    Name { wish: u64, ino: Ino, naming: Naming },
    /// What came of a wish; whoever has all of this sees it.
    Named { wish: u64, outcome: Named, vector: VersionVector },
}

/// What came of a wish.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Named {
    /// It is done, and every peer that is connected to the sender has it: what lost a name by it.
    Done { gone: Option<Ino> },
    /// It cannot be: the errno of the system call.
    Refused(Errno),
    /// It is not done by the sender, who gives the lease away as soon as it can, or says who has it.
    Undone,
}

impl LeaseMessage {
    /// Whether it goes to and fro each second, whatever happens.
    pub fn is_beat(&self) -> bool {
        matches!(self, LeaseMessage::Beat { .. } | LeaseMessage::Answer { .. })
    }

    /// That its lengths are within bounds.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        match self {
            LeaseMessage::Granted { vector, .. }
            | LeaseMessage::Elsewhere { vector, .. }
            | LeaseMessage::Lack { vector }
            | LeaseMessage::Agreed { vector, .. }
            | LeaseMessage::Named { vector, .. }
                if vector.0.len() > MAX_ROSTER =>
            {
                Err("a vector of too many authors")
            }
            LeaseMessage::Name { naming, .. } => naming.check(),
            LeaseMessage::Granted { locks, .. } if locks.len() > MAX_LOCKS => Err("too many locks"),
            LeaseMessage::Granted { locks, .. } if locks.iter().any(|lock| lock.first > lock.last) => {
                Err("a lock that ends before it begins")
            }
            _ => Ok(()),
        }
    }
}
