//! The commands that look after a share: who may be stopped, who is taken off, who leaves, who is away for a while.

use crate::harness::{BOUND, Cluster, PATIENCE, Ran, apart, ends_within, run, tree};
use crate::healing::{FREED, HEALED, all_goldilocks, groups, id, impatient, mounted, same, seated, start};
use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Exit code 1 and one line with these words.
#[track_caller]
fn refused(ran: &Ran, words: &[&str]) {
    assert_eq!(ran.code, Some(1), "`{}`\n{}{}", ran.line, ran.stdout, ran.stderr);
    let message = ran.stderr.trim();
    assert_eq!(message.lines().count(), 1, "one line says it: {message}");
    assert!(words.iter().all(|word| message.contains(word)), "not all of {words:?} in: {message}");
}

/// The machines among the first so many that hold shards, as the first one sees it.
fn holders(cluster: &Cluster, machines: usize) -> Vec<usize> {
    let seated = seated(cluster, 0);
    (0..machines).filter(|i| seated.contains(&id(cluster, *i))).collect()
}

fn name(i: usize) -> String {
    format!("peer{i}")
}

/// Whether the first machine has that one on its roster.
fn on_roster(cluster: &Cluster, i: usize) -> bool {
    cluster.json(0, &["peers"]).as_array().unwrap().iter().any(|peer| peer["name"] == name(i))
}

#[test]
fn a_machine_is_stopped_or_evicted_only_where_the_others_have_everything() {
    let mut cluster = Cluster::share(3);
    mounted(&mut cluster, "replicate:2");
    let content = tree::noise(31, 3 << 20);
    fs::write(cluster.path(0).join("file"), &content).unwrap();
    let held = holders(&cluster, 3);
    assert_eq!(held.len(), 2, "{held:?}");
    let (first, second) = (name(held[0]), name(held[1]));

    let one = cluster.json(0, &["can-stop", &second]);
    assert_eq!((&one["readable"], &one["survives"]), (&true.into(), &0.into()), "{one}");
    let said = cluster.run(0, &["can-stop", &second]).ok();
    assert!(said.contains("It would then survive no further loss"), "{said}");
    refused(&cluster.run(0, &["can-stop", &first, &second]), &["1 file (3 blocks)"]);
    let both: serde_json::Value =
        serde_json::from_str(&cluster.run(0, &["can-stop", &first, &second, "--json"]).stdout).unwrap();
    assert_eq!((&both["readable"], &both["blocks_unreadable"]), (&false.into(), &3.into()), "{both}");
    refused(&cluster.run(0, &["can-stop", "nobody"]), &["'nobody' is no peer"]);

    refused(&cluster.run(0, &["evict", "peer0"]), &["shoal leave"]);
    // With one of the two gone, the other is the last that has it.
    let (gone, last) = if held[1] == 0 { (held[0], held[1]) } else { (held[1], held[0]) };
    let asked = (0..3).find(|i| *i != gone && *i != last).unwrap();
    cluster.kill(gone);
    cluster.wait_until(BOUND, "the dead machine is known dead", |c| !c.sees_alive(asked, gone));
    let healing = cluster.status(asked)["healing"].clone();
    assert_eq!((&healing["groups"], &healing["blocks"]), (&1.into(), &3.into()), "{healing}");
    assert_eq!(healing["bytes"], 3 << 20, "three blocks of a MiB lack a copy: {healing}");
    refused(&cluster.run(asked, &["evict", &name(last)]), &["1 file (3 blocks) would be lost", "--accept-loss"]);
    cluster.run(asked, &["evict", &name(gone)]).ok();
    cluster.wait_until(HEALED, "the third machine has the second copy", |c| all_goldilocks(c, 0));
    assert!(!on_roster(&cluster, gone));
    assert!(same(&cluster.path(0).join("file"), &content));
}

