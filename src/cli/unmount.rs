//! `shoal unmount`: flush everything, then let go of a mount.

use super::serve::running;
use super::{CHANGE_DEADLINE, ask, output, sharepath, unexpected};
use crate::io::control::{ByteText, ControlReply, ControlRequest};
use anyhow::bail;
use std::path::{Path, PathBuf};

#[derive(clap::Args, Debug)]
pub struct Args {
    /// Where the share is mounted
    pub mountpoint: PathBuf,
}

pub fn run(home: &Path, args: Args) -> anyhow::Result<()> {
    let mut mountpoint = sharepath::absolute(&args.mountpoint)?;
    if sharepath::mount_at(&mountpoint)?.is_none() {
        // Mounted through a link: the kernel knows only where it leads.
        mountpoint = std::fs::canonicalize(&mountpoint).unwrap_or(mountpoint);
    }
    let shown = mountpoint.display();
    if sharepath::mount_at(&mountpoint)?.is_none() {
        bail!("{shown} is no mount of a share");
    }
    if sharepath::is_dead(&mountpoint) {
        sharepath::detach(&mountpoint)?;
        return output::print(&format!("The peer behind {shown} was gone; let go of the mount it left.\n"));
    }
    if running(home)?.is_none() {
        bail!(
            "{shown} is mounted by the peer of another home: no peer is running for {}; give its home with --home DIR",
            home.display()
        );
    }
    let request = ControlRequest::Unmount { mountpoint: ByteText::from(mountpoint.as_path()) };
    match ask(home, &request, CHANGE_DEADLINE)? {
        ControlReply::Done => output::print(&format!("Everything is flushed; {shown} is unmounted.\n")),
        other => Err(unexpected(&other)),
    }
}
