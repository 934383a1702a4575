//! A become prompt within a wait: the state machine, its deadline, and a verdict that is not yet final.

use std::time::{Duration, Instant};

use super::become_prompt::{BecomePlugin, BecomePrompt, Step};
use crate::error::{Error, Result, said};

/// How long a refused escalation may still turn out to be the command's own words: its stderr can overtake the success marker,
/// which is on stdout.
const OVERTAKING: Duration = Duration::from_millis(300);

/// The escalation of one command; of a command without become it is [`Escalation::done`] from the start.
pub(super) struct Escalation<'p> {
    plugin: Option<&'p mut dyn BecomePlugin>,
    prompt: Option<BecomePrompt>,
    timeout: Duration,
    deadline: Option<Instant>,
    refused: Option<Error>,
    /// True once the password was sent: it is never sent twice, accounts get locked.
    pub(super) password_sent: bool,
}

/// What to write to the command's stdin after new output.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Nothing,
    Password(Vec<u8>),
    /// The escalation succeeded: the command's own stdin.
    Stdin,
}

impl<'p> Escalation<'p> {
    /// `timeout` bounds the wait for a prompt, from the start of the command.
    pub(super) fn new(plugin: Option<&'p mut dyn BecomePlugin>, timeout: Duration) -> Self {
        let prompt = plugin.as_deref().map(BecomePrompt::new);
        Self { plugin, prompt, timeout, deadline: None, refused: None, password_sent: false }
    }

    /// True when the command's own stdin may be sent.
    pub(super) fn done(&self) -> bool {
        self.prompt.as_ref().is_none_or(|prompt| !prompt.is_waiting())
    }

    /// The command runs: the time to ask begins.
    pub(super) fn started(&mut self) {
        if !self.done() {
            self.deadline = Some(Instant::now() + self.timeout);
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// The refusal, when nothing contradicted it.
    pub(super) fn refused(&mut self) -> Option<Error> {
        self.refused.take()
    }

    /// Why the wait ends at [`Self::deadline`]; `outputs` is what the command wrote so far.
    pub(super) fn timed_out(&mut self, target: String, outputs: [&[u8]; 2]) -> Error {
        self.refused.take().unwrap_or_else(|| Error::BecomeTimeout {
            target,
            method: self.plugin.as_deref().map(BecomePlugin::name).unwrap_or_default(),
            seconds: self.timeout.as_secs_f64(),
            said: said(&outputs.concat()),
        })
    }

    /// Looks at both streams so far (stdout, stderr); called after each new piece.
    pub(super) fn advance(&mut self, streams: [&mut Vec<u8>; 2]) -> Result<Answer> {
        let (Some(prompt), Some(plugin)) = (&mut self.prompt, &mut self.plugin) else {
            return Ok(Answer::Nothing);
        };
        if !prompt.is_waiting() {
            return Ok(Answer::Nothing);
        }
        let step = prompt.advance(*plugin, streams)?;
        Ok(match step {
            Step::Wait => Answer::Nothing,
            Step::Send(password) => {
                self.password_sent = true;
                Answer::Password(password)
            }
            Step::Incorrect | Step::Missing => {
                let method = plugin.name();
                if self.refused.is_none() {
                    self.deadline = Some(Instant::now() + OVERTAKING);
                    self.refused = Some(match step {
                        Step::Missing => Error::BecomeMissing { method },
                        _ => Error::BecomeIncorrect { method },
                    });
                }
                Answer::Nothing
            }
            Step::Go => {
                (self.deadline, self.refused) = (None, None);
                Answer::Stdin
            }
        })
    }
}
