//! Groups: what state one is in, what losses it survives, who is chosen for it, how it comes back to
//! goldilocks, and how it lets a machine go. Pure.

mod backlog;
mod choose;
mod custody;
mod departure;
mod healing;
mod holdings;
mod plan;
mod state;
mod survival;

pub use backlog::{Backlog, Done, UnderWay, backlog};
pub use choose::{ROOM, choose};
pub use custody::{Comparison, Custody, Findings, KEPT_FOR, Unsettled, custody, owed, slots_of, useless};
pub use departure::{HandingOver, Loss, Without, handing_over, stranded, without};
pub use healing::{ANNOUNCED, Healing, HealingEffect, HealingSettings, Outcome, Work};
pub use holdings::{Holdings, Lacking, NAMED_LACKING};
pub use plan::reshaped;
pub use state::{State, state};
pub use survival::{Survival, losses_survived};
