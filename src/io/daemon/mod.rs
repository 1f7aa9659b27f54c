//! The running peer: every device wired to the cores. The only place where devices meet.

mod check;
mod commands;
mod conflicts;
mod handler;
mod host;
mod housekeeping;
mod invite;
mod leaving;
mod looking_after;
mod machine;
mod past;
mod persist;
mod rebase;
mod report;
mod reports;
mod scrub;
mod setup;
mod snapshot;
mod summary;

pub use setup::{InitOptions, InitReport, JoinOptions, JoinReport, init, join};

use crate::config::Config;
use crate::group::HealingSettings;
use crate::id::Ino;
use crate::io::control;
use crate::io::fuse::{self, MountError, Mounted};
use crate::io::quic::{Identity, Network};
use crate::io::store::{Home, HomePaths, Shards, ShardsOptions};
use crate::namespace::{Change, Key, PeerRecord};
use crate::overlay::{self, Member, Membership, Search, SearchSettings};
use crate::peer::{Event, LogBound, Memory, Peer};
use crate::volume::ports::{Control, ShardNetwork, ShardStore};
use crate::volume::{RepairBounds, Volume, VolumeSettings};
use crate::wire::PeerStats;
use anyhow::Context;
use handler::PeerHandler;
use host::Host;
use housekeeping::Household;
use invite::Invitations;
use parking_lot::Mutex;
use past::PastFile;
use persist::Persistence;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

/// How often the store's figures are told to the core, and a checkpoint is considered.
const UPKEEP: Duration = Duration::from_secs(2);
/// A peer that nobody has used for so long gives back the memory of its caches, down to about [`IDLE_BYTES`], and again
/// as often as what it does for others takes more: the kernel's own cache still has what is likely to be read again.
const IDLE_AFTER: Duration = Duration::from_secs(20);
const IDLE_BYTES: u64 = 48 << 20;
/// The longest a stop waits for people's data to be safe before it says that it is not.
const FINISH_DEADLINE: Duration = Duration::from_secs(60);

/// How long an unmount waits for programs to close their files.
const LET_GO_DEADLINE: Duration = Duration::from_secs(3);

/// How long a peer that comes back from a power cut waits for the first other one.
const HEAR_DEADLINE: Duration = Duration::from_secs(15);

/// How long a start waits for peers that may be dead. Live ones on a LAN answer within a tenth of this.
const MEET_DEADLINE: Duration = Duration::from_secs(2);

/// How to run a peer.
#[derive(Clone, Debug, Default)]
pub struct RunOptions {
    /// Mount there before being ready.
    pub mountpoint: Option<PathBuf>,
    /// Settings that win over `config.toml`: name and value.
    pub overrides: Vec<(String, String)>,
}

/// A running peer with its mounts.
struct Daemon {
    this: Weak<Daemon>,
    host: Arc<Host>,
    volume: Volume,
    invitations: Arc<Invitations>,
    persistence: Persistence,
    mounts: Mutex<BTreeMap<PathBuf, Arc<Mounted>>>,
    mount_options: fuse::MountOptions,
    household: Arc<Household>,
    parting: leaving::Parting,
    scrub_within: Duration,
    listen: SocketAddr,
    stopped: tokio::sync::watch::Sender<bool>,
}

/// What the settings of a home say is to be logged. A file that cannot be read is told of by [`run`].
pub fn log_filter(home: &Path, overrides: &[(String, String)]) -> String {
    Config::with(&HomePaths::new(home).config(), overrides).unwrap_or_default().log
}

