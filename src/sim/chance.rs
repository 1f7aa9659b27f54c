//! All chance of a run, from its seed.

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use std::time::Duration;

/// Draws the same from the same seed.
pub struct Chance(Xoshiro256PlusPlus);

impl Chance {
    pub fn new(seed: u64) -> Chance {
        Chance(Xoshiro256PlusPlus::seed_from_u64(seed))
    }

    pub fn bits(&mut self) -> u64 {
        self.0.random()
    }

    pub fn bytes(&mut self) -> [u8; 32] {
        self.0.random()
    }

    /// A place below `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0.random_range(0..bound)
    }

    /// From 0 up to, not including, 1.
    pub fn part(&mut self) -> f64 {
        self.0.random()
    }

    pub fn happens(&mut self, chance: f64) -> bool {
        chance > 0.0 && self.part() < chance
    }

    pub fn up_to(&mut self, most: Duration) -> Duration {
        most.mul_f64(self.part())
    }

    /// A time whose end is as likely at any moment, of this mean.
    pub fn exponential(&mut self, mean: Duration) -> Duration {
        mean.mul_f64(-(1.0 - self.part()).ln())
    }

    /// How often a die is cast that shows death with this chance, until it does; at least once.
    pub fn casts(&mut self, chance: f64) -> f64 {
        if chance >= 1.0 {
            return 1.0;
        }
        ((1.0 - self.part()).ln() / (1.0 - chance).ln()).ceil().max(1.0)
    }

    /// So many of them, in an order that chance drew; all, if there are not more.
    pub fn some<T>(&mut self, mut all: Vec<T>, wanted: usize) -> Vec<T> {
        for place in 0..wanted.min(all.len()) {
            let other = place + self.below(all.len() - place);
            all.swap(place, other);
        }
        all.truncate(wanted);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mean(draw: impl Fn(&mut Chance) -> f64) -> f64 {
        let mut chance = Chance::new(1);
        (0..20_000).map(|_| draw(&mut chance)).sum::<f64>() / 20_000.0
    }

    #[test]
    fn means_are_what_was_asked_for() {
        let session = mean(|chance| chance.exponential(Duration::from_secs(100)).as_secs_f64());
        assert!((97.0..103.0).contains(&session), "{session}");
        let casts = mean(|chance| chance.casts(0.02));
        assert!((48.5..51.5).contains(&casts), "{casts}");
        assert_eq!(mean(|chance| chance.casts(1.0)), 1.0);
    }

    #[test]
    fn some_are_all_different() {
        let mut some = Chance::new(2).some((0..10).collect(), 7);
        some.sort_unstable();
        some.dedup();
        assert_eq!(some.len(), 7);
        assert_eq!(Chance::new(2).some(vec![1], 7), [1]);
    }
}
