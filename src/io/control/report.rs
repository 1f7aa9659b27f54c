//! What the peer reports, in exactly the JSON shapes that scripts may rely on: fields are added, never renamed.

use serde::{Deserialize, Serialize};

/// `shoal status`: the share in one page.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct StatusReport {
    /// The share's id.
    pub share: String,
    /// The answering peer's id.
    pub peer: String,
    pub peers: Vec<PeerReport>,
    pub groups: GroupCounts,
    /// Any this many machines may be lost now, and everything can still be read.
    pub survives_now: u32,
    /// The same, once every cold group is whole again.
    pub survives_healed: u32,
    pub files_bytes: u64,
    /// What all reachable peers take on disk for content, counted by them: their stores, and once for each of them the small
    /// files that lie in its log.
    pub stored_bytes: u64,
    /// `stored_bytes / files_bytes`, 0 for an empty share; always finite.
    pub overhead: f64,
    pub files: u64,
    pub directories: u64,
    /// Peers whose store is in `stored_bytes`.
    pub peers_answered: u32,
    /// Blocks with fewer reachable shards than a read needs.
    pub blocks_unreadable: u64,
    /// Absolute paths where the answering peer has the share mounted.
    pub mounts: Vec<String>,
    /// The root directory's policy.
    pub policy: String,
    pub healing: HealingReport,
    pub scrub: ScrubReport,
    /// Files that were set aside in the stores of the peers that answered: foreign ones, and damaged shards. They are
    /// kept, and never served.
    pub files_set_aside: u64,
    /// Volumes of those stores that were found cut short or damaged at a start. They stay; what is intact in them is
    /// served, and the rest is got again from others.
    pub volumes_damaged: u64,
    pub log: LogReport,
    /// Conflicts that nobody has settled.
    pub conflicts: u64,
    /// Machines of the roster that are not reachable, and did not say that they go, nor are under maintenance; none: there
    /// are no such.
    pub partition: Option<PartitionReport>,
    /// Machines that were stopped, and are not reachable.
    pub stopped: Vec<String>,
    /// What other machines did that was refused here, or looks wrong, of late; oldest first.
    pub refused: Vec<RefusedReport>,
    /// By how many milliseconds this machine's clock is ahead of those of all others that are connected, two at least;
    /// none: it is not off by more than a minute from each of them.
    pub clock_ahead_ms: Option<i64>,
}

/// Something that a machine did, and that was refused or looks wrong.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct RefusedReport {
    /// Its name and id.
    pub who: String,
    pub what: String,
    /// When it did so last, in seconds since 1970 by the answering peer's clock, and how often since its start.
    pub at: u64,
    pub times: u64,
}

/// The log of changes on the answering peer: what some machine that counts has not got, or not said so.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct LogReport {
    pub ops: u64,
    pub bytes: u64,
}

/// Machines that are not reachable: they are down, or there is a partition.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct PartitionReport {
    /// Since when, in seconds since 1970.
    pub since: u64,
    /// Their names.
    pub cut_off: Vec<String>,
    /// Machines on this side, this one included, and on the roster.
    pub here: u32,
    pub machines: u32,
    /// This side is more than half of the roster: directories set to refuse can be changed.
    pub majority: bool,
}

/// What healing has before it, and how fast it goes. What was done is counted since the peers' starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct HealingReport {
    /// Groups that want work, their blocks, and the bytes of shards to be stored for them.
    pub groups: u64,
    pub blocks: u64,
    pub bytes: u64,
    /// What is rebuilt now, by all peers that answered.
    pub bytes_per_second: u64,
    /// At that pace; none: nothing moves now.
    pub seconds_left: Option<u64>,
    pub shards_rebuilt: u64,
    pub bytes_rebuilt: u64,
    /// Blocks with fewer reachable shards than a read needs: no work helps them.
    pub blocks_unreadable: u64,
    /// Groups that are cold now.
    pub groups_cold: u64,
}

/// How the shards are checked, by all peers that answered. What was found is counted since the peers' starts.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ScrubReport {
    /// Shards read by the scrubs under way, and how many there are.
    pub shards_checked: u64,
    pub shards: u64,
    /// Damaged shards found, and how many of them are whole again.
    pub rot_found: u64,
    pub rot_mended: u64,
    pub peers: Vec<ScrubbedPeer>,
}

/// How one peer checks its shards.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ScrubbedPeer {
    pub peer: String,
    pub shards_checked: u64,
    pub shards: u64,
    /// When it had last read them all, in seconds since 1970; none: it has not yet.
    pub ended: Option<u64>,
    pub rot_found: u64,
    pub rot_mended: u64,
}

/// Groups by state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct GroupCounts {
    pub cold: u64,
    pub goldilocks: u64,
    pub hot: u64,
}

/// `shoal peers`: everyone on the roster.
pub type PeersReport = Vec<PeerReport>;

