//! A share under everything at once: every few seconds a machine is killed, frozen, cut off, restarted, wiped or added,
//! never more at once than the policies survive, while files are written, read, renamed and deleted through two mounts.
//! Afterwards everything must be well, and every acknowledged file intact.
//!
//! A minute of it by default; `SHOAL_THRASH_SECONDS` and `SHOAL_THRASH_SEED` say otherwise (`scripts/thrash.sh`).

mod files;

use crate::harness::{Cluster, any_seed, memory_kib, setting};
use files::{Files, Hands};
use serde_json::Value;
use shoal::sim::chance::Chance;
use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Machines at the beginning: two more than `rs:4+2` has slots, so that groups heal while two are away.
const FOUNDERS: usize = 8;

/// Machines that come later: so many, and one more for each of these, up to so many.
const SPARE: usize = 2;
const ANOTHER: Duration = Duration::from_secs(180);
const MOST_SPARE: usize = 5;

/// The losses that all policies of the test survive.
const AT_ONCE: usize = 2;

/// Directories and their policies; each survives [`AT_ONCE`] losses.
const DIRECTORIES: [(&str, &str); 3] = [("copies", "replicate:3"), ("coded", "rs:4+2"), ("default", "survive:2")];

/// Between two faults.
const PAUSE: Duration = Duration::from_secs(2);

/// The longest that a machine is left down; the shortest pauses are over before anybody has noticed.
const DOWN: Duration = Duration::from_secs(9);

/// A wiped store is found empty by the second look of its peer at the latest; until then its seats count as taken.
const NOTICED: Duration = Duration::from_secs(20);

/// How soon everything must be well when the faults have stopped.
const WELL: Duration = Duration::from_secs(60);

/// The bound on a peer's memory.
const MEMORY_KIB: u64 = 512 << 10;

#[derive(Clone, Copy, PartialEq, Debug)]
enum Fault {
    Kill,
    Freeze,
    Cut,
    Restart,
    Wipe,
    Add,
}

const FAULTS: [Fault; 6] = [Fault::Kill, Fault::Freeze, Fault::Cut, Fault::Restart, Fault::Wipe, Fault::Add];

/// Machines that something was done to, and when it is undone.
struct Down {
    fault: Fault,
    until: Instant,
}

struct Thrasher {
    cluster: Cluster,
    machines: usize,
    /// Machines in the end.
    at_last: usize,
    /// The most memory that each took, over all its processes, in KiB.
    peaks: BTreeMap<usize, u64>,
    down: BTreeMap<usize, Down>,
    /// Machines whose disks were wiped, and from when on their groups' states can be believed.
    emptied: BTreeMap<usize, Instant>,
    hands: Arc<Hands>,
    chance: Chance,
    done: BTreeMap<&'static str, usize>,
}

#[test]
fn a_share_that_is_thrashed_is_well_again_and_has_lost_nothing() {
    let time = Duration::from_secs(setting("SHOAL_THRASH_SECONDS").unwrap_or(60));
    let seed = setting("SHOAL_THRASH_SEED").unwrap_or_else(any_seed);
    println!("thrashing for {time:?} from seed {seed}");
    let mut thrasher = Thrasher::new(seed, time);
    let files = Arc::new(Files::new(DIRECTORIES.map(|(name, _)| name).to_vec()));
    let started = Instant::now();
    let hands = thrasher.hands.clone();
    std::thread::scope(|scope| {
        for machine in 0..2 {
            let (files, hands) = (files.clone(), hands.clone());
            let (root, elsewhere) = (thrasher.cluster.path(machine), machine ^ 1);
            scope.spawn(move || files.work(&root, machine, elsewhere, &hands, Chance::new(seed ^ machine as u64)));
        }
        // Whatever happens, the workers end.
        let _ended = hands.end_when_dropped();
        thrasher.run(started + time, &files);
        thrasher.undo_all();
    });
    let calm = Instant::now();
    thrasher.becomes_well();
    println!("well {:?} after the last fault was undone; faults: {:?}", calm.elapsed(), thrasher.done);
    println!("files: {}", files.summary());
    thrasher.check(&files);
}

impl Thrasher {
    fn new(seed: u64, time: Duration) -> Thrasher {
        let more = (time.as_secs() / ANOTHER.as_secs()) as usize;
        let machines = FOUNDERS + (SPARE + more).min(MOST_SPARE);
        let mut cluster = Cluster::namespaces(machines, 1);
        cluster.takes_longer(time);
        for i in 0..FOUNDERS {
            add(&mut cluster, i, (i > 0).then_some(0));
        }
        cluster.all_in_sight();
        let mount = cluster.mount(0);
        cluster.mount(1);
        for (name, policy) in DIRECTORIES {
            fs::create_dir(mount.join(name)).unwrap();
            cluster.run(0, &["policy", mount.join(name).to_str().unwrap(), policy]).ok();
        }
        Thrasher {
            cluster,
            machines: FOUNDERS,
            at_last: machines,
            peaks: BTreeMap::new(),
            down: BTreeMap::new(),
            emptied: BTreeMap::new(),
            hands: Arc::new(Hands::new(machines)),
            chance: Chance::new(seed),
            done: BTreeMap::new(),
        }
    }

    /// Does one thing after the other until it is time. Each kind comes once before any comes again.
    fn run(&mut self, until: Instant, files: &Files) {
        let mut next: Vec<Fault> = Vec::new();
        while Instant::now() < until && !files.has_failed() {
            std::thread::sleep(PAUSE);
            self.undo_due();
            if next.is_empty() {
                next = self.chance.some(FAULTS.to_vec(), FAULTS.len());
            }
            if next.last() == Some(&Fault::Add) && self.machines == self.at_last {
                next.pop();
            } else if self.may_lose_one()
                && let Some(fault) = next.pop()
            {
                self.strike(fault);
            }
        }
    }