#[test]
fn a_machine_that_leaves_hands_over_first_and_may_change_its_mind() {
    let mut cluster = impatient(4, "replicate:2");
    let content = tree::noise(32, 6 << 20);
    fs::write(cluster.path(0).join("file"), &content).unwrap();
    let goes = *holders(&cluster, 4).last().unwrap();
    assert_ne!(goes, 0, "two machines hold it");
    refused(&cluster.run(goes, &["leave", "--cancel"]), &["not leaving"]);

    let mut child = cluster.shoal(goes, &["leave"]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    cluster.wait_until(BOUND, "it is known to leave", |c| {
        c.json(0, &["peers"]).as_array().unwrap().iter().any(|peer| peer["leaving"] == true)
    });
    run(Command::new("kill").arg("-INT").arg(child.id().to_string()), PATIENCE).ok();
    let status = ends_within(&mut child, BOUND).expect("an interrupted command ends");
    assert_eq!(status.code(), Some(1));
    let said = std::io::read_to_string(child.stderr.take().unwrap()).unwrap();
    assert!(said.contains("goes on leaving") && said.contains("shoal leave --cancel"), "{said}");
    cluster.run(goes, &["leave", "--cancel"]).ok();
    assert!(cluster.json(0, &["peers"]).as_array().unwrap().iter().all(|peer| peer["leaving"] == false));

    let goes = *holders(&cluster, 4).last().unwrap();
    let said = cluster.run(goes, &["leave"]).ok();
    assert!(said.contains("handed over") && said.contains("may be switched off"), "{said}");
    cluster.ends(goes);
    cluster.wait_until(HEALED, "all is well without it", |c| all_goldilocks(c, 0));
    assert_eq!(cluster.status(0)["peers"].as_array().unwrap().len(), 3);
    assert_eq!(cluster.status(0)["survives_now"], 1);
    assert!(same(&cluster.path(0).join("file"), &content));
    refused(&cluster.run(goes, &["serve", "--foreground"]), &["was taken off the roster"]);
}

#[test]
fn a_machine_whose_store_is_damaged_is_not_counted_on_before_it_is_whole_again() {
    let mut cluster = Cluster::share(2);
    mounted(&mut cluster, "replicate:2");
    let content = tree::noise(37, 8 << 20);
    fs::write(cluster.path(0).join("file"), &content).unwrap();
    cluster.stop(1);
    let volumes = cluster.home(1).join("shards").join("volumes");
    let volume = fs::read_dir(volumes).unwrap().map(|entry| entry.unwrap().path()).max().unwrap();
    fs::File::options().write(true).open(&volume).unwrap().set_len(1 << 20).unwrap();
    cluster.configure(1, "repair_bandwidth = \"1 MiB\"");
    cluster.serve(1);
    cluster.all_in_sight();
    refused(&cluster.run(0, &["can-stop", "peer0"]), &["1 file (8 blocks)"]);
    let status = cluster.status(0);
    assert_eq!(status["survives_now"], 0, "{status}");
    assert!(status["healing"]["groups"].as_u64() > Some(0), "there is something left to heal: {status}");
    let mut leaving = cluster.shoal(0, &["leave"]);
    run(&mut leaving, HEALED).ok();
    let there = cluster.mount(1).join("file");
    assert!(same(&there, &content), "all of it was handed over");
}

#[test]
fn a_check_finds_what_is_missing_and_nothing_once_it_is_whole() {
    let mut cluster = Cluster::share(3);
    mounted(&mut cluster, "replicate:2");
    let file = cluster.path(0).join("file");
    fs::write(&file, tree::noise(40, 8 << 20)).unwrap();
    fs::write(cluster.path(0).join("small"), b"inline").unwrap();
    let report = cluster.json(0, &["check"]);
    assert_eq!((&report["sound"], &report["files"]), (&true.into(), &2.into()), "{report}");
    assert_eq!((&report["blocks"], &report["shards"]), (&8.into(), &16.into()), "{report}");
    assert_eq!(cluster.json(2, &["check", "--read"])["sound"], true);
    let damaged = *holders(&cluster, 3).last().unwrap();
    cluster.stop(damaged);
    let away = cluster.json(0, &["check"]);
    assert_eq!((&away["sound"], &away["silent"]), (&true.into(), &serde_json::json!([name(damaged)])), "{away}");
    let volumes = cluster.home(damaged).join("shards").join("volumes");
    let volume = fs::read_dir(volumes).unwrap().map(|entry| entry.unwrap().path()).max().unwrap();
    fs::File::options().write(true).open(&volume).unwrap().set_len(5 << 20).unwrap();
    cluster.configure(damaged, "repair_bandwidth = \"256 KiB\"");
    cluster.restart(damaged);
    cluster.all_in_sight();
    let found = cluster.run(0, &["check"]);
    refused(&found, &["not where they should be", "shoal repair"]);
    assert!(found.stdout.contains(&format!("is not on {}", name(damaged))), "{}", found.stdout);
    cluster.wait_until(HEALED, "all of it is there again", |c| c.run(0, &["check"]).code == Some(0));
}

/// Has these machines leave at once, as a person would with a terminal on each.
fn leaving(cluster: &Cluster, machines: &[usize]) -> Vec<Child> {
    let leave = |i: &usize| {
        let mut command = cluster.shoal(*i, &["leave"]);
        apart(move || command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    };
    machines.iter().map(leave).collect()
}

#[test]
fn two_machines_that_hold_all_there_is_may_leave_at_once() {
    let mut cluster = impatient(3, "replicate:2");
    let content = tree::noise(38, 24 << 20);
    fs::write(cluster.path(0).join("file"), &content).unwrap();
    let held = holders(&cluster, 3);
    assert_eq!(held.len(), 2, "{held:?}");
    let stays = (0..3).find(|i| !held.contains(i)).unwrap();
    let there = if stays == 0 { cluster.path(0) } else { cluster.mount(stays) };
    for mut child in leaving(&cluster, &held) {
        assert!(ends_within(&mut child, HEALED).is_some_and(|status| status.success()), "both hand over, and go");
    }
    held.iter().for_each(|i| cluster.ends(*i));
    assert_eq!(cluster.status(stays)["peers"].as_array().unwrap().len(), 1);
    assert!(same(&there.join("file"), &content));
}

#[test]
fn of_two_machines_that_are_all_there_is_one_stays_though_both_leave() {
    let mut cluster = impatient(2, "replicate:2");
    let content = tree::noise(39, 8 << 20);
    fs::write(cluster.path(0).join("file"), &content).unwrap();
    cluster.mount(1);
    let mut children = leaving(&cluster, &[0, 1]);
    let waits = |cluster: &Cluster, i: usize| cluster.log(i).matches("as other machines leave too").count();
    let mut gone = None;
    cluster.wait_until(HEALED, "one of the two has left, or both wait", |c| {
        gone = (0..2).find(|i| children[*i].try_wait().unwrap().is_some_and(|status| status.success()));
        gone.is_some() || (0..2).all(|i| waits(c, i) > 0)
    });
    if gone.is_none() {
        // Both asked before either knew of the other: each waits for the other to stay, and nothing is lost.
        assert!((0..2).all(|i| cluster.is_running(i)));
        cluster.run(1, &["leave", "--cancel"]).ok();
        assert!(ends_within(&mut children[0], HEALED).is_some_and(|status| status.success()), "now it may go");
        gone = Some(0);
    }
    let (gone, stays) = (gone.unwrap(), 1 - gone.unwrap());
    cluster.ends(gone);
    let before = cluster.log(stays).matches("cannot leave yet").count();
    cluster.wait_until(HEALED, "the other was refused, stays, or would have gone, and may not", |c| {
        let ended = children[stays].try_wait().unwrap().is_some();
        ended || c.log(stays).matches("cannot leave yet").count() > before
    });
    assert!(cluster.is_running(stays), "the last one has no right to go");
    assert!(same(&cluster.path(stays).join("file"), &content), "and its mount is still there");
    // It is refused where it already knew of the other, and waits for somebody to come where it did not.
    if children[stays].try_wait().unwrap().is_none() {
        cluster.run(stays, &["leave", "--cancel"]).ok();
    }
    let ended = ends_within(&mut children[stays], BOUND).expect("what waited for it to leave ends");
    assert_eq!(ended.code(), Some(1));
    assert_eq!(cluster.status(stays)["survives_now"], 0);
}

#[test]
fn the_last_machine_does_not_leave_without_a_word() {
    let mut cluster = Cluster::share(1);
    mounted(&mut cluster, "survive:2");
    let file = cluster.path(0).join("file");
    fs::write(&file, tree::noise(33, 2 << 20)).unwrap();
    refused(&cluster.run(0, &["leave"]), &["1 file (2 blocks) would be lost", "--accept-loss"]);
    assert!(file.exists(), "what was refused changed nothing");
    let said = cluster.run(0, &["leave", "--accept-loss"]).ok();
    assert!(said.contains("1 file (2 blocks) went with it"), "{said}");
    cluster.ends(0);
}

#[test]
fn under_maintenance_a_machine_is_not_made_up_for_until_the_time_is_over() {
    let mut cluster = impatient(3, "replicate:2");
    fs::write(cluster.path(0).join("file"), tree::noise(34, 1 << 20)).unwrap();
    let away = *holders(&cluster, 3).last().unwrap();
    let length = Duration::from_secs(20);
    let from = Instant::now();
    cluster.run(away, &["maintenance", "on", "--for", "20s"]).ok();
    cluster.kill(away);
    cluster.wait_until(BOUND, "it is known dead", |c| !c.sees_alive(0, away));
    assert!(!all_goldilocks(&cluster, 0));
    let filled = |cluster: &Cluster| {
        let slots = groups(cluster, 0).into_iter().flat_map(|group| group["slots"].as_array().unwrap().clone());
        slots.flat_map(|slot| slot["participants"].as_array().unwrap().clone()).count() > 2
    };
    // A second of absence is all that is put up with otherwise.
    while from.elapsed() < length - Duration::from_secs(4) {
        assert!(!filled(&cluster), "it was made up for after {:?}", from.elapsed());
        std::thread::sleep(Duration::from_millis(200));
    }
    cluster.wait_until(HEALED, "it is made up for when its time is over", |c| all_goldilocks(c, 0));
}

#[test]
fn an_evicted_machine_is_cut_off_and_others_hold_what_it_held() {
    let mut cluster = impatient(4, "replicate:2");
    let content = tree::noise(38, 4 << 20);
    fs::write(cluster.path(0).join("file"), &content).unwrap();
    let out = *holders(&cluster, 4).last().unwrap();
    let (out_id, others): (String, Vec<usize>) = (id(&cluster, out), (0..4).filter(|i| *i != out).collect());
    let said = cluster.run(0, &["evict", &name(out)]).ok();
    assert!(said.contains("is off the roster and cut off"), "{said}");
    // One that heard of it stops; one that did not is alone from now on.
    cluster.wait_until(BOUND, "nobody is connected with it", |c| others.iter().all(|i| !c.sees_alive(out, *i)));
    cluster.wait_until(HEALED, "others hold what it held", |c| all_goldilocks(c, 0) && !seated(c, 0).contains(&out_id));
    assert!(others.iter().all(|i| !cluster.sees_alive(*i, out)) && !on_roster(&cluster, out));
    cluster.kill(out);
    assert!(same(&cluster.path(0).join("file"), &content));
}

#[test]
fn repair_is_watched_until_nothing_is_left_to_do() {
    let mut cluster = impatient(4, "replicate:2");
    fs::write(cluster.path(0).join("file"), tree::noise(35, 8 << 20)).unwrap();
    let dead = *holders(&cluster, 4).last().unwrap();
    cluster.kill(dead);
    cluster.wait_until(BOUND, "it is known dead", |c| !c.sees_alive(0, dead));
    let said = cluster.run(0, &["repair", "--watch"]).ok();
    assert!(said.ends_with("Nothing is left to heal.\n"), "{said}");
    assert!(all_goldilocks(&cluster, 0));
    let healing = cluster.json(0, &["repair"]);
    assert_eq!((&healing["groups"], &healing["seconds_left"]), (&0.into(), &0.into()), "{healing}");
    let rebuilt = healing["bytes_rebuilt"].as_u64().unwrap();
    assert!(rebuilt >= 8 << 20, "eight blocks of a MiB had lost a copy: {healing}");
    assert!(cluster.run(0, &["status"]).ok().contains("Nothing is left to heal."));
}

#[test]
fn how_far_repair_is_how_fast_it_goes_and_how_long_it_takes_is_seen_while_it_goes_on() {
    let mut cluster = Cluster::loopback(3);
    for i in 0..3 {
        start(&mut cluster, i);
        cluster.stop(i);
        // A block is read and stored: some 12 seconds for all of it.
        cluster.configure(i, "repair_bandwidth = '4 MiB'");
        cluster.serve(i);
    }
    cluster.all_in_sight();
    mounted(&mut cluster, "replicate:2");
    let size = 24 << 20;
    fs::write(cluster.path(0).join("file"), tree::noise(39, size)).unwrap();
    let dead = *holders(&cluster, 3).last().unwrap();
    cluster.kill(dead);
    cluster.wait_until(BOUND, "it is known dead", |c| !c.sees_alive(0, dead));
    let watching = cluster.shoal(0, &["repair", "--watch"]).stdout(Stdio::piped()).spawn().unwrap();
    let (mut left, mut timed) = (Vec::new(), 0);
    cluster.wait_until(HEALED, "it is made up for", |c| {
        let status = c.status(0);
        let healing = &status["healing"];
        left.push(healing["bytes"].as_u64().unwrap());
        let pace = healing["bytes_per_second"].as_u64().unwrap();
        timed += usize::from(left.last() > Some(&0) && pace > 0 && healing["seconds_left"].as_u64() > Some(0));
        all_goldilocks(c, 0)
    });
    left.dedup();
    let on_the_way = left.iter().filter(|bytes| (1..size as u64).contains(*bytes)).count();
    assert!(on_the_way >= 4, "one group of 24 blocks, and what is left of it goes down step by step: {left:?}");
    assert!(timed >= 2, "a pace and a time were told {timed} times");
    let said = watching.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("/s, about ") && said.contains(" of 24)"), "{said}");
    assert!(said.ends_with("Nothing is left to heal.\n"), "{said}");
}

#[test]
fn a_store_sets_aside_what_is_not_its_own_and_a_scrub_finds_what_is_rotten() {
    let mut cluster = impatient(3, "replicate:2");
    let content = tree::noise(36, 4 << 20);
    fs::write(cluster.path(0).join("file"), &content).unwrap();
    let odd = *holders(&cluster, 3).last().unwrap();
    cluster.stop(odd);
    let store = cluster.home(odd).join("shards");
    let volume = fs::read_dir(store.join("volumes")).unwrap().next().unwrap().unwrap().path();
    let bytes = fs::read(&volume).unwrap();
    let strange: [(&str, &[u8]); 3] =
        [("holiday.jpg", b"no shard"), ("00000777.volume", &bytes), ("00000778.volume", &bytes[..5000])];
    strange.iter().for_each(|(name, bytes)| fs::write(store.join("volumes").join(name), bytes).unwrap());
    // The last shard in it is cut off.
    fs::write(&volume, &bytes[..bytes.len() - 100]).unwrap();
    cluster.serve(odd);
    cluster.all_in_sight();
    assert_eq!(cluster.status(0)["files_set_aside"], 3);
    assert_eq!(cluster.status(0)["volumes_damaged"], 1);
    let said = cluster.run(0, &["status"]).ok();
    assert!(said.contains("3 files were set aside") && said.contains("1 volume in the stores was found cut"), "{said}");
    for (name, bytes) in strange {
        assert_eq!(fs::read(store.join("aside").join(name)).unwrap(), bytes, "{name} is kept as it was");
    }

    let file = fs::File::options().write(true).open(&volume).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[0; 100], 600_000).unwrap();
    let before = cluster.json(0, &["scrub"]);
    assert_eq!((&before["rot_found"], before["peers"].as_array().unwrap().len()), (&0.into(), 3), "{before}");
    let said = cluster.run(0, &["scrub", "--now"]).ok();
    // The one that was written over; and the one that was cut off, if it had not been got again by then.
    assert!(said.contains("1 damaged shard was found") || said.contains("2 damaged shards were found"), "{said}");
    let after = cluster.json(0, &["scrub"]);
    assert!(after["peers"].as_array().unwrap().iter().all(|peer| peer["ended"].is_u64()), "{after}");
    cluster.wait_until(HEALED, "it is whole again", |c| {
        let scrub = &c.status(0)["scrub"];
        scrub["rot_found"] == after["rot_found"] && scrub["rot_mended"] == after["rot_found"]
    });
    assert_eq!(cluster.status(0)["files_set_aside"], 4, "the damaged one is kept too");
    let others: Vec<usize> = (1..3).filter(|i| *i != odd).collect();
    cluster.kill_all(&others);
    assert!(same(&cluster.path(0).join("file"), &content));
}

