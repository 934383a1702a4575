//! Agents that open ahead of their use, while Ansible builds a module.
//!
//! The one for commands is asked for as ever. One for modules is opened on a guess, and only where it would be the target's first: of the
//! line that will run the module nothing is open but the interpreter's path, which Ansible looks for in the container, as a shell there
//! can do. Whether the guess was right is seen when the line has come; else it ends without having done anything. Nobody queues here.

use super::acquire::{Acquired, Asked, Asking, Purpose, Question, adopt, agent_key, ask, give_up};
use super::boot::{Boot, Serves};
use super::key::keyed;
use super::line::{PythonLine, quote};
use super::open::{Opened, Opening, Program, Spawned};
use super::{Agents, Session};
use crate::broker::client::Client;
use crate::error::Result;
use crate::transport::Interrupt;

/// How Ansible will run the module that it is about to build.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
pub struct LikelyLine {
    /// Names or paths: the first of them that the container has.
    pub pythons: Vec<Vec<u8>>,
    /// What is behind the interpreter: nothing, or ` && sleep 0`.
    pub behind: Vec<u8>,
}

/// What was asked for ahead of its use, of the agent for commands.
#[derive(Debug)]
pub(super) enum Begun {
    Answered(Acquired),
    Spawned(Box<Spawned>),
}

/// An interpreter for modules that opens.
#[derive(Debug)]
pub(super) struct Guess {
    likely: LikelyLine,
    spawned: Spawned,
}

impl LikelyLine {
    fn with(&self, shell: &[u8], interpreter: &[u8]) -> Option<PythonLine> {
        let command = [interpreter, self.behind.as_slice()].concat();
        PythonLine::parse(&[shell, b" -c ", &quote(&command)].concat())
    }

    /// What finds the first interpreter that is there, and becomes the line for it with a program behind it.
    ///
    /// Becomes, to the last shell: one may set variables for what it starts (bash: `_`, `SHLVL`).
    fn searching(&self, shell: &[u8], program: &str) -> Vec<u8> {
        let names = self.pythons.iter().map(|name| quote(name)).collect::<Vec<_>>().join(&b' ');
        let behind = [b" -c ".as_slice(), &quote(program.as_bytes()), &self.behind].concat();
        let line = [shell, b" -c '"].concat();
        let search = [
            b"for _gangway_p in ",
            names.as_slice(),
            b";do _gangway_p=$(command -v \"$_gangway_p\")&&exec ",
            shell,
            b" -c ",
            &quote(&line),
            b"\"$_gangway_p\"",
            &quote(&quote(&behind)[1..]),
            b";done;exit 127",
        ];
        search.concat()
    }
}

/// Asks for what a module will need, and starts opening it when it is this task that has to: an interpreter on a guess, and the agent for
/// commands when `commands`. False where the connection is of no use any more.
pub(super) fn begin(
    session: &mut Session,
    agents: &Agents,
    client: &mut Client,
    commands: bool,
    likely: &LikelyLine,
    interrupt: &mut dyn Interrupt,
) -> Result<bool> {
    Ok((likely.pythons.is_empty() || guess(session, agents, client, likely, interrupt)?)
        && (!commands || begin_commands(session, agents, client, interrupt)?))
}

fn begin_commands(
    session: &mut Session,
    agents: &Agents,
    client: &mut Client,
    interrupt: &mut dyn Interrupt,
) -> Result<bool> {
    let key = agent_key(session, agents, client.salt(), Purpose::Commands, None);
    let question = Question { key, serves: Serves::Commands, how: Asking::Ahead };
    match ask(session, agents, client, question, interrupt)? {
        Asked::Open(id) => {
            let program = Program::new(session, agents, Purpose::Commands)?;
            let spawned = spawn(session, client, id, program, interrupt)?;
            session.begun = Some(Begun::Spawned(Box::new(spawned)));
        }
        Asked::Answered(Acquired::Closed(_)) => return Ok(false),
        Asked::Answered(Acquired::Unusable(_)) => {} // it is asked again when it matters
        Asked::Answered(acquired) => session.begun = Some(Begun::Answered(acquired)),
    }
    Ok(true)
}

