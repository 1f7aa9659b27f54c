//! `shoal peers`: everyone on the roster.

use super::{LOOK_DEADLINE, ask, output, unexpected};
use crate::io::control::{ControlReply, ControlRequest, PeerReport};
use std::path::Path;

pub fn run(home: &Path, format: output::Format) -> anyhow::Result<()> {
    match ask(home, &ControlRequest::Peers, LOOK_DEADLINE)? {
        ControlReply::Peers(report) if format.json => output::print_json(&report),
        ControlReply::Peers(report) => output::print(&format!("{}\n", table(&report))),
        other => Err(unexpected(&other)),
    }
}

/// One line a peer.
pub fn table(peers: &[PeerReport]) -> String {
    let mut table = output::table(&["peer", "name", "address", "state", "zone", "stored", "free"]);
    for peer in peers {
        let mut state = match (peer.here, peer.alive) {
            (true, _) => "here",
            (false, true) => "alive",
            (false, false) => "gone",
        }
        .to_owned();
        if peer.leaving {
            state += ", leaving";
        }
        if peer.maintenance_until.is_some() {
            state += ", maintenance";
        }
        if peer.let_go {
            state += ", let go";
        }
        if let Some(ahead) = peer.clock_ahead_ms {
            state += &format!(", clock {:+} min", ahead / 60_000);
        }
        let bytes = |bytes: Option<u64>| bytes.map_or("?".to_owned(), output::bytes);
        table.add_row([
            peer.id.clone(),
            peer.name.clone(),
            peer.address.clone(),
            state,
            if peer.zone.is_empty() { "-".to_owned() } else { peer.zone.clone() },
            bytes(peer.stored_bytes),
            bytes(peer.free_bytes),
        ]);
    }
    output::right(&mut table, &[5, 6]);
    output::text(&table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_is_odd_about_a_peer() {
        let odd = PeerReport { name: "laptop".into(), let_go: true, ..PeerReport::default() };
        let early = PeerReport { alive: true, clock_ahead_ms: Some(7 * 60_000 + 1), ..PeerReport::default() };
        let late = PeerReport { alive: true, clock_ahead_ms: Some(-3_600_000), ..PeerReport::default() };
        let table = table(&[odd, early, late, PeerReport { alive: true, ..PeerReport::default() }]);
        let lines: Vec<&str> = table.lines().skip(1).collect();
        assert!(lines[0].contains("gone, let go"), "{table}");
        assert!(lines[1].contains("alive, clock +7 min") && lines[2].contains("alive, clock -60 min"), "{table}");
        assert!(!lines[3].contains("alive,"), "{table}");
    }
}