/// One peer, as the answering peer sees it.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct PeerReport {
    pub id: String,
    pub name: String,
    /// `ADDRESS:PORT` it was last reached at, or announces.
    pub address: String,
    pub alive: bool,
    /// This is the answering peer.
    pub here: bool,
    /// Declared zone; empty if none.
    pub zone: String,
    /// Machine identity; empty if unknown.
    pub host: String,
    /// What its store takes, can still take above its reserve, and the size of the file system; none if it did
    /// not say.
    pub stored_bytes: Option<u64>,
    pub free_bytes: Option<u64>,
    pub capacity_bytes: Option<u64>,
    /// Its owner has it leave: others take over what it holds.
    pub leaving: bool,
    /// Until then, in seconds since 1970, its being away is no reason for repair; none: no maintenance is announced.
    pub maintenance_until: Option<u64>,
    /// It was away for so long that the log is not kept for it any more: it takes a snapshot when it is back.
    pub let_go: bool,
    /// By how many milliseconds its clock is ahead of the answering peer's; none: by less than a minute, or not known.
    pub clock_ahead_ms: Option<i64>,
}

/// `shoal groups`.
pub type GroupsReport = Vec<GroupReport>;

/// One group and who sits in it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct GroupReport {
    pub id: String,
    pub policy: String,
    /// `cold`, `goldilocks` or `hot`.
    pub state: String,
    /// How many blocks it holds.
    pub blocks: u64,
    pub slots: Vec<SlotReport>,
    /// `K+M`, or the number of copies.
    pub geometry: String,
    /// Any this many machines may be lost now, and its blocks can still be read; none: they cannot be read now.
    pub survives_now: Option<u32>,
}

/// One slot of a group.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SlotReport {
    pub slot: u32,
    pub participants: Vec<AliveParticipant>,
}

/// A peer seated in a slot.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct AliveParticipant {
    pub peer: String,
    pub alive: bool,
}

/// `shoal where`: which peers hold a file.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct WhereReport {
    /// Absolute in the share; bytes that are no UTF-8 show as replacement characters.
    pub path: String,
    pub size: u64,
    pub policy: String,
    /// Bytes that lie in the namespace itself, which every peer has.
    pub inline_bytes: u64,
    /// In the order of the file; holes have none.
    pub blocks: Vec<BlockReport>,
    /// `file`, `directory`, `symlink` or `special`.
    pub kind: String,
}

/// One block of a file.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct BlockReport {
    pub index: u64,
    /// Its name: the hash of its content.
    pub block: String,
    pub bytes: u64,
    pub group: String,
    /// The group's state.
    pub state: String,
    pub shards: Vec<ShardReport>,
}

/// One shard of a block and who should have it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ShardReport {
    pub slot: u32,
    pub peer: String,
    pub alive: bool,
}

/// `shoal policy`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct PolicyReport {
    pub path: String,
    pub policy: String,
    /// It is not set here but comes from a directory above, or is the share's default.
    pub inherited: bool,
    /// What holds for it in a partition: `keep-both` or `refuse`.
    pub partition: String,
    /// It is set further up, or nowhere.
    pub partition_inherited: bool,
}

/// The counters of all reachable peers, summed. They only grow, save `stored_bytes` and `resident_bytes`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct StatsReport {
    /// Bytes on disk for content.
    pub stored_bytes: u64,
    /// Bytes of network packets sent and received since the processes started.
    pub sent_bytes: u64,
    pub received_bytes: u64,
    /// Processor time used since the processes started, in microseconds.
    pub cpu_us: u64,
    /// Memory the processes hold now.
    pub resident_bytes: u64,
    /// Peers whose counters are in the sums.
    pub peers_answered: u32,
    /// Peers that were alive and asked.
    pub peers_asked: u32,
}

/// `shoal can-stop`: the share with some peers gone.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct CanStopReport {
    /// Their ids.
    pub peers: Vec<String>,
    /// Everything can still be read.
    pub readable: bool,
    /// Files and blocks that cannot be read then.
    pub files_unreadable: u64,
    pub blocks_unreadable: u64,
    /// Those of them that can be read as long as these machines are there.
    pub files_cut_off: u64,
    pub blocks_cut_off: u64,
    /// Any so many machines more may be lost then, and everything can be read; none: it cannot.
    pub survives: Option<u32>,
    /// The same, once the others are whole again by themselves.
    pub survives_healed: u32,
}

/// `shoal check`: what was gone through, and what is wrong.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct CheckReport {
    /// Nothing is wrong with what could be looked at.
    pub sound: bool,
    pub files: u64,
    pub directories: u64,
    pub blocks: u64,
    /// Shards that were asked for.
    pub shards: u64,
    /// Those of them that are not where they should be.
    pub shards_missing: u64,
    /// Blocks that cannot be read from what was found.
    pub blocks_unreadable: u64,
    /// The names of machines that hold shards, and could not be asked.
    pub silent: Vec<String>,
    /// What is wrong, one line each; only the first of many.
    pub findings: Vec<String>,
}

/// `shoal evict`: who is off the roster now, and what went with it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct EvictReport {
    pub peer: String,
    pub name: String,
    pub files_lost: u64,
    pub blocks_lost: u64,
    /// Any so many machines more may be lost now; none: something cannot be read.
    pub survives: Option<u32>,
}

