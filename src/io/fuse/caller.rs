//! What a request does not say of its caller, from the process table.
//!
//! Whether it still waits for its answer: the kernel tells a file system that a caller was interrupted, but fuser 0.18
//! does not pass it on. The one request that may wait without end, for a lock, therefore asks. And its other groups.

/// Whether the thread runs and has no signal to attend to. A thread of a process namespace that cannot be seen
/// from here (0) counts as waiting.
pub(super) fn still_waits(thread: u32) -> bool {
    if thread == 0 {
        return true;
    }
    match std::fs::read_to_string(format!("/proc/{thread}/status")) {
        Ok(status) => !has_signal(&status),
        Err(_) => false,
    }
}

/// Whether this is one of the supplementary groups of the thread; false where it cannot be seen from here.
pub(super) fn is_in_group(thread: u32, group: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{thread}/status")).is_ok_and(|status| has_group(&status, group))
}

/// From the text of `/proc/PID/status`.
fn has_group(status: &str, group: u32) -> bool {
    let groups = status.lines().find_map(|line| line.strip_prefix("Groups:"));
    groups.is_some_and(|groups| groups.split_whitespace().any(|one| one.parse() == Ok(group)))
}

/// From the text of `/proc/PID/status`: a signal is pending that is neither blocked nor ignored.
fn has_signal(status: &str) -> bool {
    let mask = |field: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        line.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok()).unwrap_or(0)
    };
    (mask("SigPnd:") | mask("ShdPnd:")) & !mask("SigBlk:") & !mask("SigIgn:") != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pending_signal_counts_unless_blocked_or_ignored() {
        let status = |pending: u64, blocked: u64, ignored: u64| {
            format!(
                "Name:\tcat\nSigPnd:\t{pending:016x}\nShdPnd:\t{:016x}\nSigBlk:\t{blocked:016x}\nSigIgn:\t{ignored:016x}\n",
                0
            )
        };
        assert!(has_signal(&status(1 << 8, 0, 0)));
        assert!(!has_signal(&status(1 << 8, 1 << 8, 0)));
        assert!(!has_signal(&status(1 << 1, 0, 1 << 1)));
        assert!(!has_signal(&status(0, 0, 0)));
    }

    #[test]
    fn groups_are_found_among_the_others() {
        let status = "Name:\tcat\nUid:\t5\nGroups:\t4 24 1000 \nSigPnd:\t0\n";
        assert!(has_group(status, 24) && has_group(status, 1000));
        assert!(!has_group(status, 5) && !has_group(status, 100));
        assert!(!has_group("Groups:\t \n", 0) && !has_group("", 0));
    }

    #[test]
    fn this_thread_waits_and_a_thread_that_never_was_does_not() {
        assert!(still_waits(std::process::id()));
        assert!(!still_waits(u32::MAX));
    }
}
