//! What a churn run is told: a TOML file, checked where it is read, so that a [`Scenario`] holds only what can be run.

use crate::policy::Policy;
use crate::sim::network::Links;
use crate::sim::scenario::{self, MOST_PEERS, ScenarioError, Wrong, chance, in_range, peers, rate, span, wrong};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};
use std::time::Duration;

/// A run, or several that differ in policy, churn or size.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// What it shows, for the head of the table.
    pub title: String,
    #[serde(default = "hundred", deserialize_with = "peers")]
    pub peers: u32,
    /// Runs with each of these numbers of peers, instead of one with `peers`.
    #[serde(default, deserialize_with = "many_peers")]
    pub sizes: Vec<u32>,
    /// How long churn lasts.
    #[serde(deserialize_with = "span")]
    pub time: Duration,
    /// How long the share has afterwards to come to rest.
    #[serde(default, deserialize_with = "span")]
    pub settle: Duration,
    #[serde(default = "three_copies", deserialize_with = "policies")]
    pub policies: Vec<Policy>,
    #[serde(default)]
    pub items: Items,
    #[serde(default)]
    pub membership: Watch,
    #[serde(default)]
    pub healing: Heal,
    #[serde(default)]
    pub network: Net,
    /// Runs with each of these, in the order of the file.
    #[serde(deserialize_with = "some_churn")]
    pub churn: Vec<Churn>,
    /// What others published of the same experiment.
    #[serde(default)]
    pub published: Option<Published>,
}

/// What is stored.
#[derive(Clone, Copy, PartialEq, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Items {
    /// Of each peer.
    #[serde(deserialize_with = "a_peer")]
    pub per_peer: u32,
    #[serde(deserialize_with = "item_bytes")]
    pub bytes: u64,
}

/// How a peer keeps an eye on others.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Watch {
    pub settings: WatchSettings,
    /// For `frugal`: from one probe to the next.
    #[serde(deserialize_with = "span")]
    pub cycle: Duration,
    /// For `within` and `oracle`: from a death to its being known.
    #[serde(deserialize_with = "span")]
    pub detection: Duration,
    /// How many peers whoever starts calls besides those it shares groups with; 0: all.
    pub introduced: usize,
    /// How many neighbours on each side are watched; 0: everybody is.
    pub view: usize,
}

/// Which settings of membership.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WatchSettings {
    Within,
    Frugal,
    HighChurn,
    /// No membership at all: everybody knows of a death after `detection`, and nothing is sent. For months of virtual
    /// time.
    Oracle,
}

/// How groups come back to goldilocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Heal {
    #[serde(deserialize_with = "span")]
    pub repair_after: Duration,
    #[serde(deserialize_with = "span")]
    pub takeover: Duration,
    #[serde(deserialize_with = "pieces")]
    pub at_once: usize,
    /// Bytes a second that repair may take of each peer's link; 0: all.
    pub bandwidth: u64,
    /// How long a group may stay outside goldilocks after the last change in who of it lives.
    #[serde(deserialize_with = "span")]
    pub patience: Duration,
}

/// The network and where the peers are in it.
#[derive(Clone, Copy, PartialEq, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Net {
    #[serde(deserialize_with = "span")]
    pub latency: Duration,
    #[serde(deserialize_with = "span")]
    pub jitter: Duration,
    #[serde(deserialize_with = "chance")]
    pub loss: f64,
    /// Bytes a second of each peer, out and in.
    #[serde(deserialize_with = "rate")]
    pub bandwidth: u64,
    #[serde(deserialize_with = "some_subnets")]
    pub subnets: u32,
    /// Whether placement knows the subnets.
    pub diversity: bool,
    /// A part of the peers is cut off from the others once, from `cut_at` for `cut_for`.
    #[serde(deserialize_with = "chance")]
    pub cut: f64,
    #[serde(deserialize_with = "span")]
    pub cut_at: Duration,
    #[serde(deserialize_with = "span")]
    pub cut_for: Duration,
    /// Only what they hear is cut off; what they say arrives.
    pub cut_one_way: bool,
}

impl Net {
    pub fn links(&self) -> Links {
        Links { latency: self.latency, jitter: self.jitter, loss: self.loss, bandwidth: self.bandwidth }
    }
}

