//! What a large file costs on a share of six peers on this machine, beside the machine's own limits measured in the
//! same run. Prints Markdown. Started by `scripts/bench.sh`.

// The tests use more of it.
#[allow(dead_code, unused_imports)]
#[path = "../../tests/mounts/harness/mod.rs"]
mod harness;
mod limits;
mod measure;

use harness::{BOUND, Cluster};
use measure::{Pattern, Table, median, setting};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;
use std::time::Instant;

/// Peers of the share, as the comparison asks for.
const PEERS: usize = 6;
const POLICIES: [&str; 2] = ["rs:4+2", "replicate:3"];
const MIB: f64 = (1 << 20) as f64;
const GIB: f64 = (1 << 30) as f64;

fn main() {
    // `cargo bench` passes its own flag; there are no others.
    if let Some(unknown) = std::env::args().skip(1).find(|a| a != "--bench") {
        eprintln!("what is {unknown}? The settings are SHOAL_BENCH_MIB, SHOAL_BENCH_ROUNDS and TMPDIR");
        std::process::exit(2);
    }
    let (mib, rounds) = (setting("SHOAL_BENCH_MIB", 1024), setting("SHOAL_BENCH_ROUNDS", 3));
    println!("{}\n", measure::machine());
    println!("One file of {mib} MiB that does not compress, {rounds} rounds, medians. MiB/s is the file's bytes.\n");
    println!("{}", limits::table(mib, rounds));
    println!("{}", share(mib, rounds));
}

/// Writes and reads the file under each policy, in turn, so that a slow minute of the machine hits both.
fn share(mib: usize, rounds: usize) -> String {
    let mut cluster = Cluster::share(PEERS);
    (0..PEERS).for_each(|i| drop(cluster.mount(i)));
    let mut costs = POLICIES.map(|_| Costs::default());
    for round in 0..rounds {
        for (policy, costs) in POLICIES.iter().zip(&mut costs) {
            one_round(&mut cluster, policy, mib, round, costs);
        }
    }
    let mut table = Table::new(&["figure", POLICIES[0], POLICIES[1]]);
    for (name, of, digits) in FIGURES {
        let row = costs.each_ref().map(|c| format!("{:.digits$}", median(of(c)), digits = *digits));
        table.row(&[name, &row[0], &row[1]]);
    }
    let idle: Vec<_> = (0..PEERS).map(|i| measure::memory_mib(cluster.pid(i), "VmRSS:")).collect();
    format!(
        "{table}\nResident memory of a peer at the end, all caches filled or not: {:.0} to {:.0} MiB.",
        idle.iter().copied().fold(f64::MAX, f64::min),
        idle.iter().copied().fold(0.0, f64::max)
    )
}

/// What one policy's rounds cost.
#[derive(Default)]
struct Costs {
    write_mib_s: Vec<f64>,
    write_cpu: Vec<f64>,
    write_network: Vec<f64>,
    stored: Vec<f64>,
    cold_mib_s: Vec<f64>,
    cold_cpu: Vec<f64>,
    cold_network: Vec<f64>,
    warm_mib_s: Vec<f64>,
    lost_mib_s: Vec<f64>,
    lost_cpu: Vec<f64>,
    peak_mib: Vec<f64>,
}

