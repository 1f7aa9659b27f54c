//! A share of real `shoal` processes: starts them, mounts them, kills them, cuts them off, and always cleans up.
//!
//! Where a mount or a network namespace is impossible the tests fail and say why; nothing is skipped.

mod command;
mod disk;
mod leftovers;
mod network;
pub mod tree;

pub use command::{PATIENCE, Ran, apart, ends_within, run, tool};
use disk::Disk;
use leftovers::kill;
pub use leftovers::mounts_under;
use network::Network;
use serde_json::Value;
use shoal::sim::chance::Chance;
use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, LazyLock, Mutex, Once};
use std::time::{Duration, Instant};

/// The program under test: the one that was built with the tests, or `SHOAL_TEST_PROGRAM`.
pub static SHOAL: LazyLock<String> =
    LazyLock::new(|| std::env::var("SHOAL_TEST_PROGRAM").unwrap_or_else(|_| env!("CARGO_BIN_EXE_shoal").to_owned()));

/// How soon a dead peer is known dead by default (3 s), and some slack for a machine that runs other tests too.
pub const DETECTION: Duration = Duration::from_secs(3 + 5);

/// No read, commit or command may take longer than this whatever dies meanwhile: far above every bound, so that
/// only a hang reaches it.
pub const BOUND: Duration = Duration::from_secs(30);

/// A test that takes longer has hung: its peers are killed, so that every system call on their mounts ends.
const TEST_LIMIT: Duration = Duration::from_secs(300);

/// Clusters that may begin now: two at once, whose unoptimised peers are plenty for two cores, or `SHOAL_TEST_CLUSTERS`.
static SLOTS: LazyLock<(Mutex<usize>, Condvar)> = LazyLock::new(|| {
    let at_once = setting("SHOAL_TEST_CLUSTERS").map_or(2, |number| number as usize);
    (Mutex::new(at_once), Condvar::new())
});

/// Whether the sizes are those of a release (thousands of files, 1 GiB) instead of those of every change.
pub fn full_size() -> bool {
    std::env::var_os("SHOAL_TEST_FULL").is_some_and(|v| v == "1")
}

/// A number from the environment.
pub fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// Another seed each time; who uses it prints it.
pub fn any_seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    now.subsec_nanos().into()
}

/// One machine: a home, a mountpoint, and while it runs a process.
struct Machine {
    home: PathBuf,
    mountpoint: PathBuf,
    listen: String,
    process: Option<Child>,
    mounted: bool,
    /// That its home lies on, if it has one of its own.
    disk: Option<Disk>,
}

/// Some machines that may form a share.
pub struct Cluster {
    dir: PathBuf,
    machines: Vec<Machine>,
    network: Option<Network>,
    pids: Arc<Mutex<Vec<i32>>>,
    /// When the test has hung.
    deadline: Arc<Mutex<Instant>>,
}

impl Cluster {
    /// Machines that are homes on this one, on loopback.
    pub fn loopback(machines: usize) -> Cluster {
        Cluster::new(machines, None)
    }

    /// Machines with a network namespace each, spread over so many subnets.
    pub fn namespaces(machines: usize, subnets: usize) -> Cluster {
        Cluster::new(machines, Some(subnets))
    }