/// Runs the peer of `home` until it is told to stop. `ready` is called once it answers commands, and its mount,
/// if any, answers.
pub fn run(home: &Path, options: RunOptions, ready: impl FnOnce()) -> anyhow::Result<()> {
    machine::one_arena();
    crate::erasure::check_cpu().map_err(anyhow::Error::msg)?;
    let home = Home::open(home)?;
    if !home.paths().has_namespace() {
        anyhow::bail!(
            "the log and the tree of {} are gone; run shoal join TICKET with a ticket from another machine, and this one comes back as the same peer",
            home.paths().root().display()
        );
    }
    let config = Config::with(&home.paths().config(), &options.overrides)?;
    // Two workers serve the network and the data path; hashing and the disk have threads of their own.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let result = runtime.block_on(run_in(&home, config, options.mountpoint, ready));
    runtime.shutdown_timeout(Duration::from_secs(2));
    // Last: that its lock was let go of in order says that the log was brought to stable storage.
    drop(home);
    result
}

async fn run_in(home: &Home, config: Config, mountpoint: Option<PathBuf>, ready: impl FnOnce()) -> anyhow::Result<()> {
    let identity = Identity::from_pkcs8(home.key())
        .with_context(|| format!("the home {} cannot be used", home.paths().root().display()))?;
    let me = identity.key().tag();
    let (namespace, persistence) = Persistence::open(home, me)?;
    let own = setup::own_record(home, &namespace, me)?;
    let options = ShardsOptions { me, reserve: Some(machine::reserve(home.paths().root(), &config)) };
    let store: Arc<dyn ShardStore> = Arc::new(Shards::open(&home.paths().shards(), options)?);
    let now = setup::now();
    let member = Member::starting(me, now);
    let membership = Membership::new(member, overlay::Settings::within(config.detection), rand::random());
    let share = home.share();
    let search = Search::new(me, SearchSettings::meshed(), rand::random());
    let (past_file, past) = PastFile::open(home)?;
    let (mut core, effects) = Peer::start(me, past, share, membership, healing_settings(&config), search, &namespace);
    core.set_log_bound(LogBound { bytes: config.away_log, age: config.away_after, ..LogBound::default() });
    let host = Host::new(share, core, namespace, persistence.log().clone(), store.clone(), past, past_file);
    let invitations = Arc::new(Invitations::open(home.paths().root(), share)?);
    let household = Arc::<Household>::default();
    let handler = Arc::new(PeerHandler {
        host: host.clone(),
        invitations: invitations.clone(),
        household: household.clone(),
        volume: OnceLock::new(),
    });
    // With nobody to connect to: the host has to have its network before the first peer is greeted.
    let network = Network::start(setup::quic_settings(&config), identity, Vec::new(), handler.clone())?;
    host.connect(network.clone(), effects);
    host.handle(Event::Usage(store.usage()));
    if past.memory == Memory::Unsure {
        hear_of_own_ops(&host).await;
    }
    host.handle(Event::Ready);
    let record = setup::record(&config, own.key);
    if record != own {
        host.change(&mut |_| Ok(vec![Change::Admit { peer: record.clone() }]))?;
    }

    let control: Arc<dyn Control> = host.clone();
    let shards: Arc<dyn ShardNetwork> = network.clone();
    let volume = Volume::new(control, store.clone(), shards, volume_settings(&config));
    let _ = handler.volume.set(volume.clone());
    host.set_volume(volume.clone());
    let daemon = Arc::new_cyclic(|this| Daemon {
        this: this.clone(),
        host: host.clone(),
        volume,
        invitations,
        persistence,
        mounts: Mutex::default(),
        mount_options: fuse::MountOptions::default(),
        household,
        parting: leaving::Parting::default(),
        scrub_within: config.scrub_within,
        listen: config.listen,
        stopped: tokio::sync::watch::channel(false).0,
    });
    daemon.listen_for_changes();
    daemon.rebase_when_outdated();
    daemon.volume.reap_what_was_left();
    let server = control::serve(&home.paths().control_socket(), daemon.clone())?;
    if let Some(mountpoint) = mountpoint {
        daemon.mount(&mountpoint)?;
    }
    tokio::spawn(upkeep(Arc::downgrade(&daemon)));
    housekeeping::start(&daemon, home.paths().root());
    tokio::spawn(leaving::watch_for_leaving(Arc::downgrade(&daemon)));
    tokio::spawn(summary::keep(Arc::downgrade(&daemon)));
    meet_the_others(&host).await;
    ready();

    let outcome = daemon.until_stopped().await;
    server.close().await;
    host.stop();
    network.shutdown().await;
    outcome
}

