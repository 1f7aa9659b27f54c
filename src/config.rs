//! Every setting, with its default and its reason; `config.toml` in a home overrides them.
//!
//! A value is checked where it is read, so that a [`Config`] holds only what the rest can work with.

use crate::policy::{DEFAULT_POLICY, Policy};
use serde::de::{self, Deserialize, Deserializer};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The settings of one peer. The reason for each default stands in [`Config::template`].
#[derive(Clone, PartialEq, Eq, Debug, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub listen: SocketAddr,
    /// `None`: the host's name.
    #[serde(deserialize_with = "name")]
    pub name: Option<String>,
    #[serde(deserialize_with = "zone")]
    pub zone: String,
    #[serde(deserialize_with = "policy")]
    pub policy: Policy,
    #[serde(rename = "detection_ms", deserialize_with = "millis::<500, 60_000, _>")]
    pub detection: Duration,
    #[serde(rename = "hedge_ms", deserialize_with = "millis::<1, 10_000, _>")]
    pub hedge: Duration,
    #[serde(rename = "shard_deadline_ms", deserialize_with = "millis::<100, 60_000, _>")]
    pub shard_deadline: Duration,
    #[serde(deserialize_with = "bytes::<{ 4 * MIB }, { 64 * GIB }, _>")]
    pub dirty_bytes: u64,
    #[serde(deserialize_with = "bytes::<0, { 1024 * GIB }, _>")]
    pub cache_bytes: u64,
    #[serde(deserialize_with = "within::<0, 64, _>")]
    pub read_ahead_blocks: u64,
    #[serde(deserialize_with = "within::<0, 90, _>")]
    pub reserve_percent: u64,
    #[serde(deserialize_with = "bytes::<0, { 1024 * GIB }, _>")]
    pub reserve_bytes: u64,
    #[serde(rename = "repair_after_s", deserialize_with = "seconds::<0, 2_592_000, _>")]
    pub repair_after: Duration,
    #[serde(deserialize_with = "bytes::<0, { 1024 * GIB }, _>")]
    pub repair_bandwidth: u64,
    #[serde(deserialize_with = "within::<1, 100, _>")]
    pub repair_busy_percent: u64,
    #[serde(rename = "scrub_days", deserialize_with = "days::<1, 3_650, _>")]
    pub scrub_within: Duration,
    #[serde(deserialize_with = "bytes::<{ 4 * KIB }, { 64 * GIB }, _>")]
    pub away_log: u64,
    #[serde(rename = "away_days", deserialize_with = "days::<1, 3_650, _>")]
    pub away_after: Duration,
    #[serde(deserialize_with = "mtu")]
    pub mtu: u16,
    pub gso: bool,
    #[serde(deserialize_with = "log")]
    pub log: String,
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// The port a peer listens on when nobody says otherwise.
pub const DEFAULT_PORT: u16 = 7447;

/// The longest name and zone, in characters, as the roster holds them.
const NAME_CHARS: usize = 64;

impl Default for Config {
    fn default() -> Self {
        Config {
            listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, DEFAULT_PORT)),
            name: None,
            zone: String::new(),
            policy: DEFAULT_POLICY,
            detection: Duration::from_secs(3),
            hedge: Duration::from_millis(50),
            shard_deadline: Duration::from_secs(3),
            dirty_bytes: 64 * MIB,
            cache_bytes: 64 * MIB,
            read_ahead_blocks: 8,
            reserve_percent: 2,
            reserve_bytes: 256 * MIB,
            repair_after: Duration::from_secs(60),
            repair_bandwidth: 64 * MIB,
            repair_busy_percent: 25,
            scrub_within: Duration::from_secs(14 * 86_400),
            away_log: 64 * MIB,
            away_after: Duration::from_secs(7 * 86_400),
            mtu: 8952,
            gso: true,
            log: "info".to_owned(),
        }
    }
}

/// Why there are no settings, by what the caller can do.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The person has to correct the file.
    #[error("{path}{place}: {why}; correct it, or take the line out to have the default", path = path.display())]
    Wrong { path: PathBuf, place: Place, why: String },
    /// The person has to give another flag.
    #[error("--set {why}; correct it, or leave it out")]
    Flag { why: String },
    /// The file is there, but cannot be read.
    #[error("{path}: cannot be read: {error}; make it readable to this user", path = path.display())]
    Unreadable { path: PathBuf, error: std::io::Error },
}