#[test]
fn a_machine_that_kept_only_its_key_joins_again_as_the_same_peer() {
    let mut cluster = impatient(4, "replicate:2");
    let content = tree::noise(37, 4 << 20);
    fs::write(cluster.path(0).join("file"), &content).unwrap();
    let wiped = *holders(&cluster, 4).last().unwrap();
    let before = id(&cluster, wiped);
    cluster.kill(wiped);
    let home = cluster.home(wiped);
    fs::remove_dir_all(home.join("shards")).unwrap();
    fs::remove_dir_all(home.join("log")).unwrap();
    fs::remove_file(home.join("tree.redb")).unwrap();
    refused(&cluster.run(wiped, &["serve", "--foreground"]), &["shoal join TICKET", "the same peer"]);
    let ticket = cluster.invite(0);
    cluster.join(wiped, &ticket);
    cluster.serve(wiped);
    cluster.all_in_sight();
    assert_eq!(id(&cluster, wiped), before);
    assert_eq!(cluster.status(0)["peers"].as_array().unwrap().len(), 4);
    cluster.wait_until(HEALED, "every block has two copies again", |c| {
        let stored = c.status(0)["stored_bytes"].as_u64().unwrap();
        all_goldilocks(c, 0) && stored >= 2 * content.len() as u64
    });
    // It takes part again: what it writes is everywhere.
    let mountpoint = cluster.mount(wiped);
    fs::write(mountpoint.join("new"), b"from the one that came back").unwrap();
    assert!(same(&cluster.path(0).join("new"), b"from the one that came back"));
    assert!(same(&mountpoint.join("file"), &content));
    refused(&cluster.try_join(wiped, &ticket), &["already"]);
}

