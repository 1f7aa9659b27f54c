//! What a peer remembers of its own ops, in a file of its home.

use crate::id::PeerTag;
use crate::io::store::{Home, write_whole};
use crate::namespace::Snapshot;
use crate::peer::{Memory, Past};
use anyhow::Context;
use std::path::PathBuf;

/// The file of a home that says in which epoch its peer makes ops.
pub struct PastFile {
    path: PathBuf,
}

impl PastFile {
    /// What the home's peer knows of its past at this start; where the power was cut, that is kept before anything
    /// else happens.
    pub fn open(home: &Home) -> anyhow::Result<(PastFile, Past)> {
        let file = PastFile { path: home.paths().root().join("epoch") };
        let mut past: Past = match std::fs::read(&file.path) {
            Ok(bytes) => postcard::from_bytes(&bytes).map_err(|_| {
                anyhow::anyhow!("{} is damaged; let this machine join anew with another --home", file.path.display())
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Past::default(),
            Err(error) => {
                anyhow::bail!("{} cannot be read: {error}; check its owner and the disk", file.path.display())
            }
        };
        if home.lost_power() && past.memory != Memory::Unsure {
            past.memory = Memory::Unsure;
            file.save(&past)?;
        }
        Ok((file, past))
    }

    /// Notes in a home that was made again, for a peer that was there before, that it lost what it made: it goes on from
    /// the last of its epochs that the snapshot knows.
    pub fn lost(home: &Home, me: PeerTag, snapshot: &Snapshot) -> anyhow::Result<()> {
        let applied = snapshot.vector.0.keys().copied();
        let authors = applied.chain(snapshot.ops.iter().map(|op| op.stamp.author));
        let epoch = authors.filter(|author| author.peer() == me).map(|author| author.epoch()).max().unwrap_or(0);
        let file = PastFile { path: home.paths().root().join("epoch") };
        file.save(&Past { epoch, memory: Memory::Unsure })
    }

    /// Brings it to stable storage.
    pub fn save(&self, past: &Past) -> anyhow::Result<()> {
        let bytes = postcard::to_stdvec(past)?;
        write_whole(&self.path, &bytes, 0o600).with_context(|| format!("{} cannot be written", self.path.display()))
    }
}