/// Where in a file; nothing when that is not known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place(pub Option<usize>);

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.map_or(Ok(()), |line| write!(f, ", line {line}"))
    }
}

/// The longest configuration that is read: larger files are something else.
const FILE_BYTES: u64 = 1 << 20;

impl Config {
    /// The settings in this file; the defaults when there is none.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let unreadable = |error| ConfigError::Unreadable { path: path.to_owned(), error };
        let file = match std::fs::File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Config::default()),
            Err(error) => return Err(unreadable(error)),
        };
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut std::io::Read::take(file, FILE_BYTES + 1), &mut bytes).map_err(unreadable)?;
        let wrong =
            |place, why: &str| ConfigError::Wrong { path: path.to_owned(), place: Place(place), why: why.to_owned() };
        if bytes.len() as u64 > FILE_BYTES {
            return Err(wrong(None, "it is larger than 1 MiB, which no configuration is"));
        }
        let text = String::from_utf8(bytes).map_err(|_| wrong(None, "it is not UTF-8 text"))?;
        Config::parse(&text).map_err(|(line, why)| wrong(line, &why))
    }

    /// These settings with some of them set otherwise, by name, as on a command line. A value is TOML, or, where it
    /// is none, a text.
    pub fn with(path: &Path, settings: &[(String, String)]) -> Result<Config, ConfigError> {
        let mut config = Config::load(path)?;
        if settings.is_empty() {
            return Ok(config);
        }
        let mut table =
            std::fs::read_to_string(path).ok().and_then(|text| text.parse::<toml::Table>().ok()).unwrap_or_default();
        for (name, value) in settings {
            let parsed = format!("v = {value}").parse::<toml::Table>().ok().and_then(|mut table| table.remove("v"));
            table.insert(name.clone(), parsed.unwrap_or_else(|| toml::Value::String(value.clone())));
            // After each, so that the error can name it.
            config = table.clone().try_into().map_err(|error: toml::de::Error| ConfigError::Flag {
                why: format!("{name}={value}: {}", error.message()),
            })?;
        }
        Ok(config)
    }

    /// Whether this may be the name of a machine; where not, why.
    pub fn check_name(name: &str) -> Result<(), String> {
        let checked: Result<String, toml::de::Error> = label("name", name.to_owned(), false);
        checked.map(|_| ()).map_err(|error| error.message().to_owned())
    }

    /// The settings in this text, or the line and the reason why not.
    fn parse(text: &str) -> Result<Config, (Option<usize>, String)> {
        toml::from_str(text).map_err(|error| {
            let line =
                error.span().and_then(|span| text.get(..span.start)).map(|before| before.matches('\n').count() + 1);
            (line, error.message().lines().collect::<Vec<_>>().join("; "))
        })
    }

    /// A `config.toml` with every setting commented out at its default, and why that is the default.
    pub fn template() -> String {
        TEMPLATE.to_owned()
    }
}

const TEMPLATE: &str = r#"# The settings of this shoal peer. A line without its '#' takes effect when the peer is started the next time;
# flags on the command line win over this file. Sizes are numbers of bytes or text like "64 MiB".

# Where to listen, for QUIC over UDP. All interfaces, so that other machines reach it; the port is nobody else's
# by convention. Give several peers on one machine a port each.
#listen = "0.0.0.0:7447"

# What people call this machine in lists and in the names of conflict copies: 1 to 64 characters. The host's name,
# unless set.
#name = "attic"

# What fails together with this machine: a room, a power line, a site. Shards are spread over zones first. Empty:
# none declared, and subnets and hosts decide.
#zone = ""

# The policy of a new share, for directories that set none: replicate:N, rs:K+M or survive:M. Two losses, because a
# second machine fails while the first is being replaced often enough; the share picks the geometry.
#policy = "survive:2"

# Milliseconds within which a dead peer is known to be dead, 500 to 60000. Shorter mistakes a busy machine for a
# dead one; longer makes closing a file wait longer when a peer has just died.
#detection_ms = 3000

# Milliseconds a read waits for a shard before it asks one more peer for another, 1 to 10000. Several times what a
# healthy machine takes, so that it costs little; short enough not to be noticed.
#hedge_ms = 50

# Milliseconds after which a peer that has not answered for a shard is given up, 100 to 60000. As long as it takes
# to know that it is dead.
#shard_deadline_ms = 3000

# Memory for written data that is not yet stored, at least 4 MiB; writers wait when it is used up. Enough to keep the
# network busy for half a second at 1 Gbit/s.
#dirty_bytes = "64 MiB"

