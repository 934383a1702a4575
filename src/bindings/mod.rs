//! Python's view: convert, release the GIL, call, convert. The only code that names `pyo3`.
//!
//! `python/ansible_gangway/_core.pyi` documents what callers see. Importing the module starts nothing: no thread, no runtime.

mod broker;
mod exceptions;
mod signals;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::engine::{self, Docker, Engine, Env, Kubectl, Podman, Runc};
use crate::error::{Error, Result};
use crate::session::become_prompt::BecomePlugin;
use crate::session::{self, CommandResult, LikelyLine};
use exceptions::{ConnectionFailed, FileMissing, to_python};
use signals::Signals;

type Bytes = Vec<u8>;

/// Seconds. A wait without an end is not meant, and a point in time must stay one that the clock has.
const LONGEST_TIMEOUT: f64 = 86_400.0;

/// Ansible's become plugin behind the adapter of the shims; called with the GIL, and only while a prompt is awaited.
struct PyBecome {
    adapter: Py<PyAny>,
    name: String,
    password: Option<Bytes>,
    raised: Option<PyErr>,
}

impl PyBecome {
    fn new(adapter: &Bound<'_, PyAny>) -> PyResult<Self> {
        Ok(Self {
            name: adapter.getattr("name")?.extract()?,
            password: adapter.getattr("password")?.extract()?,
            adapter: adapter.clone().unbind(),
            raised: None,
        })
    }

    fn ask(&mut self, method: &str, output: &[u8]) -> Result<bool> {
        let answer = Python::attach(|py| {
            self.adapter.bind(py).call_method1(method, (PyBytes::new(py, output),))?.is_truthy()
        });
        answer.map_err(|raised| {
            self.raised = Some(raised);
            Error::Interrupted
        })
    }
}

impl BecomePlugin for PyBecome {
    fn name(&self) -> String {
        self.name.clone()
    }
    fn password(&self) -> Option<Bytes> {
        self.password.clone()
    }
    fn is_prompt(&mut self, output: &[u8]) -> Result<bool> {
        self.ask("is_prompt", output)
    }
    fn is_success(&mut self, output: &[u8]) -> Result<bool> {
        self.ask("is_success", output)
    }
    fn is_incorrect(&mut self, output: &[u8]) -> Result<bool> {
        self.ask("is_incorrect", output)
    }
    fn is_missing(&mut self, output: &[u8]) -> Result<bool> {
        self.ask("is_missing", output)
    }
}

/// See `_core.pyi`.
#[pyclass(frozen)]
struct Agents(session::Agents);

#[pymethods]
impl Agents {
    #[new]
    #[pyo3(signature = (*, python, package, persist=60.0, always=false, kill_on_disconnect=false, interpreter=None, controller=None, play=0))]
    #[expect(clippy::too_many_arguments, reason = "one keyword per option")]
    fn new(
        py: Python<'_>,
        python: &[u8],
        package: &[u8],
        persist: f64,
        always: bool,
        kill_on_disconnect: bool,
        interpreter: Option<Bytes>,
        controller: Option<Bytes>,
        play: u32,
    ) -> PyResult<Self> {
        Ok(Self(session::Agents {
            python: path(python).to_owned(),
            package: path(package).to_owned(),
            build: broker::build(py)?,
            persist: if persist > 0.0 { persist.min(LONGEST_TIMEOUT) } else { 0.0 },
            always,
            kill_on_disconnect,
            interpreter,
            controller: controller.unwrap_or_default(),
            play,
        }))
    }
}

/// See `_core.pyi`.
#[pyclass(frozen)]
struct Session(Mutex<session::Session>);

fn path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

impl Session {
    fn new(engine: Engine, shell: Bytes, timeout: f64, agents: Option<session::Agents>) -> PyResult<Self> {
        let timeout = Duration::try_from_secs_f64(timeout.min(LONGEST_TIMEOUT))
            .map_err(|error| exceptions::Error::new_err(format!("timeout {timeout}: {error}")))?;
        Ok(Self(Mutex::new(session::Session::new(engine, shell, timeout, agents))))
    }

    fn lock(&self) -> MutexGuard<'_, session::Session> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls `work` without the GIL; Python code may run only in `Signals` and `PyBecome`.
    fn run<T: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&mut session::Session, &mut Signals) -> Result<T> + Send,
    ) -> PyResult<T> {
        let mut signals = Signals::listen(py);
        let result = py.detach(|| work(&mut self.lock(), &mut signals));
        let raised = signals.end(py, matches!(result, Err(Error::Interrupted)));
        result.map_err(|error| to_python(&error, raised))
    }
}