fn guess(
    session: &mut Session,
    agents: &Agents,
    client: &mut Client,
    likely: &LikelyLine,
    interrupt: &mut dyn Interrupt,
) -> Result<bool> {
    // The agent's own key takes the interpreter's path, which nobody knows yet.
    let key = keyed(client.salt(), &session.identity, &("guess", likely));
    let question = Question { key, serves: Serves::Modules, how: Asking::OnAGuess };
    match ask(session, agents, client, question, interrupt)? {
        Asked::Open(id) => {
            let kill = agents.kill_on_disconnect;
            let boot = Boot::new(session.nonce()?, Serves::Modules, agents.always, kill, b"");
            let line = likely.searching(&session.shell, &boot.program());
            let program = Program { boot, shell: b"/bin/sh".to_vec(), line };
            client.keep(id);
            let spawned = spawn(session, client, id, program, interrupt)?;
            session.guess = Some(Box::new(Guess { likely: likely.clone(), spawned }));
            Ok(true)
        }
        Asked::Answered(Acquired::Closed(_)) => Ok(false),
        Asked::Answered(_) => Ok(true),
    }
}

fn spawn(
    session: &mut Session,
    client: &mut Client,
    id: u32,
    program: Program,
    interrupt: &mut dyn Interrupt,
) -> Result<Spawned> {
    match Spawned::new(session, client, id, program, false, interrupt) {
        Ok(mut spawned) => {
            client.flush_upload(&mut spawned.upload);
            Ok(spawned)
        }
        Err(error) => {
            give_up(client, id, None);
            Err(error)
        }
    }
}

/// The interpreter that was opened on a guess, when it is the one that `line` names.
pub(super) fn guessed(
    session: &mut Session,
    agents: &Agents,
    client: &mut Client,
    line: &PythonLine,
    interrupt: &mut dyn Interrupt,
) -> Result<Option<Acquired>> {
    let Some(guess) = session.guess.take() else { return Ok(None) };
    let Guess { likely, spawned } = *guess;
    let id = spawned.id;
    let expected = likely.with(&session.shell, &line.interpreter);
    if expected.is_none_or(|expected| expected.key != line.key) {
        client.forget(id);
        give_up(client, id, None);
        return Ok(None);
    }
    let opened = Opening::new(spawned, session, client, None).run(interrupt);
    client.forget(id);
    match opened {
        Ok(Opened::Agent(hello, stdout, stderr)) if hello.executable.as_bytes() == line.interpreter => {
            let key = agent_key(session, agents, client.salt(), Purpose::Modules(line), None);
            let said = (line.without_id(&stdout), line.without_id(&stderr));
            return adopt(session, client, id, hello, said, Some(key), interrupt).map(Some);
        }
        Ok(Opened::Closed(said)) => return Ok(Some(Acquired::Closed(said))),
        // Whatever is the matter, it is not the line that the module has.
        Ok(_) => give_up(client, id, None),
        Err(error) => {
            give_up(client, id, None);
            if !(error.is_of_a_lost_place() && session.look_elsewhere()) {
                return Err(error);
            }
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn likely(pythons: &[&str], behind: &str) -> LikelyLine {
        let pythons = pythons.iter().map(|name| name.as_bytes().to_vec()).collect();
        LikelyLine { pythons, behind: behind.into() }
    }

    #[test]
    fn it_is_the_line_that_ansible_sends() {
        for (behind, line) in [("", "/bin/sh -c python3"), (" && sleep 0", "/bin/sh -c 'python3 && sleep 0'")]
        {
            let sent = PythonLine::parse(line.as_bytes());
            assert!(sent.is_some());
            assert_eq!(likely(&[], behind).with(b"/bin/sh", b"python3"), sent);
        }
        assert_eq!(likely(&[], "").with(b"/bin/sh", b"perl"), None);
    }

    #[test]
    fn the_first_that_is_there_runs_the_program() {
        let run = |pythons: &[&str], behind: &str| {
            let line = likely(pythons, behind).searching(b"/bin/sh", "echo \"$0 ran\"; exit $1");
            let output =
                Command::new("/bin/sh").arg("-c").arg(str::from_utf8(&line).unwrap()).output().unwrap();
            (String::from_utf8(output.stdout).unwrap(), output.status.code())
        };
        // A shell stands for Python: it takes -c as well, and tells how it was called.
        for behind in ["", " && sleep 0"] {
            let (said, code) = run(&["/no/such", "it's-not-there", "sh", "bash"], behind);
            assert!(said.ends_with("/sh ran\n") && said.starts_with('/') && code == Some(0), "{said}");
            assert_eq!(run(&["/no/such"], behind), (String::new(), Some(127)));
        }
    }
}
