//! What holds for every engine, whatever its options are and whatever its client says.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::error::{self, Class};
use crate::session::script::Script;

/// What no command line may have in it.
const SECRET: &str = "s3cret";
const NONCE: &str = "0123456789abcdef";

/// What the clients say; a refusal is told from another by these.
const WORDS: &[&str] = &[
    "\n",
    "Error: ",
    "Error response from daemon: ",
    "No such container: web",
    "no container with name or ID",
    "container does not exist",
    "is not running",
    "is paused",
    "paused container",
    "container state improper",
    "unable to find user \"app\"",
    "uids and gids must be in range",
    "connection refused",
    "x509: certificate",
    "remote error: tls: bad",
    "chdir to cwd (\"",
    "exec: \"/bin/sh\": stat",
    "permission denied open ",
    "unknown flag: --x",
    "(NotFound)",
    "(Forbidden)",
    "Please enter Username",
    "Defaulted container \"a\" out of: a, b\n",
    "in a completed pod",
    "container not found",
    "Unable to connect to the server",
    "context \"x\"",
    "command terminated with exit code 1",
    "{\"level\":\"error\",\"msg\":\"exec failed: \\u001b[2J\\ncontainer does not exist\"}\n",
];

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    vec(1_u8..=255, 0..20)
}

/// A name that [`check_name`] lets pass.
fn name() -> impl Strategy<Value = Vec<u8>> {
    vec(1_u8..=255, 1..20).prop_filter("a name", |name| check_name("t", "remote_addr", name).is_ok())
}

fn secret() -> impl Strategy<Value = Vec<u8>> {
    "[ -~äŁ\n\r]{0,9}".prop_map(|rest| format!("{rest}{SECRET}{rest}").into_bytes())
}

/// Variables whose values are secret; the names are ones that the engines' clients do not obey themselves.
fn env() -> impl Strategy<Value = Env> {
    btree_map("[a-g#_][A-Za-z0-9_.-]{0,9}".prop_map(String::into_bytes), secret(), 0..4)
}

fn shell_env() -> impl Strategy<Value = Env> {
    btree_map("[a-z_][A-Za-z0-9_]{0,9}".prop_map(String::into_bytes), secret(), 0..4)
}

fn process() -> Value {
    json!({"args": ["sh"], "cwd": "/", "user": {"uid": 1, "gid": 1}})
}

fn runc() -> impl Strategy<Value = Engine> {
    (name(), option::of(bytes()), vec(bytes(), 0..3), option::of(bytes()), env()).prop_map(
        |(container, root, extra_args, user, env)| {
            let executable = b"runc".to_vec();
            let mut runc = Runc { container, executable, root, extra_args, user, env, ..Runc::default() };
            runc.open(json!({"process": process()}).to_string().as_bytes(), None).unwrap();
            Engine::Runc(runc)
        },
    )
}

fn docker() -> impl Strategy<Value = Engine> {
    let options =
        (name(), vec(bytes(), 0..3), option::of(bytes()), env(), option::of(bytes()), any::<bool>());
    options.prop_map(|(container, extra_args, user, env, working_dir, privileged)| {
        let executable = b"docker".to_vec();
        Engine::Docker(Docker { container, executable, extra_args, user, env, working_dir, privileged })
    })
}

fn podman() -> impl Strategy<Value = Engine> {
    let options = (name(), vec(bytes(), 0..3), option::of(bytes()), env(), option::of(bytes()));
    options.prop_map(|(container, extra_args, user, env, working_dir)| {
        let executable = b"podman".to_vec();
        Engine::Podman(Podman { container, executable, extra_args, user, env, working_dir })
    })
}

fn kubectl() -> impl Strategy<Value = Engine> {
    let place = (name(), option::of(bytes()), option::of(bytes()), option::of(bytes()), option::of(bytes()));
    let secrets = (option::of(secret()), option::of(secret()), option::of(secret()), option::of(secret()));
    let more = (shell_env(), env(), option::of(bytes()), option::of(any::<bool>()), vec(bytes(), 0..3));
    (place, secrets, more).prop_map(|(place, secrets, more)| {
        let (pod, container, namespace, context, server) = place;
        let (kubeconfig_content, username, password, token) = secrets;
        let (env, local_env, working_dir, validate_certs, extra_args) = more;
        #[rustfmt::skip]
        let kubectl = Kubectl {
            pod, container, namespace, context, server, kubeconfig_content, username, password, token, env, local_env, working_dir,
            validate_certs, extra_args, executable: b"kubectl".to_vec(), ..Kubectl::default()
        };
        Engine::Kubectl(kubectl)
    })
}

