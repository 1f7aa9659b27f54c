//! `shoal status`: plain words first, then the figures.

use super::{LOOK_DEADLINE, ask, output, peers, repair, scrub, unexpected};
use crate::io::control::{ControlReply, ControlRequest, RefusedReport, StatusReport};
use output::{bytes, count};
use std::path::Path;

pub fn run(home: &Path, format: output::Format) -> anyhow::Result<()> {
    match ask(home, &ControlRequest::Status, LOOK_DEADLINE)? {
        ControlReply::Status(report) if format.json => output::print_json(&report),
        ControlReply::Status(report) => output::print(&text(&report)),
        other => Err(unexpected(&other)),
    }
}

fn text(report: &StatusReport) -> String {
    let mut text = survival(report);
    // Of a nearly empty share, what deleted files left behind makes it say nothing.
    let times = match report.overhead {
        times if times > 0.0 && times < 100.0 => format!(" ({times:.2} times)"),
        _ => String::new(),
    };
    text += &format!(
        "{} in {}: {} of files, {} stored on all machines together{}, policy {}.\n",
        count(report.files, "file", "files"),
        count(report.directories, "directory", "directories"),
        bytes(report.files_bytes),
        bytes(report.stored_bytes),
        times,
        report.policy,
    );
    let alive = report.peers.iter().filter(|peer| peer.alive).count();
    text += &format!("{alive} of {} reachable.", count(report.peers.len() as u64, "machine", "machines"));
    if (report.peers_answered as usize) < alive {
        text += &format!(" Only {} said what they store.", report.peers_answered);
    }
    text += &match report.mounts.as_slice() {
        [] => " Not mounted on this one.\n".to_owned(),
        mounts => format!(" Mounted here on {}.\n", mounts.join(" and ")),
    };
    text += &partition(report);
    let groups = report.groups;
    text += &format!("Groups: {} cold, {} goldilocks, {} hot.", groups.cold, groups.goldilocks, groups.hot);
    text += &format!(" {}\n", repair::text(&report.healing));
    text += &upkeep(report);
    text += &refused(report);
    text += "\n";
    text += &peers::table(&report.peers);
    text += &format!("\n\nshare {}\n", report.share);
    text
}

/// Who is not reachable, and what that means for those who change something here.
fn partition(report: &StatusReport) -> String {
    let mut text = String::new();
    if let Some(cut) = &report.partition {
        let names: Vec<String> = cut.cut_off.iter().map(|name| output::shown(name)).collect();
        let machines = count(cut.machines.into(), "machine", "machines");
        let majority = match cut.majority {
            true => "a majority: what is changed here is merged when they are back",
            false => {
                "no majority: directories set to refuse are read-only here, what is changed elsewhere is merged when they are back"
            }
        };
        text += &format!(
            "Cut off from {} since {} (or they are down): this side has {} of {machines}, {majority}.\n",
            names.join(", "),
            output::clock(cut.since),
            cut.here,
        );
    }
    for name in &report.stopped {
        text += &format!("{} was stopped.\n", output::shown(name));
    }
    text
}

/// What else goes on, where something does.
fn upkeep(report: &StatusReport) -> String {
    let mut text = String::new();
    for peer in report.peers.iter().filter(|peer| peer.leaving) {
        text += &format!("{} is leaving: it must not be switched off before shoal leave says so there.\n", peer.name);
    }
    for (peer, until) in report.peers.iter().filter_map(|peer| Some((peer, peer.maintenance_until?))) {
        let left = output::duration(until.saturating_sub(scrub::now()));
        text += &format!("{} is under maintenance for {left} more: no repair for it meanwhile.\n", peer.name);
    }
    text += &clocks(report);
    for peer in report.peers.iter().filter(|peer| peer.let_go) {
        text += &format!(
            "{} was away for too long to keep every change for it: when it is back it takes a snapshot, and its own changes are kept.\n",
            peer.name
        );
    }
    if report.scrub.shards > 0 {
        let shards = count(report.scrub.shards, "shard", "shards");
        text += &format!("Scrub: {} of {shards} read in this round.\n", report.scrub.shards_checked);
    }
    if report.scrub.rot_found > 0 {
        text += &format!("{}\n", scrub::damage(&report.scrub));
    }
    if report.conflicts > 0 {
        let conflicts = count(report.conflicts, "conflict is", "conflicts are");
        text += &format!("{conflicts} to be settled: two sides did what did not fit together. See shoal conflicts.\n");
    }
    if report.files_set_aside > 0 {
        text += &format!(
            "{} set aside in the stores, in shards/aside of each home: no shards, or damaged ones. None is served or deleted.\n",
            count(report.files_set_aside, "file was", "files were")
        );
    }
    if report.volumes_damaged > 0 {
        text += &format!(
            "{} found cut short or damaged: what is intact there is served, and the rest is got again from others.\n",
            count(report.volumes_damaged, "volume in the stores was", "volumes in the stores were")
        );
    }
    text
}

