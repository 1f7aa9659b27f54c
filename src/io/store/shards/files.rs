//! Shards that have a file each: how it is named, written, read and found again.

use super::super::sys;
use super::header::{Form, HEADER, Header, IN_FILE};
use crate::id::{BlockName, hex};
use crate::policy::Geometry;
use crate::volume::ports::{Shard, ShardId};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Files lie in as many directories, by the first byte of the block's name.
pub(super) const DIRECTORIES: usize = 256;
/// The ending of a file that is being written.
pub(super) const UNFINISHED: &str = ".tmp";

/// The directory of directories of shard files.
pub(super) struct Files {
    root: PathBuf,
    /// Makes temporary names differ.
    written: AtomicU64,
}

impl Files {
    /// The directories are made if they are not there; that is durable on return.
    pub fn open(root: PathBuf) -> io::Result<Files> {
        let files = Files { root, written: AtomicU64::new(0) };
        let mut made = false;
        for byte in 0..DIRECTORIES {
            match fs::create_dir(files.directory(byte)) {
                Ok(()) => made = true,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        if made {
            sys::sync_directory(&files.root)?;
        }
        Ok(files)
    }

    /// The directory of blocks that start with this byte.
    pub fn directory(&self, byte: usize) -> PathBuf {
        self.root.join(format!("{byte:02x}"))
    }

    /// The file of this shard. Its name says all that the index holds: opening the store reads no file.
    pub fn path(&self, id: &ShardId, form: &Form) -> PathBuf {
        self.directory(id.block.0[0].into()).join(name(id, form))
    }

    /// Writes the shard under its name: it is there whole or not at all, as long as the machine stays up.
    pub fn write(&self, shard: &Shard) -> io::Result<()> {
        let form = Form::of(shard);
        let directory = self.directory(shard.id.block.0[0].into());
        let number = self.written.fetch_add(1, Ordering::Relaxed);
        let temporary = directory.join(format!("{number}{UNFINISHED}"));
        let write = || {
            let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
            let header = Header { id: shard.id, form, dead: false }.encode(IN_FILE);
            sys::write_both_at(&file, &header, &shard.bytes, 0)?;
            fs::rename(&temporary, directory.join(name(&shard.id, &form)))
        };
        write().inspect_err(|_| drop(fs::remove_file(&temporary)))
    }

    /// Header and bytes as they are on disk, and not more than they should be.
    pub fn read(&self, id: &ShardId, form: &Form) -> io::Result<Vec<u8>> {
        sys::read_at(&File::open(self.path(id, form))?, 0, HEADER + form.bytes())
    }
}

fn name(id: &ShardId, form: &Form) -> String {
    let Geometry { data, parity } = form.geometry;
    format!("{}.{}.{data}+{parity}.{}.{:08x}", hex(&id.block.0), id.index, form.block_bytes, form.crc)
}

/// What a file of this name would hold, if the name is one of ours.
pub(super) fn parse(text: &str) -> Option<(ShardId, Form)> {
    let mut parts = text.split('.');
    let mut next = || parts.next();
    let (block, index, geometry, bytes, crc) = (next()?, next()?, next()?, next()?, next()?);
    let (data, parity) = geometry.split_once('+')?;
    let geometry = Geometry { data: data.parse().ok()?, parity: parity.parse().ok()? };
    let id = ShardId { block: BlockName::parse(block)?, index: index.parse().ok()? };
    let form = Form { geometry, block_bytes: bytes.parse().ok()?, crc: u32::from_str_radix(crc, 16).ok()? };
    // Only the one way of writing it counts.
    (form.allows(id.index) && name(&id, &form) == text).then_some((id, form))
}

/// Moves something that does not belong into `aside`, under a name that is free there.
pub(super) fn set_aside(aside: &Path, path: &Path) -> io::Result<PathBuf> {
    let to = free_name(aside, &path.file_name().unwrap_or_default().to_string_lossy());
    fs::rename(path, &to)?;
    Ok(to)
}

/// A path in `aside` that nothing has.
pub(super) fn free_name(aside: &Path, name: &str) -> PathBuf {
    let mut to = aside.join(name);
    let mut again = 1;
    while to.symlink_metadata().is_ok() {
        to = aside.join(format!("{name}.{again}"));
        again += 1;
    }
    to
}
