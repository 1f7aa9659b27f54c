//! The commands of people, carried out by the running peer.

use super::Daemon;
use super::{conflicts, invite, looking_after, report};
use crate::id::PeerTag;
use crate::io::control::{Commands, ControlReply, ControlRequest, PolicyReport, ProgressSink, StatsReport};
use crate::namespace::{Change, Kind};
use crate::policy::Policy;
use crate::volume::ports::{BoxFuture, Control, Errno};
use crate::wire::{PeerStats, Request, Response};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;

/// How long another peer may take over a question of ours.
const ASK_DEADLINE: Duration = Duration::from_secs(5);

impl Commands for Daemon {
    fn run(&self, request: ControlRequest, progress: ProgressSink) -> BoxFuture<'_, Result<ControlReply, String>> {
        Box::pin(self.carry_out(request, progress))
    }
}

impl Daemon {
    async fn carry_out(&self, request: ControlRequest, progress: ProgressSink) -> Result<ControlReply, String> {
        match request {
            ControlRequest::Ping => Ok(ControlReply::Pong {
                pid: std::process::id(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                peer: self.host.me().to_string(),
            }),
            ControlRequest::Mount { mountpoint } => {
                self.mount(&mountpoint.to_path()).map(|()| ControlReply::Done).map_err(|error| error.to_string())
            }
            ControlRequest::Unmount { mountpoint } => {
                progress.report("flushing", 0, 0);
                self.unmount(&mountpoint.to_path()).await.map(|()| ControlReply::Done)
            }
            ControlRequest::Stop => {
                progress.report("flushing", 0, 0);
                self.finish().await.map(|()| ControlReply::Done)
            }
            ControlRequest::Status => {
                let (stats, upkeeps) = tokio::join!(self.all_stats(), self.upkeeps());
                let mut status = report::status(&self.host, &stats, &looking_after::known(&upkeeps));
                status.mounts = self.mountpoints().iter().map(|path| path.display().to_string()).collect();
                status.healing = self.healing_report(&upkeeps);
                status.scrub = looking_after::scrub_report(&upkeeps);
                status.files_set_aside = upkeeps.values().map(|one| one.set_aside).sum();
                status.volumes_damaged = upkeeps.values().map(|one| one.damaged_volumes).sum();
                Ok(ControlReply::Status(Box::new(status)))
            }
            ControlRequest::Peers => Ok(ControlReply::Peers(report::peers(&self.host))),
            ControlRequest::Groups => Ok(ControlReply::Groups(report::groups(&self.host))),
            ControlRequest::Where { path } => report::locate(&self.host, &path.0).map(ControlReply::Where),
            ControlRequest::Policy { path, set, partition } => {
                self.policy(&path.0, set.as_deref(), partition.as_deref()).await.map(ControlReply::Policy)
            }
            ControlRequest::Invite { expires_secs, uses } => {
                invite::issue(&self.invitations, &self.host, expires_secs, uses)
                    .map(|ticket| ControlReply::Invite { ticket })
            }
            ControlRequest::Stats => Ok(ControlReply::Stats(self.all_stats().await)),
            ControlRequest::DropCaches => {
                self.volume.drop_caches();
                self.ask_all(Request::DropCaches).await;
                Ok(ControlReply::Done)
            }
            ControlRequest::Check { read } => Ok(ControlReply::Check(self.check(read, &progress).await)),
            ControlRequest::CanStop { peers } => self.can_stop(&peers).await.map(ControlReply::CanStop),
            ControlRequest::Evict { peer, accept_loss } => {
                self.evict(&peer, accept_loss).await.map(ControlReply::Evicted)
            }
            ControlRequest::Leave { accept_loss } => self.leave(accept_loss, progress).await,
            ControlRequest::Repair { watch } => Ok(ControlReply::Healing(self.repair(watch, progress).await)),
            ControlRequest::Scrub { now } => Ok(ControlReply::Scrub(self.scrub(now, progress).await)),
            ControlRequest::CancelLeave => self.cancel_leave().await.map(|()| ControlReply::Done),
            ControlRequest::Maintenance { secs } => self.maintenance(secs).await.map(|()| ControlReply::Done),
            ControlRequest::Conflicts { path } => {
                let path = path.as_ref().map(|path| path.0.as_slice());
                conflicts::conflicts(&self.host, path).map(ControlReply::Conflicts)
            }
            ControlRequest::Resolve { path, how } => {
                let conflicts = self.volume.resolve_conflict(&path.0, how.parse()?).await? as u64;
                Ok(ControlReply::Resolved { conflicts })
            }
            ControlRequest::WhichMounts => Ok(ControlReply::Mounts(report::mounts(self.mountpoints()))),
        }
    }

    async fn policy(&self, path: &[u8], set: Option<&str>, partition: Option<&str>) -> Result<PolicyReport, String> {
        let shown = String::from_utf8_lossy(path).into_owned();
        let ino = self.host.namespace().resolve(path).ok_or_else(|| report::no_such_path(path))?;
        let kind = self.host.namespace().inode(ino).map(|inode| inode.kind.clone());
        let mut changes = Vec::new();
        if let Some(text) = set {
            let policy: Policy = text.parse().map_err(|error: crate::policy::PolicyError| error.to_string())?;
            if !matches!(kind, Some(Kind::File | Kind::Directory)) {
                return Err(format!(
                    "{shown} is neither a file nor a directory, and has no policy; give what it leads to"
                ));
            }
            changes.push(Change::SetPolicy { ino, policy: Some(policy) });
        }
        if let Some(text) = partition {
            let mode = text.parse()?;
            if kind != Some(Kind::Directory) {
                return Err(format!("{shown} is no directory: what is done in a partition is set for directories"));
            }
            changes.push(Change::SetPartition { ino, mode: Some(mode) });
        }
        if !changes.is_empty() {
            let refused = |error: Errno| match error.0 {
                libc::EROFS => format!(
                    "{shown} is set to refuse, and this side of the partition is no majority: nothing is changed here before more machines are back"
                ),
                _ => error.to_string(),
            };
            let seq = self.volume.change_at_once(&mut |_| Ok(changes.clone())).map_err(refused)?;
            self.host
                .settle(seq, false)
                .await
                .map_err(|error| format!("it was set here, but not everywhere: {error}"))?;
        }
        let namespace = self.host.namespace();
        let own = namespace.inode(ino).and_then(|inode| inode.policy);
        Ok(PolicyReport {
            path: shown,
            policy: namespace.policy(ino).to_string(),
            inherited: own.is_none(),
            partition: namespace.partition(ino).to_string(),
            partition_inherited: namespace.own_partition(ino).is_none(),
        })
    }

    /// Asks every live peer but this one, all at once; those that do not answer are left out.
    pub(super) async fn ask_all(&self, request: Request) -> Vec<(PeerTag, Response)> {
        let live = self.host.candidates().into_iter().filter(|peer| peer.alive).map(|peer| peer.peer).collect();
        self.ask_each(live, request).await
    }

    /// The same, of these peers; this one is not asked.
    pub(super) async fn ask_each(&self, peers: Vec<PeerTag>, request: Request) -> Vec<(PeerTag, Response)> {
        let Some(network) = self.host.network() else { return Vec::new() };
        let asked: Vec<_> = peers
            .into_iter()
            .filter(|peer| *peer != self.host.me())
            .map(|peer| {
                let (network, request) = (Arc::clone(network), request);
                tokio::spawn(async move { (peer, network.request(peer, request, Bytes::new(), ASK_DEADLINE).await) })
            })
            .collect();
        let mut answers = Vec::new();
        for answer in asked {
            if let Ok((peer, Ok((response, _)))) = answer.await {
                answers.push((peer, response));
            }
        }
        answers
    }

    async fn all_stats(&self) -> StatsReport {
        let mut all = vec![super::own_stats(&self.host)];
        for (peer, response) in self.ask_all(Request::Stats).await {
            if let Response::Stats(stats) = response {
                self.host.note_usage(peer, stats.usage);
                all.push(stats);
            }
        }
        let alive = self.host.candidates().iter().filter(|peer| peer.alive).count();
        let sum = |of: fn(&PeerStats) -> u64| all.iter().map(of).sum();
        StatsReport {
            stored_bytes: sum(|stats| stats.usage.stored + stats.inline_bytes),
            sent_bytes: sum(|stats| stats.sent_bytes),
            received_bytes: sum(|stats| stats.received_bytes),
            cpu_us: sum(|stats| stats.cpu_us),
            resident_bytes: sum(|stats| stats.resident_bytes),
            peers_answered: all.len() as u32,
            peers_asked: alive as u32,
        }
    }
}
