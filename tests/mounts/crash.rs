//! Machines die at random moments while people write: what was acknowledged is there afterwards, what was not is there
//! as it was or as it was to be, and `shoal check` finds nothing.
//!
//! `SHOAL_CRASH_SEED` says what is drawn, `SHOAL_CRASH_ROUNDS` how often they die.

mod writer;

use crate::harness::{Cluster, any_seed, full_size, setting};
use crate::healing::HEALED;
use shoal::sim::chance::Chance;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use writer::{Safe, Writer};

const PEERS: usize = 3;

/// Their directories' policies. All of them survive one loss.
const POLICIES: [&str; 4] = ["survive:2", "replicate:2", "rs:2+1", "replicate:3"];

/// At most so long they work before somebody dies.
const WORK: Duration = Duration::from_millis(900);

/// How machines die.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Death {
    /// The process is killed; its machine, and with it all that was given to the kernel, lives on.
    Killed,
    /// The machine loses its power, and with it all that was not synced.
    PowerCut,
}

struct Crashes {
    cluster: Cluster,
    mounts: [PathBuf; 2],
    writers: Vec<Writer>,
    chance: Chance,
    death: Death,
    /// Whether all machines die at once.
    all: fn(&mut Chance) -> bool,
}

impl Crashes {
    fn new(death: Death, safe: Safe, all: fn(&mut Chance) -> bool) -> Crashes {
        let seed = setting("SHOAL_CRASH_SEED").unwrap_or_else(any_seed);
        println!("SHOAL_CRASH_SEED={seed}");
        let mut cluster = Cluster::loopback(PEERS);
        if death == Death::PowerCut {
            (0..PEERS).for_each(|i| cluster.forgetful_disk(i));
        }
        (0..PEERS).for_each(|i| crate::healing::start(&mut cluster, i));
        cluster.all_in_sight();
        let mounts = [cluster.mount(0), cluster.mount(1)];
        let writers: Vec<Writer> = (0..POLICIES.len()).map(|n| Writer::new(n, n % 2, safe, seed)).collect();
        for (writer, policy) in writers.iter().zip(POLICIES) {
            let dir = writer.directory(&mounts[0]);
            fs::create_dir(&dir).unwrap();
            cluster.run(0, &["policy", dir.to_str().unwrap(), policy]).ok();
        }
        fs::File::open(&mounts[0]).unwrap().sync_all().unwrap();
        Crashes { cluster, mounts, writers, chance: Chance::new(seed), death, all }
    }

    fn run(&mut self, rounds: usize) {
        let started = Instant::now();
        for round in 0..rounds {
            let victims = match (self.all)(&mut self.chance) {
                true => (0..PEERS).collect(),
                false => vec![self.chance.below(PEERS)],
            };
            self.work_until_they_die(round, &victims);
            self.cluster.all_in_sight();
            let wrong: Vec<String> = self
                .writers
                .iter_mut()
                .flat_map(|writer| self.mounts.iter().flat_map(|m| writer.check(m)).collect::<Vec<_>>())
                .collect();
            assert!(wrong.is_empty(), "round {round}, {victims:?} died: {}", wrong.join("\n"));
            self.cluster.wait_until(HEALED, "a check finds nothing", |cluster| {
                let ran = cluster.run(round % PEERS, &["check", "--json"]);
                let found: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap_or_default();
                found["sound"] == true && found["silent"] == serde_json::json!([])
            });
        }
        let acknowledged: usize = self.writers.iter().map(|writer| writer.acknowledged).sum();
        println!("{rounds} rounds in {:?}, {acknowledged} steps acknowledged", started.elapsed());
    }

    /// Has the writers work, the victims die under them, and come back while the others go on.
    fn work_until_they_die(&mut self, round: usize, victims: &[usize]) {
        let stop = AtomicBool::new(false);
        let (cluster, chance, death) = (&mut self.cluster, &mut self.chance, self.death);
        let mounts = &self.mounts;
        std::thread::scope(|scope| {
            let working: Vec<_> = self
                .writers
                .iter_mut()
                .map(|writer| {
                    let (mount, stop) = (&mounts[writer.machine], &stop);
                    let machine = writer.machine;
                    (machine, scope.spawn(move || writer.work(mount, stop)))
                })
                .collect();
            std::thread::sleep(Duration::from_millis(100) + chance.up_to(WORK));
            match death {
                Death::Killed => cluster.kill_all(victims),
                Death::PowerCut => cluster.cut_power(victims, chance),
            }
            std::thread::sleep(chance.up_to(WORK / 2));
            cluster.start_all(victims);
            std::thread::sleep(chance.up_to(WORK / 2));
            stop.store(true, Ordering::Relaxed);
            for (machine, working) in working {
                if let Err(error) = working.join().unwrap() {
                    assert!(victims.contains(&machine), "round {round}, {victims:?} died, and not {machine}: {error}");
                }
            }
        });
    }
}

fn rounds(normal: usize, full: usize) -> usize {
    setting("SHOAL_CRASH_ROUNDS").map_or(if full_size() { full } else { normal }, |rounds| rounds as usize)
}

#[test]
fn what_was_acknowledged_outlives_processes_that_are_killed_at_any_moment() {
    Crashes::new(Death::Killed, Safe::Done, |chance| chance.happens(0.4)).run(rounds(6, 200));
}

#[test]
fn what_was_synced_outlives_a_power_cut_of_all_machines() {
    Crashes::new(Death::PowerCut, Safe::Synced, |_| true).run(rounds(4, 60));
}

#[test]
fn what_was_closed_outlives_a_power_cut_of_one_machine() {
    Crashes::new(Death::PowerCut, Safe::Done, |_| false).run(rounds(3, 60));
}
