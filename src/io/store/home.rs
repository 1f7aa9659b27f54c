//! A peer's home: its directory, who may use it, and what lies where in it.

use super::error::StoreError;
use super::sys;
use crate::id::ShareId;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// The version of the layout of a home that this program writes, and the newest that it reads.
pub const FORMAT: u64 = 1;

/// No file of a home that is read whole is larger than this.
const SMALL_FILE: u64 = 64 * 1024;

/// What lies where in a home. Making one touches nothing on disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HomePaths {
    root: PathBuf,
}

impl HomePaths {
    /// The paths of the home in this directory.
    pub fn new(root: impl Into<PathBuf>) -> HomePaths {
        HomePaths { root: root.into() }
    }

    /// The home itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The socket that takes commands while the peer runs.
    pub fn control_socket(&self) -> PathBuf {
        self.root.join("control.sock")
    }

    /// The settings.
    pub fn config(&self) -> PathBuf {
        self.root.join("config.toml")
    }

    /// The directory of the op log.
    pub fn log(&self) -> PathBuf {
        self.root.join("log")
    }

    /// The checkpoint of the tree.
    pub fn tree(&self) -> PathBuf {
        self.root.join("tree.redb")
    }

    /// A checkpoint that is to take the place of that one.
    pub fn next_tree(&self) -> PathBuf {
        self.root.join("tree.redb.new")
    }

    /// The directory of the shards.
    pub fn shards(&self) -> PathBuf {
        self.root.join("shards")
    }

    /// What the peer reports when it runs in the background.
    pub fn peer_log(&self) -> PathBuf {
        self.root.join("peer.log")
    }

    fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    fn format(&self) -> PathBuf {
        self.root.join("format")
    }

    fn share(&self) -> PathBuf {
        self.root.join("share")
    }

    fn key(&self) -> PathBuf {
        self.root.join("key")
    }

    /// Whether anything of a namespace is here.
    pub fn has_namespace(&self) -> bool {
        self.log().exists() || self.tree().exists()
    }

    /// Whether `create` was completed here. Looks at the disk, takes no lock.
    pub fn is_peer(&self) -> bool {
        self.format().exists()
    }
}

/// Bytes that a new home needs before anything is stored: its op log and its tree.
const ROOM: u64 = 4 << 20;

/// A home that this process holds: nobody else can until it is dropped.
pub struct Home {
    paths: HomePaths,
    share: ShareId,
    key: Zeroizing<Vec<u8>>,
    lost_power: bool,
    /// Holds the lock as long as it is open.
    lock: File,
}

