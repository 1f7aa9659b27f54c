//! `shoal invite`: a ticket, alone on its line.

use super::{LOOK_DEADLINE, ask, output, unexpected};
use crate::io::control::{ControlReply, ControlRequest};
use std::path::Path;
use std::time::Duration;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// How long the ticket is good: a number and s, m, h or d
    #[arg(long, default_value = "24h", value_parser = duration, value_name = "TIME")]
    pub expires: Duration,
    /// How many machines may join with it
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000), value_name = "N")]
    pub uses: u32,
}

pub fn run(home: &Path, args: Args) -> anyhow::Result<()> {
    let request = ControlRequest::Invite { expires_secs: args.expires.as_secs(), uses: args.uses };
    match ask(home, &request, LOOK_DEADLINE)? {
        ControlReply::Invite { ticket } => output::print(&format!("{ticket}\n")),
        other => Err(unexpected(&other)),
    }
}

/// A number and a unit: at least a second, at most ten years.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "use a number and s, m, h or d, such as 90m or 24h, up to 3650d".to_owned();
    let split = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(split);
    let unit = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 24 * 3600,
        _ => return Err(wrong()),
    };
    let seconds = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit)).ok_or_else(wrong)?;
    if (1..=3650 * 24 * 3600).contains(&seconds) { Ok(Duration::from_secs(seconds)) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_number_and_a_unit_within_ten_years() {
        let seconds = |text| duration(text).map(|time| time.as_secs()).ok();
        assert_eq!(["1s", "90m", "24h", "3650d"].map(seconds), [Some(1), Some(5400), Some(86400), Some(315_360_000)]);
        for text in ["", "24", "h", "0h", "-1h", "1w", "3651d", "99999999999999999999s", "1.5h"] {
            assert_eq!(seconds(text), None, "{text}");
        }
    }
}
