//! Homes that are new, taken, foreign, newer, damaged.

use super::*;

const KEY: &[u8] = b"a secret key";
const SHARE: ShareId = ShareId([5; 16]);

fn new_home() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a").join("home");
    drop(Home::create(&path, SHARE, KEY).unwrap());
    (directory, path)
}

fn says(result: Result<Home, StoreError>, words: &[&str]) {
    let error = result.err().expect("it was accepted").to_string();
    assert!(words.iter().all(|word| error.contains(word)) && !error.contains('\n'), "{error}");
}

#[test]
fn a_home_is_found_again_as_it_was_made_and_open_to_its_owner_only() {
    let (_directory, path) = new_home();
    let home = Home::open(&path).unwrap();
    assert_eq!((home.share(), home.key()), (SHARE, KEY));
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
    assert_eq!((mode(&path), mode(&path.join("key")), mode(&path.join("lock"))), (0o700, 0o600, 0o600));
    drop(home);
    fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    drop(Home::open(&path).unwrap());
    assert_eq!(mode(&path), 0o700);
}

#[test]
fn a_home_that_is_a_peer_or_holds_other_files_is_refused_to_a_new_one() {
    let (directory, path) = new_home();
    says(Home::create(&path, SHARE, KEY), &["already is a peer", "--home"]);
    assert!(matches!(Home::can_create(&path), Err(StoreError::AlreadyPeer { .. })));
    let other = directory.path().join("documents");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("thesis.txt"), "years of work").unwrap();
    fs::set_permissions(&other, Permissions::from_mode(0o755)).unwrap();
    says(Home::create(&other, SHARE, KEY), &["thesis.txt", "empty or new"]);
    assert_eq!(fs::metadata(&other).unwrap().mode() & 0o777, 0o755, "a refused directory stays as it was");
    assert_eq!(fs::read_dir(&other).unwrap().count(), 1);
    Home::can_create(&directory.path().join("new")).unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    says(Home::open(&file), &["file"]);
}

#[test]
fn a_create_that_was_cut_off_can_be_done_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("home");
    // Whatever is written before `format`, the home is none yet.
    fs::create_dir(&path).unwrap();
    for leftover in ["lock", "share.tmp", "share", "key.tmp", "key", "format.tmp", "config.toml"] {
        fs::write(path.join(leftover), "half").unwrap();
        says(Home::open(&path), &["no peer yet", "shoal init"]);
    }
    let home = Home::create(&path, SHARE, KEY).unwrap();
    assert_eq!(home.key(), KEY);
    assert!(!path.join("key.tmp").exists());
}

#[test]
fn a_home_in_use_names_the_process_that_uses_it() {
    let (_directory, path) = new_home();
    let home = Home::open(&path).unwrap();
    let pid = format!("pid {}", std::process::id());
    says(Home::open(&path), &["in use by a running peer", &pid, "shoal stop"]);
    drop(home);
    Home::open(&path).unwrap();
}

#[test]
fn a_home_that_is_not_there_newer_or_damaged_says_which() {
    let (directory, path) = new_home();
    says(Home::open(&directory.path().join("nowhere")), &["no peer yet"]);
    fs::write(path.join("format"), "shoal 2\n").unwrap();
    says(Home::open(&path), &["version 2", "upgrade shoal"]);
    for bad in ["", "shoal 1", "shoal \n", "shoal 0\n", "shoal -1\n", "bread 1\n", "shoal 1\n\n", "\u{fffd}"] {
        fs::write(path.join("format"), bad).unwrap();
        says(Home::open(&path), &["format is damaged"]);
    }
    fs::write(path.join("format"), vec![b'x'; 100_000]).unwrap();
    says(Home::open(&path), &["damaged", "too large"]);
    fs::remove_file(path.join("format")).unwrap();
    fs::create_dir(path.join("log")).unwrap();
    says(Home::open(&path), &["format is damaged: it is missing"]);
    fs::write(path.join("format"), "shoal 1\n").unwrap();
    fs::write(path.join("share"), "05\n").unwrap();
    says(Home::open(&path), &["share is damaged"]);
    fs::write(path.join("share"), format!("{SHARE}\n")).unwrap();
    fs::write(path.join("key"), "").unwrap();
    says(Home::open(&path), &["key is damaged"]);
}

#[test]
fn a_home_of_another_user_is_refused() {
    // Only root can make one; everybody else has one at hand.
    let (directory, path) = new_home();
    let other = if std::os::unix::fs::chown(&path, Some(12345), None).is_ok() { path } else { PathBuf::from("/") };
    says(Home::open(&other), &["belongs to user", "run as its owner"]);
    drop(directory);
}

#[test]
fn a_home_knows_whether_the_machine_went_down_under_it() {
    let (_directory, path) = new_home();
    let lock = path.join("lock");
    assert_eq!(fs::read(&lock).unwrap(), b"", "it was left in order");
    let home = Home::open(&path).unwrap();
    assert!(!home.lost_power());
    let killed = fs::read(&lock).unwrap();
    drop(home);
    // Killed, and started again on the same boot: the kernel kept what was written.
    fs::write(&lock, &killed).unwrap();
    assert!(!Home::open(&path).unwrap().lost_power());
    for before in ["12 00000000-0000-0000-0000-000000000000\n", "12\n", "\0\0\0"] {
        fs::write(&lock, before).unwrap();
        assert!(Home::open(&path).unwrap().lost_power());
    }
}

#[test]
fn a_home_that_lost_all_but_its_key_is_made_again_with_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("home");
    assert!(Home::orphaned_key(&path).unwrap().is_none());
    drop(Home::create(&path, SHARE, KEY).unwrap());
    fs::create_dir(path.join("log")).unwrap();
    assert!(Home::orphaned_key(&path).unwrap().is_none(), "it has a namespace");
    says(Home::revive(&path, SHARE), &["already is a peer"]);
    fs::remove_dir(path.join("log")).unwrap();
    fs::remove_file(path.join("format")).unwrap();
    assert_eq!(Home::orphaned_key(&path).unwrap().as_deref().map(Vec::as_slice), Some(KEY));
    let home = Home::revive(&path, SHARE).unwrap();
    assert_eq!((home.key(), home.share()), (KEY, SHARE));
    drop(home);
    assert_eq!(Home::open(&path).unwrap().key(), KEY);
}