type Figure = (&'static str, fn(&Costs) -> &[f64], usize);

const FIGURES: &[Figure] = &[
    ("write, MiB/s", |c| &c.write_mib_s, 0),
    ("write, CPU-seconds of all peers per GiB", |c| &c.write_cpu, 2),
    ("write, bytes on the network per byte of file", |c| &c.write_network, 3),
    ("bytes on disk per byte of file", |c| &c.stored, 3),
    ("cold read, MiB/s", |c| &c.cold_mib_s, 0),
    ("cold read, CPU-seconds of all peers per GiB", |c| &c.cold_cpu, 2),
    ("cold read, bytes on the network per byte of file", |c| &c.cold_network, 3),
    ("warm read, MiB/s", |c| &c.warm_mib_s, 0),
    ("cold read with two peers dead, MiB/s", |c| &c.lost_mib_s, 0),
    ("cold read with two peers dead, CPU-seconds per GiB", |c| &c.lost_cpu, 2),
    ("peak memory of the largest peer, MiB", |c| &c.peak_mib, 0),
];

fn one_round(cluster: &mut Cluster, policy: &str, mib: usize, round: usize, costs: &mut Costs) {
    let bytes = mib as f64 * MIB;
    let (gib, name) = (bytes / GIB, format!("{}-{round}", policy.replace([':', '+'], "-")));
    let dir = cluster.path(0).join(&name);
    fs::create_dir(&dir).expect("a directory on the share");
    cluster.run(0, &["policy", dir.to_str().expect("an ASCII path"), policy]).ok();
    let pattern = Pattern::new(round as u64 * 2 + u64::from(policy.starts_with("rs")));

    let stored = cluster.status(0)["stored_bytes"].as_u64().unwrap_or(0);
    let meter = Meter::start(cluster);
    write(&dir.join("file"), &pattern, mib);
    let (seconds, cpu, network) = meter.stop(cluster);
    costs.write_mib_s.push(mib as f64 / seconds);
    costs.write_cpu.push(cpu / gib);
    costs.write_network.push(network / bytes);
    costs.stored.push(stored_since(cluster, stored) / bytes);
    costs.peak_mib.push((0..PEERS).map(|i| measure::memory_mib(cluster.pid(i), "VmHWM:")).fold(0.0, f64::max));

    // Cold: no peer and no kernel has anything in memory. The reader is not the writer.
    let reader = 1;
    let read_file = |cluster: &Cluster| read(&cluster.path(reader).join(&name).join("file"), &pattern, mib);
    chill(cluster, &[]);
    let meter = Meter::start(cluster);
    read_file(cluster);
    let (seconds, cpu, network) = meter.stop(cluster);
    costs.cold_mib_s.push(mib as f64 / seconds);
    costs.cold_cpu.push(cpu / gib);
    costs.cold_network.push(network / bytes);
    let meter = Meter::start(cluster);
    read_file(cluster);
    costs.warm_mib_s.push(mib as f64 / meter.stop(cluster).0);

    chill(cluster, &[3, 4]);
    let meter = Meter::start(cluster);
    read_file(cluster);
    let (seconds, cpu, _) = meter.stop(cluster);
    costs.lost_mib_s.push(mib as f64 / seconds);
    costs.lost_cpu.push(cpu / gib);
    [3, 4].into_iter().for_each(|i| cluster.restart(i));
    cluster.all_in_sight();
    fs::remove_file(dir.join("file")).expect("the file can be removed");
}

/// Restarts every peer but `dead`, which stay so, and empties the kernel's caches.
fn chill(cluster: &mut Cluster, dead: &[usize]) {
    let all: Vec<_> = (0..PEERS).collect();
    cluster.kill_all(&all);
    measure::drop_caches();
    all.iter().filter(|i| !dead.contains(i)).for_each(|i| cluster.restart(*i));
    cluster.all_in_sight();
}

/// What the peers' stores hold more than `before`: waits until their reports come to rest.
fn stored_since(cluster: &mut Cluster, before: u64) -> f64 {
    let stored = |c: &Cluster| c.status(0)["stored_bytes"].as_u64().unwrap_or(0).saturating_sub(before);
    let (mut last, mut since) = (stored(cluster), Instant::now());
    cluster.wait_until(BOUND, "the peers' reports of what they store come to rest", |c| {
        let now = stored(c);
        if now != last {
            (last, since) = (now, Instant::now());
        }
        since.elapsed().as_secs() >= 5
    });
    last as f64
}

/// Seconds, CPU-seconds of all peers and bytes on the loopback device between two moments.
struct Meter {
    started: Instant,
    cpu: f64,
    network: f64,
}

impl Meter {
    fn start(cluster: &Cluster) -> Meter {
        Meter { cpu: cpu(cluster), network: measure::loopback_bytes(), started: Instant::now() }
    }

    fn stop(self, cluster: &Cluster) -> (f64, f64, f64) {
        let seconds = self.started.elapsed().as_secs_f64();
        (seconds, cpu(cluster) - self.cpu, measure::loopback_bytes() - self.network)
    }
}

fn cpu(cluster: &Cluster) -> f64 {
    (0..PEERS).filter(|i| cluster.is_running(*i)).map(|i| measure::cpu_seconds(cluster.pid(i))).sum()
}

/// Writes the file 1 MiB at a time and closes it.
fn write(path: &Path, pattern: &Pattern, mib: usize) {
    let mut file = File::create(path).expect("a file on the share");
    for i in 0..mib {
        file.write_all(pattern.mebibyte(i)).expect("the share takes the file");
    }
    // `close` is what a commit waits for; dropping a File calls it.
    drop(file);
}

/// Reads the file 1 MiB at a time; every byte must be the right one.
fn read(path: &Path, pattern: &Pattern, mib: usize) {
    let mut file = File::open(path).expect("the file is there");
    let mut buffer = vec![0; 1 << 20];
    for i in 0..mib {
        file.read_exact(&mut buffer).expect("the file can be read");
        assert!(buffer == pattern.mebibyte(i), "wrong bytes in mebibyte {i}");
    }
    assert_eq!(file.read(&mut buffer).expect("the end can be read"), 0, "the file is too long");
}
