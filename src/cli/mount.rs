//! `shoal mount`: the share as a directory of this machine.

use super::holder::{self, Holder};
use super::serve::{RunArgs, run_here, running};
use super::sharepath::{self, Answer};
use super::{CHANGE_DEADLINE, ask, background, output, unexpected};
use crate::io::control::{ByteText, ControlReply, ControlRequest};
use anyhow::{Context, bail};
use std::path::{Path, PathBuf};

#[derive(clap::Args, Debug)]
pub struct Args {
    /// An empty directory
    pub mountpoint: PathBuf,
    #[command(flatten)]
    pub run: RunArgs,
}

pub fn run(home: &Path, args: Args) -> anyhow::Result<()> {
    if args.run.foreground {
        // The waiting end hears of a bad mountpoint too: checked inside.
        let mountpoint = mountpoint(&args.mountpoint);
        return match mountpoint {
            Ok(mountpoint) => run_here(home, Some(mountpoint), args.run),
            Err(error) => {
                if let Some(fd) = args.run.ready_fd {
                    background::Readiness::open(fd)?.failed(&super::one_line(&error));
                }
                Err(error)
            }
        };
    }
    let mountpoint = mountpoint(&args.mountpoint)?;
    match running(home)? {
        Some(_) => {
            if !args.run.settings.is_empty() {
                bail!(
                    "the peer of {} is already running, so --set comes too late; stop it first with shoal stop",
                    home.display()
                );
            }
            let request = ControlRequest::Mount { mountpoint: ByteText::from(mountpoint.as_path()) };
            match ask(home, &request, CHANGE_DEADLINE)? {
                ControlReply::Done => {}
                other => return Err(unexpected(&other)),
            }
        }
        None => {
            background::start(home, Some(&mountpoint), &args.run.settings, background::Life::OfItsOwn)?;
        }
    }
    output::print(&format!("Mounted on {}.\n", mountpoint.display()))
}

fn gone(mountpoint: &Path) -> String {
    let shown = mountpoint.display();
    format!("the peer that was mounted on {shown} is gone; let go of it with shoal unmount {shown}, then mount again")
}

/// The mountpoint's real absolute path, if it is a directory.
fn mountpoint(given: &Path) -> anyhow::Result<PathBuf> {
    let shown = given.display();
    let real = match std::fs::canonicalize(given) {
        Ok(real) => real,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            bail!("the mountpoint {shown} is not there; make it with mkdir -p {shown}")
        }
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOTCONN | libc::ECONNABORTED)) => {
            bail!("{}", gone(given))
        }
        Err(error) => return Err(error).with_context(|| format!("the mountpoint {shown} cannot be reached")),
    };
    // A mount whose peer is gone still has a path, but answers nothing.
    match sharepath::answer(&real) {
        Answer::Something => {}
        Answer::Gone => bail!("{}", gone(given)),
        Answer::Nothing => {
            let mount = sharepath::mount_at(&real)?;
            match mount.map_or(Holder::Unseen, |mount| holder::of(&mount.device)) {
                Holder::Killed(_) => bail!("{}", gone(given)),
                Holder::Living(pid) => {
                    bail!(
                        "{shown} already is a mount of process {pid}, which does not answer now; give another directory"
                    )
                }
                Holder::Unseen => bail!("the mountpoint {shown} does not answer; give another directory"),
            }
        }
    }
    if !real.is_dir() {
        bail!("the mountpoint {shown} is no directory; give an empty directory");
    }
    if sharepath::mount_at(&real)?.is_some() {
        bail!(
            "{shown} already is a mount of a share; give another directory, or let go of it with shoal unmount {shown}"
        );
    }
    Ok(real)
}
