//! The ansible-playbook processes that keep agents in use: as long as one lives, so do its agents.

use std::cell::RefCell;
use std::collections::HashSet;
use std::rc::Weak;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags};
use tokio::net::unix::pipe::Receiver;

use super::process::watched;
use super::server::Broker;

/// Those that live.
#[derive(Debug, Default)]
pub(super) struct Plays(HashSet<u32>);

impl Plays {
    /// Follows a process to its end.
    pub(super) fn watch(&mut self, play: u32, broker: &Weak<RefCell<Broker>>) {
        if self.0.contains(&play) {
            return;
        }
        let Some(pid) = Pid::from_raw(play.cast_signed()) else { return };
        let end = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            Ok(fd) => watched(fd).ok(),
            Err(rustix::io::Errno::SRCH) => return,
            Err(_) => None,
        };
        self.0.insert(play);
        let broker = broker.clone();
        tokio::task::spawn_local(async move {
            until_end(play, end).await;
            if let Some(broker) = broker.upgrade() {
                broker.borrow_mut().play_ended(play);
            }
        });
    }

    /// That process, if it is known to live.
    pub(super) fn alive(&self, play: u32) -> Option<u32> {
        self.0.get(&play).copied()
    }
}

async fn until_end(play: u32, pidfd: Option<Receiver>) {
    if let Some(pidfd) = pidfd
        && pidfd.readable().await.is_ok()
    {
        return;
    }
    // Before Linux 5.3 there is only the start time to tell one process from the next with its number.
    let born = started(play);
    while born.is_some() && started(play) == born {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// When a process started, in ticks since boot.
fn started(pid: u32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(19).map(str::to_owned)
}

impl Broker {
    fn play_ended(&mut self, play: u32) {
        self.plays.0.remove(&play);
        for agent in self.agents.values_mut() {
            if agent.plays.remove(&play) {
                agent.used = Instant::now();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_time_is_a_number() {
        let ticks = started(std::process::id()).unwrap();
        assert!(ticks.parse::<u64>().unwrap() > 0 && started(1) != Some(ticks));
    }
}