/// Waits until the other peers are here, or for the time in which those that live would be: whoever uses the mount
/// the moment it answers should find what they hold.
async fn meet_the_others(host: &Host) {
    let deadline = tokio::time::Instant::now() + MEET_DEADLINE;
    let mut poll = tokio::time::interval(Duration::from_millis(20));
    while tokio::time::Instant::now() < deadline {
        let all_here = host.candidates().iter().all(|peer| peer.alive);
        if all_here && (host.roster().len() < 2 || host.has_caught_up()) {
            return;
        }
        poll.tick().await;
    }
}

/// After a power cut this disk may lack the last ops this peer made, while others have them. They are taken back before
/// anybody uses this mount; what nobody can be asked for now comes later, and keeps its numbers.
async fn hear_of_own_ops(host: &Host) {
    if host.roster().len() < 2 {
        return;
    }
    tracing::info!("the power was cut: hearing first what the other peers have of this one");
    let deadline = tokio::time::Instant::now() + HEAR_DEADLINE;
    let mut poll = tokio::time::interval(Duration::from_millis(50));
    let mut first_heard = None;
    loop {
        let now = tokio::time::Instant::now();
        if host.has_caught_up() {
            // One peer may have more of our ops than another: all that live are heard, which are here by then.
            let first = *first_heard.get_or_insert(now);
            if host.with_core(|core, _| core.has_heard_everyone()) || now > first + MEET_DEADLINE {
                return;
            }
        }
        if now > deadline {
            tracing::warn!("nobody answers within {HEAR_DEADLINE:?}; going on with what this disk has");
            return;
        }
        poll.tick().await;
    }
}

fn healing_settings(config: &Config) -> HealingSettings {
    HealingSettings { repair_after: config.repair_after, ..HealingSettings::default() }
}

fn volume_settings(config: &Config) -> VolumeSettings {
    VolumeSettings {
        dirty_bytes: config.dirty_bytes,
        cache_bytes: config.cache_bytes,
        read_ahead_blocks: config.read_ahead_blocks as usize,
        hedge: config.hedge,
        repair: RepairBounds { bytes_per_second: config.repair_bandwidth, busy_percent: config.repair_busy_percent },
        ..VolumeSettings::default()
    }
}