    fn new(count: usize, subnets: Option<usize>) -> Cluster {
        static SWEPT: Once = Once::new();
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        SWEPT.call_once(leftovers::sweep);
        can_mount();
        let mut free = SLOTS.0.lock().unwrap_or_else(|e| e.into_inner());
        while *free == 0 {
            free = SLOTS.1.wait(free).unwrap_or_else(|e| e.into_inner());
        }
        *free -= 1;
        drop(free);

        let (pid, number) = (std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(format!("{}{pid}-{number}", leftovers::DIRECTORY));
        // From here on Drop undoes what has been done, also when the rest panics.
        let limit = if full_size() { TEST_LIMIT * 8 } else { TEST_LIMIT };
        let mut cluster = Cluster {
            dir: dir.clone(),
            machines: Vec::new(),
            network: None,
            pids: Arc::default(),
            deadline: Arc::new(Mutex::new(Instant::now() + limit)),
        };
        cluster.watch();
        std::fs::create_dir_all(&dir).unwrap();
        if let Some(subnets) = subnets {
            cluster.network = Some(Network::new(&format!("{}{pid}c{number}", leftovers::NAMESPACE), count, subnets));
        }
        // Ports are drawn while all sockets are held, so that no two machines get the same one.
        let sockets: Vec<_> = (0..count).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
        for (i, socket) in sockets.iter().enumerate() {
            let listen = match &cluster.network {
                Some(network) => format!("{}:7400", network.address(i)),
                None => socket.local_addr().unwrap().to_string(),
            };
            let (home, mountpoint) = (dir.join(format!("h{i}")), dir.join(format!("m{i}")));
            std::fs::create_dir_all(&mountpoint).unwrap();
            cluster.machines.push(Machine { home, mountpoint, listen, process: None, mounted: false, disk: None });
        }
        cluster
    }

    /// A share of `machines` on loopback, all of them running and in sight of one another.
    pub fn share(machines: usize) -> Cluster {
        let mut cluster = Cluster::loopback(machines);
        cluster.form(machines);
        cluster
    }

    /// Founds a share on machine 0, and lets the next ones join through it and run: `machines` in all.
    pub fn form(&mut self, machines: usize) {
        self.init(0);
        self.serve(0);
        for i in 1..machines {
            let ticket = self.invite(0);
            self.join(i, &ticket);
            self.serve(i);
        }
        self.all_in_sight();
    }

    /// Waits until every running machine sees every running machine alive.
    #[track_caller]
    pub fn all_in_sight(&mut self) {
        let running: Vec<_> = (0..self.machines.len()).filter(|i| self.is_running(*i)).collect();
        self.wait_until(PATIENCE, "every running peer sees every other alive", |cluster| {
            let names: BTreeSet<_> = running.iter().map(|i| format!("peer{i}")).collect();
            running.iter().all(|i| cluster.alive(*i).is_superset(&names))
        });
    }

    /// A `shoal` command for that machine.
    pub fn shoal(&self, i: usize, args: &[&str]) -> Command {
        let mut command = match &self.network {
            Some(network) => network.command(i, &SHOAL),
            None => Command::new(&*SHOAL),
        };
        command.args(args).env("SHOAL_HOME", &self.machines[i].home).env("NO_COLOR", "1").current_dir(&self.dir);
        command.env("SHOAL_TEST_CLOCK_OFFSET", self.clock_file(i));
        command
    }

    /// Sets the clock of machine `i`, also while it runs: by so many seconds it is ahead of the real one.
    pub fn set_clock(&self, i: usize, ahead: i64) {
        let next = self.dir.join("clock.tmp");
        std::fs::write(&next, ahead.to_string()).unwrap();
        std::fs::rename(next, self.clock_file(i)).unwrap();
    }

    fn clock_file(&self, i: usize) -> PathBuf {
        self.dir.join(format!("clock{i}"))
    }

    /// Runs a `shoal` command on that machine to its end.
    #[track_caller]
    pub fn run(&self, i: usize, args: &[&str]) -> Ran {
        run(&mut self.shoal(i, args), PATIENCE)
    }

    #[track_caller]
    pub fn init(&mut self, i: usize) {
        let (listen, name) = (self.machines[i].listen.clone(), format!("peer{i}"));
        self.run(i, &["init", "--listen", &listen, "--name", &name]).ok();
    }

    /// A fresh ticket from machine `i`.
    #[track_caller]
    pub fn invite(&self, i: usize) -> String {
        let out = self.run(i, &["invite"]).ok();
        assert_eq!(out.lines().count(), 1, "`shoal invite` prints one line and nothing else: {out:?}");
        out.trim().to_owned()
    }

    #[track_caller]
    pub fn join(&mut self, i: usize, ticket: &str) {
        self.try_join(i, ticket).ok();
    }

    #[track_caller]
    pub fn try_join(&mut self, i: usize, ticket: &str) -> Ran {
        run(&mut self.join_command(i, ticket), PATIENCE)
    }

    /// The command with which machine `i` joins.
    pub fn join_command(&self, i: usize, ticket: &str) -> Command {
        let (listen, name) = (self.machines[i].listen.clone(), format!("peer{i}"));
        self.shoal(i, &["join", ticket, "--listen", &listen, "--name", &name])
    }

    /// Starts machine `i` without a mount.
    #[track_caller]
    pub fn serve(&mut self, i: usize) {
        self.spawn(i, &["serve", "--foreground"]);
        self.answers(i);
    }

    /// Mounts the share on machine `i`, starting it if it does not run; returns the mountpoint.
    #[track_caller]
    pub fn mount(&mut self, i: usize) -> PathBuf {
        let mountpoint = self.path(i);
        let text = mountpoint.to_str().unwrap().to_owned();
        if self.machines[i].process.is_some() {
            self.run(i, &["mount", &text]).ok();
        } else {
            self.spawn(i, &["mount", &text, "--foreground"]);
            self.answers(i);
        }
        self.wait_until(PATIENCE, "the mount answers", |cluster| cluster.is_mounted(i));
        self.machines[i].mounted = true;
        mountpoint
    }

    /// Where machine `i` mounts the share.
    pub fn path(&self, i: usize) -> PathBuf {
        self.machines[i].mountpoint.clone()
    }

    pub fn home(&self, i: usize) -> PathBuf {
        self.machines[i].home.clone()
    }

    pub fn listen(&self, i: usize) -> String {
        self.machines[i].listen.clone()
    }

    /// Has machine `i`, which does not run, listen elsewhere from its next start on.
    pub fn move_to(&mut self, i: usize, address: &str) {
        let config = self.machines[i].home.join("config.toml");
        let text = std::fs::read_to_string(&config).unwrap();
        let moved = text.replace(&self.machines[i].listen, address);
        assert_ne!(text, moved, "the configuration names the address");
        std::fs::write(config, moved).unwrap();
        self.machines[i].listen = address.to_owned();
    }

    /// Adds a line to the configuration of machine `i`; it counts from its next start on.
    pub fn configure(&self, i: usize, line: &str) {
        use std::io::Write;
        let mut config = std::fs::OpenOptions::new().append(true).open(self.home(i).join("config.toml")).unwrap();
        writeln!(config, "{line}").unwrap();
        config.sync_all().unwrap();
    }

    /// A directory outside every mount, for sources.
    pub fn scratch(&self, name: &str) -> PathBuf {
        let dir = self.dir.join(name);
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }

    pub fn is_running(&self, i: usize) -> bool {
        self.machines[i].process.is_some()
    }

    pub fn pid(&self, i: usize) -> i32 {
        self.machines[i].process.as_ref().expect("the machine runs").id() as i32
    }

    /// Processes of this cluster that should not be: more than one for a machine that runs, or any for one that does not.
    pub fn strays(&self) -> Vec<i32> {
        let known: BTreeSet<i32> =
            (0..self.machines.len()).filter(|i| self.is_running(*i)).map(|i| self.pid(i)).collect();
        leftovers::peers_under(&self.dir).into_iter().filter(|pid| !known.contains(pid)).collect()
    }

    /// SIGKILL; the mount it leaves behind is let go.
    pub fn kill(&mut self, i: usize) {
        let process = self.machines[i].process.take();
        process.iter().for_each(|child| kill(child.id() as i32, libc::SIGKILL));
        // First, for the kernel may keep the process for its mount.
        self.unmount_dead(i);
        if let Some(mut child) = process {
            self.reaped(&mut child);
        }
    }

    /// SIGKILL to several at the same moment, as in a power cut.
    pub fn kill_all(&mut self, machines: &[usize]) {
        for i in machines {
            if let Some(child) = &self.machines[*i].process {
                kill(child.id() as i32, libc::SIGKILL);
            }
        }
        machines.iter().for_each(|i| self.kill(*i));
    }

    /// Freezes the process: it neither answers nor closes anything.
    pub fn pause(&self, i: usize) {
        kill(self.pid(i), libc::SIGSTOP);
    }

    pub fn resume(&self, i: usize) {
        kill(self.pid(i), libc::SIGCONT);
    }

    /// Pulls the machine's cable.
    pub fn cut(&self, i: usize) {
        self.network.as_ref().expect("only machines with a network of their own can be cut off").cut(i);
    }

    pub fn mend(&self, i: usize) {
        self.network.as_ref().expect("only machines with a network of their own can be mended").mend(i);
    }

    /// Cuts the subnets off from one another.
    pub fn part(&self) {
        self.network.as_ref().expect("only machines with a network of their own can be parted").part();
    }

    pub fn join_again(&self) {
        self.network.as_ref().expect("only machines with a network of their own can be parted").join();
    }

    /// Gives the machine another address while it runs.
    pub fn readdress(&mut self, i: usize) {
        self.network.as_mut().expect("only machines with a network of their own have an address").readdress(i);
    }

    /// The address of the machine in its network.
    pub fn address(&self, i: usize) -> String {
        self.network.as_ref().expect("only machines with a network of their own have an address").address(i)
    }

    /// Whether packets go from one machine to another and back: a closed port there says so.
    pub fn reaches(&self, from: usize, to: usize) -> bool {
        let network = self.network.as_ref().expect("machines with a network of their own");
        let connect = format!("exec 3<>/dev/tcp/{}/9", network.address(to));
        let ran = run(network.command(from, "timeout").args(["1", "bash", "-c", &connect]), PATIENCE);
        ran.stderr.contains("refused")
    }

    /// `shoal stop`, and the process ends by itself with exit code 0.
    #[track_caller]
    pub fn stop(&mut self, i: usize) {
        self.run(i, &["stop"]).ok();
        self.ends(i);
    }

    /// The process of machine `i` ends by itself, with exit code 0.
    #[track_caller]
    pub fn ends(&mut self, i: usize) {
        let mut child = self.machines[i].process.take().expect("the machine runs");
        let status = ends_within(&mut child, BOUND);
        self.reaped(&mut child);
        let status = status.unwrap_or_else(|| panic!("peer {i} still runs after {BOUND:?}"));
        assert!(status.success(), "peer {i} ended with {status}\n{}", self.log(i));
        assert!(!self.is_mounted(i), "peer {i} stopped and left its mount behind");
    }

    /// SIGTERM: how the process ends, and its last lines.
    #[track_caller]
    pub fn terminate(&mut self, i: usize) -> (Option<i32>, String) {
        let mut child = self.machines[i].process.take().expect("the machine runs");
        kill(child.id() as i32, libc::SIGTERM);
        let status = ends_within(&mut child, BOUND);
        self.reaped(&mut child);
        let status = status.unwrap_or_else(|| panic!("peer {i} still ran {BOUND:?} after SIGTERM"));
        (status.code(), self.log(i))
    }

    /// Gives machine `i`, which has no home yet, a disk of its own of so many MiB, all of it for the share.
    pub fn small_disk(&self, i: usize, megabytes: u32) {
        let home = self.home(i);
        std::fs::create_dir_all(&home).unwrap();
        let size = format!("size={megabytes}m,mode=0700");
        tool(&["mount", "-t", "tmpfs", "-o", &size, "small", home.to_str().unwrap()]);
        std::fs::write(home.join("config.toml"), "reserve_percent = 1\nreserve_bytes = '1 MiB'\n").unwrap();
    }

    /// Gives machine `i`, which has no home yet, a disk of its own whose power can be cut.
    pub fn forgetful_disk(&mut self, i: usize) {
        let home = self.home(i);
        std::fs::create_dir_all(&home).unwrap();
        self.machines[i].disk = Some(Disk::mount(&home));
    }

    /// Cuts the power of several machines at the same moment: each starts from what its disk kept, on another boot.
    pub fn cut_power(&mut self, machines: &[usize], chance: &mut Chance) {
        self.kill_all(machines);
        for i in machines {
            self.machines[*i].disk.as_ref().expect("only a forgetful disk's power can be cut").cut(chance);
            std::fs::write(self.home(*i).join("lock"), "1 the boot before\n").unwrap();
        }
    }

    /// Kills machine `i` if it runs, and starts it as it was: mounted if it was mounted.
    #[track_caller]
    pub fn restart(&mut self, i: usize) {
        self.kill(i);
        if self.machines[i].mounted {
            self.mount(i);
        } else {
            self.serve(i);
        }
    }

    /// Starts several machines that do not run at the same moment, each as it was.
    #[track_caller]
    pub fn start_all(&mut self, machines: &[usize]) {
        for i in machines {
            let mountpoint = self.path(*i);
            match self.machines[*i].mounted {
                true => self.spawn(*i, &["mount", mountpoint.to_str().unwrap(), "--foreground"]),
                false => self.spawn(*i, &["serve", "--foreground"]),
            }
        }
        for i in machines {
            self.answers(*i);
            if self.machines[*i].mounted {
                self.wait_until(PATIENCE, "the mount answers", |cluster| cluster.is_mounted(*i));
            }
        }
    }

    /// `shoal status --json` there.
    #[track_caller]
    pub fn status(&self, i: usize) -> Value {
        self.json(i, &["status"])
    }

    /// A command's `--json` output.
    #[track_caller]
    pub fn json(&self, i: usize, args: &[&str]) -> Value {
        let args = [args, &["--json"]].concat();
        let out = self.run(i, &args).ok();
        serde_json::from_str(&out).unwrap_or_else(|e| panic!("`shoal {}` printed no JSON: {e}\n{out}", args.join(" ")))
    }

    /// The peer's id in the share, as status names it.
    #[track_caller]
    pub fn id(&self, i: usize) -> Value {
        let status = self.status(i);
        let peers = status["peers"].as_array().expect("status has peers");
        peers.iter().find(|p| p["here"] == true).expect("one of the peers is here")["id"].clone()
    }

    /// Whether machine `i` reports machine `j` alive.
    pub fn sees_alive(&self, i: usize, j: usize) -> bool {
        self.alive(i).contains(&format!("peer{j}"))
    }

    /// The names of those whom machine `i` reports alive; none if it does not answer.
    pub fn alive(&self, i: usize) -> BTreeSet<String> {
        let peers: Value = serde_json::from_str(&self.run(i, &["peers", "--json"]).stdout).unwrap_or_default();
        let alive = peers.as_array().into_iter().flatten().filter(|p| p["alive"] == true);
        alive.filter_map(|p| p["name"].as_str().map(str::to_owned)).collect()
    }

    /// Polls until `condition` holds; a panic saying `what` was awaited if it does not in time.
    #[track_caller]
    pub fn wait_until(&mut self, limit: Duration, what: &str, mut condition: impl FnMut(&mut Cluster) -> bool) {
        let deadline = Instant::now() + limit;
        while !condition(self) {
            assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The last lines machine `i` wrote.
    pub fn log(&self, i: usize) -> String {
        let text = std::fs::read(self.log_path(i)).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    fn log_path(&self, i: usize) -> PathBuf {
        self.dir.join(format!("log{i}"))
    }

    #[track_caller]
    fn spawn(&mut self, i: usize, args: &[&str]) {
        assert!(self.machines[i].process.is_none(), "machine {i} already runs");
        let mut command = self.shoal(i, args);
        let path = self.log_path(i);
        let child = apart(move || {
            let log = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
            command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn()
        });
        let child = child.unwrap_or_else(|e| panic!("{} cannot be started: {e}", *SHOAL));
        self.pids.lock().unwrap().push(child.id() as i32);
        self.machines[i].process = Some(child);
    }

    /// Waits until the peer on machine `i` answers its control socket.
    #[track_caller]
    fn answers(&mut self, i: usize) {
        self.wait_until(PATIENCE, "the peer answers", |cluster| {
            if let Some(child) = &mut cluster.machines[i].process
                && let Ok(Some(status)) = child.try_wait()
            {
                panic!("peer {i} ended at its start with {status}\n{}", cluster.log(i));
            }
            cluster.run(i, &["status", "--json"]).code == Some(0)
        });
    }

    /// Whether the mountpoint is another file system than its parent, and answers.
    pub fn is_mounted(&self, i: usize) -> bool {
        let mountpoint = &self.machines[i].mountpoint;
        let device = |path: &Path| std::fs::metadata(path).map(|m| m.dev());
        match (device(mountpoint), device(&self.dir)) {
            (Ok(inside), Ok(outside)) => inside != outside,
            _ => false,
        }
    }

    fn unmount_dead(&self, i: usize) {
        for mountpoint in leftovers::mounts_under(&self.machines[i].mountpoint) {
            leftovers::unmount(&mountpoint);
        }
    }

    fn reaped(&self, child: &mut Child) {
        let pid = child.id() as i32;
        if ends_within(child, Duration::from_secs(10)).is_none() {
            eprintln!("process {pid} does not end after SIGKILL");
        }
        self.pids.lock().unwrap_or_else(|e| e.into_inner()).retain(|p| *p != pid);
    }

    /// This test is meant to take so much longer than others.
    pub fn takes_longer(&self, by: Duration) {
        *self.deadline.lock().unwrap_or_else(|e| e.into_inner()) += by;
    }

    /// Kills the peers of a test that hangs, so that its system calls fail and it ends.
    fn watch(&self) {
        let pids = Arc::downgrade(&self.pids);
        let (deadline, dir) = (self.deadline.clone(), self.dir.clone());
        std::thread::spawn(move || {
            while let Some(pids) = pids.upgrade() {
                if Instant::now() > *deadline.lock().unwrap_or_else(|e| e.into_inner()) {
                    eprintln!("a test has hung: its peers are killed now");
                    pids.lock().unwrap_or_else(|e| e.into_inner()).iter().for_each(|pid| kill(*pid, libc::SIGKILL));
                    mounts_under(&dir).iter().for_each(|mountpoint| leftovers::unmount(mountpoint));
                    return;
                }
                drop(pids);
                std::thread::sleep(Duration::from_millis(200));
            }
        });
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for i in 0..self.machines.len() {
                eprintln!("--- log of peer {i}\n{}", self.log(i));
            }
        }
        for machine in &mut self.machines {
            if let Some(child) = &mut machine.process {
                kill(child.id() as i32, libc::SIGKILL);
            }
        }
        leftovers::clear(&self.dir);
        for machine in &mut self.machines {
            if let Some(child) = &mut machine.process {
                let _ = ends_within(child, Duration::from_secs(10));
            }
        }
        self.network = None;
        *SLOTS.0.lock().unwrap_or_else(|e| e.into_inner()) += 1;
        SLOTS.1.notify_one();
    }
}

/// Kilobytes of a process: `VmRSS:` resident now, `VmHWM:` resident at most.
pub fn memory_kib(pid: i32, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|l| l.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Fails, saying why, where the kernel offers no FUSE.
fn can_mount() {
    let device = std::fs::OpenOptions::new().read(true).write(true).open("/dev/fuse");
    if let Err(e) = device {
        panic!("these tests mount, and /dev/fuse cannot be opened here: {e} (load the fuse module, run as root)");
    }
}