impl Home {
    /// Makes a new home for a peer of `share` with this secret key (PKCS #8, DER), and takes it. A crash at any
    /// moment leaves either a complete home or a directory in which `create` works again.
    pub fn create(path: &Path, share: ShareId, key: &[u8]) -> Result<Home, StoreError> {
        let paths = HomePaths::new(path);
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(StoreError::io("create", path))?;
        own(path)?;
        vacant(&paths)?;
        let (lock, _) = lock(&paths)?;
        // Another process may have completed its `create` between the look and the lock.
        vacant(&paths)?;
        close_to_others(path)?;
        let write = |path: PathBuf, content: &[u8], mode| {
            sys::write_whole(&path, content, mode).map_err(StoreError::io("write", &path))
        };
        write(paths.share(), format!("{share}\n").as_bytes(), 0o600)?;
        write(paths.key(), key, 0o600)?;
        // What makes it a peer comes last.
        write(paths.format(), format!("shoal {FORMAT}\n").as_bytes(), 0o600)?;
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            sys::sync_directory(parent).map_err(StoreError::io("write", parent))?;
        }
        Ok(Home { paths, share, key: Zeroizing::new(key.to_vec()), lost_power: false, lock })
    }

    /// The secret key in a directory that has lost everything else that makes a peer: its namespace is gone, so it can
    /// only join again, as the same peer. `None` where there is no key, or more than a key.
    pub fn orphaned_key(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
        let paths = HomePaths::new(path);
        if !paths.key().exists() || paths.has_namespace() {
            return Ok(None);
        }
        own(path)?;
        has_room(path)?;
        Ok(Some(read_small(&paths.key())?).filter(|key| !key.is_empty()))
    }

    /// Makes a home again where [`Home::orphaned_key`] found its key, for a peer of `share`, and takes it.
    pub fn revive(path: &Path, share: ShareId) -> Result<Home, StoreError> {
        let paths = HomePaths::new(path);
        let (lock, _) = lock(&paths)?;
        let Some(key) = Home::orphaned_key(path)? else {
            return Err(StoreError::AlreadyPeer { home: path.to_owned() });
        };
        close_to_others(path)?;
        let write = |path: PathBuf, content: &[u8]| {
            sys::write_whole(&path, content, 0o600).map_err(StoreError::io("write", &path))
        };
        write(paths.share(), format!("{share}\n").as_bytes())?;
        write(paths.format(), format!("shoal {FORMAT}\n").as_bytes())?;
        Ok(Home { paths, share, key, lost_power: true, lock })
    }

    /// Fails as [`Home::create`] would for want of a free directory or of space, without making anything: for a
    /// joiner to ask before it uses up its ticket.
    pub fn can_create(path: &Path) -> Result<(), StoreError> {
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            _ => own(path).and_then(|()| vacant(&HomePaths::new(path)))?,
        }
        has_room(path)
    }

    /// Takes a home that was created before.
    pub fn open(path: &Path) -> Result<Home, StoreError> {
        let paths = HomePaths::new(path);
        if fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            return Err(StoreError::NotPeer { home: path.to_owned() });
        }
        own(path)?;
        check_format(&paths)?;
        let (lock, lost_power) = lock(&paths)?;
        close_to_others(path)?;
        let share_path = paths.share();
        let share = read_small(&share_path)?;
        let share = std::str::from_utf8(&share)
            .ok()
            .and_then(|text| crate::id::unhex(text.strip_suffix('\n')?))
            .map(ShareId)
            .ok_or_else(|| StoreError::damaged(&share_path, None, "it is not 32 hexadecimal digits"))?;
        let key = read_small(&paths.key())?;
        if key.is_empty() {
            return Err(StoreError::damaged(&paths.key(), None, "it is empty"));
        }
        Ok(Home { paths, share, key, lost_power, lock })
    }

    /// What lies where.
    pub fn paths(&self) -> &HomePaths {
        &self.paths
    }

    /// The share that this peer belongs to.
    pub fn share(&self) -> ShareId {
        self.share
    }

    /// The peer's secret key: PKCS #8, DER.
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// The machine went down while the peer before this one ran: what that one wrote and did not sync may be gone
    /// from this disk though other peers have it. Then this peer has to hear from them before it numbers ops of
    /// its own, or it would give a number out twice.
    pub fn lost_power(&self) -> bool {
        self.lost_power
    }
}

impl Drop for Home {
    /// An empty lock file says that the peer ended in order: drop the home last.
    fn drop(&mut self) {
        let _ = self.lock.set_len(0);
    }
}

/// There is the space that a new home takes.
fn has_room(path: &Path) -> Result<(), StoreError> {
    // What does not exist yet lies where the nearest directory above it does.
    let space = path.ancestors().find_map(|above| sys::space(above).ok());
    match space.map(|space| space.available) {
        Some(free) if free < ROOM => Err(StoreError::NoRoom { home: path.to_owned(), free, needed: ROOM }),
        _ => Ok(()),
    }
}

/// The directory is one, and ours.
fn own(path: &Path) -> Result<(), StoreError> {
    let data = fs::metadata(path).map_err(StoreError::io("open", path))?;
    if !data.is_dir() {
        return Err(StoreError::Io { doing: "use", path: path.to_owned(), error: io::ErrorKind::NotADirectory.into() });
    }
    // SAFETY: always succeeds.
    let me = unsafe { libc::geteuid() };
    if data.uid() != me {
        return Err(StoreError::Owner { home: path.to_owned(), owner: data.uid(), me });
    }
    Ok(())
}