impl Daemon {
    /// Serves until a signal or a `stop` command; then everything is made safe.
    async fn until_stopped(&self) -> anyhow::Result<()> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut stopped = self.stopped.subscribe();
        tokio::select! {
            _ = terminate.recv() => self.finish().await.map_err(anyhow::Error::msg),
            _ = interrupt.recv() => self.finish().await.map_err(anyhow::Error::msg),
            _ = stopped.wait_for(|stopped| *stopped) => Ok(()),
        }
    }

    fn mount(&self, mountpoint: &Path) -> Result<(), MountError> {
        let mounted =
            Mounted::mount(self.volume.clone(), mountpoint, tokio::runtime::Handle::current(), &self.mount_options)?;
        let mounted = Arc::new(mounted);
        let path = mounted.mountpoint().to_owned();
        self.mounts.lock().insert(path.clone(), mounted.clone());
        let this = self.this.clone();
        // Somebody may run umount: what that leaves is written out, and the mount forgotten.
        tokio::spawn(async move {
            mounted.ended().await;
            if let Some(daemon) = this.upgrade() {
                daemon.mounts.lock().remove(&path);
                if let Err(failed) = daemon.volume.flush_all(false).await {
                    tracing::error!("{}", unsafe_files(&daemon.host, &failed));
                }
            }
        });
        Ok(())
    }

    async fn unmount(&self, mountpoint: &Path) -> Result<(), String> {
        let canonical = mountpoint.canonicalize().unwrap_or_else(|_| mountpoint.to_owned());
        let mounted = self.mounts.lock().get(&canonical).cloned();
        let Some(mounted) = mounted else { return Err(MountError::NotMounted(mountpoint.to_owned()).to_string()) };
        let flushed = self.flush().await;
        self.let_go(&mounted).await?;
        self.flush().await.and(flushed)
    }

    async fn let_go(&self, mounted: &Arc<Mounted>) -> Result<(), String> {
        let (mount, path) = (mounted.clone(), mounted.mountpoint().to_owned());
        kernel_writes_back(&path).await;
        let unmounted = tokio::task::spawn_blocking(move || mount.unmount()).await;
        unmounted.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        self.mounts.lock().remove(&path);
        mounted.invalidate_no_more().await;
        if tokio::time::timeout(LET_GO_DEADLINE, mounted.ended()).await.is_err() {
            tracing::warn!(
                "programs still have files of {} open; what they write from now on is not waited for",
                path.display()
            );
        }
        Ok(())
    }

    async fn flush(&self) -> Result<(), String> {
        match tokio::time::timeout(FINISH_DEADLINE, self.volume.flush_all(true)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(failed)) => Err(unsafe_files(&self.host, &failed)),
            Err(_) => Err(format!(
                "writing everything out took longer than {FINISH_DEADLINE:?}; what was written since the last close or fsync may be lost"
            )),
        }
    }

    fn mountpoints(&self) -> Vec<PathBuf> {
        self.mounts.lock().keys().cloned().collect()
    }

    /// Makes everything safe and lets go of the mounts. The error says what is not safe, or still mounted.
    async fn let_go_of_all(&self) -> Result<(), String> {
        let mut outcome = self.flush().await;
        let mounts: Vec<Arc<Mounted>> = self.mounts.lock().values().cloned().collect();
        for mounted in mounts {
            outcome = outcome.and(self.let_go(&mounted).await);
        }
        outcome.and(self.flush().await)
    }

    /// Makes everything safe, lets go of the mounts, tells the others and ends `until_stopped`. The error says
    /// what is not safe; the peer stops all the same.
    async fn finish(&self) -> Result<(), String> {
        let mut outcome = self.let_go_of_all().await;
        self.host.handle(Event::Leaving);
        let checkpoint = self.persistence.checkpoint(&self.host, true).await;
        outcome = outcome.and(checkpoint.map_err(|error| format!("{error:#}")));
        // Also where nobody waits for it yet: a peer that has just started meets the others first.
        self.stopped.send_replace(true);
        outcome
    }

    /// Passes on what other machines change: to the volume, and to the kernel through every mount.
    fn listen_for_changes(&self) {
        let this = self.this.clone();
        self.host.on_remote_change(Box::new(move |keys| {
            if let Some(daemon) = this.upgrade() {
                daemon.changed_elsewhere(&keys);
            }
        }));
    }

    fn changed_elsewhere(&self, keys: &BTreeSet<Key>) {
        let inode = |key: &Key| match key {
            // A name that comes or goes moves the times of its directory; the kernel is told of no more than that.
            Key::Entry(ino, _) | Key::Inode(ino) | Key::Extent(ino, _) | Key::Xattr(ino, _) => Some(*ino),
            _ => None,
        };
        let inodes: BTreeSet<Ino> = keys.iter().filter_map(inode).collect();
        for ino in &inodes {
            self.volume.invalidated(*ino);
        }
        for mounted in self.mounts.lock().values() {
            mounted.invalidate(&inodes);
        }
    }

    /// Has the roster say where this machine can be reached, which changes when a network hands out another address.
    /// Connections outlive that; who dials anew has to know.
    fn tell_addresses(&self) {
        let addresses = machine::advertised(self.listen);
        let own = self.host.namespace().peer(self.host.me()).cloned();
        // With loopback alone it is cut off: what the others know may still be right when it is back.
        let reachable = addresses.iter().any(|address| !address.ip().is_loopback());
        let Some(own) = own.filter(|own| reachable && own.addresses != addresses) else { return };
        tracing::info!("this machine's addresses are now {addresses:?}");
        let peer = PeerRecord { addresses, ..own };
        if let Err(error) = self.host.change(&mut |_| Ok(vec![Change::Admit { peer: peer.clone() }])) {
            tracing::warn!("the roster keeps this machine's old addresses for now: {error}");
        }
    }
}

