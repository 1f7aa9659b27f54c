//! `shoal groups`: the groups and who sits in them.

use super::{LOOK_DEADLINE, ask, output, unexpected};
use crate::io::control::{ControlReply, ControlRequest, GroupReport};
use std::path::Path;

pub fn run(home: &Path, format: output::Format) -> anyhow::Result<()> {
    match ask(home, &ControlRequest::Groups, LOOK_DEADLINE)? {
        ControlReply::Groups(report) if format.json => output::print_json(&report),
        ControlReply::Groups(report) if report.is_empty() => {
            output::print("No groups yet: nothing larger than fits into the namespace was written.\n")
        }
        ControlReply::Groups(report) => output::print(&format!("{}\n", table(&report))),
        other => Err(unexpected(&other)),
    }
}

fn table(groups: &[GroupReport]) -> String {
    let mut table = output::table(&["group", "policy", "shape", "state", "blocks", "survives", "participants by slot"]);
    for group in groups {
        let slots: Vec<String> = group
            .slots
            .iter()
            .map(|slot| match slot.participants.as_slice() {
                [] => "-".to_owned(),
                seated => {
                    let seated: Vec<String> = seated
                        .iter()
                        .map(|seat| format!("{}{}", seat.peer, if seat.alive { "" } else { " (gone)" }))
                        .collect();
                    seated.join("+")
                }
            })
            .collect();
        table.add_row([
            group.id.clone(),
            group.policy.clone(),
            group.geometry.clone(),
            group.state.clone(),
            group.blocks.to_string(),
            group.survives_now.map_or("unreadable".to_owned(), |losses| losses.to_string()),
            slots.join(", "),
        ]);
    }
    output::right(&mut table, &[4, 5]);
    output::text(&table)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::control::{AliveParticipant, SlotReport};

    #[test]
    fn a_slot_shows_who_is_gone_and_who_is_double() {
        let seat = |peer: &str, alive| AliveParticipant { peer: peer.into(), alive };
        let group = GroupReport {
            id: "g1".into(),
            state: "hot".into(),
            slots: vec![
                SlotReport { slot: 0, participants: vec![seat("p1", true), seat("p2", true)] },
                SlotReport { slot: 1, participants: vec![seat("p3", false)] },
                SlotReport { slot: 2, participants: vec![] },
            ],
            survives_now: None,
            ..GroupReport::default()
        };
        let text = table(&[group]);
        assert!(text.contains("p1+p2, p3 (gone), -"), "{text}");
        assert!(text.contains("unreadable"), "{text}");
    }
}
