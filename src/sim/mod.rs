//! Whole overlays in one process: the cores that the real peer runs, over a clock and a network made up from a seed.
//! Pure: the same scenario and seed give the same figures on every machine.

pub mod chance;
pub mod churn;
pub mod faults;
pub mod network;
pub mod queue;
pub mod scenario;
pub mod search;

/// Told as a run goes on, [`STEPS`] times or so in equal parts of its time.
pub type Going<'a> = &'a dyn Fn();

/// The steps in which a run tells how far it is.
pub const STEPS: u32 = 200;