/// Has the kernel write back what programs changed in mapped files: it does so by itself only when they let go of
/// them. In a thread of its own, since it asks this very peer, and nothing is to wait for that for ever.
async fn kernel_writes_back(mountpoint: &Path) {
    let (done, written_back) = tokio::sync::oneshot::channel();
    let path = mountpoint.to_owned();
    std::thread::spawn(move || {
        let synced = std::fs::File::open(&path).and_then(|directory| {
            // SAFETY: the descriptor is open through the call.
            match unsafe { libc::syncfs(std::os::fd::AsRawFd::as_raw_fd(&directory)) } {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        });
        let _ = done.send(synced);
    });
    match tokio::time::timeout(FINISH_DEADLINE, written_back).await {
        Ok(Ok(Ok(()))) => {}
        Ok(Ok(Err(error))) => {
            tracing::warn!("mapped files of {} may not be written back: {error}", mountpoint.display())
        }
        _ => tracing::warn!("mapped files of {} were not written back in time", mountpoint.display()),
    }
}

/// Which files are not safe, in one line.
fn unsafe_files(host: &Host, failed: &[(Ino, crate::volume::ports::Errno)]) -> String {
    let namespace = host.namespace();
    let name =
        |ino| namespace.path(ino).map_or_else(|| format!("{ino}"), |path| String::from_utf8_lossy(&path).into_owned());
    let shown: Vec<String> = failed.iter().take(5).map(|(ino, error)| format!("{} ({error})", name(*ino))).collect();
    let more = if failed.len() > 5 { format!(" and {} more", failed.len() - 5) } else { String::new() };
    format!(
        "what was last written to these files is not safe: {}{more}; copy them again once the cause is mended",
        shown.join(", ")
    )
}

/// This peer's own counters.
fn own_stats(host: &Host) -> PeerStats {
    let traffic = host.network().map(|network| network.traffic()).unwrap_or_default();
    PeerStats {
        usage: host.store().usage(),
        inline_bytes: host.namespace().inline_bytes(),
        sent_bytes: traffic.sent,
        received_bytes: traffic.received,
        cpu_us: machine::cpu_us(),
        resident_bytes: machine::resident_bytes(),
    }
}

async fn upkeep(daemon: Weak<Daemon>) {
    let mut interval = tokio::time::interval(UPKEEP);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut given_back = Instant::now();
    loop {
        interval.tick().await;
        let Some(daemon) = daemon.upgrade() else { return };
        let unused = daemon.volume.unused_for().min(given_back.elapsed()) >= IDLE_AFTER;
        if unused && machine::resident_bytes() > IDLE_BYTES {
            given_back = Instant::now();
            daemon.volume.drop_caches();
            machine::trim_memory();
        }
        daemon.household.measure(&daemon.volume, UPKEEP);
        daemon.host.handle(Event::Usage(daemon.host.store().usage()));
        daemon.tell_addresses();
        if let Err(error) =
            daemon.persistence.checkpoint(&daemon.host, false).await.context("a checkpoint failed; it is tried again")
        {
            tracing::error!("{error:#}");
        }
    }
}
