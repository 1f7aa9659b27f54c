//! Random calls on two mounts of one share and on a plain file system in memory: the same comes of every call, and
//! the same is there afterwards, through either mount, whatever restarts in between.
//!
//! In some batches several threads work at once, each in a directory of its own; in others one thread goes from mount
//! to mount with every step. `SHOAL_MODEL_SEED` says which calls are drawn, `SHOAL_TEST_FULL=1` takes many seeds.

mod plain;
mod steps;

use crate::harness::{Cluster, any_seed, full_size, setting, tree};
use plain::Plain;
use shoal::sim::chance::Chance;
use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};
use steps::{Names, Outcome, Seen, Step, difference};

const PEERS: usize = 3;

/// A directory for each thread, and their policies.
const AREAS: [&str; 4] = ["survive:2", "replicate:2", "rs:2+1", "replicate:1"];

const BATCHES: usize = 12;

/// Steps of one thread in one batch.
const STEPS: usize = 60;

/// Seeds at the size of a release.
const SEEDS: u64 = 40;

/// Steps that a failure shows.
const SHOWN: usize = 12;

/// One directory, and what it should hold.
struct Area {
    name: String,
    plain: Plain,
    chance: Chance,
    /// The last steps, as a failure shows them.
    recent: VecDeque<String>,
    /// Steps that succeeded, and that were refused.
    done: [usize; 2],
}

impl Area {
    /// Does one step on a mount and on the model.
    fn act(&mut self, step: &Step, mount: &Path, seed: u64) -> Outcome {
        let expected = self.plain.act(step);
        let found = step.act(&mount.join(&self.name));
        if self.recent.len() == SHOWN {
            self.recent.pop_front();
        }
        self.recent.push_back(format!("{} {step:?}", mount.file_name().unwrap().display()));
        if let Some(difference) = difference(&expected, &found) {
            let recent = self.recent.iter().cloned().collect::<Vec<_>>().join("\n   ");
            panic!("seed {seed}, in {}: {difference}\n   the last of these steps:\n   {recent}", self.name);
        }
        self.done[usize::from(found.is_err())] += 1;
        found
    }

    fn work(&mut self, mount: &Path, seed: u64) {
        for _ in 0..STEPS {
            let step = Step::draw(&mut self.chance, &self.plain);
            let _ = self.act(&step, mount, seed);
        }
    }

    /// Goes from one mount to the other: what was looked up on one before the other changed it, and after.
    fn hop(&mut self, mounts: &[PathBuf; 2], seed: u64) {
        for _ in 0..STEPS {
            let step = Step::draw(&mut self.chance, &self.plain);
            let at = self.chance.below(2);
            let names: Vec<Names> = step.names().into_iter().cloned().collect();
            if self.chance.happens(0.5) {
                self.look(&names, &mounts[1 - at], seed);
            }
            let _ = self.act(&step, &mounts[at], seed);
            if self.chance.happens(0.5) {
                self.look(&names, &mounts[1 - at], seed);
            }
        }
    }

    /// Looks at names, and into the files that they stand for.
    fn look(&mut self, names: &[Names], mount: &Path, seed: u64) {
        for path in names {
            let found = self.act(&Step::Look { path: path.clone() }, mount, seed);
            if let Ok(Seen::Facts(facts)) = found
                && let ('f', Some(size)) = (facts.kind, facts.size)
            {
                let _ = self.act(&Step::Read { path: path.clone(), at: 0, len: size as usize + 1 }, mount, seed);
            }
        }
    }

    fn compare(&mut self, mounts: &[PathBuf; 2], seed: u64) {
        for mount in mounts {
            let differences = self.plain.compare(&mount.join(&self.name));
            let recent = self.recent.iter().cloned().collect::<Vec<_>>().join("\n   ");
            let shown = differences.iter().take(8).cloned().collect::<Vec<_>>().join("\n");
            assert!(
                differences.is_empty(),
                "seed {seed}: {} differences:\n{shown}\n   the last steps in {}:\n   {recent}",
                differences.len(),
                self.name
            );
        }
    }
}

struct World {
    cluster: Cluster,
    mounts: [PathBuf; 2],
    areas: Vec<Area>,
    chance: Chance,
    seed: u64,
}

impl World {
    fn new(seed: u64) -> World {
        let mut cluster = Cluster::share(PEERS);
        let mounts = [cluster.mount(0), cluster.mount(1)];
        let areas = AREAS.iter().enumerate().map(|(number, policy)| {
            let name = format!("area {number}");
            let dir = mounts[number % 2].join(&name);
            fs::create_dir(&dir).unwrap();
            fs::set_permissions(&dir, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
            tree::set_xattr(&dir, "user.shoal.policy", policy.as_bytes());
            let chance = Chance::new(seed ^ ((number as u64 + 1) << 32));
            Area { name, plain: Plain::new(0o755), chance, recent: VecDeque::new(), done: [0; 2] }
        });
        let areas = areas.collect();
        World { cluster, mounts, areas, chance: Chance::new(seed), seed }
    }

    fn run(&mut self) {
        for batch in 0..BATCHES {
            let away = self.disturb();
            if self.chance.happens(0.4) {
                let area = self.chance.below(AREAS.len());
                self.areas[area].hop(&self.mounts, self.seed);
            } else {
                self.work_at_once(batch);
            }
            if away {
                self.cluster.restart(PEERS - 1);
                self.cluster.all_in_sight();
            }
            let (mounts, seed) = (&self.mounts, self.seed);
            at_once(&mut self.areas, |_, area| area.compare(mounts, seed));
        }
        let [done, refused] = [0, 1].map(|which| self.areas.iter().map(|area| area.done[which]).sum::<usize>());
        println!("{done} steps succeeded and {refused} were refused");
        assert!(done > refused / 2 && refused > done / 10, "most of what is drawn is of no use");
    }

    /// Every thread in a directory of its own, half of them on each mount; the other one in the next batch.
    fn work_at_once(&mut self, batch: usize) {
        let (mounts, seed) = (&self.mounts, self.seed);
        at_once(&mut self.areas, |number, area| area.work(&mounts[(number + batch) % 2], seed));
    }

    /// Something happens to the machines, or nothing; true where the last one is away from now on.
    fn disturb(&mut self) -> bool {
        let victim = self.chance.below(2);
        match self.chance.below(8) {
            0 => self.cluster.restart(victim),
            1 => {
                self.cluster.stop(victim);
                self.cluster.restart(victim);
            }
            2 => {
                let all: Vec<usize> = (0..PEERS).collect();
                self.cluster.kill_all(&all);
                self.cluster.start_all(&all);
            }
            3 => {
                self.cluster.kill(PEERS - 1);
                return true;
            }
            _ => return false,
        }
        self.cluster.all_in_sight();
        false
    }
}

/// A thread for each area.
fn at_once(areas: &mut [Area], act: impl Fn(usize, &mut Area) + Sync) {
    std::thread::scope(|scope| {
        let act = &act;
        for (number, area) in areas.iter_mut().enumerate() {
            scope.spawn(move || act(number, area));
        }
    });
}

#[test]
fn two_mounts_answer_as_a_plain_file_system_does() {
    let first = setting("SHOAL_MODEL_SEED").unwrap_or_else(any_seed);
    let seeds = if full_size() { SEEDS } else { 1 };
    for seed in first..first.saturating_add(seeds) {
        println!("SHOAL_MODEL_SEED={seed}");
        World::new(seed).run();
    }
}
