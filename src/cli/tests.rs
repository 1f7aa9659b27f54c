//! What people type, and what they are told when it is wrong.

use super::*;

fn parsed(line: &str) -> Result<Cli, Usage> {
    parse(line.split_whitespace().map(OsString::from))
}

fn refused(line: &str) -> String {
    let usage = parsed(line).err().unwrap_or_else(|| panic!("'{line}' was taken"));
    assert_eq!(usage.code, 2, "{line}");
    assert!(usage.text.starts_with("shoal: ") && usage.text.ends_with('\n'), "{}", usage.text);
    assert_eq!(usage.text.lines().count(), 1, "{}", usage.text);
    usage.text
}

#[test]
fn every_documented_command_line_is_taken() {
    for line in [
        "shoal init",
        "shoal init --listen 127.0.0.1:0 --name one --policy rs:4+2",
        "shoal invite --expires 90m --uses 3",
        "shoal join TICKET --listen [::]:7310 --name two",
        "shoal mount /mnt --foreground",
        "shoal mount /mnt --set cache_bytes=1 --set zone=attic",
        "shoal serve --foreground --ready-fd 3",
        "shoal unmount /mnt",
        "shoal stop",
        "shoal --home /h status --json",
        "shoal status --home /h",
        "shoal peers --json",
        "shoal groups --json",
        "shoal where /mnt/a --json",
        "shoal policy /mnt/a",
        "shoal policy /mnt/a survive:1",
        "shoal policy /mnt/a --partition refuse",
        "shoal policy /mnt/a rs:2+1 --partition keep-both",
        "shoal can-stop p1 attic --json",
        "shoal leave --accept-loss",
        "shoal leave --cancel",
        "shoal evict p1 --accept-loss",
        "shoal maintenance on --for 2h",
        "shoal maintenance off",
        "shoal repair --watch",
        "shoal repair --json",
        "shoal scrub --now",
        "shoal scrub --json",
        "shoal conflicts",
        "shoal conflicts /mnt/a --json",
        "shoal conflicts /mnt/a --resolve keep-other",
        "shoal compare",
        "shoal compare a b --policies replicate:3,rs:4+2,survive:2 --json",
        "shoal demo --peers 8 --dir /usr/share --keep",
    ] {
        if let Err(usage) = parsed(line) {
            panic!("{line}: {}", usage.text);
        }
    }
}

#[test]
fn wrong_usage_is_one_line_that_says_what_is_wrong() {
    assert!(refused("shoal mount").contains("<MOUNTPOINT>"));
    assert!(refused("shoal fly").contains("'fly'"));
    assert!(refused("shoal").contains("usage: shoal"));
    assert!(refused("shoal init --listen here").contains("'here'"));
    let policy = refused("shoal policy /a raid:5");
    assert!(policy.contains("'raid:5' is no policy") && policy.contains("rs:K+M"), "{policy}");
    assert!(refused("shoal init --policy rs:31+2").contains("too many shards"));
    assert!(refused("shoal compare --policies rs:4+2,nothing").contains("'nothing' is no policy"));
    assert!(refused("shoal invite --expires soon").contains("such as 90m or 24h"));
    assert!(refused("shoal maintenance on --for soon").contains("such as 90m or 24h"));
    assert!(refused("shoal can-stop").contains("<PEER>"));
    assert!(refused("shoal leave --cancel --accept-loss").contains("--accept-loss"));
    assert!(refused("shoal invite --uses 0").contains("0 is not in"));
    assert!(refused("shoal demo --peers 2").contains("2 is not in 6..=32"));
    assert!(refused("shoal serve --ready-fd 3").contains("--foreground"));
    assert!(refused("shoal serve --set nonsense").contains("NAME=VALUE"));
}

#[test]
fn help_and_version_are_no_errors() {
    for line in ["shoal --help", "shoal demo --help", "shoal --version"] {
        let usage = parsed(line).err().unwrap();
        assert_eq!(usage.code, 0);
        assert!(usage.text.contains("shoal") || usage.text.contains("Usage"), "{}", usage.text);
    }
}

#[test]
fn the_command_lines_definition_holds_together() {
    Cli::command().debug_assert();
}

#[test]
fn a_home_that_is_given_is_made_absolute() {
    let here = std::env::current_dir().unwrap();
    assert_eq!(home(Some(Path::new("h"))).unwrap(), here.join("h"));
    assert!(home(Some(Path::new(""))).is_err());
    assert!(home(None).unwrap().is_absolute());
}

#[test]
fn commands_say_whether_the_home_is_none_or_its_peer_is_not_running() {
    let place = tempfile::tempdir().unwrap();
    let said = |home: &Path, line: &str| {
        let line = format!("shoal --home {} {line}", home.display());
        one_line(&run(parsed(&line).unwrap()).unwrap_err())
    };
    let none = place.path().join("none");
    for line in [
        "status",
        "peers --json",
        "groups",
        "where /a",
        "policy /a",
        "invite",
        "stop",
        "serve",
        "compare",
        "can-stop a",
        "leave",
        "evict a",
        "maintenance on",
        "repair",
        "scrub",
    ] {
        let text = said(&none, line);
        assert!(
            text.contains("is no peer's home yet; make it one with shoal init or shoal join TICKET"),
            "{line}: {text}"
        );
        if line == "serve" {
            continue;
        }
        let text = said(place.path(), line);
        assert!(text.contains("no peer is running for") && text.contains("shoal mount"), "{line}: {text}");
    }
    let text = said(place.path(), "mount /no/such/place");
    assert!(text.contains("make it with mkdir -p /no/such/place"), "{text}");
    assert!(said(place.path(), "mount /proc/self/status").contains("is no directory"));
    assert!(said(place.path(), "unmount /no/such/place").contains("is no mount of a share"));
}

#[test]
fn an_error_with_causes_is_one_line() {
    let error = anyhow::anyhow!("the disk\n  failed").context("writing").context("storing");
    assert_eq!(one_line(&error), "storing: writing: the disk failed");
}
