//! What the peer tells people of itself and the share: status, peers, groups, where a file lies.

use super::Host;
use crate::group::{self, Holdings, State};
use crate::id::{Ino, PeerTag};
use crate::io::control::{
    AliveParticipant, BlockReport, ByteText, GroupCounts, GroupReport, GroupsReport, LogReport, MountReport,
    PartitionReport, PeerReport, ShardReport, SlotReport, StatsReport, StatusReport, WhereReport,
};
use crate::namespace::{Group, Kind, Source};
use crate::volume::ports::{Candidate, Control};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// The share in one page, but for what this peer's daemon and the other peers do; `stats` are the counters of all that
/// answered, `holdings` what their stores have.
pub fn status(host: &Host, stats: &StatsReport, holdings: &Holdings) -> StatusReport {
    let (counts, blocks_unreadable) = states(host, holdings);
    let alive = live(host);
    let namespace = host.namespace();
    let held = namespace.groups().map(|(id, group)| holdings.held(id, group));
    let survival = group::losses_survived(held, &alive, namespace.policy(Ino::ROOT));
    let files = namespace.files();
    let policy = namespace.policy(Ino::ROOT).to_string();
    let log = namespace.log_size();
    let conflicts = namespace.conflicts().count() as u64;
    drop(namespace);
    let (partition, stopped) = partition(host);
    StatusReport {
        share: host.share().to_string(),
        peer: host.me().to_string(),
        peers: peers(host),
        groups: counts,
        survives_now: survival.now.unwrap_or(0),
        survives_healed: survival.healed,
        files_bytes: files.bytes,
        stored_bytes: stats.stored_bytes,
        overhead: if files.bytes == 0 { 0.0 } else { stats.stored_bytes as f64 / files.bytes as f64 },
        files: files.files,
        directories: files.directories,
        peers_answered: stats.peers_answered,
        blocks_unreadable,
        policy,
        log: LogReport { ops: log.ops, bytes: log.bytes },
        refused: host.reports().all(),
        clock_ahead_ms: host.with_core(|core, _| core.own_clock_ahead()),
        conflicts,
        partition,
        stopped,
        ..StatusReport::default()
    }
}

/// Who is not reachable without having said so, and the names of those that were stopped.
fn partition(host: &Host) -> (Option<PartitionReport>, Vec<String>) {
    let candidates = host.candidates();
    let namespace = host.namespace();
    let (mut report, mut stopped) = (PartitionReport::default(), Vec::new());
    let mut since = host.now();
    for gone in candidates.iter().filter(|candidate| !candidate.alive) {
        let (lost, ended) = host.lost(gone.peer);
        let name = namespace.peer(gone.peer).map_or_else(|| gone.peer.to_string(), |record| record.name.clone());
        if ended {
            stopped.push(name);
        } else if namespace.standing(gone.peer).maintenance_until <= host.now() {
            since = since.min(lost);
            report.cut_off.push(name);
        }
    }
    drop(namespace);
    report.since = since.millis() / 1000;
    report.machines = candidates.len() as u32;
    report.here = candidates.iter().filter(|candidate| candidate.alive).count() as u32;
    report.majority = host.has_majority();
    ((!report.cut_off.is_empty()).then_some(report), stopped)
}

/// How many groups are in which state, and how many blocks cannot be read now.
pub fn states(host: &Host, holdings: &Holdings) -> (GroupCounts, u64) {
    let alive = live(host);
    let mut counts = GroupCounts::default();
    let mut blocks_unreadable = 0;
    for (id, group) in host.namespace().groups().filter(|(_, group)| group.blocks > 0) {
        match state(group, &alive) {
            State::Cold => counts.cold += 1,
            State::Goldilocks => counts.goldilocks += 1,
            State::Hot => counts.hot += 1,
        }
        if group_survives(&holdings.held(id, group), &alive).is_none() {
            blocks_unreadable += u64::from(group.blocks);
        }
    }
    (counts, blocks_unreadable)
}

/// Everyone on the roster.
pub fn peers(host: &Host) -> Vec<PeerReport> {
    let candidates = host.candidates();
    let clocks: BTreeMap<PeerTag, i64> = host.with_core(|core, namespace| {
        namespace.peers().filter_map(|(peer, _)| Some((peer, core.clock_ahead(peer)?))).collect()
    });
    let namespace = host.namespace();
    let report = |candidate: Candidate| {
        let record = namespace.peer(candidate.peer)?;
        let usage = host.usage(candidate.peer);
        let until = namespace.standing(candidate.peer).maintenance_until;
        Some(PeerReport {
            id: candidate.peer.to_string(),
            name: record.name.clone(),
            address: record.addresses.first().map(ToString::to_string).unwrap_or_default(),
            alive: candidate.alive,
            here: candidate.peer == host.me(),
            zone: record.zone.clone(),
            host: record.host.clone(),
            stored_bytes: usage.map(|usage| usage.stored),
            free_bytes: usage.map(|usage| usage.free),
            capacity_bytes: usage.map(|usage| usage.capacity),
            leaving: candidate.leaving,
            clock_ahead_ms: clocks.get(&candidate.peer).copied(),
            let_go: namespace.is_away(candidate.peer),
            maintenance_until: (until > host.now()).then(|| until.millis() / 1000),
        })
    };
    candidates.into_iter().filter_map(report).collect()
}