# Memory for blocks that were read. The kernel caches too; this one holds what is read ahead and what is read in
# pieces.
#cache_bytes = "64 MiB"

# Blocks (1 MiB each) fetched ahead of a program that reads a file in order, 0 to 64; 0 turns it off. Enough to cover
# a round trip to several peers.
#read_ahead_blocks = 8

# What is left free on the store's file system, the larger of the two: a share of it in percent, 0 to 90, and a
# number of bytes. Full file systems are slow, and the machine needs some room for itself.
#reserve_percent = 2
#reserve_bytes = "256 MiB"

# Seconds that a dead machine is waited for before others take over what it held, 0 to 2592000. A reboot is not a death:
# most machines are back within a minute. `shoal maintenance on` asks for longer.
#repair_after_s = 60

# What repair may read and write a second, in bytes; 0 for no bound. Half of a 1 Gbit/s network, so that a repair is
# done in time and people still have the other half.
#repair_bandwidth = "64 MiB"

# How much of that repair takes while people read or write on this machine, in percent, 1 to 100.
#repair_busy_percent = 25

# Days within which every shard is read and checked once, 1 to 3650. Disks report about one bad sector in some years;
# two weeks keep a second failure from meeting the first.
#scrub_days = 14

# How much of the log of changes is kept for a machine that is away: what it lacks, 4 KiB to 64 GiB, and for how many
# days, 1 to 3650. While it is kept, nothing that was deleted meanwhile is let go. Past either (or 100,000 changes) the
# machine takes a snapshot when it is back, and its own changes are made anew: nothing is lost, but it takes longer.
#away_log = "64 MiB"
#away_days = 7

# The largest UDP payload that is tried, 1200 to 65527. Larger packets cost less; what the network does not carry is
# found out and not used. The default suits networks with jumbo frames of 9000 bytes.
#mtu = 8952

# Hands the kernel many packets at once (generic segmentation offload), which saves much time. Turn it off for a network
# card or tunnel that garbles them.
#gso = true

# What is logged: error, warn, info, debug or trace, also by part as in "info,shoal::io::quic=debug". What a person
# may want to know afterwards. SHOAL_LOG in the environment wins over it.
#log = "info"
"#;

fn within<'de, const LEAST: u64, const MOST: u64, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let value = i64::deserialize(deserializer)?;
    match u64::try_from(value) {
        Ok(value) if (LEAST..=MOST).contains(&value) => Ok(value),
        _ => Err(de::Error::custom(format!("{value} is out of range: it may be {LEAST} to {MOST}"))),
    }
}

fn millis<'de, const LEAST: u64, const MOST: u64, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    within::<LEAST, MOST, D>(deserializer).map(Duration::from_millis)
}

fn seconds<'de, const LEAST: u64, const MOST: u64, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Duration, D::Error> {
    within::<LEAST, MOST, D>(deserializer).map(Duration::from_secs)
}

fn days<'de, const LEAST: u64, const MOST: u64, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    within::<LEAST, MOST, D>(deserializer).map(|days| Duration::from_secs(days * 86_400))
}

fn mtu<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u16, D::Error> {
    within::<1200, 65527, D>(deserializer).map(|mtu| mtu as u16)
}

/// A number of bytes, or text like "64 MiB".
#[derive(serde::Deserialize)]
#[serde(untagged, expecting = "a size is a number of bytes or text like \"64 MiB\"")]
enum Size {
    Number(i64),
    Text(String),
}

fn bytes<'de, const LEAST: u64, const MOST: u64, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let size = Size::deserialize(deserializer)?;
    let (value, text) = match size {
        Size::Number(number) => (u64::try_from(number).ok(), number.to_string()),
        Size::Text(text) => (parse_size(&text), text),
    };
    match value {
        Some(value) if (LEAST..=MOST).contains(&value) => Ok(value),
        Some(_) => Err(de::Error::custom(format!("{text} is out of range: it may be {LEAST} to {MOST} bytes"))),
        None => Err(de::Error::custom(format!("'{text}' is no size: use bytes, or KiB, MiB, GiB or TiB"))),
    }
}

/// Bytes of a size such as "64 MiB", "64MiB" or "512".
fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit = match unit.trim() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => MIB,
        "GiB" => GIB,
        "TiB" => 1024 * GIB,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit)
}

fn policy<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Policy, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
}