/// Clocks that are wrong: this machine's, where all others say so, and those of others, held against the rest.
fn clocks(report: &StatusReport) -> String {
    let words = |ahead_ms: i64| {
        let minutes = ahead_ms.unsigned_abs().div_ceil(60_000);
        if ahead_ms > 0 { format!("{minutes} min ahead of") } else { format!("{minutes} min behind") }
    };
    let mut text = String::new();
    if let Some(ahead) = report.clock_ahead_ms {
        text += &format!("This machine's clock is {} those of all others: set it right.\n", words(ahead));
    }
    let own = report.clock_ahead_ms.unwrap_or(0);
    let off = report.peers.iter().filter_map(|peer| Some((peer, peer.clock_ahead_ms?.saturating_add(own))));
    for (peer, ahead) in off.filter(|(_, ahead)| ahead.unsigned_abs() > 60_000) {
        let than = if own == 0 { "this machine's" } else { "the others'" };
        text += &format!("The clock of {} is {} {than}: set it right.\n", peer.name, words(ahead));
    }
    text
}

/// What was refused of late.
fn refused(report: &StatusReport) -> String {
    let now = scrub::now();
    let line = |refused: &RefusedReport| {
        let times = if refused.times > 1 { format!(", {} times", refused.times) } else { String::new() };
        format!("{} ago{times}: {} {}\n", output::duration(now.saturating_sub(refused.at)), refused.who, refused.what)
    };
    report.refused.iter().map(line).collect()
}

