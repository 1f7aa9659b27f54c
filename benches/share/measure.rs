//! Meters: processes, the loopback device, the machine; and bytes to write.

use super::harness::tree;
use std::fmt;
use std::fs;
use std::process::Command;

/// A whole number from the environment.
pub fn setting(name: &str, default: usize) -> usize {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| {
            eprintln!("{name} is '{text}', which is no whole number");
            std::process::exit(2);
        }),
        Err(_) => default,
    }
}

pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Content that does not compress and of which no block is like another: windows that slide over noise, so
/// that making it costs nothing while the clock runs.
pub struct Pattern {
    noise: Vec<u8>,
}

impl Pattern {
    pub fn new(seed: u64) -> Pattern {
        Pattern { noise: tree::noise(seed + 1, 16 << 20) }
    }

    /// The `i`-th mebibyte.
    pub fn mebibyte(&self, i: usize) -> &[u8] {
        // An odd stride: the first 15 Mi windows are all different.
        let start = (i * 1_048_583) % (15 << 20);
        &self.noise[start..start + (1 << 20)]
    }
}

/// User and system time a process has taken.
pub fn cpu_seconds(pid: i32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let ticks: u64 = stat
        .rsplit(')')
        .next()
        .into_iter()
        .flat_map(|rest| rest.split_whitespace().skip(11).take(2))
        .filter_map(|ticks| ticks.parse::<u64>().ok())
        .sum();
    // SAFETY: sysconf takes a number and touches no memory of ours.
    ticks as f64 / unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as f64
}

/// The same of this process, finer.
pub fn own_cpu_seconds() -> f64 {
    // SAFETY: an all-zero rusage is a valid value, and getrusage fills the one it is given.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    let seconds = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 / 1e6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

/// A memory figure of a process in MiB.
pub fn memory_mib(pid: i32, field: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with(field)).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|n| n.parse::<f64>().ok()).unwrap_or(f64::NAN) / 1024.0
}

/// Bytes the loopback device has carried, packet headers included.
pub fn loopback_bytes() -> f64 {
    let bytes = fs::read_to_string("/sys/class/net/lo/statistics/tx_bytes").unwrap_or_default();
    bytes.trim().parse().unwrap_or(f64::NAN)
}

/// Writes dirty pages out and forgets all clean ones.
pub fn drop_caches() {
    // SAFETY: sync has no arguments and cannot fail.
    unsafe { libc::sync() };
    fs::write("/proc/sys/vm/drop_caches", "3").expect("dropping the kernel's caches takes root");
}

/// The machine in one paragraph.
pub fn machine() -> String {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|l| l.starts_with(name)).unwrap_or_default();
        line.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_else(|| "?".to_owned())
    };
    let out = |program: &str, args: &[&str]| {
        let ran = Command::new(program).args(args).output();
        ran.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned()).unwrap_or_default()
    };
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let memory: f64 = field(&read("/proc/meminfo"), "MemTotal").trim_end_matches(" kB").parse().unwrap_or(f64::NAN);
    let temp = std::env::temp_dir();
    format!(
        "Machine: {cpus} x {}, {:.0} GiB of memory, Linux {}, homes on {}; {}, commit {}, {}.",
        field(&read("/proc/cpuinfo"), "model name"),
        memory / (1 << 20) as f64,
        read("/proc/sys/kernel/osrelease").trim(),
        out("findmnt", &["-n", "-o", "FSTYPE", "-T", temp.to_str().unwrap_or("/tmp")]),
        out("rustc", &["--version"]),
        out("git", &["rev-parse", "--short", "HEAD"]),
        out("date", &["-u", "+%F"]),
    )
}

/// A Markdown table whose columns line up.
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(titles: &[&str]) -> Table {
        let mut table = Table { rows: Vec::new() };
        table.row(titles);
        table
    }

    pub fn row(&mut self, cells: &[&str]) {
        self.rows.push(cells.iter().map(|c| (*c).to_owned()).collect());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows.first().map_or(0, Vec::len);
        let widths: Vec<_> =
            (0..columns).map(|c| self.rows.iter().map(|row| row[c].chars().count()).max().unwrap_or(0)).collect();
        for (number, row) in self.rows.iter().enumerate() {
            for (cell, width) in row.iter().zip(&widths) {
                write!(f, "| {cell:<width$} ")?;
            }
            writeln!(f, "|")?;
            if number == 0 {
                widths.iter().try_for_each(|width| write!(f, "| {:-<width$} ", ""))?;
                writeln!(f, "|")?;
            }
        }
        Ok(())
    }
}
