//! Answering a password prompt of sudo, su, doas: one state machine for every engine.
//!
//! It follows ansible-core's ssh plugin: the password is sent once, when the prompt is seen; the command's own stdin is sent only after
//! the escalation succeeded, or the password's reader would eat it. What is a prompt or a success is for Ansible's become plugin
//! to say ([`BecomePlugin`]), prompts are localised and configurable.

use crate::error::Result;

/// Ansible's become plugin, as far as a prompt concerns it. Every text is the output of one stream so far.
pub trait BecomePlugin {
    /// The method's name for messages: `sudo`.
    fn name(&self) -> String;
    /// What answers the prompt; `None` when the user gave none.
    fn password(&self) -> Option<Vec<u8>>;
    /// True when `output` holds the password prompt.
    fn is_prompt(&mut self, output: &[u8]) -> Result<bool>;
    /// True when `output` holds the success marker.
    fn is_success(&mut self, output: &[u8]) -> Result<bool>;
    /// True when `output` says that the password was wrong.
    fn is_incorrect(&mut self, output: &[u8]) -> Result<bool>;
    /// True when `output` says that a password is needed.
    fn is_missing(&mut self, output: &[u8]) -> Result<bool>;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    AwaitingPrompt,
    AwaitingSuccess,
    Done,
}

/// What to do after new output.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing yet.
    Wait,
    /// Send these bytes, then go on.
    Send(Vec<u8>),
    /// The escalation succeeded, or nobody asked: the command's own stdin may follow.
    Go,
    /// The password seems to be wrong. Not yet final: the command's own stderr may have overtaken the success marker on stdout,
    /// so a [`Step::Go`] that follows at once is what counts.
    Incorrect,
    /// A password seems to be needed, and there is none; as little final.
    Missing,
}

/// The state of one escalation.
#[derive(Debug)]
pub struct BecomePrompt {
    state: State,
    since_answer: [usize; 2],
}

impl BecomePrompt {
    /// The start of an escalation. Without a password no prompt is expected, but a method that asks all the same is understood.
    pub fn new(plugin: &dyn BecomePlugin) -> Self {
        let state = if plugin.password().is_some() { State::AwaitingPrompt } else { State::AwaitingSuccess };
        Self { state, since_answer: [0, 0] }
    }

    /// True until the escalation succeeded.
    pub fn is_waiting(&self) -> bool {
        self.state != State::Done
    }

