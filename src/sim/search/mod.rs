//! How many messages it takes to find what some peer holds, and how often it is found.
//!
//! Each peer of a run has a search core of its own, the very one that the real peer runs, and knows its neighbours in
//! a random graph and nobody else. What is made up is around it: the clock, the links, the stores, and chance.
//!
//! Some peers die just before the searches begin: their neighbours find out only after a while, and summaries go on
//! telling of them for longer. Left out: the connections of the dead are not replaced by others.

mod figures;
mod scenario;
mod world;

pub use figures::{Figures, Summary};
pub use scenario::{Published, Scenario, Technique};

use super::Going;

/// One technique of a scenario.
#[derive(Clone, PartialEq, Debug)]
pub struct Case {
    pub technique: Technique,
    scenario: Scenario,
}

impl Case {
    /// All cases of a scenario, in its order.
    pub fn of(scenario: &Scenario) -> Vec<Case> {
        let case = |technique: &Technique| Case { technique: *technique, scenario: scenario.clone() };
        scenario.techniques.iter().map(case).collect()
    }

    /// Runs it. The same case and seed give the same figures.
    pub fn run(&self, seed: u64, going: Going) -> Figures {
        world::World::new(&self.scenario, self.technique, seed).run(going)
    }
}

#[cfg(test)]
mod tests;
