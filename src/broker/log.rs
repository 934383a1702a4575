//! What the broker tells its owner: when agents came and went. Never data, command lines or what an agent printed.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::one_line;

/// Above this the file starts again.
const LONGEST: u64 = 1 << 20;

/// A file of bounded length, or nothing where it cannot be written.
#[derive(Debug)]
pub(super) struct Log(Option<File>);

impl Log {
    /// Several brokers may write to one file: each appends whole lines.
    pub(super) fn open(path: &Path) -> Self {
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path);
        Self(file.ok().filter(|_| !path.as_os_str().is_empty()))
    }

    /// One line with the time and the process id before it.
    pub(super) fn say(&self, text: &str) {
        let Some(mut file) = self.0.as_ref() else { return };
        if file.metadata().is_ok_and(|found| found.len() > LONGEST) {
            let _ = file.set_len(0);
        }
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let line = format!("{} {}: {}\n", utc(seconds), std::process::id(), one_line(text));
        let _ = file.write_all(line.as_bytes()); // a full disk is no reason to end
    }
}

/// `2026-11-21T15:30:00Z`, by the proleptic Gregorian calendar.
fn utc(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Years that begin in March: the leap day is then the last one.
    let shifted = days + 719_468;
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + u64::from(month < 3);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_calendar() {
        assert_eq!(utc(0), "1970-01-01T00:00:00Z");
        assert_eq!(utc(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(utc(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(utc(1_795_274_999), "2026-11-21T15:29:59Z");
    }
}
