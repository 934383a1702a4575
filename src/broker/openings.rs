//! Who waits for an agent, who opens one, and of which there can be none.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::wire::message::Acquire;

/// So many are opened at once per engine: each costs the engine a process and the machine some 50 ms.
const AT_ONCE: usize = 8;
/// How long a key stays without an agent after somebody found that there can be none.
const UNUSABLE: Duration = Duration::from_secs(60);
/// An opening may take this, or four times its [`Acquire::timeout`]: somebody else may wait for it.
const LONGEST: Duration = Duration::from_secs(120);

/// A client's ACQUIRE that is not answered.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) client: u64,
    pub(super) id: u32,
    pub(super) play: u32,
    pub(super) acquire: Acquire,
}

/// A client that was told to START.
#[derive(Debug)]
pub(super) struct Opening {
    pub(super) client: u64,
    pub(super) id: u32,
    pub(super) acquire: Acquire,
    pub(super) since: Instant,
    /// Its process, from SPAWN to the end.
    pub(super) process: Option<u32>,
    /// The target was reset meanwhile: nobody else gets what comes of it.
    pub(super) stale: bool,
}

impl Opening {
    /// True when it has taken longer than anybody may be made to wait.
    pub(super) fn is_late(&self, now: Instant) -> bool {
        let four = Duration::try_from_secs_f64(self.acquire.timeout * 4.0).unwrap_or(LONGEST);
        now.duration_since(self.since) > LONGEST.max(four)
    }
}

#[derive(Debug)]
struct Unusable {
    target: String,
    reason: String,
    until: Instant,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Openings {
    pub(super) waiting: Vec<Waiting>,
    pub(super) open: Vec<Opening>,
    unusable: HashMap<String, Unusable>,
    turns: HashMap<u32, u64>,
    turn: u64,
}

impl Openings {
    /// The next who may open an agent: one per key, some per engine, and plays take turns.
    pub(super) fn next(&mut self) -> Option<Waiting> {
        let is_free = |waiting: &Waiting| {
            let (key, engine) = (&waiting.acquire.key, &waiting.acquire.engine);
            !self.open.iter().any(|opening| opening.acquire.key == *key && !opening.stale)
                && self.open.iter().filter(|opening| opening.acquire.engine == *engine).count() < AT_ONCE
        };
        let chosen =
            (0..self.waiting.len()).filter(|index| is_free(&self.waiting[*index])).min_by_key(|index| {
                (self.turns.get(&self.waiting[*index].play).copied().unwrap_or_default(), *index)
            })?;
        let chosen = self.waiting.remove(chosen);
        self.turn += 1;
        self.turns.insert(chosen.play, self.turn);
        Some(chosen)
    }

    /// Whether nothing was tried for a target.
    pub(super) fn is_first(&self, target: &str) -> bool {
        !self.open.iter().any(|opening| opening.acquire.target == target)
            && !self.unusable.values().any(|unusable| unusable.target == target)
    }

    /// Takes a client's ACQUIRE back; true when it was waiting.
    pub(super) fn forget(&mut self, client: u64, id: u32) -> bool {
        let before = self.waiting.len();
        self.waiting.retain(|waiting| (waiting.client, waiting.id) != (client, id));
        self.waiting.len() < before
    }

    /// The opening of this client's request.
    pub(super) fn find(&mut self, client: u64, id: u32) -> Option<&mut Opening> {
        self.open.iter_mut().find(|opening| opening.client == client && opening.id == id)
    }

    /// The opening to which this process belongs.
    pub(super) fn of(&mut self, process: u32) -> Option<&mut Opening> {
        self.open.iter_mut().find(|opening| opening.process == Some(process))
    }

    /// Ends the opening of this client's request.
    pub(super) fn take(&mut self, client: u64, id: u32) -> Option<Opening> {
        let index = self.open.iter().position(|opening| opening.client == client && opening.id == id)?;
        Some(self.open.swap_remove(index))
    }

