//! Whether the caller of a request still waits for its answer.
//!
//! The kernel tells a file system that a caller was interrupted, but fuser 0.18 does not pass it on. The one request
//! that may wait without end, for a lock, therefore asks the process table.

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
    fn this_thread_waits_and_a_thread_that_never_was_does_not() {
        assert!(still_waits(std::process::id()));
        assert!(!still_waits(u32::MAX));
    }
}
