//! kubectl: `kubectl exec POD --`.
//!
//! Tokens and passwords go into a kubeconfig of their own (a memfd) that kubectl merges in front of the user's: they are on no
//! command line. An exec in a pod knows neither user, environment nor directory, so the last two are the shell's work
//! ([`Prelude`]).

use std::ffi::{OsStr, OsString};
use std::fmt::Write;

use serde_json::{Map, Value, json};

use super::{Env, Prelude, Refusal, held, os};
use crate::error::{Error, Result, said, shown};
use crate::transport::cli::CommandLine;

/// The name of our user entry in the merged kubeconfig.
const USER_ENTRY: &str = "gangway";

/// A container of a pod, and how its API server is reached. Empty options are `None`.
#[derive(Clone, Debug, Default, Hash)]
pub struct Kubectl {
    /// A pod, or `TYPE/NAME` of a workload, which [`crate::session`] resolves once.
    pub pod: Vec<u8>,
    /// Container of the pod; kubectl's default when `None`.
    pub container: Option<Vec<u8>>,
    /// `--namespace`.
    pub namespace: Option<Vec<u8>>,
    /// Path of a kubeconfig.
    pub kubeconfig: Option<Vec<u8>>,
    /// A kubeconfig's own text (JSON), from a dictionary.
    pub kubeconfig_content: Option<Vec<u8>>,
    /// `--context`.
    pub context: Option<Vec<u8>>,
    /// `--server`.
    pub server: Option<Vec<u8>>,
    /// User of basic authentication.
    pub username: Option<Vec<u8>>,
    /// Password of basic authentication.
    pub password: Option<Vec<u8>>,
    /// Bearer token.
    pub token: Option<Vec<u8>>,
    /// `--client-certificate`, a path.
    pub client_cert: Option<Vec<u8>>,
    /// `--client-key`, a path.
    pub client_key: Option<Vec<u8>>,
    /// `--certificate-authority`, a path.
    pub ca_cert: Option<Vec<u8>>,
    /// False: `--insecure-skip-tls-verify=true`.
    pub validate_certs: Option<bool>,
    /// The kubectl executable: a path, or a name looked up in `PATH`.
    pub executable: Vec<u8>,
    /// More global arguments, before the subcommand.
    pub extra_args: Vec<Vec<u8>>,
    /// Variables of the local kubectl process.
    pub local_env: Env,
    /// Variables of the command in the container.
    pub env: Env,
    /// Directory of the command in the container.
    pub working_dir: Option<Vec<u8>>,
    /// What kubectl would read as its kubeconfig: `$KUBECONFIG`, else the file in the home directory if there is one.
    pub default_kubeconfig: Option<OsString>,
}

impl Kubectl {
    pub(super) fn target(&self) -> String {
        let mut target = format!("pod {:?}", shown(&self.pod));
        if let Some(container) = &self.container {
            let _ = write!(target, " (container {:?})", shown(container));
        }
        if let Some(namespace) = &self.namespace {
            let _ = write!(target, " in namespace {:?}", shown(namespace));
        }
        target
    }

    fn global(&self) -> Result<CommandLine> {
        let mut line = CommandLine { argv: vec![os(self.executable.clone())], ..CommandLine::default() };
        line.env = self.local_env.iter().map(|(name, value)| (os(name.clone()), os(value.clone()))).collect();
        self.add_kubeconfig(&mut line)?;
        let flags = [
            ("--namespace", &self.namespace),
            ("--context", &self.context),
            ("--server", &self.server),
            ("--client-certificate", &self.client_cert),
            ("--client-key", &self.client_key),
            ("--certificate-authority", &self.ca_cert),
        ];
        for (flag, value) in flags {
            if let Some(value) = value {
                line.argv.extend([flag.into(), os(value.clone())]);
            }
        }
        if let Some(validate) = self.validate_certs {
            line.argv.push(format!("--insecure-skip-tls-verify={}", !validate).into());
        }
        line.argv.extend(self.extra_args.iter().cloned().map(os));
        Ok(line)
    }