#[pymethods]
impl Session {
    #[pyo3(signature = (command, stdin=None, r#become=None))]
    fn exec_command<'py>(
        &self,
        py: Python<'py>,
        command: &[u8],
        stdin: Option<&[u8]>,
        r#become: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<(i32, Bound<'py, PyBytes>, Bound<'py, PyBytes>)> {
        let mut plugin = r#become.map(PyBecome::new).transpose()?;
        let result = self.run(py, |session, signals| {
            session.exec_command(
                command,
                stdin,
                plugin.as_mut().map(|plugin| plugin as &mut dyn BecomePlugin),
                signals,
            )
        });
        let raised_by_plugin = plugin.and_then(|plugin| plugin.raised);
        let CommandResult { rc, stdout, stderr } =
            result.map_err(|error| raised_by_plugin.unwrap_or(error))?;
        Ok((rc, PyBytes::new(py, &stdout), PyBytes::new(py, &stderr)))
    }

    #[pyo3(signature = (*, commands=true, pythons=Vec::new(), behind=Vec::new()))]
    fn prepare(&self, py: Python<'_>, commands: bool, pythons: Vec<Bytes>, behind: Bytes) -> PyResult<()> {
        let likely = LikelyLine { pythons, behind };
        self.run(py, |session, signals| session.prepare(commands, &likely, signals))
    }

    fn put_file(&self, py: Python<'_>, in_path: &[u8], out_path: &[u8]) -> PyResult<Option<String>> {
        self.run(py, |session, signals| session.put_file(path(in_path), out_path, signals))
    }

    fn fetch_file(&self, py: Python<'_>, in_path: &[u8], out_path: &[u8]) -> PyResult<Option<String>> {
        self.run(py, |session, signals| session.fetch_file(in_path, path(out_path), signals))
    }

    fn path(&self) -> String {
        self.lock().path()
    }

    fn warnings(&self) -> Vec<String> {
        self.lock().warnings()
    }

    fn reset(&self, py: Python<'_>) -> PyResult<()> {
        self.run(py, |session, signals| session.reset(signals))
    }

    fn close(&self) {
        self.lock().close();
    }
}

fn ready(
    engine: Engine,
    shell: Bytes,
    timeout: f64,
    option: &'static str,
    name: &[u8],
    env: &Env,
    agents: Option<&Bound<'_, Agents>>,
) -> PyResult<Session> {
    let target = engine.target();
    let checked = engine::check_name(&target, option, name).and_then(|()| engine::check_env(&target, env));
    checked.map_err(|error| to_python(&error, None))?;
    Session::new(engine, shell, timeout, agents.map(|agents| agents.get().0.clone()))
}

fn words(target: &str, option: &'static str, line: &[u8]) -> PyResult<Vec<Bytes>> {
    engine::extra_args(target, option, line).map_err(|error| to_python(&error, None))
}

#[pyfunction]
#[pyo3(signature = (*, container, executable, root, extra_args, user, env, working_dir, timeout, shell, agents=None))]
#[expect(clippy::too_many_arguments, reason = "one keyword per option")]
fn runc(
    container: Bytes,
    executable: Bytes,
    root: Option<Bytes>,
    extra_args: &[u8],
    user: Option<Bytes>,
    env: BTreeMap<Bytes, Bytes>,
    working_dir: Option<Bytes>,
    timeout: f64,
    shell: Bytes,
    agents: Option<&Bound<'_, Agents>>,
) -> PyResult<Session> {
    let mut runc = Runc { container, executable, root, user, env, working_dir, ..Runc::default() };
    runc.extra_args = words(&Engine::Runc(runc.clone()).target(), "runc_extra_args", extra_args)?;
    let (name, env) = (runc.container.clone(), runc.env.clone());
    ready(Engine::Runc(runc), shell, timeout, "remote_addr", &name, &env, agents)
}

#[pyfunction]
#[pyo3(signature = (*, container, executable, extra_args, user, env, working_dir, privileged, timeout, shell, agents=None))]
#[expect(clippy::too_many_arguments, reason = "one keyword per option")]
fn docker(
    container: Bytes,
    executable: Bytes,
    extra_args: &[u8],
    user: Option<Bytes>,
    env: BTreeMap<Bytes, Bytes>,
    working_dir: Option<Bytes>,
    privileged: bool,
    timeout: f64,
    shell: Bytes,
    agents: Option<&Bound<'_, Agents>>,
) -> PyResult<Session> {
    let mut docker =
        Docker { container, executable, user, env, working_dir, privileged, ..Docker::default() };
    docker.extra_args = words(&Engine::Docker(docker.clone()).target(), "docker_extra_args", extra_args)?;
    let (name, env) = (docker.container.clone(), docker.env.clone());
    ready(Engine::Docker(docker), shell, timeout, "remote_addr", &name, &env, agents)
}