#[test]
fn a_machine_whose_maintenance_was_ended_is_made_up_for_again() {
    let mut cluster = impatient(3, "replicate:2");
    fs::write(cluster.path(0).join("file"), tree::noise(40, 1 << 20)).unwrap();
    let away = *holders(&cluster, 3).last().unwrap();
    cluster.run(away, &["maintenance", "on", "--for", "1h"]).ok();
    assert!(cluster.run(0, &["status"]).ok().contains("is under maintenance for"));
    let said = cluster.run(away, &["maintenance", "off"]).ok();
    assert!(said.contains("Maintenance is over."), "{said}");
    assert!(!cluster.run(0, &["status"]).ok().contains("maintenance"));
    cluster.kill(away);
    cluster.wait_until(BOUND, "it is known dead", |c| !c.sees_alive(0, away));
    cluster.wait_until(HEALED, "it is made up for", |c| all_goldilocks(c, 0));
}

#[test]
fn a_machine_that_was_away_lets_go_of_what_was_deleted_meanwhile() {
    let mut cluster = Cluster::share(3);
    mounted(&mut cluster, "replicate:2");
    let size = 8 << 20;
    fs::write(cluster.path(0).join("file"), tree::noise(41, size)).unwrap();
    let away = *holders(&cluster, 3).last().unwrap();
    cluster.stop(away);
    fs::remove_file(cluster.path(0).join("file")).unwrap();
    cluster.restart(away);
    cluster.all_in_sight();
    let stored = |c: &Cluster| {
        let status = c.status(0);
        (status["peers_answered"] == 3).then(|| status["stored_bytes"].as_u64().unwrap())
    };
    assert!(stored(&cluster) >= Some(size as u64), "it came back with its copy");
    cluster.wait_until(FREED, "all of it is gone", |c| {
        std::thread::sleep(Duration::from_millis(500));
        stored(c).is_some_and(|stored| stored < size as u64 / 100)
    });
}
