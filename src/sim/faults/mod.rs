//! Whole shares under all faults at once: machines are killed, cut off, slowed, wiped, filled up, join and leave, and
//! shards rot, while files are written and deleted, leases taken in turns, and people use the same names, one file and its
//! locks at the same time. Every machine runs the real peer's core with a namespace of its own;
//! only the disks and the network are made up. Amid the faults is a lull, in which whoever is down or cut off stays so,
//! and the others must see to their groups. After the faults comes calm, and then everything must be well again.
//!
//! Destruction (a wiped disk, rot) keeps to what the policies survive at once; all else is without bounds.

mod acts;
mod checks;
mod files;
mod jobs;
mod leases;
mod lockers;
mod machine;
mod order;
mod plan;
mod quiet;
mod sides;
#[cfg(test)]
mod tests;
mod users;
mod world;

pub use plan::Plan;

use super::chance::Chance;
use std::time::Duration;
use world::World;

/// What one run came to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// Faults that happened, by kind, in the order of the kinds.
    pub faults: Vec<(&'static str, u32)>,
    /// Files whose writing was acknowledged, and those of them that were deleted again.
    pub written: u32,
    pub deleted: u32,
    /// Pieces of healing that succeeded.
    pub healed: u32,
    /// Looks at groups, of every machine, when nothing had befallen anybody for a while, before the calm.
    pub judged: u32,
    /// Leases that were taken from another machine, or found at hand, and used.
    pub taken: u32,
    /// Those of them that were taken where everybody in sight had been there for a while: two holders would be told.
    pub judged_leases: u32,
    /// What users did with the names, the file and the locks that they share.
    pub acts: u32,
    /// What of that was held against one order.
    pub judged_acts: u32,
    /// Histories of what was done that were too tangled to be held against one order.
    pub tangled: u32,
    /// What of it the busy holder of a lease did for another machine.
    pub served: u32,
    /// What must not have happened, each with its time.
    pub violations: Vec<String>,
}

/// The longest calm in which a share has to be well again: absences have to pass, slots to be filled, groups to settle,
/// and what nobody needs to go.
const CALM: Duration = Duration::from_secs(600);

/// Runs a share under the faults of a plan drawn from this seed.
pub fn run(seed: u64) -> Report {
    let plan = Plan::new(&mut Chance::new(seed));
    run_plan(seed, &plan)
}

/// Runs a share under these faults. A panic is one more thing that must not happen: the run fails, others go on.
pub fn run_plan(seed: u64, plan: &Plan) -> Report {
    let whole = std::panic::catch_unwind(|| {
        let mut world = World::new(seed, plan);
        world.pass(plan.storm + plan.lull);
        world.calm();
        world.settle(CALM);
        world.finish()
    });
    whole.unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<&str>().copied().or(panic.downcast_ref::<String>().map(String::as_str));
        Report {
            violations: vec![format!("the run panicked: {}", said.unwrap_or("without a word"))],
            ..Report::default()
        }
    })
}