    /// Remembers for a while that there can be no agent.
    pub(super) fn refuse(&mut self, acquire: Acquire, reason: String, now: Instant) {
        let unusable = Unusable { target: acquire.target, reason, until: now + UNUSABLE };
        self.unusable.insert(acquire.key, unusable);
    }

    /// Why there can be no agent for this key.
    pub(super) fn refusal(&self, key: &str) -> Option<&str> {
        self.unusable.get(key).map(|unusable| unusable.reason.as_str())
    }

    /// Forgets what was found out about a target.
    pub(super) fn reset(&mut self, target: &str) {
        self.unusable.retain(|_, unusable| unusable.target != target);
        for opening in self.open.iter_mut().filter(|opening| opening.acquire.target == target) {
            opening.stale = true;
        }
    }

    /// Forgets what is over.
    pub(super) fn expire(&mut self, now: Instant) {
        self.unusable.retain(|_, unusable| unusable.until > now);
        if self.waiting.is_empty() {
            self.turns.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(play: u32, id: u32, key: &str) -> Waiting {
        let acquire = Acquire {
            target: "t".to_owned(),
            key: key.to_owned(),
            label: String::new(),
            engine: "runc".to_owned(),
            serves: "commands".to_owned(),
            persist: 1.0,
            timeout: 1.0,
            ahead: false,
            first: false,
        };
        Waiting { client: 1, id, play, acquire }
    }

    fn start(openings: &mut Openings) -> Option<(u32, u32)> {
        let Waiting { client, id, play, acquire } = openings.next()?;
        let since = Instant::now();
        openings.open.push(Opening { client, id, acquire, since, process: None, stale: false });
        Some((play, id))
    }

    #[test]
    fn plays_take_turns_and_eight_open_at_once() {
        let mut openings = Openings::default();
        for id in 0..20 {
            openings.waiting.push(waiting(7, id, &format!("a{id}")));
        }
        openings.waiting.push(waiting(8, 50, "b"));
        openings.waiting.push(waiting(8, 51, "c"));
        let started: Vec<_> = std::iter::from_fn(|| start(&mut openings)).collect();
        assert_eq!(started, [(7, 0), (8, 50), (7, 1), (8, 51), (7, 2), (7, 3), (7, 4), (7, 5)]);
        openings.take(1, 3).unwrap();
        assert_eq!(start(&mut openings), Some((7, 6)));
    }

    #[test]
    fn one_opens_per_key_unless_its_target_was_reset() {
        let mut openings = Openings::default();
        for id in 0..3 {
            openings.waiting.push(waiting(7, id, "same"));
        }
        assert_eq!((start(&mut openings), start(&mut openings)), (Some((7, 0)), None));
        openings.reset("other");
        assert_eq!(start(&mut openings), None);
        openings.reset("t");
        assert_eq!((start(&mut openings), start(&mut openings)), (Some((7, 1)), None));
    }

    #[test]
    fn an_opening_has_a_bound_that_grows_with_the_timeout() {
        let mut openings = Openings::default();
        openings.waiting.push(waiting(1, 1, "key"));
        start(&mut openings).unwrap();
        let opening = &mut openings.open[0];
        let after =
            |opening: &Opening, seconds| opening.is_late(opening.since + Duration::from_secs(seconds));
        assert!(!after(opening, 119) && after(opening, 121));
        opening.acquire.timeout = 40.0;
        assert!(!after(opening, 159) && after(opening, 161));
    }

    #[test]
    fn a_refusal_is_remembered_for_a_while() {
        let mut openings = Openings::default();
        let now = Instant::now();
        openings.refuse(waiting(1, 1, "key").acquire, "no Python was found".to_owned(), now);
        openings.expire(now + Duration::from_secs(59));
        assert_eq!(openings.refusal("key"), Some("no Python was found"));
        assert!(!openings.is_first("t") && openings.is_first("other"));
        openings.expire(now + Duration::from_secs(61));
        assert_eq!(openings.refusal("key"), None);
        openings.refuse(waiting(1, 1, "key").acquire, "no Python was found".to_owned(), now);
        openings.reset("t");
        assert_eq!(openings.refusal("key"), None);
    }
}