    fn add_kubeconfig(&self, line: &mut CommandLine) -> Result<()> {
        let target = self.target();
        let given: Option<OsString> = match (&self.kubeconfig_content, &self.kubeconfig) {
            (Some(content), _) => Some(held(&target, line.hold(content))?),
            (None, Some(path)) => Some(os(path.clone())),
            (None, None) => None,
        };
        let credentials =
            [("token", &self.token), ("username", &self.username), ("password", &self.password)];
        let mut user = Map::new();
        for (field, value) in credentials {
            if let Some(value) = value {
                user.insert(field.to_owned(), json!(shown(value)));
            }
        }
        if user.is_empty() {
            if let Some(path) = given {
                line.argv.extend(["--kubeconfig".into(), path]);
            }
            return Ok(());
        }
        if self.extra_args.iter().any(|arg| arg.starts_with(b"--kubeconfig")) {
            let reason = "--kubeconfig there hides the token or password given beside it: use ansible_kubectl_kubeconfig".to_owned();
            return Err(Error::Option { target, option: "kubectl_extra_args", reason });
        }
        let entry =
            json!({"apiVersion": "v1", "kind": "Config", "users": [{"name": USER_ENTRY, "user": user}]});
        let mut merged = held(&target, line.hold(entry.to_string().as_bytes()))?;
        let own = line.env.iter().find(|(name, _)| name == "KUBECONFIG").map(|(_, path)| path.clone());
        if let Some(rest) = given.or(own).or_else(|| self.default_kubeconfig.clone()) {
            merged.push(OsStr::new(":"));
            merged.push(rest);
        }
        line.env.retain(|(name, _)| name != "KUBECONFIG");
        line.env.push(("KUBECONFIG".into(), merged));
        line.argv.extend(["--user".into(), USER_ENTRY.into()]);
        Ok(())
    }

    /// The pod's shell sets the variables, so their names must be ones that a shell knows.
    fn check_env_names(&self) -> Result<()> {
        for name in self.env.keys() {
            if name.first().is_some_and(u8::is_ascii_digit)
                || !name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
            {
                let reason = format!(
                    "{:?} is no name for a shell's variable (letters, digits and _), and in a pod a shell has to set it",
                    shown(name)
                );
                return Err(Error::Option { target: self.target(), option: "extra_env", reason });
            }
        }
        Ok(())
    }

    pub(super) fn exec(&self, command: &[Vec<u8>], stdin: bool) -> Result<CommandLine> {
        self.check_env_names()?;
        let mut line = self.global()?;
        line.argv.push("exec".into());
        if stdin {
            line.argv.push("--stdin".into());
        }
        if let Some(container) = &self.container {
            line.argv.extend(["--container".into(), os(container.clone())]);
        }
        line.argv.extend([os(self.pod.clone()), "--".into()]);
        line.argv.extend(command.iter().cloned().map(os));
        Ok(line)
    }

