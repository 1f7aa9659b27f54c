//! Whole overlays in one process: the cores that the real peer runs, over a clock and a network made up from a seed.
//! Pure: the same scenario and seed give the same figures on every machine.

pub mod chance;
pub mod churn;
pub mod faults;
pub mod network;
pub mod queue;
pub mod scenario;
pub mod search;