fn engine() -> impl Strategy<Value = Engine> {
    prop_oneof![runc(), docker(), podman(), kubectl()]
}

/// What [`Script`] makes of a command: words of UTF-8.
fn command() -> impl Strategy<Value = Vec<Vec<u8>>> {
    vec("[^\0]{0,12}".prop_map(String::into_bytes), 1..4)
}

/// The clients' words among anything else.
fn output() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        proptest::sample::select(WORDS).prop_map(|words| words.as_bytes().to_vec()),
        vec(any::<u8>(), 0..30),
    ];
    vec(part, 0..6).prop_map(|parts| parts.concat())
}

fn has(words: &[impl AsRef<OsStr>], part: &str) -> bool {
    words.iter().any(|word| memchr::memmem::find(word.as_ref().as_bytes(), part.as_bytes()).is_some())
}

proptest! {
    #[test]
    fn no_secret_is_on_a_command_line(engine in engine(), command in command(), stdin in any::<bool>()) {
        let mut lines = vec![engine.exec(&command, stdin), engine.state()];
        if let Engine::Kubectl(kubectl) = &engine {
            lines.extend([kubectl.get_workload(), kubectl.get_pods("a=b")]);
        }
        for line in lines {
            prop_assert!(!has(&line.unwrap().argv, SECRET));
        }
        let script = Script::exec(NONCE, b"/bin/sh", b"true", engine.prelude());
        let words: Vec<&OsStr> = script.command.iter().map(|word| OsStr::from_bytes(word)).collect();
        prop_assert!(!has(&words, SECRET));
    }

    #[test]
    fn the_command_is_the_end_of_the_line(engine in engine(), command in command(), stdin in any::<bool>()) {
        let line = engine.exec(&command, stdin).unwrap();
        let argv: Vec<&[u8]> = line.argv.iter().map(|word| word.as_bytes()).collect();
        let words: Vec<&[u8]> = command.iter().map(Vec::as_slice).collect();
        // What stands before the command can be no part of it, and what begins with a dash there no flag.
        let end = match &engine {
            Engine::Runc(runc) => {
                let file: Value = serde_json::from_slice(&line.held[1].contents(1 << 20).unwrap()).unwrap();
                let args: Vec<&[u8]> =
                    file["args"].as_array().unwrap().iter().map(|word| word.as_str().unwrap().as_bytes()).collect();
                prop_assert_eq!(args, words);
                let path = line.held[1].path();
                prop_assert!(argv.ends_with(&[b"exec", b"--process", path.as_bytes(), &runc.container]));
                return Ok(());
            }
            Engine::Docker(Docker { container, .. }) | Engine::Podman(Podman { container, .. }) => {
                [vec![b"--".as_slice(), container], words].concat()
            }
            Engine::Kubectl(kubectl) => [vec![kubectl.pod.as_slice(), b"--"], words].concat(),
        };
        prop_assert!(argv.ends_with(&end));
    }

    #[test]
    fn only_names_that_are_no_flags_are_accepted(name in vec(any::<u8>(), 0..6)) {
        let usable = !name.is_empty() && name[0] != b'-' && !name.contains(&0);
        prop_assert_eq!(check_name("t", "remote_addr", &name).is_ok(), usable);
    }

    #[test]
    fn quoted_words_are_split_into_themselves(words in vec(bytes(), 0..5)) {
        let line = words.iter().map(|word| shlex::bytes::try_quote(word).unwrap()).collect::<Vec<_>>().join(&b' ');
        prop_assert_eq!(extra_args("t", "extra_args", &line).unwrap(), words);
    }

    #[test]
    fn any_line_is_split_or_refused(line in vec(any::<u8>(), 0..40)) {
        let _ = extra_args("t", "extra_args", &line);
    }

    #[test]
    fn a_refusal_is_one_bounded_line(
        engine in engine(),
        code in option::of(0_i32..256),
        (stdout, stderr, log) in (output(), output(), output()),
        state in output(),
    ) {
        let refused = engine.refusal(&Refusal { code, stdout: &stdout, stderr: &stderr, log: &log });
        let stopped = engine.not_running(&engine.parse_state(&state).unwrap_or_default());
        for error in [refused, stopped] {
            prop_assert!(matches!(error.class(), Class::Connection | Class::Failed));
            let sentence = error.sentence();
            prop_assert!(sentence.chars().count() < 1500, "{sentence}");
            prop_assert!(!sentence.contains(|c: char| c.is_control() || c == '\u{2028}'), "{sentence:?}");
            prop_assert!(sentence.starts_with(&error::one_line(&engine.target())), "{sentence}");
            prop_assert!(!sentence.contains(SECRET), "{sentence}");
        }
    }
}