    pub(super) fn prelude(&self) -> Prelude<'_> {
        Prelude { env: (!self.env.is_empty()).then_some(&self.env), working_dir: self.working_dir.as_deref() }
    }

    pub(super) fn state(&self) -> Result<CommandLine> {
        let mut line = self.global()?;
        line.argv.extend([
            "get".into(),
            "pod".into(),
            os(self.pod.clone()),
            "-o".into(),
            "jsonpath={.status.phase}".into(),
        ]);
        Ok(line)
    }

    /// True when the pod is named through a workload such as `deploy/web`.
    pub fn names_a_workload(&self) -> bool {
        self.pod.contains(&b'/')
            && !self.pod.starts_with(b"pod/")
            && !self.pod.starts_with(b"pods/")
            && !self.pod.starts_with(b"po/")
    }

    /// The command line that prints the workload as JSON.
    pub fn get_workload(&self) -> Result<CommandLine> {
        let mut line = self.global()?;
        line.argv.extend(["get".into(), os(self.pod.clone()), "-o".into(), "json".into()]);
        Ok(line)
    }

    /// The command line that prints the pods of `selector` as JSON.
    pub fn get_pods(&self, selector: &str) -> Result<CommandLine> {
        let mut line = self.global()?;
        line.argv.extend(["get", "pods", "-o", "json", "-l", selector].map(Into::into));
        Ok(line)
    }

    /// The label selector of a workload that `kubectl get -o json` printed.
    pub fn selector(workload: &[u8]) -> Option<String> {
        let workload: Value = serde_json::from_slice(workload).ok()?;
        let selector = &workload["spec"]["selector"];
        // A service and a replication controller have the labels themselves, everything newer has matchLabels.
        let labels = match selector.get("matchLabels") {
            Some(labels) => labels.as_object(),
            None if selector.get("matchExpressions").is_some() => None,
            None => selector.as_object(),
        };
        let mut terms: Vec<String> = labels
            .into_iter()
            .flatten()
            .map(|(key, value)| Some(format!("{key}={}", value.as_str()?)))
            .collect::<Option<_>>()?;
        for rule in selector["matchExpressions"].as_array().into_iter().flatten() {
            let key = rule["key"].as_str()?;
            let values: Vec<&str> =
                rule["values"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            terms.push(match rule["operator"].as_str()? {
                "In" => format!("{key} in ({})", values.join(",")),
                "NotIn" => format!("{key} notin ({})", values.join(",")),
                "Exists" => key.to_owned(),
                "DoesNotExist" => format!("!{key}"),
                _ => return None,
            });
        }
        (!terms.is_empty()).then(|| terms.join(","))
    }

    /// The pod that kubectl would take first: running, ready, then the oldest; a pod that is being deleted never.
    pub fn first_pod(pods: &[u8]) -> Option<String> {
        let pods: Value = serde_json::from_slice(pods).ok()?;
        let ready = |pod: &Value| {
            let conditions = pod["status"]["conditions"].as_array();
            conditions
                .into_iter()
                .flatten()
                .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
        };
        pods["items"]
            .as_array()?
            .iter()
            .filter(|pod| {
                pod["status"]["phase"] == "Running" && pod["metadata"]["deletionTimestamp"].is_null()
            })
            .min_by_key(|pod| {
                (!ready(pod), pod["metadata"]["creationTimestamp"].as_str().unwrap_or_default())
            })?["metadata"]["name"]
            .as_str()
            .map(str::to_owned)
    }

    /// The command's own stderr: kubectl adds a line for a status other than 0.
    pub fn without_own_words(stderr: &mut Vec<u8>, rc: i32) {
        let added = format!("command terminated with exit code {rc}\n");
        if stderr.ends_with(added.as_bytes()) {
            stderr.truncate(stderr.len() - added.len());
        }
    }

    pub(super) fn refusal(&self, refusal: &Refusal<'_>) -> Error {
        let target = self.target();
        let text = shown(refusal.stderr);
        // kubectl announces its choice of a container before anything can fail, and logs every attempt before it says what failed.
        let text: String = text
            .lines()
            .filter(|line| !line.starts_with("Defaulted container") && !is_log(line))
            .collect::<Vec<_>>()
            .join("\n");
        let text = without_query(&text);
        let said = said(text.as_bytes());
        let has = |part: &str| text.contains(part);
        if shown(refusal.stdout).contains("Please enter Username") {
            let said = "kubectl has no credentials and asks for a user name".to_owned();
            Error::Forbidden { target, said }
        } else if has("(NotFound)")
            || has("is not valid for pod")
            || has("not found in pod")
            || has("doesn't have a resource type")
            || has("invalid resource name")
            || has("arguments in resource/name form")
        {
            Error::NoSuchContainer { target, said }
        } else if has("(Forbidden)")
            || has("(Unauthorized)")
            || has("must be logged in")
            || has("forbidden: User")
            || has("remote error: tls:")
        {
            Error::Forbidden { target, said }
        } else if has("x509:")
            || has("unable to read client-")
            || has("unable to read certificate-authority")
            || has("must be specified for")
            || has("unknown flag:")
            || has("unknown shorthand flag:")
        {
            Error::Configuration { target, said }
        } else if has("in a completed pod") {
            self.not_running(target, "completed")
        } else if has("container not found")
            || has("does not have a host assigned")
            || has("is waiting to start")
        {
            self.not_running(target, "not started")
        } else if has("was refused")
            || has("Unable to connect to the server")
            || has("no such host")
            || has("i/o timeout")
            // Go's own words, in whatever kubectl says around them.
            || has("dial tcp ")
            || has("connection reset by peer")
            // The server is there, and the node's kubelet is not.
            || has("error sending request:")
            || has("error dialing backend:")
            || has("TLS handshake")
            || text.trim_end().ends_with(": EOF")
        {
            Error::EngineUnreachable { target, said }
        } else if has("context \"")
            || has("Error in configuration")
            || has("kubeconfig")
            || has("error loading config")
            || has("invalid configuration")
            || has("error: stat ")
        {
            Error::Configuration { target, said }
        } else if has("exec: \"/bin/sh\"") {
            Error::NoShell { target, shell: "/bin/sh".to_owned(), said }
        } else {
            Error::EngineFailed { target, said }
        }
    }

    fn not_running(&self, target: String, state: &str) -> Error {
        let remedy = format!("see `kubectl describe pod {}` for the reason", shown(&self.pod));
        Error::NotRunning { target, state: state.to_owned(), remedy }
    }
}

/// `text` without the query of an address in it: that is the whole command, whose words are nobody's verdict.
fn without_query(text: &str) -> String {
    match text.split_once("?command=") {
        Some((before, query)) => {
            let after = query.find(['"', ' ', '\n']).map_or("", |end| &query[end..]);
            format!("{before}{after}")
        }
        None => text.to_owned(),
    }
}