fn close_to_others(path: &Path) -> Result<(), StoreError> {
    let mode = fs::metadata(path).map_err(StoreError::io("open", path))?.mode() & 0o7777;
    if mode == 0o700 {
        return Ok(());
    }
    fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(StoreError::io("protect", path))
}

/// Nothing is here but what an unfinished `create` or a person preparing one leaves.
fn vacant(paths: &HomePaths) -> Result<(), StoreError> {
    let root = paths.root();
    if paths.is_peer() {
        return Err(StoreError::AlreadyPeer { home: root.to_owned() });
    }
    const EXPECTED: [&str; 8] =
        ["lock", "share", "key", "share.tmp", "key.tmp", "format.tmp", "config.toml", "peer.log"];
    for entry in fs::read_dir(root).map_err(StoreError::io("read", root))? {
        let name = entry.map_err(StoreError::io("read", root))?.file_name();
        if !EXPECTED.iter().any(|expected| name == *expected) {
            let entry = name.to_string_lossy().into_owned();
            return Err(StoreError::NotEmpty { home: root.to_owned(), entry });
        }
    }
    Ok(())
}

fn check_format(paths: &HomePaths) -> Result<(), StoreError> {
    let path = paths.format();
    let text = match read_small(&path) {
        Err(StoreError::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => {
            // A peer that has run has a log: without `format` it is a damaged one, not a new directory.
            return Err(if paths.log().exists() {
                StoreError::damaged(&path, None, "it is missing")
            } else {
                StoreError::NotPeer { home: paths.root().to_owned() }
            });
        }
        other => other?,
    };
    let version = std::str::from_utf8(&text)
        .ok()
        .and_then(|text| text.strip_suffix('\n')?.strip_prefix("shoal ")?.parse::<u64>().ok())
        .ok_or_else(|| StoreError::damaged(&path, None, "it is not 'shoal' and a version number"))?;
    match version {
        FORMAT => Ok(()),
        0 => Err(StoreError::damaged(&path, None, "there is no version 0")),
        found => Err(StoreError::Newer { path, found, known: FORMAT }),
    }
}

/// Takes the lock; also whether the machine went down on who had it before.
fn lock(paths: &HomePaths) -> Result<(File, bool), StoreError> {
    let path = paths.lock();
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(StoreError::io("open", &path))?;
    let locked = file.try_lock();
    let mut before = Vec::new();
    (&file).take(256).read_to_end(&mut before).map_err(StoreError::io("read", &path))?;
    let before = String::from_utf8_lossy(&before);
    let (pid, boot) = before.trim().split_once(' ').unwrap_or_default();
    match locked {
        Ok(()) => {}
        Err(fs::TryLockError::WouldBlock) => {
            let who = if pid.parse::<u32>().is_ok() { format!("pid {pid}") } else { "pid unknown".to_owned() };
            return Err(StoreError::Locked { home: paths.root().to_owned(), who });
        }
        Err(fs::TryLockError::Error(error)) => return Err(StoreError::io("lock", &path)(error)),
    }
    // Another on every boot of the machine; without one, the worse is assumed.
    let this_boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_else(|_| "unknown".to_owned());
    let this_boot = this_boot.trim();
    let lost_power = !before.is_empty() && (boot != this_boot || this_boot == "unknown");
    let mut write = || {
        file.set_len(0)?;
        file.rewind()?;
        file.write_all(format!("{} {this_boot}\n", std::process::id()).as_bytes())?;
        // A power cut has to find it.
        file.sync_all()
    };
    write().map_err(StoreError::io("write", &path))?;
    Ok((file, lost_power))
}

fn read_small(path: &Path) -> Result<Zeroizing<Vec<u8>>, StoreError> {
    let file = File::open(path).map_err(StoreError::io("open", path))?;
    let mut content = Zeroizing::new(Vec::with_capacity(4096));
    file.take(SMALL_FILE + 1).read_to_end(&mut content).map_err(StoreError::io("read", path))?;
    if content.len() as u64 > SMALL_FILE {
        return Err(StoreError::damaged(path, None, "it is far too large"));
    }
    Ok(content)
}

#[cfg(test)]
#[path = "home_tests.rs"]
mod tests;
