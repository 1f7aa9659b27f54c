//! What a run is told: a TOML file with flags over it, checked where it is read, so that a scenario holds only what can
//! be run.

use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, Error as _};
use std::time::Duration;
use toml::de::{DeTable, DeValue};

/// Why there is no scenario, by what the person has to do.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    #[error("{}{why}; correct it, or take it out to have the default", line.map_or(String::new(), |line| format!("line {line}: ")))]
    File { line: Option<usize>, why: String },
    /// The file lacks what has no default.
    #[error("{why}; add it, as the scenarios in scripts/scenarios have it")]
    Missing { why: String },
    #[error("{flag}: {why}; correct the flag, or leave it out")]
    Flag { flag: String, why: String },
}

/// What is wrong about values that may each be right by themselves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wrong {
    /// The dotted names of the values, the likeliest culprit first; a number is a place in an array, counted from 0.
    names: Vec<String>,
    /// What is wrong, and what would do.
    why: String,
}

/// These values do not go together, and why.
pub fn wrong(names: &[&str], why: impl Into<String>) -> Result<(), Wrong> {
    Err(Wrong { names: names.iter().map(|name| (*name).to_owned()).collect(), why: why.into() })
}

/// The scenario in this text, with what flags say (a dotted name and a TOML value) over it. `check` says what no single
/// value shows to be impossible, of all together.
pub fn parse<S: DeserializeOwned>(
    text: &str,
    flags: &[(String, String)],
    check: impl Fn(&S) -> Result<(), Wrong>,
) -> Result<S, ScenarioError> {
    let line_of = |at: usize| text.get(..at).map(|before| before.matches('\n').count() + 1);
    let mut scenario: S = toml::from_str(text).map_err(|error| {
        let why = error.message().lines().collect::<Vec<_>>().join("; ");
        match why.starts_with("missing field") {
            true => ScenarioError::Missing { why },
            false => ScenarioError::File { line: error.span().and_then(|span| line_of(span.start)), why },
        }
    })?;
    let mut table: toml::Table = text.parse().unwrap_or_default();
    for (name, value) in flags {
        let wrong = |why: String| ScenarioError::Flag { flag: shown(name, value), why };
        set(&mut table, name, value).map_err(wrong)?;
        // After each, so that the error can name it.
        scenario =
            table.clone().try_into().map_err(|error: toml::de::Error| wrong(error.message().replace('\n', "; ")))?;
    }
    check(&scenario).map_err(|Wrong { names, why }| {
        let of_flag = |flag: &str| names.iter().any(|name| name.split('.').filter(is_key).eq(flag.split('.')));
        let culprits: Vec<String> =
            flags.iter().filter(|(name, _)| of_flag(name)).map(|(name, value)| shown(name, value)).collect();
        match culprits.is_empty() {
            true => {
                ScenarioError::File { line: names.iter().find_map(|name| place(text, name)).and_then(line_of), why }
            }
            false => ScenarioError::Flag { flag: culprits.join(" "), why },
        }
    })?;
    Ok(scenario)
}

fn shown(name: &str, value: &str) -> String {
    format!("--set {name}={value}")
}

/// Whether a part of a dotted name is no place in an array.
fn is_key(part: &&str) -> bool {
    part.parse::<usize>().is_err()
}

/// Where in the text this dotted name stands.
fn place(text: &str, name: &str) -> Option<usize> {
    let document = DeValue::Table(DeTable::parse(text).ok()?.into_inner());
    let (mut here, mut at) = (&document, None);
    for part in name.split('.') {
        match (here, part.parse::<usize>()) {
            // One table where there may be several.
            (DeValue::Table(_), Ok(_)) => {}
            (DeValue::Table(table), Err(_)) => {
                let (key, value) = table.get_key_value(part)?;
                (here, at) = (value.get_ref(), Some(key.span().start));
            }
            (DeValue::Array(all), Ok(number)) => here = all.get(number)?.get_ref(),
            _ => return None,
        }
    }
    at
}

/// Sets a value in a table or, by its dotted name, in one of the tables in it; in each of several.
fn set(table: &mut toml::Table, name: &str, value: &str) -> Result<(), String> {
    let parsed = format!("v = {value}").parse::<toml::Table>().ok().and_then(|mut table| table.remove("v"));
    let value = parsed.unwrap_or_else(|| toml::Value::String(value.to_owned()));
    match name.split_once('.') {
        None => {
            table.insert(name.to_owned(), value);
            Ok(())
        }
        Some((outer, inner)) => match table.entry(outer).or_insert_with(|| toml::Value::Table(toml::Table::new())) {
            toml::Value::Table(table) => set(table, inner, &value.to_string()),
            toml::Value::Array(tables) => tables.iter_mut().try_for_each(|one| match one {
                toml::Value::Table(table) => set(table, inner, &value.to_string()),
                _ => Err(format!("{outer} is no table")),
            }),
            _ => Err(format!("{outer} is no table")),
        },
    }
}

/// The most peers of a run: what fits into the memory of a small machine.
pub const MOST_PEERS: u32 = 20_000;

/// A number from `least` to `most`; `what` names it in the error.
pub fn in_range<E: serde::de::Error>(value: i64, least: u32, most: u32, what: &str) -> Result<u32, E> {
    let fits = u32::try_from(value).ok().filter(|value| (least..=most).contains(value));
    fits.ok_or_else(|| E::custom(format!("{value} is no number of {what}: use {least} to {most}")))
}

/// A number of bytes a second that is not 0.
pub fn rate<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let value = i64::deserialize(deserializer)?;
    u64::try_from(value).ok().filter(|value| *value > 0).ok_or_else(|| {
        D::Error::custom(format!("{value} is no number of bytes a second: use 1 or more, such as 12500000"))
    })
}

/// A number of peers.
pub fn peers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    in_range(i64::deserialize(deserializer)?, 1, MOST_PEERS, "peers")
}

/// From 0.0 to 1.0.
pub fn chance<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let value = f64::deserialize(deserializer)?;
    if (0.0..=1.0).contains(&value) {
        Ok(value)
    } else {
        Err(D::Error::custom(format!("{value} is no chance: use 0.0 to 1.0")))
    }
}

/// A number and a unit, up to ten years: "250ms", "60s", "90m", "2h", "30d", "1y".
pub fn span<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    struct Span;
    impl serde::de::Visitor<'_> for Span {
        type Value = Duration;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a time in quotes, a number and ms, s, m, h, d or y, such as \"90m\", up to 10y")
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Duration, E> {
            parse_span(text).ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(text), &self))
        }
    }
    deserializer.deserialize_str(Span)
}

fn parse_span(text: &str) -> Option<Duration> {
    let split = text.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
    let (number, unit) = text.split_at(split);
    let unit = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        "y" => 365.0 * 86_400.0,
        _ => return None,
    };
    let seconds = number.parse::<f64>().ok()? * unit;
    (0.0..=3650.0 * 86_400.0).contains(&seconds).then(|| Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_unit_and_an_end() {
        let seconds = |text| parse_span(text).map(|time| time.as_secs_f64());
        assert_eq!(
            ["250ms", "60s", "1.5h", "1y"].map(seconds),
            [Some(0.25), Some(60.0), Some(5400.0), Some(31_536_000.0)]
        );
        assert_eq!(["", "5", "h", "-1s", "11y", "1w"].map(seconds), [None; 6]);
    }
}
