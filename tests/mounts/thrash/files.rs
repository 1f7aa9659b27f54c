//! The files of people who go on working while machines die under them, and what each must hold.

use crate::harness::tree;
use shoal::sim::chance::Chance;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Error, ErrorKind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Sizes of files: inline, one block, several.
const SIZES: [usize; 6] = [100, 3_000, 5_000, 70_000, 1 << 20, (3 << 20) + 17];

/// With more bytes in files than this, more are deleted than written.
const MOST_BYTES: usize = 150 << 20;

/// Far above every bound: a call that takes longer has hung.
const HUNG: Duration = Duration::from_secs(60);

/// How long a machine that was away may take to hear what others did meanwhile.
const CATCH_UP: Duration = Duration::from_secs(10);

/// Failures kept; the first ones tell most.
const FAILURES: usize = 20;

/// Which machines the test has its hands on. What fails on such a machine is excused.
pub struct Hands {
    /// Odd while something is done to the machine; counts on each time.
    touched: Vec<AtomicU64>,
    /// When it last counted on, for each machine.
    last: Mutex<Vec<Option<Instant>>>,
    ended: AtomicBool,
}

impl Hands {
    pub fn new(machines: usize) -> Hands {
        Hands {
            touched: (0..machines).map(|_| AtomicU64::new(0)).collect(),
            last: Mutex::new(vec![None; machines]),
            ended: AtomicBool::new(false),
        }
    }

    /// Something is done to the machine from now on.
    pub fn touch(&self, machine: usize) {
        self.touched[machine].fetch_add(1, Ordering::SeqCst);
        self.last.lock().unwrap_or_else(|e| e.into_inner())[machine] = Some(Instant::now());
    }

    /// It is left alone again.
    pub fn leave(&self, machine: usize) {
        self.touch(machine);
    }

    /// Whether it was left alone for long enough to have heard what the others did meanwhile.
    fn has_caught_up(&self, machine: usize) -> bool {
        let last = self.last.lock().unwrap_or_else(|e| e.into_inner())[machine];
        self.count(machine).is_multiple_of(2) && last.is_none_or(|last| last.elapsed() > CATCH_UP)
    }

    fn count(&self, machine: usize) -> u64 {
        self.touched[machine].load(Ordering::SeqCst)
    }

    /// Whether nothing was done to the machine since the count was this.
    fn left_alone(&self, machine: usize, since: u64) -> bool {
        since.is_multiple_of(2) && self.count(machine) == since
    }

    pub fn end_when_dropped(&self) -> Ended<'_> {
        Ended(&self.ended)
    }
}

pub struct Ended<'a>(&'a AtomicBool);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A file that was acknowledged.
#[derive(Clone)]
struct Known {
    seed: u64,
    len: usize,
    /// Acknowledged by a machine that was in touch with the others, so that they have it.
    settled: bool,
}

#[derive(Default)]
struct State {
    /// Files nobody is at work on, by their path in the share.
    present: BTreeMap<String, Known>,
    /// Names whose deletion was acknowledged.
    gone: BTreeSet<String>,
    failures: Vec<String>,
    bytes: usize,
    written: usize,
    verified: usize,
    deleted: usize,
    renamed: usize,
    excused: usize,
}

pub struct Files {
    directories: Vec<&'static str>,
    state: Mutex<State>,
}

