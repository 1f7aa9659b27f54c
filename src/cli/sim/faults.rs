//! `shoal sim faults`: shares under all faults at once, seed after seed.

use crate::cli::output::{self, Format};
use crate::sim::faults::{self, Report};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// Kills, cuts off, wipes, fills and rots made-up machines, and checks that everything is well in the end
#[derive(clap::Args, Debug)]
pub struct Args {
    /// How many runs, each from a seed of its own
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// The first seed; at random if not given
    #[arg(long)]
    from: Option<u64>,
    #[command(flatten)]
    format: Format,
}

/// What all runs came to.
#[derive(serde::Serialize, Default)]
struct Summary {
    from: u64,
    seeds: u64,
    faults: BTreeMap<&'static str, u64>,
    written: u64,
    deleted: u64,
    healed: u64,
    /// Looks at groups amid the faults, when they had to be goldilocks.
    judged: u64,
    /// Leases taken and used.
    taken: u64,
    /// Those of them at which two holders would have been told.
    judged_leases: u64,
    /// What users did with the names, the file and the locks that they share.
    acts: u64,
    /// What of that was held against one order.
    judged_acts: u64,
    /// Histories of what was done that were too tangled to be.
    tangled: u64,
    /// What of it the busy holder of a lease did for another machine.
    served: u64,
    failed: BTreeMap<u64, Vec<String>>,
}

impl Summary {
    fn add(&mut self, seed: u64, report: Report) {
        for (fault, count) in report.faults {
            *self.faults.entry(fault).or_default() += u64::from(count);
        }
        self.written += u64::from(report.written);
        self.deleted += u64::from(report.deleted);
        self.healed += u64::from(report.healed);
        self.judged += u64::from(report.judged);
        self.taken += u64::from(report.taken);
        self.judged_leases += u64::from(report.judged_leases);
        self.acts += u64::from(report.acts);
        self.judged_acts += u64::from(report.judged_acts);
        self.tangled += u64::from(report.tangled);
        self.served += u64::from(report.served);
        if !report.violations.is_empty() {
            self.failed.insert(seed, report.violations);
        }
    }
}

pub fn run(args: Args) -> anyhow::Result<()> {
    let from = args.from.unwrap_or_else(|| u64::from(rand::random::<u32>()));
    let (next, summary) =
        (AtomicU64::new(0), parking_lot::Mutex::new(Summary { from, seeds: args.seeds, ..Summary::default() }));
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let done = next.fetch_add(1, Ordering::Relaxed);
                    if done >= args.seeds {
                        return;
                    }
                    let seed = from.wrapping_add(done);
                    let report = faults::run(seed);
                    if !report.violations.is_empty() {
                        eprintln!("seed {seed}: {}", report.violations.join("; "));
                    } else if done > 0 && done.is_multiple_of(100) {
                        eprintln!("{done} of {} seeds", args.seeds);
                    }
                    summary.lock().add(seed, report);
                }
            });
        }
    });
    let summary = summary.into_inner();
    if args.format.json {
        output::print_json(&summary)?;
    } else {
        let faults: Vec<String> = summary.faults.iter().map(|(fault, count)| format!("{count} {fault}")).collect();
        output::print(&format!(
            "{} runs from seed {}: {}; {} files written, {} deleted, {} pieces of healing; {} looks at groups amid \
             it; {} leases taken, {} of them judged; {} acts of users, {} of them judged ({} histories were too tangled), {} done by a busy holder; {} runs failed\n",
            summary.seeds,
            summary.from,
            faults.join(", "),
            summary.written,
            summary.deleted,
            summary.healed,
            summary.judged,
            summary.taken,
            summary.judged_leases,
            summary.acts,
            summary.judged_acts,
            summary.tangled,
            summary.served,
            summary.failed.len()
        ))?;
    }
    match summary.failed.keys().next() {
        None => Ok(()),
        Some(seed) => anyhow::bail!(
            "{} of {} runs failed; one again: shoal sim faults --seeds 1 --from {seed}",
            summary.failed.len(),
            summary.seeds
        ),
    }
}