    /// Looks at both streams so far (stdout, stderr); called after each new piece while [`Self::is_waiting`].
    ///
    /// A prompt is cut from the stream it came on: it is nobody's output.
    pub fn advance(&mut self, plugin: &mut dyn BecomePlugin, streams: [&mut Vec<u8>; 2]) -> Result<Step> {
        for (which, stream) in streams.into_iter().enumerate() {
            if self.state == State::Done {
                break;
            }
            let fresh = &stream[self.since_answer[which].min(stream.len())..];
            if fresh.is_empty() {
                continue;
            }
            if plugin.is_success(fresh)? {
                self.state = State::Done;
                return Ok(Step::Go);
            }
            match self.state {
                State::AwaitingPrompt if plugin.is_prompt(fresh)? => {
                    let password = plugin.password().unwrap_or_default();
                    let line =
                        stream.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
                    stream.truncate(line);
                    self.since_answer[which] = line;
                    self.state = State::AwaitingSuccess;
                    return Ok(Step::Send([password.as_slice(), b"\n"].concat()));
                }
                State::AwaitingSuccess => {
                    let asks = plugin.is_prompt(fresh)?;
                    if plugin.is_missing(fresh)? || (asks && plugin.password().is_none()) {
                        return Ok(Step::Missing);
                    }
                    if asks || plugin.is_incorrect(fresh)? {
                        return Ok(Step::Incorrect);
                    }
                }
                _ => {}
            }
        }
        Ok(Step::Wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// sudo as Ansible words it.
    struct Sudo(Option<&'static str>);

    #[expect(clippy::unnecessary_wraps, reason = "the answers of the trait")]
    fn has(output: &[u8], text: &str) -> Result<bool> {
        Ok(memchr::memmem::find(output, text.as_bytes()).is_some())
    }

    impl BecomePlugin for Sudo {
        fn name(&self) -> String {
            "sudo".to_owned()
        }
        fn password(&self) -> Option<Vec<u8>> {
            self.0.map(|password| password.as_bytes().to_vec())
        }
        fn is_prompt(&mut self, output: &[u8]) -> Result<bool> {
            has(output, "[sudo via ansible] password:")
        }
        fn is_success(&mut self, output: &[u8]) -> Result<bool> {
            has(output, "BECOME-SUCCESS-x")
        }
        fn is_incorrect(&mut self, output: &[u8]) -> Result<bool> {
            has(output, "Sorry, try again.")
        }
        fn is_missing(&mut self, output: &[u8]) -> Result<bool> {
            has(output, "sudo: a password is required")
        }
    }

    struct Run {
        prompt: BecomePrompt,
        plugin: Sudo,
        out: Vec<u8>,
        err: Vec<u8>,
    }

    fn run(password: Option<&'static str>) -> Run {
        let plugin = Sudo(password);
        Run { prompt: BecomePrompt::new(&plugin), plugin, out: vec![], err: vec![] }
    }

    impl Run {
        fn out(&mut self, text: &str) -> Result<Step> {
            self.out.extend_from_slice(text.as_bytes());
            self.prompt.advance(&mut self.plugin, [&mut self.out, &mut self.err])
        }
        fn err(&mut self, text: &str) -> Result<Step> {
            self.err.extend_from_slice(text.as_bytes());
            self.prompt.advance(&mut self.plugin, [&mut self.out, &mut self.err])
        }
    }

    #[test]
    fn the_right_password_in_pieces() {
        let mut run = run(Some("pä"));
        assert_eq!(run.err("lecture\n[sudo via ").unwrap(), Step::Wait);
        assert_eq!(run.err("ansible] password:").unwrap(), Step::Send("pä\n".as_bytes().to_vec()));
        assert_eq!(run.err, b"lecture\n");
        assert_eq!(run.out("BECOME-SUCC").unwrap(), Step::Wait);
        assert_eq!(run.out("ESS-x\nout").unwrap(), Step::Go);
        assert!(!run.prompt.is_waiting());
    }

    #[test]
    fn nobody_asks() {
        assert_eq!(run(Some("p")).out("BECOME-SUCCESS-x\n").unwrap(), Step::Go);
    }

    #[test]
    fn a_wrong_password_is_said_at_once() {
        let mut wrong = run(Some("p"));
        wrong.err("[sudo via ansible] password:").unwrap();
        assert_eq!(wrong.err("Sorry, try again.\n").unwrap(), Step::Incorrect);
        let mut asked_again = run(Some("p"));
        asked_again.err("[sudo via ansible] password:").unwrap();
        assert_eq!(asked_again.err("\n[sudo via ansible] password:").unwrap(), Step::Incorrect);
    }

    #[test]
    fn a_missing_password_is_said() {
        for asked in ["[sudo via ansible] password:", "sudo: a password is required\n"] {
            assert_eq!(run(None).err(asked).unwrap(), Step::Missing);
        }
        assert_eq!(run(None).out("BECOME-SUCCESS-x\n").unwrap(), Step::Go);
    }

    #[test]
    fn a_command_may_say_what_sudo_says() {
        let mut overtaken = run(None);
        assert_eq!(overtaken.err("Sorry, try again.\n").unwrap(), Step::Incorrect);
        assert_eq!(overtaken.out("BECOME-SUCCESS-x\n").unwrap(), Step::Go);
        assert_eq!(overtaken.err("sudo: a password is required\n").unwrap(), Step::Wait);
    }
}