/// How peers come and go. Each kind is left out at 0.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Churn {
    pub name: String,
    /// The chance to die, cast by each peer each second; the dead are replaced by new, empty peers.
    #[serde(deserialize_with = "chance")]
    pub die_per_second: f64,
    /// Mean time up, then mean time away with the disk intact; both end as likely at any moment.
    #[serde(deserialize_with = "span")]
    pub session: Duration,
    #[serde(deserialize_with = "span")]
    pub absence: Duration,
    /// Mean time until a peer and its disk are gone for good, and a new, empty one comes.
    #[serde(deserialize_with = "span")]
    pub lifetime: Duration,
    /// Mean time from one failure of a whole subnet to the next, anywhere.
    #[serde(deserialize_with = "span")]
    pub subnet_every: Duration,
    /// How long a failed subnet is away; 0: its disks are gone for good.
    #[serde(deserialize_with = "span")]
    pub subnet_outage: Duration,
}

/// Figures of others.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Published {
    pub source: String,
    #[serde(default)]
    pub kept: Option<f64>,
    #[serde(default)]
    pub messages: Option<f64>,
}

impl Default for Items {
    fn default() -> Self {
        Items { per_peer: 1, bytes: 1 << 20 }
    }
}

impl Default for Watch {
    fn default() -> Self {
        Watch {
            settings: WatchSettings::Within,
            cycle: Duration::from_millis(2500),
            detection: Duration::from_secs(3),
            introduced: 0,
            view: 0,
        }
    }
}

impl Default for Heal {
    /// As the real peer's.
    fn default() -> Self {
        let real = crate::group::HealingSettings::default();
        Heal {
            repair_after: real.repair_after,
            takeover: real.takeover,
            at_once: real.at_once,
            bandwidth: 0,
            patience: Duration::from_secs(120),
        }
    }
}

impl Default for Net {
    /// Machines of one town, 100 Mbit/s each.
    fn default() -> Self {
        Net {
            latency: Duration::from_millis(10),
            jitter: Duration::from_millis(10),
            loss: 0.0,
            bandwidth: 12_500_000,
            subnets: 1,
            diversity: true,
            cut: 0.0,
            cut_at: Duration::ZERO,
            cut_for: Duration::ZERO,
            cut_one_way: false,
        }
    }
}

impl Scenario {
    /// The scenario in this text, with what flags say (a name as `churn.die_per_second`, and a TOML value) over it.
    pub fn parse(text: &str, flags: &[(String, String)]) -> Result<Scenario, ScenarioError> {
        scenario::parse(text, flags, Scenario::check)
    }

    /// What no single value shows.
    fn check(&self) -> Result<(), Wrong> {
        let slots = self.policies.iter().map(|policy| policy.geometry(usize::MAX).shards()).max().unwrap_or(0);
        let fewest = self.sizes.iter().copied().min().unwrap_or(self.peers);
        if slots > fewest as usize {
            let sizes = if self.sizes.is_empty() { "peers" } else { "sizes" };
            return wrong(
                &[sizes, "policies"],
                format!(
                    "{fewest} peers cannot hold {slots} shards each on a peer of its own: use {slots} peers or more, \
                     or policies of fewer shards"
                ),
            );
        }
        if self.time.is_zero() {
            return wrong(&["time"], "time is 0: give the time that churn lasts, such as \"60s\"");
        }
        for (number, churn) in self.churn.iter().enumerate() {
            if churn.session.is_zero() != churn.absence.is_zero() {
                let (session, absence) = (format!("churn.{number}.session"), format!("churn.{number}.absence"));
                return wrong(
                    &[&session, &absence, "churn"],
                    "churn has only one of session and absence: give both or neither",
                );
            }
        }
        let watch = &self.membership;
        if watch.settings == WatchSettings::Frugal && watch.cycle < Duration::from_millis(450) {
            return wrong(
                &["membership.cycle", "membership.settings"],
                "membership.cycle is shorter than a probe takes: use 450ms or more",
            );
        }
        if watch.detection < Duration::from_millis(100) {
            return wrong(
                &["membership.detection"],
                "membership.detection is below 100ms, which no network tells from chance: use 100ms or more",
            );
        }
        if (self.network.cut > 0.0) == self.network.cut_for.is_zero() {
            return wrong(
                &["network.cut", "network.cut_for"],
                "network has only one of cut and cut_for: give both or neither",
            );
        }
        Ok(())
    }
}

