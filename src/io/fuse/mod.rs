//! The mount: what the kernel asks of a volume, and what it is told.

mod adapter;
mod caller;
mod convert;
mod invalidate;
mod mount;
mod serving;

pub use mount::{MountError, MountOptions};

use crate::id::Ino;
use crate::volume::Volume;
use adapter::Adapter;
use fuser::{Config, Session, SessionACL};
use invalidate::Invalidator;
use mount::{Connection, Device};
use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use tokio::sync::watch;

/// A volume that is mounted. Dropped, it is unmounted.
pub struct Mounted {
    mountpoint: PathBuf,
    device: Option<Device>,
    invalidator: Invalidator,
    ended: watch::Receiver<bool>,
}

impl Mounted {
    /// Mounts the volume on an empty directory. Requests are served by tasks on `runtime`, which must have more
    /// than one worker.
    pub fn mount(
        volume: Volume,
        mountpoint: &Path,
        runtime: tokio::runtime::Handle,
        options: &MountOptions,
    ) -> Result<Mounted, MountError> {
        let Connection { fd, mountpoint, device } = mount::mount(mountpoint)?;
        let invalidator = Invalidator::new();
        let (end, ended) = watch::channel(false);
        // From here on an error unmounts by dropping this.
        let mounted = Mounted { mountpoint, device, invalidator: invalidator.clone(), ended };
        let failed = |error: std::io::Error| MountError::Failed {
            path: mounted.mountpoint.clone(),
            doing: "served",
            why: error.to_string(),
        };
        let adapter = Adapter::new(volume, runtime, invalidator.clone(), options.cache_for);
        let acl = if mount::is_root() { SessionACL::All } else { SessionACL::Owner };
        let mut config = Config::default();
        config.n_threads = Some(options.threads.max(1));
        config.clone_fd = true;
        let session = Session::from_fd(adapter, fd, acl, config).map_err(failed)?;
        if let Some(device) = &mounted.device {
            mount::set_read_ahead(device, options.read_ahead);
        }
        invalidator.start(session.as_fd()).map_err(failed)?;
        let serve = move || {
            if let Err(error) = session.run() {
                tracing::error!(%error, "the connection to the kernel broke");
            }
            invalidator.close();
            let _ = end.send(true);
        };
        std::thread::Builder::new().name("fuse-session".into()).spawn(serve).map_err(failed)?;
        Ok(mounted)
    }

    /// Where it is mounted, without symlinks and relative parts.
    pub fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }

    /// Tells the kernel to look at these again: content and attributes.
    pub fn invalidate(&self, inodes: &BTreeSet<Ino>) {
        self.invalidator.send(inodes.iter().copied());
    }

    /// Tells the kernel nothing more of what changes elsewhere, and waits for the answer to what it was told.
    pub async fn invalidate_no_more(&self) {
        self.invalidator.end().await;
    }

    /// Returns when the kernel's side has ended: someone unmounted it and nothing there is open any more. What is
    /// written and not flushed is still in the volume.
    pub async fn ended(&self) {
        let mut ended = self.ended.clone();
        // An error means that the thread that would say so is gone, which says it too.
        let _ = ended.wait_for(|ended| *ended).await;
    }

    /// Takes the mount away from its place. Files still open there go on until they are closed: wait for `ended`,
    /// with a deadline.
    pub fn unmount(&self) -> Result<(), MountError> {
        if *self.ended.borrow() {
            return Ok(());
        }
        mount::unmount(&self.mountpoint, self.device.as_ref())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        match self.unmount() {
            Ok(()) | Err(MountError::NotMounted(_)) => {}
            Err(error) => tracing::warn!(%error, "the mount stays behind"),
        }
    }
}

#[cfg(test)]
mod tests;
