//! `shoal unmount`: flush everything, then let go of a mount.

use super::holder::{self, Holder};
use super::serve::running;
use super::sharepath::{self, Answer};
use super::{CHANGE_DEADLINE, ask, output, unexpected};
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
    let Some(mount) = sharepath::mount_at(&mountpoint)? else { bail!("{shown} is no mount of a share") };
    let answer = sharepath::answer(&mountpoint);
    if answer == Answer::Gone {
        sharepath::detach(&mountpoint)?;
        return output::print(&format!("The peer behind {shown} was gone; let go of the mount it left.\n"));
    }
    let holder = if answer == Answer::Nothing { holder::of(&mount.device) } else { Holder::Unseen };
    if let Holder::Killed(pid) = holder {
        sharepath::abort(&mount)?;
        return output::print(&format!(
            "The peer behind {shown} (process {pid}) was killed; let go of the mount it left, and whoever waited in it got an error.\n"
        ));
    }
    if running(home)?.is_none() {
        let home = home.display();
        match (answer, holder) {
            (Answer::Nothing, Holder::Living(pid)) => bail!(
                "{shown} does not answer now, but the process that serves it ({pid}) is there: wait for it, or give its home with --home DIR"
            ),
            (Answer::Nothing, _) => bail!(
                "{shown} does not answer, and no process is to be seen here that serves it; if you know that its peer is gone, let go of it with umount -f -l {shown}"
            ),
            _ => bail!(
                "{shown} is mounted by the peer of another home: no peer is running for {home}; give its home with --home DIR"
            ),
        }
    }
    let request = ControlRequest::Unmount { mountpoint: ByteText::from(mountpoint.as_path()) };
    match ask(home, &request, CHANGE_DEADLINE)? {
        ControlReply::Done => output::print(&format!("Everything is flushed; {shown} is unmounted.\n")),
        other => Err(unexpected(&other)),
    }
}