/// `shoal leave`: this machine is off the roster, and may be switched off.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct LeaveReport {
    pub peer: String,
    pub files_lost: u64,
    pub blocks_lost: u64,
}

/// `shoal conflicts`: what two sides did that did not fit together, as far as nobody has settled it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ConflictsReport {
    pub conflicts: Vec<ConflictReport>,
    /// So many more are not listed.
    pub more: u64,
}

/// One conflict.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ConflictReport {
    /// Absolute in the share, of what one side did; bytes that are no UTF-8 show as replacement characters.
    pub path: String,
    /// The same, byte by byte.
    pub path_bytes: super::ByteText,
    /// `file`, `directory`, `symlink` or `special`.
    pub kind: String,
    /// What was done to what is at `path`.
    pub this: DeedReport,
    /// What the other side did.
    pub other: DeedReport,
    /// Where the other version is, or where the other side wanted it; none: it wanted it gone.
    pub other_path: Option<String>,
    /// There is another version, at `other_path`; else only a wish that was not met.
    pub has_other_version: bool,
}

/// One side's part in a conflict.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct DeedReport {
    /// `created`, `changed`, `deleted`, `moved` or `moved-in-circle`.
    pub what: String,
    /// The machine's name, or its id where it is off the roster.
    pub by: String,
    /// Its id.
    pub peer: String,
    /// In seconds since 1970.
    pub at: u64,
}

/// A place where the answering peer has the share mounted.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct MountReport {
    pub mountpoint: super::ByteText,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// Every field of `promised` is in `made` with the same value.
    fn keeps(promised: &Value, made: &Value) -> bool {
        match (promised, made) {
            (Value::Object(promised), Value::Object(made)) => {
                promised.iter().all(|(key, value)| made.get(key).is_some_and(|m| keeps(value, m)))
            }
            (Value::Array(promised), Value::Array(made)) => {
                promised.len() == made.len() && promised.iter().zip(made).all(|(p, m)| keeps(p, m))
            }
            _ => promised == made,
        }
    }

    #[test]
    fn status_has_the_promised_shape() {
        let report = StatusReport {
            share: "s".into(),
            peer: "p000001".into(),
            peers: vec![PeerReport {
                id: "p000001".into(),
                name: "one".into(),
                address: "10.0.0.1:7310".into(),
                alive: true,
                here: true,
                ..PeerReport::default()
            }],
            groups: GroupCounts { cold: 1, goldilocks: 2, hot: 0 },
            survives_now: 1,
            survives_healed: 2,
            files_bytes: 100,
            stored_bytes: 150,
            overhead: 1.5,
            ..StatusReport::default()
        };
        let promised = json!({
            "share": "s", "peer": "p000001",
            "peers": [{"id": "p000001", "name": "one", "address": "10.0.0.1:7310", "alive": true, "here": true}],
            "groups": {"cold": 1, "goldilocks": 2, "hot": 0},
            "survives_now": 1, "survives_healed": 2, "files_bytes": 100, "stored_bytes": 150, "overhead": 1.5,
        });
        let made = serde_json::to_value(&report).unwrap();
        assert!(keeps(&promised, &made), "{made}");
        assert_eq!(serde_json::from_value::<StatusReport>(made).unwrap(), report);
    }

    #[test]
    fn where_has_the_promised_shape() {
        let report = WhereReport {
            path: "/a".into(),
            size: 5,
            policy: "rs:4+2".into(),
            blocks: vec![BlockReport {
                index: 0,
                block: "ab".into(),
                bytes: 5,
                group: "g1".into(),
                state: "cold".into(),
                shards: vec![ShardReport { slot: 0, peer: "p000001".into(), alive: false }],
            }],
            ..WhereReport::default()
        };
        let promised = json!({
            "path": "/a", "size": 5, "policy": "rs:4+2", "inline_bytes": 0,
            "blocks": [{"index": 0, "block": "ab", "bytes": 5, "group": "g1", "state": "cold",
                "shards": [{"slot": 0, "peer": "p000001", "alive": false}]}],
        });
        let made = serde_json::to_value(&report).unwrap();
        assert!(keeps(&promised, &made), "{made}");
    }

    #[test]
    fn groups_have_the_promised_shape() {
        let report: GroupsReport = vec![GroupReport {
            id: "g1".into(),
            policy: "replicate:3".into(),
            state: "goldilocks".into(),
            blocks: 7,
            slots: vec![SlotReport {
                slot: 2,
                participants: vec![AliveParticipant { peer: "p000001".into(), alive: true }],
            }],
            ..GroupReport::default()
        }];
        let promised = json!([{"id": "g1", "policy": "replicate:3", "state": "goldilocks", "blocks": 7,
            "slots": [{"slot": 2, "participants": [{"peer": "p000001", "alive": true}]}]}]);
        let made = serde_json::to_value(&report).unwrap();
        assert!(keeps(&promised, &made), "{made}");
    }
}
