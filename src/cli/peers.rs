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