#[pyfunction]
#[pyo3(signature = (*, container, executable, extra_args, user, env, working_dir, timeout, shell, agents=None))]
#[expect(clippy::too_many_arguments, reason = "one keyword per option")]
fn podman(
    container: Bytes,
    executable: Bytes,
    extra_args: &[u8],
    user: Option<Bytes>,
    env: BTreeMap<Bytes, Bytes>,
    working_dir: Option<Bytes>,
    timeout: f64,
    shell: Bytes,
    agents: Option<&Bound<'_, Agents>>,
) -> PyResult<Session> {
    let mut podman = Podman { container, executable, user, env, working_dir, ..Podman::default() };
    podman.extra_args = words(&Engine::Podman(podman.clone()).target(), "podman_extra_args", extra_args)?;
    let (name, env) = (podman.container.clone(), podman.env.clone());
    ready(Engine::Podman(podman), shell, timeout, "remote_addr", &name, &env, agents)
}

#[pyfunction]
#[pyo3(signature = (*, pod, container, namespace, kubeconfig, kubeconfig_content, context, server, username, password, token, client_cert,
    client_key, ca_cert, validate_certs, executable, extra_args, local_env, env, working_dir, timeout, shell, agents=None))]
#[expect(clippy::too_many_arguments, reason = "one keyword per option")]
fn kubectl(
    pod: Bytes,
    container: Option<Bytes>,
    namespace: Option<Bytes>,
    kubeconfig: Option<Bytes>,
    kubeconfig_content: Option<Bytes>,
    context: Option<Bytes>,
    server: Option<Bytes>,
    username: Option<Bytes>,
    password: Option<Bytes>,
    token: Option<Bytes>,
    client_cert: Option<Bytes>,
    client_key: Option<Bytes>,
    ca_cert: Option<Bytes>,
    validate_certs: Option<bool>,
    executable: Bytes,
    extra_args: &[u8],
    local_env: BTreeMap<Bytes, Bytes>,
    env: BTreeMap<Bytes, Bytes>,
    working_dir: Option<Bytes>,
    timeout: f64,
    shell: Bytes,
    agents: Option<&Bound<'_, Agents>>,
) -> PyResult<Session> {
    let mut kubectl = Kubectl {
        pod,
        container,
        namespace,
        kubeconfig,
        kubeconfig_content,
        context,
        server,
        username,
        password,
        token,
        client_cert,
        client_key,
        ca_cert,
        validate_certs,
        executable,
        extra_args: vec![],
        local_env,
        env,
        working_dir,
        default_kubeconfig: default_kubeconfig(),
    };
    kubectl.extra_args = words(&Engine::Kubectl(kubectl.clone()).target(), "kubectl_extra_args", extra_args)?;
    let (name, env) = (kubectl.pod.clone(), kubectl.env.clone());
    ready(Engine::Kubectl(kubectl), shell, timeout, "kubectl_pod", &name, &env, agents)
}

fn default_kubeconfig() -> Option<OsString> {
    if let Some(set) = std::env::var_os("KUBECONFIG").filter(|set| !set.is_empty()) {
        return Some(set);
    }
    let home = PathBuf::from(std::env::var_os("HOME")?).join(".kube/config");
    home.exists().then(|| home.into())
}

#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add("Error", py.get_type::<exceptions::Error>())?;
    module.add("ConnectionFailed", py.get_type::<ConnectionFailed>())?;
    module.add("FileMissing", py.get_type::<FileMissing>())?;
    module.add_class::<Agents>()?;
    module.add_class::<Session>()?;
    module.add_function(wrap_pyfunction!(runc, module)?)?;
    module.add_function(wrap_pyfunction!(docker, module)?)?;
    module.add_function(wrap_pyfunction!(podman, module)?)?;
    module.add_function(wrap_pyfunction!(kubectl, module)?)?;
    module.add_function(wrap_pyfunction!(broker::serve_broker, module)?)?;
    module.add_function(wrap_pyfunction!(broker::broker_start, module)?)?;
    module.add_function(wrap_pyfunction!(broker::broker_status, module)?)?;
    module.add_function(wrap_pyfunction!(broker::broker_stop, module)?)
}
