//! Making a home: the first peer of a new share, or one that joins with a ticket.

use super::past::PastFile;
use super::persist::Persistence;
use super::{machine, snapshot};
use crate::config::Config;
use crate::id::{Author, Ino, PeerKey, PeerTag, ShareId};
use crate::io::quic::{self, Identity};
use crate::io::store::{Home, HomePaths, OpLog, StoreError, write_whole};
use crate::namespace::{Change, Namespace, PeerRecord, SetAttributes};
use crate::policy::Policy;
use crate::time::WallTime;
use crate::wire::Ticket;
use anyhow::{Context, anyhow, bail};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// What `shoal init` may choose.
#[derive(Clone, Debug, Default)]
pub struct InitOptions {
    pub listen: Option<SocketAddr>,
    pub name: Option<String>,
    pub policy: Option<Policy>,
}

/// What `shoal init` made.
#[derive(Clone, Debug)]
pub struct InitReport {
    pub share: String,
    pub peer: String,
    pub name: String,
    pub address: String,
}

/// What `shoal join` may choose.
#[derive(Clone, Debug, Default)]
pub struct JoinOptions {
    pub listen: Option<SocketAddr>,
    pub name: Option<String>,
}

/// What `shoal join` joined.
#[derive(Clone, Debug)]
pub struct JoinReport {
    pub share: String,
    pub peer: String,
    pub name: String,
    pub address: String,
    /// Peers on the roster, this one included.
    pub peers: usize,
}

/// Makes `home` the first peer of a new share. Refused, it leaves no home behind that was not there.
pub fn init(home: &Path, options: InitOptions) -> anyhow::Result<InitReport> {
    or_undone(home, || init_in(home, options))
}

fn init_in(home: &Path, options: InitOptions) -> anyhow::Result<InitReport> {
    crate::erasure::check_cpu().map_err(anyhow::Error::msg)?;
    Home::can_create(home)?;
    let config = prepare_config(home, options.listen, options.name)?;
    let identity = Identity::generate()?;
    let share = ShareId(rand::random());
    let record = record(&config, identity.key());
    let report = InitReport {
        share: share.to_string(),
        peer: identity.key().tag().to_string(),
        name: record.name.clone(),
        address: address_text(&record),
    };
    let created = Home::create(home, share, identity.pkcs8())?;
    let mut namespace = Namespace::new();
    let policy = Some(options.policy.unwrap_or(config.policy));
    // SAFETY: both always succeed and take nothing.
    let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
    let owner = SetAttributes {
        uid: Some(uid),
        gid: Some(gid),
        mtime: Some(now()),
        ctime: Some(now()),
        ..SetAttributes::default()
    };
    let changes = vec![
        Change::Admit { peer: record },
        Change::SetPolicy { ino: Ino::ROOT, policy },
        // Whoever founds a share can write in it.
        Change::SetAttributes { ino: Ino::ROOT, set: owner },
    ];
    let applied = namespace.change(Author::new(identity.key().tag(), 0), now(), changes);
    let (log, _) = OpLog::open(&created.paths().log(), |_| {})?;
    log.append(&applied.ops)?;
    Ok(report)
}

/// Makes `home` a peer of the share that the ticket invites to. Refused, it leaves no home behind that was not there.
pub fn join(home: &Path, ticket: &str, options: JoinOptions) -> anyhow::Result<JoinReport> {
    or_undone(home, || join_in(home, ticket, options))
}

/// Makes a home of a directory that is none yet. Where that fails, what it made of it is taken away again.
fn or_undone<T>(home: &Path, make: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let names = |home: &Path| -> BTreeSet<_> {
        std::fs::read_dir(home).into_iter().flatten().flatten().map(|entry| entry.file_name()).collect()
    };
    let (was_there, before) = (home.exists(), names(home));
    let vacant = Home::can_create(home).is_ok() || matches!(Home::orphaned_key(home), Ok(Some(_)));
    make().inspect_err(|error| {
        // Another command that was quicker has made what is there now.
        let others = matches!(error.downcast_ref(), Some(StoreError::AlreadyPeer { .. } | StoreError::Locked { .. }));
        if !vacant || others {
            return;
        }
        for name in names(home).difference(&before) {
            let path = home.join(name);
            let _ = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        }
        if !was_there {
            let _ = std::fs::remove_dir(home);
        }
    })
}

