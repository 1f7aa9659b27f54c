//! What people see: text, tables, sizes, progress.

use crate::io::control::Progress;
use anyhow::Context;
use comfy_table::{CellAlignment, Table, presets};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::Write;
use std::time::{Duration, Instant};

/// For people, or for scripts.
#[derive(clap::Args, Clone, Copy, Debug, Default)]
pub struct Format {
    /// Print JSON, for scripts
    #[arg(long)]
    pub json: bool,
}

/// Prints to standard output. Nobody reading any more (`| head`) is no error.
pub fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(error).context("standard output cannot be written")
        }
        _ => Ok(()),
    }
}

/// Prints a value as JSON.
pub fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(value).context("the report cannot be written as JSON")?;
    print(&format!("{text}\n"))
}

/// A name as it may stand in a line: what would break the line or steer the terminal is escaped.
pub fn shown(name: &str) -> String {
    name.chars()
        .flat_map(|c| {
            let (escaped, plain) = if c.is_control() { (Some(c.escape_default()), None) } else { (None, Some(c)) };
            escaped.into_iter().flatten().chain(plain)
        })
        .collect()
}

/// An empty table with these headings.
pub fn table(headings: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(headings);
    table
}

/// Sets columns flush right.
pub fn right(table: &mut Table, columns: &[usize]) {
    for &column in columns {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

/// The table's lines, without the blanks around them.
pub fn text(table: &Table) -> String {
    let text = table.to_string();
    let lines: Vec<&str> = text.lines().map(|line| line.strip_prefix(' ').unwrap_or(line).trim_end()).collect();
    lines.join("\n")
}

/// A number of bytes for people.
pub fn bytes(bytes: u64) -> String {
    humansize::format_size(bytes, humansize::BINARY)
}

/// "1 file", "2 files".
pub fn count(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// A point in time, in seconds since 1970.
pub fn clock(seconds: u64) -> String {
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    // Days into years that begin in March, so that a leap day is the last of its year: Howard Hinnant's civil_from_days.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

/// A length of time in the two largest units that it fills.
pub fn duration(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

/// A bar on the terminal for work of `total` bytes; nothing where nobody watches.
pub fn bar(what: &str, total: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(total), draw_target());
    if let Ok(style) = ProgressStyle::with_template("  {msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec}") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_message(what.to_owned());
    bar
}

/// The same for work of `total` steps.
pub fn steps(what: &str, total: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(total), draw_target());
    if let Ok(style) = ProgressStyle::with_template("  {msg} [{bar:30}] {pos}/{len}") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_message(what.to_owned());
    bar
}

/// The same for work whose steps mean nothing to people.
pub fn percent(what: &str, total: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(total), draw_target());
    if let Ok(style) = ProgressStyle::with_template("  {msg} [{bar:30}] {percent} %") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_message(what.to_owned());
    bar
}

/// Standard error, wherever the results go; indicatif draws nothing where that is no terminal.
fn draw_target() -> ProgressDrawTarget {
    ProgressDrawTarget::stderr()
}

/// Shows the progress that the peer reports, once there is some: a bar on a terminal; elsewhere nothing, or lines.
#[derive(Default)]
pub struct Watch {
    bar: Option<ProgressBar>,
    /// Print lines where there is no terminal: what was last said, and when.
    lines: Option<(String, Option<Instant>)>,
}

/// The least time between two lines of progress.
const LINE_EVERY: Duration = Duration::from_secs(2);

impl Watch {
    /// One that prints a line now and then where there is no terminal: for commands that are about the progress.
    pub fn in_lines_elsewhere() -> Watch {
        Watch { bar: None, lines: Some((String::new(), None)) }
    }

    pub fn show(&mut self, progress: &Progress) {
        self.line(progress);
        let bar = self.bar.get_or_insert_with(|| ProgressBar::with_draw_target(None, draw_target()));
        let template = if progress.total > 0 { "{msg} [{bar:30}] {pos}/{len}" } else { "{msg}" };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        if progress.total > 0 {
            bar.set_length(progress.total);
        }
        bar.set_position(progress.done);
        bar.set_message(progress.text.clone());
    }

    fn line(&mut self, progress: &Progress) {
        use std::io::IsTerminal;
        let Some((last, at)) = &mut self.lines else { return };
        if std::io::stdout().is_terminal() || at.is_some_and(|at| at.elapsed() < LINE_EVERY) {
            return;
        }
        let line = match progress.total {
            0 => format!("{}\n", progress.text),
            total => format!("{} ({} of {total})\n", progress.text, progress.done),
        };
        if line != *last && print(&line).is_ok() {
            (*last, *at) = (line, Some(Instant::now()));
        }
    }

    pub fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_in_time_are_those_of_the_calendar() {
        for (seconds, shown) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_827_696, "2000-02-29 12:34:56 UTC"),
            (1_709_164_799, "2024-02-28 23:59:59 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00 UTC"),
        ] {
            assert_eq!(clock(seconds), shown);
        }
    }
}
