//! What a session looks up once: a runc container's state and user, the pod behind `deploy/x`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use crate::engine::user::{self, User};
use crate::engine::{Engine, Kubectl, Refusal, Runc, runc};
use crate::error::{Error, Result, shown};
use crate::sys;
use crate::transport::Interrupt;
use crate::transport::cli::{Answer, CommandLine, ask};

/// The largest file of a container that is read: its own business, our memory.
const LARGEST: u64 = 4 << 20;

/// Makes `engine` ready for its first exec.
pub(super) fn resolve(engine: &mut Engine, timeout: Duration, interrupt: &mut dyn Interrupt) -> Result<()> {
    match engine {
        Engine::Runc(_) => open_runc(engine, timeout, interrupt),
        Engine::Kubectl(kubectl) if kubectl.names_a_workload() => {
            let pod = find_pod(kubectl, timeout, interrupt)?;
            kubectl.pod = pod.into_bytes();
            Ok(())
        }
        Engine::Docker(_) | Engine::Podman(_) | Engine::Kubectl(_) => Ok(()),
    }
}

/// The state in the engine's own word, or `None` when the engine does not say.
pub(super) fn state(
    engine: &Engine,
    timeout: Duration,
    interrupt: &mut dyn Interrupt,
) -> Result<Option<String>> {
    let line = engine.state()?;
    let answer = ask(&engine.target(), engine.name(), &line, timeout, interrupt)?;
    Ok(answer.filter(|answer| answer.status.success()).and_then(|answer| engine.parse_state(&answer.stdout)))
}

/// Asks the engine's client, and makes its failure the engine's refusal.
fn ask_or_refuse(
    engine: &Engine,
    line: &CommandLine,
    timeout: Duration,
    interrupt: &mut dyn Interrupt,
) -> Result<Answer> {
    let target = engine.target();
    let answer =
        ask(&target, engine.name(), line, timeout, interrupt)?.ok_or_else(|| Error::EngineUnreachable {
            target: target.clone(),
            said: format!(
                "{} gave no answer within {} s",
                shown(line.argv[0].as_encoded_bytes()),
                timeout.as_secs_f64()
            ),
        })?;
    if answer.status.success() {
        return Ok(answer);
    }
    let log = line.held.first().and_then(|log| log.contents(LARGEST).ok()).unwrap_or_default();
    let refusal =
        Refusal { code: answer.status.code(), stdout: &answer.stdout, stderr: &answer.stderr, log: &log };
    Err(engine.refusal(&refusal))
}

fn open_runc(engine: &mut Engine, timeout: Duration, interrupt: &mut dyn Interrupt) -> Result<()> {
    let target = engine.target();
    // runc would create the directory.
    if let Engine::Runc(Runc { root: Some(root), .. }) = &*engine
        && let Ok(false) = Path::new(OsStr::from_bytes(root)).try_exists()
    {
        let said = format!("there is no directory {}, which is its runc_root", shown(root));
        return Err(Error::NoSuchContainer { target, said });
    }
    let answer = ask_or_refuse(engine, &engine.state()?, timeout, interrupt)?;
    let state = runc::State::parse(&answer.stdout).ok_or_else(|| Error::EngineFailed {
        target: target.clone(),
        said: "its state is not the JSON that runc prints".to_owned(),
    })?;
    // runc would exec into a created container too; files written then race its start.
    if state.status != "running" {
        return Err(engine.not_running(&state.status));
    }
    let path = format!("{}/config.json", state.bundle);
    let config = std::fs::read(&path).map_err(|error| Error::EngineFailed {
        target: target.clone(),
        said: format!("its bundle's {path} cannot be read ({error})"),
    })?;
    let Engine::Runc(runc) = engine else { unreachable!("called for runc only") };
    let user = match runc.user.clone() {
        Some(spec) => Some(find_user(&target, state.pid, &spec)?),
        None => None,
    };
    runc.open(&config, user.as_ref())
}

fn find_user(target: &str, pid: u32, spec: &[u8]) -> Result<User> {
    let unusable = |said: String| Error::UnknownUser { target: target.to_owned(), user: shown(spec), said };
    let spec = std::str::from_utf8(spec).map_err(|_| unusable("it is not text".to_owned()))?;
    let read = |path: &str| match sys::read_in_root(pid, path, LARGEST) {
        Ok(bytes) => Ok(shown(&bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        // Numbers need no file; its home is then unknown.
        Err(_) if user::is_numeric(spec) => Ok(String::new()),
        Err(error) if error.raw_os_error().is_none() => Err(unusable(error.to_string())),
        Err(error) => Err(unusable(format!("{path} in the container cannot be read: {error}"))),
    };
    user::resolve(spec, &read("/etc/passwd")?, &read("/etc/group")?).map_err(unusable)
}

fn find_pod(kubectl: &Kubectl, timeout: Duration, interrupt: &mut dyn Interrupt) -> Result<String> {
    let engine = Engine::Kubectl(kubectl.clone());
    let workload = ask_or_refuse(&engine, &kubectl.get_workload()?, timeout, interrupt)?;
    let selector = Kubectl::selector(&workload.stdout).ok_or_else(|| Error::NoSuchContainer {
        target: engine.target(),
        said: "it selects no pods".to_owned(),
    })?;
    let pods = ask_or_refuse(&engine, &kubectl.get_pods(&selector)?, timeout, interrupt)?;
    Kubectl::first_pod(&pods.stdout).ok_or_else(|| Error::NotRunning {
        target: engine.target(),
        state: "without a running pod".to_owned(),
        remedy: format!("see `kubectl get pods -l {selector}`"),
    })
}