fn hundred() -> u32 {
    100
}

fn three_copies() -> Vec<Policy> {
    vec![Policy::Replicate(3)]
}

fn many_peers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u32>, D::Error> {
    let all = Vec::<i64>::deserialize(deserializer)?;
    all.into_iter().map(|value| in_range(value, 1, MOST_PEERS, "peers")).collect()
}

fn a_peer<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    in_range(i64::deserialize(deserializer)?, 1, 10_000, "items a peer")
}

fn pieces<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    in_range(i64::deserialize(deserializer)?, 1, 10_000, "pieces of work at once").map(|pieces| pieces as usize)
}

fn some_subnets<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    in_range(i64::deserialize(deserializer)?, 1, 1 << 16, "subnets")
}

fn item_bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    in_range(i64::deserialize(deserializer)?, 1, 1 << 30, "bytes").map(u64::from)
}

fn policies<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Policy>, D::Error> {
    let parse = |text: String| match text.parse::<Policy>().map_err(D::Error::custom)? {
        Policy::Survive(_) => Err(D::Error::custom(format!(
            "'{text}' takes the geometry that fits the peers there are; give that one, as replicate:N or rs:K+M"
        ))),
        policy => Ok(policy),
    };
    let all = Vec::<String>::deserialize(deserializer)?;
    if all.is_empty() {
        return Err(D::Error::custom("there is no policy; give at least one, such as [\"replicate:3\"]"));
    }
    all.into_iter().map(parse).collect()
}