fn label<E: de::Error>(what: &str, text: String, empty_is_fine: bool) -> Result<String, E> {
    let chars = text.chars().count();
    if chars > NAME_CHARS || (chars == 0 && !empty_is_fine) || text.chars().any(char::is_control) {
        let least = usize::from(!empty_is_fine);
        return Err(E::custom(format!("a {what} has {least} to {NAME_CHARS} characters, none of them control ones")));
    }
    Ok(text)
}

fn name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    label("name", String::deserialize(deserializer)?, false).map(Some)
}

fn zone<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    label("zone", String::deserialize(deserializer)?, true)
}

fn log<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    match text.parse::<tracing_subscriber::filter::Targets>() {
        Ok(_) => Ok(text),
        Err(error) => Err(de::Error::custom(format!("'{text}' is no log filter ({error}): try \"info\" or \"debug\""))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The template with every setting in effect.
    fn in_effect() -> String {
        let setting = |line: &str| {
            line.strip_prefix('#').filter(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase())).map(str::to_owned)
        };
        Config::template().lines().map(|line| setting(line).unwrap_or_default() + "\n").collect()
    }

    fn fails(text: &str) -> (Option<usize>, String) {
        Config::parse(text).expect_err(text)
    }

    #[test]
    fn the_template_is_the_default_with_and_without_its_settings_in_effect() {
        assert_eq!(Config::parse(&Config::template()), Ok(Config::default()));
        let expected = Config { name: Some("attic".to_owned()), ..Config::default() };
        assert_eq!(Config::parse(&in_effect()), Ok(expected));
    }

    #[test]
    fn the_template_has_every_setting() {
        // serde names all fields when it meets one it does not know.
        let (_, message) = fails("nonsense = 1");
        let all = message.split("expected one of").nth(1).expect("the names of the settings");
        let names: Vec<&str> = all.split('`').skip(1).step_by(2).collect();
        assert_eq!(names.len(), 21, "{names:?}");
        for name in names {
            assert!(in_effect().contains(&format!("\n{name} = ")), "{name} is missing");
        }
    }

    #[test]
    fn a_missing_file_is_the_default_and_a_wrong_one_is_named_with_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        assert_eq!(Config::load(&path).unwrap(), Config::default());

        std::fs::write(&path, "gso = false\n\nhedge_ms = 0\n").unwrap();
        let message = Config::load(&path).unwrap_err().to_string();
        assert_eq!(
            message,
            format!(
                "{}, line 3: 0 is out of range: it may be 1 to 10000; correct it, or take the line out to have the \
                 default",
                path.display()
            )
        );
        std::fs::write(&path, b"\xff").unwrap();
        assert!(Config::load(&path).unwrap_err().to_string().contains("UTF-8"));
        assert!(Config::load(dir.path()).unwrap_err().to_string().contains("cannot be read"));
    }

    #[test]
    fn sizes_are_numbers_or_text() {
        let cache = |text| Config::parse(&format!("cache_bytes = {text}")).map(|config| config.cache_bytes);
        assert_eq!(cache("1024"), Ok(1024));
        assert_eq!(cache("'3 KiB'"), Ok(3072));
        assert_eq!(cache("'2GiB'"), Ok(2 * GIB));
        for wrong in ["-1", "'1 MB'", "''", "'MiB'", "true", "'99999999999 TiB'", "'2000 TiB'", "1.5"] {
            let (line, why) = cache(wrong).expect_err(wrong);
            assert_eq!(line, Some(1), "{why}");
        }
    }

    #[test]
    fn what_is_out_of_bounds_is_refused_with_the_reason() {
        for (text, why) in [
            ("policy = 'rs:40+2'", "rs:K+M"),
            ("name = ''", "1 to 64"),
            ("zone = \"a\\nb\"", "control"),
            ("mtu = 1199", "1200 to 65527"),
            ("detection_ms = 499", "500 to 60000"),
            ("dirty_bytes = '1 MiB'", "out of range"),
            ("reserve_percent = 91", "0 to 90"),
            ("listen = 'here'", ""),
            ("log = 'a=b=c'", "log filter"),
            ("speed = 'fast'", "unknown field `speed`"),
            ("gso = 1", "boolean"),
        ] {
            let (line, message) = fails(text);
            assert_eq!(line, Some(1), "{text}: {message}");
            assert!(message.contains(why), "{text}: {message}");
            assert!(!message.contains('\n'));
        }
    }
}