/// What a person wants to know first.
fn survival(report: &StatusReport) -> String {
    let machines = |losses: u32| match losses {
        1 => "any 1 machine".to_owned(),
        losses => format!("any {losses} machines"),
    };
    let mut text = String::new();
    if report.blocks_unreadable > 0 {
        text += &format!(
            "{} cannot be read now: too few of their shards are on reachable machines. Start the machines that are gone.\n",
            count(report.blocks_unreadable, "block", "blocks")
        );
    } else if report.files == 0 {
        text += "The share is empty.\n";
    } else if report.survives_now > 0 {
        text += &format!("Everything here survives the loss of {}.\n", machines(report.survives_now));
    } else if report.peers.len() <= 1 {
        text +=
            "Nothing here survives the loss of this machine: it is the only one. Let another join with shoal invite.\n";
    } else {
        text += "Not everything here survives the loss of a machine.\n";
    }
    let groups = report.groups.cold + report.groups.goldilocks + report.groups.hot;
    if report.groups.cold > 0 {
        text += &format!(
            "{} of {} cold: too few live participants on separate machines",
            report.groups.cold,
            count(groups, "group is", "groups are")
        );
        text += &match report.survives_healed {
            healed if healed > report.survives_now => {
                format!("; once whole again, everything survives the loss of {}.\n", machines(healed))
            }
            _ => ".\n".to_owned(),
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::control::{GroupCounts, PartitionReport, PeerReport};

    fn report(now: u32, healed: u32, cold: u64) -> StatusReport {
        StatusReport {
            files: 3,
            survives_now: now,
            survives_healed: healed,
            groups: GroupCounts { cold, goldilocks: 4, hot: 0 },
            peers: vec![PeerReport { alive: true, ..PeerReport::default() }; 6],
            peers_answered: 6,
            ..StatusReport::default()
        }
    }

    #[test]
    fn the_first_line_says_what_the_share_survives() {
        let first = |report: &StatusReport| survival(report).lines().next().unwrap_or_default().to_owned();
        assert_eq!(first(&report(2, 2, 0)), "Everything here survives the loss of any 2 machines.");
        assert_eq!(first(&report(1, 2, 3)), "Everything here survives the loss of any 1 machine.");
        assert_eq!(first(&report(0, 0, 0)), "Not everything here survives the loss of a machine.");
        let alone = StatusReport { peers: vec![PeerReport::default()], ..report(0, 0, 0) };
        assert!(first(&alone).contains("shoal invite"));
        assert_eq!(first(&StatusReport { files: 0, ..report(2, 2, 0) }), "The share is empty.");
        let lost = StatusReport { blocks_unreadable: 5, ..report(0, 2, 3) };
        assert!(first(&lost).starts_with("5 blocks cannot be read now"), "{}", first(&lost));
    }

    #[test]
    fn cold_groups_are_named_with_what_healing_brings() {
        let said = survival(&report(1, 2, 3));
        assert!(said.contains("3 of 7 groups are cold"), "{said}");
        assert!(said.contains("once whole again, everything survives the loss of any 2 machines."), "{said}");
        assert!(!survival(&report(2, 2, 0)).contains("cold"));
    }

    #[test]
    fn what_goes_on_is_said_and_nothing_where_nothing_does() {
        assert_eq!(upkeep(&report(2, 2, 0)), "");
        let mut busy = report(2, 2, 0);
        busy.peers[1] = PeerReport { name: "attic".into(), leaving: true, ..PeerReport::default() };
        busy.peers[2] = PeerReport { name: "cellar".into(), maintenance_until: Some(0), ..PeerReport::default() };
        busy.peers[3] = PeerReport { name: "laptop".into(), let_go: true, ..PeerReport::default() };
        busy.scrub.rot_found = 1;
        busy.files_set_aside = 2;
        busy.volumes_damaged = 1;
        busy.conflicts = 3;
        let said = upkeep(&busy);
        for words in [
            "3 conflicts are to be settled",
            "attic is leaving",
            "laptop was away for too long",
            "cellar is under maintenance",
            "1 damaged shard was",
            "2 files were set aside",
            "1 volume in the stores was found cut short",
        ] {
            assert!(said.contains(words), "{words}: {said}");
        }
    }

    #[test]
    fn wrong_clocks_and_what_was_refused_are_named() {
        let mut off = report(2, 2, 0);
        assert_eq!(clocks(&off) + &refused(&off), "");
        off.peers[2] = PeerReport { name: "cellar".into(), clock_ahead_ms: Some(7 * 60_000), ..PeerReport::default() };
        assert_eq!(clocks(&off), "The clock of cellar is 7 min ahead of this machine's: set it right.\n");
        off.clock_ahead_ms = Some(-7 * 60_000);
        assert_eq!(clocks(&off), "This machine's clock is 7 min behind those of all others: set it right.\n");
        off.peers[1] = PeerReport { name: "attic".into(), clock_ahead_ms: Some(67 * 60_000), ..PeerReport::default() };
        assert!(clocks(&off).ends_with("The clock of attic is 60 min ahead of the others': set it right.\n"));
        let (who, what) = ("attic (p00002a)".to_owned(), "was cut off: op 7".to_owned());
        off.refused = vec![RefusedReport { who, what, at: scrub::now(), times: 3 }];
        assert!(refused(&off).contains("3 times: attic (p00002a) was cut off: op 7"), "{}", refused(&off));
    }

    #[test]
    fn a_partition_is_told_with_who_since_when_and_what_follows() {
        assert_eq!(partition(&report(2, 2, 0)), "");
        let cut = PartitionReport {
            since: 1_700_000_000,
            cut_off: vec!["attic".into(), "cellar".into()],
            here: 2,
            machines: 4,
            majority: false,
        };
        let apart = |cut| StatusReport { partition: Some(cut), stopped: vec!["den".into()], ..report(2, 2, 0) };
        let said = text(&apart(cut.clone()));
        for words in [
            "Cut off from attic, cellar since 2023-11-14 22:13:20 UTC",
            "this side has 2 of 4 machines, no majority: directories set to refuse are read-only here",
            "den was stopped",
        ] {
            assert!(said.contains(words), "{words}: {said}");
        }
        let said = partition(&apart(PartitionReport { here: 3, majority: true, ..cut }));
        assert!(said.contains("3 of 4 machines, a majority") && !said.contains("read-only"), "{said}");
    }

    #[test]
    fn the_page_has_the_figures() {
        let page = StatusReport { files_bytes: 1 << 30, stored_bytes: 3 << 29, overhead: 1.5, ..report(2, 2, 0) };
        let said = text(&page);
        assert!(said.contains("3 files in 0 directories: 1 GiB of files, 1.50 GiB stored"), "{said}");
        assert!(said.contains("(1.50 times)"), "{said}");
        assert!(!text(&StatusReport { overhead: 3e8, ..page.clone() }).contains(" times)"));
        assert!(said.contains("6 of 6 machines reachable."), "{said}");
    }
}