/// Every group that holds blocks.
pub fn groups(host: &Host) -> GroupsReport {
    let alive = live(host);
    let namespace = host.namespace();
    let held = namespace.groups().filter(|(_, group)| group.blocks > 0);
    let report = |(id, group): (crate::id::GroupId, &Group)| GroupReport {
        id: id.to_string(),
        policy: group.policy.to_string(),
        state: state_word(state(group, &alive)).to_owned(),
        blocks: u64::from(group.blocks),
        slots: group
            .slots
            .iter()
            .enumerate()
            .map(|(slot, seats)| SlotReport {
                slot: slot as u32,
                participants: seats
                    .iter()
                    .map(|seat| AliveParticipant { peer: seat.peer.to_string(), alive: alive.contains(&seat.peer) })
                    .collect(),
            })
            .collect(),
        geometry: group.geometry.to_string(),
        survives_now: group_survives(group, &alive),
    };
    held.map(report).collect()
}

/// Where the content of one file lies.
pub fn locate(host: &Host, path: &[u8]) -> Result<WhereReport, String> {
    let alive = live(host);
    let namespace = host.namespace();
    let ino = namespace.resolve(path).ok_or_else(|| no_such_path(path))?;
    let inode = namespace.inode(ino).ok_or_else(|| no_such_path(path))?;
    let mut report = WhereReport {
        path: String::from_utf8_lossy(path).into_owned(),
        size: inode.size,
        policy: namespace.policy(ino).to_string(),
        kind: match inode.kind {
            Kind::File => "file",
            Kind::Directory => "directory",
            Kind::Symlink { .. } => "symlink",
            Kind::Special { .. } => "special",
        }
        .to_owned(),
        ..WhereReport::default()
    };
    for (_, extent) in namespace.extents(ino, 0, u64::MAX) {
        match &extent.source {
            Source::Inline(bytes) => report.inline_bytes += bytes.len() as u64,
            Source::Hole => {}
            Source::Block { name, .. } => {
                let Some(block) = namespace.block(name) else { continue };
                let mut entry = BlockReport {
                    index: report.blocks.len() as u64,
                    block: name.to_string(),
                    bytes: u64::from(block.len),
                    group: block.group.to_string(),
                    ..BlockReport::default()
                };
                if let Some(group) = namespace.group(block.group) {
                    entry.state = state_word(state(group, &alive)).to_owned();
                    entry.shards = shards(group, &alive);
                }
                report.blocks.push(entry);
            }
        }
    }
    Ok(report)
}

/// The message for a path that the share does not have.
pub fn no_such_path(path: &[u8]) -> String {
    format!(
        "the share has no {}; give a path inside a mount, or one that starts at the share's root",
        String::from_utf8_lossy(path)
    )
}

pub fn mounts(mountpoints: Vec<PathBuf>) -> Vec<MountReport> {
    mountpoints.iter().map(|path| MountReport { mountpoint: ByteText::from(path.as_path()) }).collect()
}

fn shards(group: &Group, alive: &BTreeSet<PeerTag>) -> Vec<ShardReport> {
    let seats =
        group.slots.iter().enumerate().flat_map(|(slot, seats)| seats.iter().map(move |seat| (slot, seat.peer)));
    seats
        .map(|(slot, peer)| ShardReport { slot: slot as u32, peer: peer.to_string(), alive: alive.contains(&peer) })
        .collect()
}

fn live(host: &Host) -> BTreeSet<PeerTag> {
    host.candidates().into_iter().filter(|peer| peer.alive).map(|peer| peer.peer).collect()
}

fn state(group: &Group, alive: &BTreeSet<PeerTag>) -> State {
    group::state(group, |peer| alive.contains(&peer))
}

fn group_survives(group: &Group, alive: &BTreeSet<PeerTag>) -> Option<u32> {
    group::losses_survived([group], alive, group.policy).now
}

fn state_word(state: State) -> &'static str {
    match state {
        State::Cold => "cold",
        State::Goldilocks => "goldilocks",
        State::Hot => "hot",
    }
}