impl Files {
    pub fn new(directories: Vec<&'static str>) -> Files {
        Files { directories, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    pub fn has_failed(&self) -> bool {
        !self.state().failures.is_empty()
    }

    pub fn failures(&self) -> Vec<String> {
        self.state().failures.clone()
    }

    pub fn summary(&self) -> String {
        let state = self.state();
        format!(
            "{} written, {} verified, {} renamed, {} deleted, {} calls failed on machines under the test's hands; {} are there",
            state.written,
            state.verified,
            state.renamed,
            state.deleted,
            state.excused,
            state.present.len()
        )
    }

    /// Works through the mount at `root` of `machine` until the test ends. Each worker changes files of its own, and
    /// verifies everybody's; those of `elsewhere` only when they had time to arrive.
    pub fn work(&self, root: &Path, machine: usize, elsewhere: usize, hands: &Hands, mut chance: Chance) {
        let mut number = 0;
        while !hands.ended.load(Ordering::SeqCst) {
            let before = hands.count(machine);
            let started = Instant::now();
            let full = self.state().bytes > MOST_BYTES;
            let done = match chance.below(100) {
                0..40 if !full => {
                    number += 1;
                    self.write(root, machine, number, hands, &mut chance)
                }
                0..85 if !full => self.verify(root, machine, elsewhere, hands, &mut chance),
                85..92 if !full => self.rename(root, machine, &mut chance),
                _ => self.delete(root, machine, &mut chance),
            };
            let alone = hands.left_alone(machine, before);
            if let Err(what) = done {
                if alone {
                    self.fail(format!("machine {machine}: {what}"));
                } else {
                    self.state().excused += 1;
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
            if alone && started.elapsed() > HUNG {
                self.fail(format!("machine {machine}: a call took {:?}", started.elapsed()));
            }
        }
    }

    fn fail(&self, what: String) {
        println!("FAILED: {what}");
        let mut state = self.state();
        if state.failures.len() < FAILURES {
            state.failures.push(what);
        }
    }

    fn write(
        &self,
        root: &Path,
        machine: usize,
        number: usize,
        hands: &Hands,
        chance: &mut Chance,
    ) -> Result<(), String> {
        let directory = self.directories[chance.below(self.directories.len())];
        let name = format!("{directory}/m{machine}-{number}");
        let (seed, len) = (chance.bits(), SIZES[chance.below(SIZES.len())]);
        let before = hands.count(machine);
        tree::write_closed(&root.join(&name), &tree::noise(seed, len)).map_err(say("writing", &name))?;
        let known = Known { seed, len, settled: hands.left_alone(machine, before) };
        let mut state = self.state();
        state.written += 1;
        state.bytes += len;
        state.present.insert(name, known);
        Ok(())
    }

    /// Takes a file out, so that nobody else is at work on it.
    fn take(&self, chance: &mut Chance, wanted: impl Fn(&str, &Known) -> bool) -> Option<(String, Known)> {
        let mut state = self.state();
        let all: Vec<&String> =
            state.present.iter().filter(|(name, known)| wanted(name, known)).map(|(n, _)| n).collect();
        if all.is_empty() {
            return None;
        }
        let name = all[chance.below(all.len())].clone();
        state.present.remove_entry(&name)
    }

    fn verify(
        &self,
        root: &Path,
        machine: usize,
        elsewhere: usize,
        hands: &Hands,
        chance: &mut Chance,
    ) -> Result<(), String> {
        let others = format!("/m{elsewhere}-");
        let Some((name, known)) = self.take(chance, |name, known| known.settled || !name.contains(&others)) else {
            return Ok(());
        };
        let informed = hands.has_caught_up(machine);
        let read = fs::read(root.join(&name));
        let outcome = match &read {
            Ok(found) if *found == tree::noise(known.seed, known.len) => Ok(()),
            Ok(found) => Err(format!("{name} reads wrong: {} bytes of {}", found.len(), known.len)),
            Err(error) if error.kind() == ErrorKind::NotFound && name.contains(&others) && !informed => Ok(()),
            Err(error) => Err(format!("reading {name}: {error}")),
        };
        // Wrong bytes are excused by nothing.
        if let (Ok(_), Err(what)) = (&read, &outcome) {
            self.fail(format!("machine {machine}: {what}"));
        }
        let mut state = self.state();
        state.verified += usize::from(read.is_ok());
        state.present.insert(name, known);
        outcome
    }

    fn delete(&self, root: &Path, machine: usize, chance: &mut Chance) -> Result<(), String> {
        let own = format!("/m{machine}-");
        let Some((name, known)) = self.take(chance, |name, _| name.contains(&own)) else { return Ok(()) };
        self.state().bytes -= known.len;
        fs::remove_file(root.join(&name)).map_err(say("deleting", &name))?;
        let mut state = self.state();
        state.deleted += 1;
        state.gone.insert(name);
        Ok(())
    }

    fn rename(&self, root: &Path, machine: usize, chance: &mut Chance) -> Result<(), String> {
        let own = format!("/m{machine}-");
        let Some((name, known)) = self.take(chance, |name, _| name.contains(&own)) else { return Ok(()) };
        let new = format!("{name}r");
        // Where it is not acknowledged the file may have either name, and is looked at no more.
        if let Err(error) = fs::rename(root.join(&name), root.join(&new)) {
            self.state().bytes -= known.len;
            return Err(say("renaming", &name)(error));
        }
        let mut state = self.state();
        state.renamed += 1;
        state.gone.insert(name);
        // The new name has yet to arrive elsewhere, if this machine is out of touch.
        state.present.insert(new, Known { settled: false, ..known });
        Ok(())
    }

    /// What is wrong as seen through a mount when everything should be well.
    pub fn check(&self, root: &Path) -> Vec<String> {
        let state = self.state();
        let mut wrong = Vec::new();
        for (name, known) in &state.present {
            match fs::read(root.join(name)) {
                Ok(found) if found == tree::noise(known.seed, known.len) => {}
                Ok(found) => wrong.push(format!(
                    "{name} in {}: {} bytes, not the {} written",
                    root.display(),
                    found.len(),
                    known.len
                )),
                Err(error) => wrong.push(format!("{name} in {}: {error}", root.display())),
            }
        }
        for name in &state.gone {
            if root.join(name).exists() {
                wrong.push(format!("{name} in {} was deleted and is there", root.display()));
            }
        }
        wrong
    }
}

fn say<'a>(doing: &'a str, name: &'a str) -> impl FnOnce(Error) -> String + 'a {
    move |error| format!("{doing} {name}: {error}")
}
