//! The demo's machines: peers as processes with homes of their own, on loopback.

use crate::cli::background::{self, Life};
use crate::cli::{CHANGE_DEADLINE, interrupt, one_line, output, sharepath};
use crate::io::control::{Client, ControlReply, ControlRequest};
use anyhow::{Context, bail};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// How many of the machines have the share mounted.
const MOUNTED: usize = 2;

/// How long making a home may take; joining is the longest.
const MAKE_DEADLINE: Duration = Duration::from_secs(60);

/// How long the machines may take until they all see one another.
const TOGETHER_DEADLINE: Duration = Duration::from_secs(30);

/// How long one may take to stop when it is told to.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// The running machines. All are stopped and unmounted when it is dropped.
pub struct Machines {
    place: PathBuf,
    peers: Vec<Option<Child>>,
}

impl Machines {
    /// Makes a share of `number` peers under `place` and mounts it on the first ones.
    pub fn start(place: &Path, number: usize) -> anyhow::Result<Machines> {
        std::fs::create_dir(place).with_context(|| format!("{} cannot be made", place.display()))?;
        let mut machines = Machines { place: place.into(), peers: Vec::new() };
        let ports = free_ports(number)?;
        machines.make(0, &["init", "--listen", &listen(ports[0]), "--name", "machine-1"])?;
        machines.run(0)?;
        let request = ControlRequest::Invite { expires_secs: 3600, uses: number as u32 };
        let ControlReply::Invite { ticket } = machines.ask(0, &request)? else { bail!("no ticket was given") };
        let bar = output::steps("starting peers", number as u64);
        for (machine, port) in ports.iter().enumerate().skip(1) {
            bar.set_position(machine as u64);
            let name = format!("machine-{}", machine + 1);
            machines.make(machine, &["join", &ticket, "--listen", &listen(*port), "--name", &name])?;
            machines.run(machine)?;
        }
        for machine in 0..MOUNTED {
            machines.together(machine)?;
        }
        bar.finish_and_clear();
        Ok(machines)
    }

    /// Where a machine has the share mounted.
    pub fn mountpoint(&self, machine: usize) -> PathBuf {
        self.place.join(format!("mount-{}", machine + 1))
    }

    fn home(&self, machine: usize) -> PathBuf {
        self.place.join(format!("home-{}", machine + 1))
    }

    pub fn ask(&self, machine: usize, request: &ControlRequest) -> anyhow::Result<ControlReply> {
        interrupt::check()?;
        let reply = Client::connect(&self.home(machine)).and_then(|peer| peer.call(request, CHANGE_DEADLINE, |_| ()));
        reply.with_context(|| format!("machine {}", machine + 1))
    }

    /// A command that makes a home.
    fn make(&self, machine: usize, args: &[&str]) -> anyhow::Result<()> {
        let start = Instant::now();
        let mut command: Command = background::this_program();
        let made = background::run_to_end(command.arg("--home").arg(self.home(machine)).args(args), |_| {
            if start.elapsed() > MAKE_DEADLINE {
                bail!("it took longer than {} s", MAKE_DEADLINE.as_secs());
            }
            Ok(())
        });
        made.with_context(|| format!("machine {} cannot {}", machine + 1, args[0]))
    }

    /// Starts the machine's peer, mounted on the first ones.
    fn run(&mut self, machine: usize) -> anyhow::Result<()> {
        let mountpoint = self.mountpoint(machine);
        let mounted = machine < MOUNTED;
        if mounted {
            std::fs::create_dir(&mountpoint).with_context(|| format!("{} cannot be made", mountpoint.display()))?;
        }
        let mountpoint = mounted.then_some(mountpoint.as_path());
        let child = background::start(&self.home(machine), mountpoint, &[], Life::OfItsParent)
            .with_context(|| format!("machine {} cannot start", machine + 1))?;
        self.peers.push(Some(child));
        Ok(())
    }

    /// Waits until a machine sees all the others.
    fn together(&self, machine: usize) -> anyhow::Result<()> {
        let deadline = Instant::now() + TOGETHER_DEADLINE;
        loop {
            let ControlReply::Peers(seen) = self.ask(machine, &ControlRequest::Peers)? else {
                bail!("machine {} does not say whom it sees", machine + 1)
            };
            let alive = seen.iter().filter(|peer| peer.alive).count();
            if alive >= self.peers.len() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                bail!("machine {} sees only {alive} of {} machines", machine + 1, self.peers.len());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Kills a machine, as a power cut would.
    pub fn kill(&mut self, machine: usize) -> anyhow::Result<()> {
        if let Some(mut child) = self.peers.get_mut(machine).and_then(Option::take) {
            child
                .kill()
                .and_then(|()| child.wait())
                .with_context(|| format!("machine {} cannot be killed", machine + 1))?;
        }
        Ok(())
    }

    /// Stops what still runs, and lets go of every mount.
    pub fn stop(&mut self) {
        let mut running: Vec<Child> = self.peers.iter_mut().filter_map(Option::take).collect();
        // All at once: a peer that stops alone would be missed by the others first.
        running.iter().for_each(background::ask_to_end);
        running.iter_mut().for_each(|child| background::end(child, STOP_PATIENCE));
        for machine in 0..MOUNTED {
            let mountpoint = self.mountpoint(machine);
            // No peer is left that would serve it.
            while let Ok(Some(mount)) = sharepath::mount_at(&mountpoint) {
                if let Err(error) = sharepath::abort(&mount) {
                    let _ = output::print(&format!("{}\n", one_line(&error)));
                    break;
                }
            }
        }
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Removes a directory that has no mount below it any more.
pub fn remove(directory: &Path) -> anyhow::Result<()> {
    if let Some(mount) = sharepath::mounted_below(directory)? {
        bail!("{} is still mounted; unmount it with umount -l, then remove the directory", mount.display());
    }
    std::fs::remove_dir_all(directory).context("it cannot be removed")
}

fn listen(port: u16) -> String {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port)).to_string()
}

/// Ports that nobody uses now.
fn free_ports(number: usize) -> anyhow::Result<Vec<u16>> {
    let open = || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port on 127.0.0.1");
    // All are held until all are known, so that they differ.
    let sockets = (0..number).map(|_| open()).collect::<anyhow::Result<Vec<_>>>()?;
    sockets.iter().map(|socket| Ok(socket.local_addr().context("a port has no number")?.port())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_ports_all_differ() {
        let ports: std::collections::BTreeSet<u16> = free_ports(20).unwrap().into_iter().collect();
        assert_eq!(ports.len(), 20);
    }

    #[test]
    fn a_directory_without_mounts_is_removed_whole() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("d");
        std::fs::create_dir_all(directory.join("a/b")).unwrap();
        remove(&directory).unwrap();
        assert!(!directory.exists());
        assert!(sharepath::mounted_below(Path::new("/")).unwrap().is_some());
    }
}