/// One table, or several.
fn some_churn<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Churn>, D::Error> {
    struct OneOrMany;
    impl<'de> serde::de::Visitor<'de> for OneOrMany {
        type Value = Vec<Churn>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a table [churn], or several [[churn]]")
        }

        fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<Vec<Churn>, A::Error> {
            Churn::deserialize(serde::de::value::MapAccessDeserializer::new(map)).map(|churn| vec![churn])
        }

        fn visit_seq<A: serde::de::SeqAccess<'de>>(self, seq: A) -> Result<Vec<Churn>, A::Error> {
            let all = Vec::deserialize(serde::de::value::SeqAccessDeserializer::new(seq))?;
            if all.is_empty() {
                return Err(A::Error::custom("there is no churn; give at least one table [[churn]]"));
            }
            Ok(all)
        }
    }
    deserializer.deserialize_any(OneOrMany)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = "title = \"t\"\ntime = \"60s\"\n[churn]\ndie_per_second = 0.02\n";

    fn refused(text: &str) -> String {
        Scenario::parse(text, &[]).expect_err(text).to_string()
    }

    fn flag(name: &str, value: &str) -> Result<Scenario, ScenarioError> {
        Scenario::parse(WHOLE, &[(name.to_owned(), value.to_owned())])
    }

    #[test]
    fn what_is_not_said_has_its_default_and_flags_win() {
        let scenario = Scenario::parse(WHOLE, &[]).unwrap();
        assert_eq!((scenario.peers, scenario.items, scenario.churn.len()), (100, Items::default(), 1));
        assert_eq!(flag("churn.die_per_second", "0.5").unwrap().churn[0].die_per_second, 0.5);
        assert_eq!(flag("peers", "7").unwrap().peers, 7);
        assert_eq!(flag("policies", "[\"rs:4+2\"]").unwrap().policies, ["rs:4+2".parse().unwrap()]);
        assert_eq!(flag("time", "2m").unwrap().time, Duration::from_secs(120));
    }

    #[test]
    fn a_wrong_key_or_value_is_named_with_its_line_and_what_would_do() {
        let unknown = refused(&format!("{WHOLE}speed = 3\n"));
        assert!(
            unknown.contains("line 5") && unknown.contains("speed") && unknown.contains("die_per_second"),
            "{unknown}"
        );
        let chance = refused("title = \"t\"\ntime = \"60s\"\n[churn]\ndie_per_second = 2.0\n");
        assert!(chance.contains("line 4") && chance.contains("0.0 to 1.0"), "{chance}");
        let time = refused("title = \"t\"\ntime = \"long\"\n[churn]\n");
        assert!(time.contains("line 2") && time.contains("\"90m\""), "{time}");
        let policy = refused(&format!("policies = [\"survive:2\"]\n{WHOLE}"));
        assert!(policy.contains("line 1") && policy.contains("rs:K+M"), "{policy}");
        let few = refused(&format!("title = \"t\"\npeers = 2\n{}", WHOLE.replace("title = \"t\"\n", "")));
        assert!(few.contains("line 2: 2 peers cannot hold 3 shards") && few.contains("use 3 peers"), "{few}");
        let by_size = refused(&format!("{}\nsizes = [9, 2]\n[churn]", "title = \"t\"\ntime = \"60s\""));
        assert!(by_size.contains("line 3: 2 peers"), "{by_size}");
        let bare = refused("title = \"t\"\ntime = 60\n[churn]\n");
        assert!(bare.contains("line 2") && bare.contains("in quotes") && bare.contains("\"90m\""), "{bare}");
        let missing = refused("title = \"t\"\n[churn]\n");
        assert!(missing.contains("missing field `time`; add it"), "{missing}");
        assert!(refused("").contains("missing field `title`; add it"));
    }

    #[test]
    fn what_does_not_go_together_is_named_with_its_line_and_what_would_do() {
        let several = "title = \"t\"\ntime = \"60s\"\n[[churn]]\n[[churn]]\nname = \"b\"\nabsence = \"1h\"\n";
        let half = refused(several);
        assert!(half.contains("line 6") && half.contains("both or neither"), "{half}");
        let half = refused(&format!("{WHOLE}session = \"1h\"\n"));
        assert!(half.contains("line 5") && half.contains("both or neither"), "{half}");
        let cycle = refused(&format!("{WHOLE}[membership]\nsettings = \"frugal\"\ncycle = \"1ms\"\n"));
        assert!(cycle.contains("line 7") && cycle.contains("450ms or more"), "{cycle}");
        let cut = refused(&format!("{WHOLE}[network]\ncut = 0.5\n"));
        assert!(cut.contains("line 6") && cut.contains("both or neither"), "{cut}");
        assert!(refused("title = \"t\"\ntime = \"0s\"\n[churn]\n").contains("line 2: time is 0"));
        assert!(refused("title = \"t\"\ntime = \"1s\"\nchurn = []\n").contains("line 3: there is no churn"));
    }

    #[test]
    fn what_can_do_nothing_is_refused() {
        for (table, line, would_do) in [
            ("healing", "at_once = 0", "1 to 10000"),
            ("network", "bandwidth = 0", "1 or more"),
            ("network", "bandwidth = -1", "1 or more"),
            ("network", "subnets = 0", "1 to 65536"),
            ("network", "subnets = 70000", "1 to 65536"),
        ] {
            let said = refused(&format!("{WHOLE}[{table}]\n{line}\n"));
            assert!(said.contains("line 6") && said.contains(would_do), "{line}: {said}");
        }
    }

    #[test]
    fn flags_are_held_against_one_another_when_all_are_read() {
        let flags = |all: &[(&str, &str)]| {
            let all: Vec<(String, String)> =
                all.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            Scenario::parse(WHOLE, &all)
        };
        let both = flags(&[("churn.session", "1h"), ("churn.absence", "20m")]).unwrap();
        assert_eq!(both.churn[0].absence, Duration::from_secs(1200));
        assert_eq!(flags(&[("peers", "2"), ("policies", "[\"replicate:2\"]")]).unwrap().peers, 2);
        let few = flags(&[("churn.die_per_second", "0.5"), ("peers", "2")]).unwrap_err().to_string();
        assert!(few.starts_with("--set peers=2: 2 peers cannot"), "{few}");
    }

    #[test]
    fn a_wrong_flag_is_named() {
        let wrong = |name, value| flag(name, value).expect_err(name).to_string();
        assert!(wrong("peers", "0").contains("--set peers=0") && wrong("peers", "0").contains("1 to"));
        assert!(wrong("chrun.session", "1h").contains("chrun"));
        assert!(wrong("churn.session", "1h").contains("both or neither"));
        assert!(wrong("title.x", "1").contains("title is no table"));
    }
}