    fn strike(&mut self, fault: Fault) {
        *self.done.entry(fault.name()).or_default() += 1;
        let up = self.up();
        if fault == Fault::Add {
            println!("machine {} is added", self.machines);
            add(&mut self.cluster, self.machines, up.first().copied());
            self.machines += 1;
            return;
        }
        let victim = up[self.chance.below(up.len())];
        println!("{fault:?}: machine {victim}");
        self.hands.touch(victim);
        self.note_peak(victim);
        let mut until = Instant::now() + self.chance.up_to(DOWN);
        match fault {
            Fault::Kill => self.cluster.kill(victim),
            Fault::Freeze => self.cluster.pause(victim),
            Fault::Cut => self.cluster.cut(victim),
            Fault::Restart => {
                self.cluster.restart(victim);
                until = Instant::now();
            }
            Fault::Wipe => {
                self.cluster.kill(victim);
                fs::remove_dir_all(self.cluster.home(victim).join("shards")).unwrap();
                self.cluster.restart(victim);
                until = Instant::now();
                self.emptied.insert(victim, Instant::now() + NOTICED);
            }
            Fault::Add => {}
        }
        self.down.insert(victim, Down { fault, until });
    }

    /// The machines that nothing is done to at this moment.
    fn up(&self) -> Vec<usize> {
        (0..self.machines).filter(|i| !self.down.contains_key(i)).collect()
    }

    /// Takes note of what a machine's process has taken so far: another one begins anew.
    fn note_peak(&mut self, machine: usize) {
        let peak = memory_kib(self.cluster.pid(machine), "VmHWM:");
        let most = self.peaks.entry(machine).or_default();
        *most = peak.max(*most);
    }

    fn undo_due(&mut self) {
        let now = Instant::now();
        let due: Vec<usize> = self.down.iter().filter(|(_, down)| down.until <= now).map(|(i, _)| *i).collect();
        for machine in due {
            let Some(down) = self.down.remove(&machine) else { continue };
            match down.fault {
                Fault::Kill => self.cluster.restart(machine),
                Fault::Freeze => self.cluster.resume(machine),
                Fault::Cut => self.cluster.mend(machine),
                Fault::Restart | Fault::Wipe | Fault::Add => {}
            }
            self.hands.leave(machine);
        }
    }

    fn undo_all(&mut self) {
        self.down.values_mut().for_each(|down| down.until = Instant::now());
        self.undo_due();
    }

    /// Whether one more machine may go: everybody sees who is there and who is not, and what is there survives it.
    fn may_lose_one(&mut self) -> bool {
        if self.down.len() >= AT_ONCE {
            return false;
        }
        let up = self.up();
        let all_seen = up.iter().all(|i| {
            let alive = self.cluster.alive(*i);
            (0..self.machines).all(|j| alive.contains(&format!("peer{j}")) == up.contains(&j))
        });
        if !all_seen {
            return false;
        }
        let asked = up[0];
        let now = Instant::now();
        if self.emptied.values().any(|believed| *believed > now) {
            return false;
        }
        if !self.emptied.is_empty() {
            if !all_goldilocks(&self.cluster, asked) {
                return false;
            }
            self.emptied.clear();
        }
        self.cluster.status(asked)["survives_now"].as_u64() >= Some(1)
    }

    fn becomes_well(&mut self) {
        let deadline = Instant::now() + WELL;
        self.cluster.all_in_sight();
        // A store that was wiped last is not known to be empty at once.
        let believed = self.emptied.values().copied().max();
        let left = deadline.saturating_duration_since(Instant::now());
        self.cluster.wait_until(left, "everything is well", |cluster| {
            let well = believed.is_none_or(|believed| Instant::now() >= believed)
                && (0..2).all(|i| all_goldilocks(cluster, i))
                && cluster.status(0)["blocks_unreadable"] == 0;
            if !well {
                std::thread::sleep(Duration::from_millis(500));
            }
            well
        });
    }

    fn check(&mut self, files: &Files) {
        let third = self.cluster.mount(2);
        let mounts = [self.cluster.path(0), self.cluster.path(1), third];
        let mut failures = files.failures();
        for mount in &mounts {
            failures.extend(files.check(mount));
        }
        for i in 0..self.machines {
            self.note_peak(i);
            let peak = self.peaks[&i];
            if peak > MEMORY_KIB {
                failures.push(format!("machine {i} took {peak} KiB at its peak"));
            }
        }
        let strays = self.cluster.strays();
        if !strays.is_empty() {
            failures.push(format!("processes that should have ended: {strays:?}"));
        }
        assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
    }
}

impl Fault {
    fn name(self) -> &'static str {
        match self {
            Fault::Kill => "kill",
            Fault::Freeze => "freeze",
            Fault::Cut => "cut",
            Fault::Restart => "restart",
            Fault::Wipe => "wipe",
            Fault::Add => "add",
        }
    }
}

/// Has a machine found the share or join it through another, and starts it.
fn add(cluster: &mut Cluster, i: usize, inviter: Option<usize>) {
    match inviter {
        None => cluster.init(i),
        Some(inviter) => {
            let ticket = cluster.invite(inviter);
            cluster.join(i, &ticket);
        }
    }
    cluster.configure(i, "repair_after_s = 2");
    cluster.serve(i);
}

fn all_goldilocks(cluster: &Cluster, i: usize) -> bool {
    let groups: Value = cluster.json(i, &["groups"]);
    groups
        .as_array()
        .is_some_and(|groups| groups.iter().all(|group| group["state"] == "goldilocks" || group["blocks"] == 0))
}
