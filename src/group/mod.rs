//! Groups: what state one is in, what losses it survives, and who is chosen for it. Pure.

mod choose;
mod state;
mod survival;

pub use choose::choose;
pub use state::{State, state};
pub use survival::{Survival, losses_survived};