fn join_in(home: &Path, ticket: &str, options: JoinOptions) -> anyhow::Result<JoinReport> {
    crate::erasure::check_cpu().map_err(anyhow::Error::msg)?;
    let ticket: Ticket = ticket.parse()?;
    // A peer whose disk was wiped but for its key comes back as who it was.
    let key = Home::orphaned_key(home)?;
    if key.is_none() {
        Home::can_create(home)?;
    }
    let config = prepare_config(home, options.listen, options.name)?;
    let identity = match &key {
        Some(key) => Identity::from_pkcs8(key).context("the key in this home cannot be used")?,
        None => Identity::generate()?,
    };
    let record = record(&config, identity.key());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let (welcome, chunks) =
        runtime.block_on(quic::join(&identity, &ticket, record.clone(), &quic_settings(&config)))?;
    let me = identity.key().tag();
    if welcome.your_tag != me {
        bail!(
            "the inviter calls this machine {} and not {me}; one of the two runs another version: update both",
            welcome.your_tag
        );
    }
    let snapshot = snapshot::from_chunks(chunks)
        .context("what the inviter sent cannot be read; update both machines to one version")?;
    // Read here once before it is kept: what cannot be read must not use up a home.
    Namespace::restore(snapshot.clone())?;
    let created = match key {
        Some(_) => Home::revive(home, ticket.share)?,
        None => Home::create(home, ticket.share, identity.pkcs8())?,
    };
    if key.is_some() {
        // Others may have ops of its that the inviter lacks.
        PastFile::lost(&created, me, &snapshot)?;
    }
    Persistence::found(&created, me, &snapshot)?;
    Ok(JoinReport {
        share: ticket.share.to_string(),
        peer: me.to_string(),
        name: record.name.clone(),
        address: address_text(&record),
        peers: welcome.roster.len(),
    })
}

/// Writes `config.toml` with what was chosen on the command line set in it, and reads it. A file that a person
/// prepared is kept but for those lines.
fn prepare_config(home: &Path, listen: Option<SocketAddr>, name: Option<String>) -> anyhow::Result<Config> {
    use std::os::unix::fs::DirBuilderExt;
    let path = HomePaths::new(home).config();
    if let Some(name) = &name {
        Config::check_name(name).map_err(|why| anyhow!("--name '{}': {why}", name.escape_debug()))?;
    }
    let prepared = Config::load(&path)?;
    let asked = listen.unwrap_or(prepared.listen);
    let listen = machine::with_port(asked).map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            anyhow!("the address {asked} is in use: is another peer running here? Choose another with --listen")
        }
        _ => anyhow!("cannot listen on {asked}: {error}; choose another address with --listen"),
    })?;
    let mut text = if path.exists() { std::fs::read_to_string(&path)? } else { Config::template() };
    if listen != prepared.listen {
        text = with_setting(&text, "listen", &listen.to_string());
    }
    if let Some(name) = name {
        text = with_setting(&text, "name", &name);
    }
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(home)
        .with_context(|| format!("cannot make {}", home.display()))?;
    write_whole(&path, text.as_bytes(), 0o600).with_context(|| format!("cannot write {}", path.display()))?;
    // What was chosen is checked as anything in the file is; a wrong choice must not stay in it.
    Config::load(&path)
        .inspect_err(|_| {
            let _ = std::fs::remove_file(&path);
        })
        .map_err(Into::into)
}

