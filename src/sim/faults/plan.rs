//! What a run is to be like, drawn from its seed.

use super::quiet::PATIENCE;
use crate::policy::Policy;
use crate::sim::chance::Chance;
use std::time::Duration;

/// The share of a run, and what befalls it.
#[derive(Clone, PartialEq, Debug)]
pub struct Plan {
    /// Machines at the start.
    pub machines: usize,
    /// For how long faults go on.
    pub storm: Duration,
    /// In the midst of it, nothing else happens for so long.
    pub lull: Duration,
    /// From one fault to the next, in the mean.
    pub fault_every: Duration,
    /// From one write or deletion to the next, in the mean.
    pub use_every: Duration,
    /// Policies that files are written under.
    pub policies: Vec<Policy>,
    /// The chance that a datagram is lost, and that a control connection breaks at a message.
    pub loss: f64,
    pub repair_after: Duration,
    /// Machines that may be destroyed at once: what the weakest policy survives.
    pub destroyed_at_once: usize,
}

impl Plan {
    pub fn new(chance: &mut Chance) -> Plan {
        let machines = 3 + chance.below(6);
        let mut policies = vec![Policy::Replicate(3), Policy::Survive(2)];
        if machines >= 5 {
            policies.push(Policy::ReedSolomon { data: 2, parity: 2 });
        }
        Plan {
            machines,
            storm: Duration::from_secs(120 + chance.below(240) as u64),
            fault_every: Duration::from_secs(4 + chance.below(20) as u64),
            use_every: Duration::from_secs(1 + chance.below(5) as u64),
            policies: chance.some(policies, 2),
            loss: [0.0, 0.01, 0.1][chance.below(3)],
            // Earlier absences end within a minute.
            lull: Duration::from_secs(90) + PATIENCE * 2,
            repair_after: Duration::from_secs([0, 5, 20][chance.below(3)]),
            destroyed_at_once: 1,
        }
    }
}

/// What may befall a share.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Fault {
    /// A machine stops, and comes back later.
    Kill,
    /// Its power is cut: what of its log was not on stable storage is gone.
    PowerCut,
    /// It stops, and comes back with an empty disk but its key and its log.
    Wipe,
    /// Some machines neither hear nor are heard by the others for a while.
    Partition,
    /// One machine hears the others, but is not heard.
    Deaf,
    /// A machine answers late for a while.
    Slow,
    /// A machine takes no more shards for a while.
    Full,
    /// A shard goes bad.
    Rot,
    /// A new machine joins.
    Join,
    /// A machine is to be drained and taken off the roster.
    Leave,
}

impl Fault {
    pub const ALL: [Fault; 10] = [
        Fault::Kill,
        Fault::PowerCut,
        Fault::Wipe,
        Fault::Partition,
        Fault::Deaf,
        Fault::Slow,
        Fault::Full,
        Fault::Rot,
        Fault::Join,
        Fault::Leave,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Fault::Kill => "kill",
            Fault::PowerCut => "power cut",
            Fault::Wipe => "wipe",
            Fault::Partition => "partition",
            Fault::Deaf => "deaf",
            Fault::Slow => "slow",
            Fault::Full => "full disk",
            Fault::Rot => "rot",
            Fault::Join => "join",
            Fault::Leave => "leave",
        }
    }
}