/// True for a line of kubectl's log: `E1121 12:38:04.408477   19370 memcache.go:265] …`.
fn is_log(line: &str) -> bool {
    line.split_once(' ').is_some_and(|(head, _)| {
        head.len() == 5
            && head.starts_with(['I', 'W', 'E', 'F'])
            && head.bytes().skip(1).all(|byte| byte.is_ascii_digit())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kubectl() -> Kubectl {
        Kubectl { pod: b"web".to_vec(), executable: b"kubectl".to_vec(), ..Kubectl::default() }
    }

    #[expect(clippy::unnecessary_wraps, reason = "it spells an option that is given")]
    fn some(text: &str) -> Option<Vec<u8>> {
        Some(text.as_bytes().to_vec())
    }

    #[test]
    fn options_become_arguments() {
        let line = kubectl().exec(&[b"true".to_vec()], false).unwrap();
        assert_eq!(line.argv, ["kubectl", "exec", "web", "--", "true"]);
        let all = Kubectl {
            container: some("app"),
            namespace: some("shop"),
            kubeconfig: some("/k"),
            context: some("c"),
            server: some("https://h"),
            client_cert: some("/c.pem"),
            client_key: some("/k.pem"),
            ca_cert: some("/ca.pem"),
            validate_certs: Some(false),
            extra_args: vec![b"--as=bob".to_vec()],
            local_env: Env::from([(b"HTTPS_PROXY".to_vec(), b"http://p".to_vec())]),
            ..kubectl()
        };
        let line = all.exec(&[b"sh".to_vec()], true).unwrap();
        let expected = [
            "kubectl",
            "--kubeconfig",
            "/k",
            "--namespace",
            "shop",
            "--context",
            "c",
            "--server",
            "https://h",
            "--client-certificate",
            "/c.pem",
            "--client-key",
            "/k.pem",
            "--certificate-authority",
            "/ca.pem",
            "--insecure-skip-tls-verify=true",
            "--as=bob",
            "exec",
            "--stdin",
            "--container",
            "app",
            "web",
            "--",
            "sh",
        ];
        assert_eq!(line.argv, expected);
        assert_eq!(line.env, [("HTTPS_PROXY".into(), "http://p".into())]);
        assert_eq!(all.target(), "pod \"web\" (container \"app\") in namespace \"shop\"");
    }

    #[test]
    fn secrets_are_in_a_file_in_front_of_the_users_kubeconfig() {
        let kubectl = Kubectl {
            token: some("t0ken"),
            username: some("u"),
            password: some("pa\"ss"),
            default_kubeconfig: Some("/home/u/.kube/config".into()),
            ..kubectl()
        };
        let line = kubectl.exec(&[], false).unwrap();
        let file = line.held[0].path();
        assert_eq!(line.argv, ["kubectl", "--user", "gangway", "exec", "web", "--"]);
        assert_eq!(
            line.env,
            [("KUBECONFIG".into(), format!("{}:/home/u/.kube/config", file.to_str().unwrap()).into())]
        );
        let entry: Value = serde_json::from_slice(&line.held[0].contents(1000).unwrap()).unwrap();
        assert_eq!(
            entry["users"][0]["user"],
            json!({"token": "t0ken", "username": "u", "password": "pa\"ss"})
        );
    }

    #[test]
    fn a_dictionary_is_a_file_that_only_kubectl_opens() {
        let line = Kubectl { kubeconfig_content: some("{}"), ..kubectl() }.exec(&[], false).unwrap();
        assert_eq!(line.argv[1..3], ["--kubeconfig".into(), line.held[0].path()]);
    }

    #[test]
    fn a_question_for_a_user_name_is_a_lack_of_credentials() {
        let asked =
            Refusal { stdout: b"Please enter Username: ", stderr: b"error: EOF", ..Refusal::default() };
        let error = kubectl().refusal(&asked).to_string();
        assert!(error.contains("refused access (kubectl has no credentials"), "{error}");
    }

    #[test]
    fn a_shell_must_know_the_names_of_variables() {
        let named = |name: &str| {
            let env = Env::from([(name.as_bytes().to_vec(), b"v".to_vec())]);
            Kubectl { env, ..kubectl() }.exec(&[], false).map_err(|error| error.to_string())
        };
        assert!(named("_A1").is_ok());
        for name in ["a.b", "1a", "x;id", "ä", "#"] {
            assert!(named(name).unwrap_err().contains("extra_env cannot be used"), "{name}");
        }
    }

    #[test]
    fn selectors() {
        let of = |json: Value| Kubectl::selector(json.to_string().as_bytes());
        assert_eq!(
            of(json!({"spec": {"selector": {"matchLabels": {"app": "web", "tier": "x"}}}})).as_deref(),
            Some("app=web,tier=x")
        );
        assert_eq!(of(json!({"spec": {"selector": {"app": "web"}}})).as_deref(), Some("app=web"));
        let rules = json!([{"key": "a", "operator": "In", "values": ["1", "2"]}, {"key": "b", "operator": "DoesNotExist"}]);
        assert_eq!(
            of(json!({"spec": {"selector": {"matchExpressions": rules}}})).as_deref(),
            Some("a in (1,2),!b")
        );
        assert_eq!(of(json!({"spec": {}})), None);
        assert_eq!(Kubectl::selector(b"nonsense"), None);
    }

    #[test]
    fn the_first_pod_runs_and_is_ready() {
        let pod = |name: &str, phase: &str, ready: &str, created: &str| {
            json!({"metadata": {"name": name, "creationTimestamp": created},
                   "status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready}]}})
        };
        let mut leaving = pod("leaving", "Running", "True", "2020");
        leaving["metadata"]["deletionTimestamp"] = json!("2026");
        let pods = json!({"items": [leaving, pod("done", "Succeeded", "False", "2021"), pod("slow", "Running", "False", "2021"),
            pod("young", "Running", "True", "2025"), pod("old", "Running", "True", "2022")]});
        assert_eq!(Kubectl::first_pod(pods.to_string().as_bytes()).as_deref(), Some("old"));
        assert_eq!(Kubectl::first_pod(b"{\"items\": []}"), None);
    }

    #[test]
    fn refusals_as_kubectl_words_them() {
        let table = [
            ("Error from server (NotFound): pods \"web\" not found", "does not exist"),
            ("Error from server (BadRequest): container x is not valid for pod web", "does not exist"),
            (
                "Error from server (Forbidden): pods \"web\" is forbidden: User \"nobody\" cannot get resource",
                "refused access",
            ),
            ("error: You must be logged in to the server (Unauthorized)", "refused access"),
            (
                "error: cannot exec into a container in a completed pod; current phase is Succeeded",
                "is completed, not running",
            ),
            (
                "error: unable to upgrade connection: container not found (\"main\")",
                "is not started, not running",
            ),
            (
                "The connection to the server 127.0.0.1:1 was refused - did you specify the right host or port?",
                "cannot be reached",
            ),
            ("error: context \"nope\" does not exist", "configured wrongly"),
            (
                "Error in configuration: context was not found for specified context: nope",
                "configured wrongly",
            ),
            ("error: EOF", "cannot be reached"),
            (
                "E1121 12:38:04.992930   19596 memcache.go:265] \"Unhandled Error\" err=\"…\"\nUnable to connect to the server: no such host",
                "cannot be reached (Unable to connect to the server: no such host): check",
            ),
            (
                "Unable to connect to the server: tls: failed to verify certificate: x509: certificate signed by unknown authority",
                "configured wrongly",
            ),
            ("error: unable to read client-cert /x for  due to open /x: no such file", "configured wrongly"),
            ("error: the server doesn't have a resource type \"deplyo\"", "does not exist"),
            ("error: error loading config file \"/x\": yaml: line 1", "configured wrongly"),
            (
                "Defaulted container \"main\" out of: main, two\nerror: Internal error occurred: exec: \"/bin/sh\": stat /bin/sh: no such file",
                "has no usable shell",
            ),
            (
                "error: Internal error occurred: error sending request: Post \"https://10.0.0.1:10250/exec/x/web/main?command=%2Fbin%2Fsh&command=kubeconfig\": dial tcp 10.0.0.1:10250: connect: connection refused",
                "cannot be reached (error: Internal error occurred: error sending request: Post \"https://10.0.0.1:10250/exec/x/web/main\": dial tcp",
            ),
            ("Error from server: error dialing backend: dial tcp 10.0.0.1:10250: i/o", "cannot be reached"),
            (
                "error: Get \"https://127.0.0.1:1/api/v1/namespaces/default/pods/web\": dial tcp 127.0.0.1:1: connect: connection refused - error from a previous attempt: read tcp 127.0.0.1:2->127.0.0.1:1: read: connection reset by peer",
                "cannot be reached",
            ),
            ("error: something else", "failed to start the command: error: something else"),
        ];
        for (stderr, expected) in table {
            let error = kubectl()
                .refusal(&Refusal { code: Some(1), stderr: stderr.as_bytes(), ..Refusal::default() })
                .to_string();
            assert!(error.contains(expected) && error.starts_with("pod \"web\""), "{error}");
        }
    }
}