/// The text with this setting in place of the line that has it, or had it commented out.
fn with_setting(text: &str, key: &str, value: &str) -> String {
    let line = format!("{key} = {}", toml::Value::String(value.to_owned()));
    let is_it = |old: &str| old.trim_start_matches('#').split_once('=').is_some_and(|(name, _)| name.trim() == key);
    let mut found = false;
    let mut lines: Vec<&str> = Vec::new();
    for old in text.lines() {
        if is_it(old) && !found {
            found = true;
            lines.push(&line);
        } else {
            lines.push(old);
        }
    }
    if !found {
        lines.insert(0, &line);
    }
    lines.join("\n") + "\n"
}

/// How this machine stands in the roster.
pub fn record(config: &Config, key: PeerKey) -> PeerRecord {
    PeerRecord {
        key,
        name: config.name.clone().unwrap_or_else(machine::name),
        addresses: machine::advertised(config.listen),
        zone: config.zone.clone(),
        host: machine::host(),
    }
}

/// The transport's part of the settings.
pub fn quic_settings(config: &Config) -> quic::Settings {
    quic::Settings {
        listen: config.listen,
        mtu: config.mtu,
        gso: config.gso,
        request_stall: config.shard_deadline,
        ..quic::Settings::default()
    }
}

fn address_text(record: &PeerRecord) -> String {
    record.addresses.first().map(ToString::to_string).unwrap_or_default()
}

/// The wall clock. For tests, `SHOAL_TEST_CLOCK_OFFSET` is by how many seconds it is ahead of the machine's; where that
/// names a file, the file says.
pub fn now() -> WallTime {
    static OFFSET: std::sync::LazyLock<Option<String>> =
        std::sync::LazyLock::new(|| std::env::var("SHOAL_TEST_CLOCK_OFFSET").ok());
    let offset = OFFSET.as_ref().map_or(0, |text| {
        let file = || std::fs::read_to_string(text).ok().and_then(|text| text.trim().parse().ok());
        text.parse::<i64>().ok().or_else(file).unwrap_or(0)
    });
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as i64;
    WallTime(now.saturating_add(offset.saturating_mul(1_000_000_000)))
}

/// What the roster says of the home's own peer. Without that its making was broken off, or it was evicted.
pub fn own_record(home: &Home, namespace: &Namespace, me: PeerTag) -> anyhow::Result<PeerRecord> {
    let record = namespace.peer(me).cloned();
    record.with_context(|| {
        let home = home.paths().root().display();
        format!("{home} was not completed, or this machine was taken off the roster; remove it and run `shoal init` or `shoal join TICKET` again")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_finished_is_undone_and_what_was_there_stays() {
        let place = tempfile::tempdir().unwrap();
        let home = place.path().join("home");
        let fails = |home: &Path| {
            let done: anyhow::Result<()> = or_undone(home, || {
                std::fs::create_dir_all(home.join("log"))?;
                std::fs::write(home.join("key"), b"key")?;
                bail!("no space")
            });
            assert_eq!(done.unwrap_err().to_string(), "no space");
        };
        fails(&home);
        assert!(!home.exists());
        std::fs::create_dir(&home).unwrap();
        std::fs::write(home.join("config.toml"), b"zone = 'here'\n").unwrap();
        fails(&home);
        let left: Vec<_> = std::fs::read_dir(&home).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["config.toml"]);
        init(&home, InitOptions { listen: Some("127.0.0.1:0".parse().unwrap()), ..InitOptions::default() }).unwrap();
        init(&home, InitOptions::default()).unwrap_err();
        assert!(HomePaths::new(&home).log().exists(), "a home that was made stays");
    }

    #[test]
    fn a_chosen_setting_takes_the_place_of_its_line() {
        assert_eq!(
            with_setting("# listen here\n#listen = \"a\"\nname = \"x\"\n", "listen", "b\"c"),
            "# listen here\nlisten = 'b\"c'\nname = \"x\"\n"
        );
        assert_eq!(with_setting("zone = \"z\"\n", "name", "n"), "name = \"n\"\nzone = \"z\"\n");
    }
}
