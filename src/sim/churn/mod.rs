//! How much data survives how much churn, and what it costs.
//!
//! Each peer of a run has a membership and a healing core of its own, the very ones that the real peer runs, and its own
//! belief of who is alive. What is made up is around them: the clock, the network, the disks, and chance.
//!
//! Left out: ops reach everybody at once, for all peers of a run share one namespace; so who sits where and who is on
//! the roster is known to all, and what spreading that costs is not counted. Shards have sizes and no bytes. Reports of
//! free space cost nothing.

mod checks;
mod disk;
mod figures;
mod scenario;
mod share;
mod watching;
mod work;
mod world;

pub use figures::{Figures, Summary};
pub use scenario::{Churn, Published, Scenario, WatchSettings};

use super::Going;
use crate::policy::Policy;
use scenario::{Heal, Items, Net, Watch};
use std::time::Duration;

/// One policy, one kind of churn and one size of a scenario.
#[derive(Clone, PartialEq, Debug)]
pub struct Case {
    pub peers: u32,
    pub policy: Policy,
    pub churn: Churn,
    time: Duration,
    settle: Duration,
    items: Items,
    membership: Watch,
    healing: Heal,
    network: Net,
}

impl Case {
    /// All cases of a scenario: churn by churn, size by size, policy by policy.
    pub fn of(scenario: &Scenario) -> Vec<Case> {
        let sizes = if scenario.sizes.is_empty() { vec![scenario.peers] } else { scenario.sizes.clone() };
        let mut cases = Vec::new();
        for churn in &scenario.churn {
            for &peers in &sizes {
                for &policy in &scenario.policies {
                    cases.push(Case {
                        peers,
                        policy,
                        churn: churn.clone(),
                        time: scenario.time,
                        settle: scenario.settle,
                        items: scenario.items,
                        membership: scenario.membership,
                        healing: scenario.healing,
                        network: scenario.network,
                    });
                }
            }
        }
        cases
    }

    /// Runs it. The same case and seed give the same figures.
    pub fn run(&self, seed: u64, going: Going) -> Figures {
        world::World::new(self, seed).run(going)
    }
}

#[cfg(test)]
mod tests;
