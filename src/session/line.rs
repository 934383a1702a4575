//! Command lines that end in a Python interpreter which reads its program from stdin, or from a file that Ansible made of a module.
//!
//! Ansible runs a pipelined module by such a line, `/bin/sh -c 'sudo -u app /bin/sh -c '"'"'echo BECOME-SUCCESS-… ; /usr/bin/python3'"'"''`
//! for example, and others with `/var/tmp/ansible-tmp-…/AnsiballZ_ping.py` behind the interpreter. The same line with `-c PROGRAM` there
//! starts an interpreter for many modules: its user, groups and rules are by construction those that the line itself gives. What is
//! not understood exactly is no such line, and runs as it is.

use std::ops::Range;

/// What a become plugin prints before the command, followed by an id that is new for every task.
const SUCCESS: &[u8] = b"BECOME-SUCCESS-";

/// Shorter ids than this might be found where they are none.
const SHORTEST_ID: usize = 16;

/// In place of the id, in a key and in a recorded greeting. A command line cannot hold a NUL.
const ID: &[u8] = b"\0become\0";

/// How deep `-c` may be nested.
const DEEPEST: u32 = 6;

/// Shells, as the word before `-c` or elsewhere in a command names them.
const SHELLS: &[&[u8]] = &[b"sh", b"ash", b"bash", b"dash", b"ksh", b"mksh", b"zsh"];

/// Programs that hand `-c` on to the user's shell.
const SWITCHERS: &[&[u8]] = &[b"su", b"runuser"];

/// A variable that the interpreter, or the C library below it, reads when it starts: it cannot be set afterwards.
fn is_read_at_start(name: &[u8]) -> bool {
    const NAMES: &[&[u8]] = &[b"LANG", b"LANGUAGE", b"PATH", b"HOME", b"TZ", b"LOCPATH", b"GCONV_PATH"];
    const BEGINNINGS: &[&[u8]] = &[b"PYTHON", b"LD_", b"LC_", b"MALLOC_", b"GLIBC_", b"OPENSSL_"];
    NAMES.contains(&name) || BEGINNINGS.iter().any(|beginning| name.starts_with(beginning))
}

/// Variables, in the order of their assignment.
pub(super) type Assignments = Vec<(Vec<u8>, Vec<u8>)>;

/// A line that was understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PythonLine {
    /// What lines have in common that one interpreter can serve.
    pub(super) key: Vec<u8>,
    /// Literal `NAME=value` before the interpreter, which are in no opened line.
    pub(super) env: Assignments,
    /// The module's file, which is in no opened line either; without one the program comes by stdin.
    pub(super) file: Option<Vec<u8>>,
    /// The interpreter as the line names it.
    pub(super) interpreter: Vec<u8>,
    line: Vec<u8>,
    id: Option<Vec<u8>>,
}

impl PythonLine {
    /// Understands `line`, or not.
    pub(super) fn parse(line: &[u8]) -> Option<Self> {
        let Appended { line: bare, env, file, interpreter } = append(line, b"", DEEPEST)?;
        let id = become_id(line);
        let key = replace(&bare, id.as_deref(), ID);
        Some(Self { key, env, file, interpreter, line: line.to_vec(), id })
    }

    /// The line that runs `python -c program` instead of `python` or `python file`, without [`Self::env`].
    pub(super) fn with_program(&self, program: &[u8]) -> Vec<u8> {
        let added = [b" -c ".as_slice(), &quote(program)].concat();
        append(&self.line, &added, DEEPEST).expect("it was understood before").line
    }

    /// What this line's `said` would be from any other task's.
    pub(super) fn without_id(&self, said: &[u8]) -> Vec<u8> {
        replace(said, self.id.as_deref(), ID)
    }

    /// What another task's line, which had this key, `said` as this task's would have.
    pub(super) fn with_id(&self, said: &[u8]) -> Vec<u8> {
        replace(said, Some(ID), self.id.as_deref().unwrap_or_default())
    }
}

/// A line with something behind its interpreter, and what was cut off.
struct Appended {
    line: Vec<u8>,
    env: Assignments,
    file: Option<Vec<u8>>,
    interpreter: Vec<u8>,
}

/// `line` with `added` behind its interpreter.
fn append(line: &[u8], added: &[u8], deeper: u32) -> Option<Appended> {
    let deeper = deeper.checked_sub(1)?;
    let mut commands = split(line)?;
    // `&& sleep 0` behind it changes neither its stdin nor a status other than 0.
    if let [.., _, last] = commands.as_slice()
        && last.joined == Some(Joined::And)
        && last.literals() == Some(vec![b"sleep".as_slice(), b"0"])
    {
        commands.pop();
    }
    let command = commands.pop()?;
    // Whatever stands before it must leave stdin alone.
    if commands.iter().any(|before| before.words.first().and_then(Word::literal) != Some(b"echo")) {
        return None;
    }
    let (last, before) = command.words.split_last()?;
    let spliced = |range: Range<usize>, by: &[u8]| [&line[..range.start], by, &line[range.end..]].concat();
    // The argument of -c first: that word may itself look like an interpreter.
    if let Some((flag, before)) = before.split_last()
        && flag.literal() == Some(b"-c")
    {
        let names =
            |word: &Word, names: &[&[u8]]| word.literal().is_some_and(|text| names.contains(&base(text)));
        let runs_a_shell = before.iter().any(|word| names(word, SHELLS))
            || before.first().is_some_and(|word| names(word, SWITCHERS));
        if !runs_a_shell || before.iter().any(|word| word.literal().is_none_or(is_python)) {
            return None;
        }
        let inner = append(last.literal()?, added, deeper)?;
        return Some(Appended { line: spliced(last.range.clone(), &quote(&inner.line)), ..inner });
    }
    let (file, interpreter, before) = match before.split_last() {
        Some((interpreter, before)) if is_module_file(last.literal()?) => (Some(last), interpreter, before),
        _ => (None, last, before),
    };
    if !is_python(interpreter.literal()?) {
        return None;
    }
    let before = match before.split_last() {
        Some((env, before)) if env.literal().is_some_and(|word| base(word) == b"env") => before,
        _ => before,
    };
    let mut assignments = before.iter().map(|word| word.assigns.map(|equals| (word, equals)));
    let assignments: Vec<(&Word, usize)> = assignments.by_ref().collect::<Option<_>>()?;
    // A value with an expansion may refer to the others.
    let all_literal = assignments.iter().all(|(word, _)| word.literal.is_some());
    let (mut out, mut from, mut env) = (Vec::new(), 0, Vec::new());
    for (word, equals) in assignments {
        let name = &line[word.range.start..word.range.start + equals];
        let Some(text) = word.literal().filter(|_| all_literal && !is_read_at_start(name)) else { continue };
        env.push((name.to_vec(), text[equals + 1..].to_vec()));
        out.extend_from_slice(&line[from..word.range.start]);
        from = word.range.end + line[word.range.end..].iter().take_while(|byte| **byte == b' ').count();
    }
    out.extend_from_slice(&line[from..interpreter.range.end]);
    out.extend_from_slice(added);
    out.extend_from_slice(&line[last.range.end..]);
    let file = file.and_then(Word::literal).map(<[u8]>::to_vec);
    Some(Appended { line: out, env, file, interpreter: interpreter.literal()?.to_vec() })
}

fn base(path: &[u8]) -> &[u8] {
    memchr::memrchr(b'/', path).map_or(path, |slash| &path[slash + 1..])
}

/// True for `python`, `/usr/bin/python3.11`, `/usr/libexec/platform-python`.
fn is_python(word: &[u8]) -> bool {
    let name = base(word);
    let version = name.strip_prefix(b"platform-").unwrap_or(name).strip_prefix(b"python");
    version.is_some_and(|version| version.iter().all(|byte| byte.is_ascii_digit() || *byte == b'.'))
}

/// True for `/root/.ansible/tmp/ansible-tmp-…/AnsiballZ_ping.py`: what Ansible names a file that needs nothing but itself.
fn is_module_file(word: &[u8]) -> bool {
    word.starts_with(b"/") && base(word).starts_with(b"AnsiballZ_") && base(word).ends_with(b".py")
}

/// The random part of the success marker.
fn become_id(line: &[u8]) -> Option<Vec<u8>> {
    let start = memchr::memmem::find(line, SUCCESS)? + SUCCESS.len();
    let length = line[start..].iter().take_while(|byte| byte.is_ascii_alphanumeric()).count();
    (length >= SHORTEST_ID).then(|| line[start..start + length].to_vec())
}

fn replace(text: &[u8], what: Option<&[u8]>, by: &[u8]) -> Vec<u8> {
    let Some(what) = what.filter(|what| !what.is_empty()) else { return text.to_vec() };
    let (mut out, mut from) = (Vec::with_capacity(text.len()), 0);
    for at in memchr::memmem::find_iter(text, what) {
        out.extend_from_slice(&text[from..at]);
        out.extend_from_slice(by);
        from = at + what.len();
    }
    out.extend_from_slice(&text[from..]);
    out
}

/// `text` as one word of a shell, as Python's `shlex.quote` writes it.
pub(super) fn quote(text: &[u8]) -> Vec<u8> {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"@%+=:,./-_".contains(byte);
    if !text.is_empty() && text.iter().all(is_plain) {
        return text.to_vec();
    }
    let mut out = vec![b'\''];
    for byte in text {
        if *byte == b'\'' {
            out.extend_from_slice(b"'\"'\"'");
        } else {
            out.push(*byte);
        }
    }
    out.push(b'\'');
    out
}

/// A word of a line.
#[derive(Debug)]
struct Word {
    /// Where it stands.
    range: Range<usize>,
    /// What it means; `None` when the shell expands something in it.
    literal: Option<Vec<u8>>,
    /// Length of NAME, when it is `NAME=value` with an unquoted name.
    assigns: Option<usize>,
}

impl Word {
    fn literal(&self) -> Option<&[u8]> {
        self.literal.as_deref()
    }
}

/// What joins a command to the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Joined {
    /// `;`
    Then,
    /// `&&`
    And,
}

/// A simple command.
#[derive(Debug)]
struct Command {
    words: Vec<Word>,
    joined: Option<Joined>,
}

impl Command {
    fn literals(&self) -> Option<Vec<&[u8]>> {
        self.words.iter().map(Word::literal).collect()
    }
}

/// Simple commands joined by `;` and `&&`. `None` for everything else that a shell knows: pipes, redirections, groups, comments.
fn split(line: &[u8]) -> Option<Vec<Command>> {
    let mut commands = vec![Command { words: vec![], joined: None }];
    let mut at = 0;
    while let Some(byte) = line.get(at) {
        let joined = match byte {
            b' ' | b'\t' => {
                at += 1;
                continue;
            }
            b';' => Joined::Then,
            b'&' if line.get(at + 1) == Some(&b'&') => Joined::And,
            b'&' => return None,
            _ => {
                let word = word(line, at)?;
                at = word.range.end;
                commands.last_mut()?.words.push(word);
                continue;
            }
        };
        at += if joined == Joined::And { 2 } else { 1 };
        if commands.last()?.words.is_empty() {
            return None;
        }
        commands.push(Command { words: vec![], joined: Some(joined) });
    }
    commands.iter().all(|command| !command.words.is_empty()).then_some(commands)
}

/// The word that begins at `start`.
fn word(line: &[u8], start: usize) -> Option<Word> {
    let (mut text, mut expands, mut quoted, mut assigns) = (Vec::new(), false, false, None);
    let mut at = start;
    while let Some(byte) = line.get(at) {
        match byte {
            b' ' | b'\t' | b';' | b'&' => break,
            b'|' | b'<' | b'>' | b'(' | b')' | b'\n' | b'\r' | 0 => return None,
            b'#' | b'!' | b'{' | b'}' if at == start => return None,
            b'\'' => {
                quoted = true;
                let length = memchr::memchr(b'\'', &line[at + 1..])?;
                text.extend_from_slice(&line[at + 1..at + 1 + length]);
                at += length + 2;
                continue;
            }
            b'"' => {
                quoted = true;
                at += 1;
                loop {
                    match line.get(at)? {
                        b'"' => break,
                        b'$' | b'`' => expands = true,
                        b'\\' => {
                            at += 1;
                            match line.get(at)? {
                                b'$' | b'`' | b'"' | b'\\' => {}
                                b'\n' => return None,
                                _ => text.push(b'\\'),
                            }
                        }
                        _ => {}
                    }
                    text.push(line[at]);
                    at += 1;
                }
            }
            b'\\' => {
                quoted = true;
                at += 1;
                match line.get(at)? {
                    b'\n' => return None,
                    escaped => text.push(*escaped),
                }
            }
            b'$' | b'`' | b'*' | b'?' | b'[' | b'~' | b'{' => {
                expands = true;
                text.push(*byte);
            }
            b'=' => {
                let name = &line[start..at];
                let is_name = name.first().is_some_and(|byte| byte.is_ascii_alphabetic() || *byte == b'_')
                    && name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
                if assigns.is_none() && !quoted && is_name {
                    assigns = Some(name.len());
                }
                text.push(b'=');
            }
            _ => text.push(*byte),
        }
        at += 1;
    }
    Some(Word { range: start..at, literal: (!expands).then_some(text), assigns })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::process::Command;

    const ID_TEXT: &str = "qwertyuiopasdfghjklzxcvbnmqwerty";

    fn parse(line: &str) -> Option<PythonLine> {
        PythonLine::parse(line.as_bytes())
    }

    fn opened(line: &str) -> String {
        String::from_utf8(parse(line).unwrap().with_program(b"import x;y(\"z\")")).unwrap()
    }

    #[test]
    fn a_plain_module_line() {
        // Nothing in it needs quotes, so the argument of sh's -c itself ends in an interpreter.
        for line in ["/bin/sh -c /usr/bin/python3", "/bin/sh -c '/usr/bin/python3 && sleep 0'"] {
            assert!(
                opened(line).starts_with("/bin/sh -c '/usr/bin/python3 -c '\"'\"'import x;y(\"z\")'\"'\"'")
            );
        }
        assert_eq!(opened("python3"), "python3 -c 'import x;y(\"z\")'");
        assert_eq!(opened("/usr/bin/env python3.9"), "/usr/bin/env python3.9 -c 'import x;y(\"z\")'");
        assert_eq!(parse("/bin/sh -c /usr/libexec/platform-python").unwrap().env, []);
    }

    #[test]
    fn literal_assignments_are_cut_off() {
        let line = parse("/bin/sh -c 'FOO='\"'\"'a b'\"'\"' LANG=C BAR= /usr/bin/python3'").unwrap();
        assert_eq!(line.env, [(b"FOO".to_vec(), b"a b".to_vec()), (b"BAR".to_vec(), b"".to_vec())]);
        assert_eq!(line.key, b"/bin/sh -c 'LANG=C /usr/bin/python3'");
        assert_eq!(line.interpreter, b"/usr/bin/python3");
        assert_eq!(
            line.key,
            parse("/bin/sh -c 'FOO=2 LANG=C  /usr/bin/python3'")
                .map(|mut line| {
                    line.key.retain(|byte| *byte != 0);
                    String::from_utf8(line.key).unwrap().replace("C  /", "C /").into_bytes()
                })
                .unwrap()
        );
        // With an expansion, everything stays: it may refer to the others.
        let line = parse("/bin/sh -c 'A=1 B=$A python3'").unwrap();
        assert!(line.env.is_empty() && line.key == b"/bin/sh -c 'A=1 B=$A python3'");
    }

    #[test]
    fn a_module_file() {
        let file = "/root/.ansible/tmp/ansible-tmp-1.5-2-3/AnsiballZ_ping.py";
        let by_file = |line: &str| {
            let parsed = parse(&line.replace("FILE", file)).unwrap();
            assert_eq!(parsed.file.as_deref(), Some(file.as_bytes()));
            let without = line.replace(" FILE", "");
            let piped = parse(&without).unwrap();
            assert_eq!((&parsed.key, &parsed.env, &piped.file), (&piped.key, &piped.env, &None), "{line}");
            assert_eq!(parsed.interpreter, piped.interpreter, "{line}");
            assert_eq!(opened(&line.replace("FILE", file)), opened(&without));
        };
        by_file("python3 FILE");
        by_file("/bin/sh -c 'A=1 LANG=C /usr/bin/python3 FILE && sleep 0'");
        by_file("/bin/sh -c '/usr/bin/env python3.9 FILE'");
        by_file(&format!(
            r#"/bin/sh -c 'su  app -c '"'"'/bin/sh -c '"'"'"'"'"'"'"'"'echo BECOME-SUCCESS-{ID_TEXT} ; python3 FILE'"'"'"'"'"'"'"'"''"'"' && sleep 0'"#
        ));
        let quoted = parse(r#"/bin/sh -c 'python3 '"'"'/srv/a b/AnsiballZ_x.py'"'"' && sleep 0'"#).unwrap();
        assert_eq!(quoted.file.as_deref(), Some(b"/srv/a b/AnsiballZ_x.py".as_slice()));
        assert_eq!(quoted.key, b"/bin/sh -c 'python3 && sleep 0'");
    }

    #[test]
    fn become_lines() {
        let sudo = |id: &str| {
            format!(
                r#"/bin/sh -c 'sudo -H -S  -p "[sudo via ansible, key={id}] password:" -u root /bin/sh -c '"'"'echo BECOME-SUCCESS-{id} ; A=1 /usr/bin/python3'"'"' && sleep 0'"#
            )
        };
        let other = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
        let (one, two) = (parse(&sudo(ID_TEXT)).unwrap(), parse(&sudo(other)).unwrap());
        assert_eq!(one.key, two.key);
        assert_eq!(one.env, [(b"A".to_vec(), b"1".to_vec())]);
        let said = format!("motd\nBECOME-SUCCESS-{ID_TEXT}\n");
        assert_eq!(two.with_id(&one.without_id(said.as_bytes())), said.replace(ID_TEXT, other).into_bytes());
        assert!(opened(&sudo(ID_TEXT)).contains(&format!("key={ID_TEXT}")));
        for line in [
            format!(
                "/bin/sh -c 'doas -n -u root sh -c '\"'\"'echo BECOME-SUCCESS-{ID_TEXT} ; /usr/bin/python3'\"'\"''"
            ),
            format!("sudo -n -u root /bin/sh -c 'echo BECOME-SUCCESS-{ID_TEXT} ; python'"),
        ] {
            assert!(parse(&line).unwrap().id.is_some(), "{line}");
        }
    }

    /// What /bin/sh makes of lines, with a script in place of each program: nesting is tested where it is interpreted.
    #[test]
    fn the_opened_line_runs_the_program_by_the_same_way() {
        let dir = std::env::temp_dir().join(format!("gangway-line-{}", crate::sys::nonce().unwrap()));
        std::fs::create_dir(&dir).unwrap();
        let tool = |name: &str, text: &str| {
            use std::os::unix::fs::PermissionsExt;
            let path = dir.join(name);
            std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        };
        tool("su", "shift; shift; shift; shift; exec /bin/sh -c \"$1\"");
        tool("python3", "printf '%s|' \"$FOO\" \"$LC_ALL\" \"$@\"");
        let inner = "echo BECOME-SUCCESS-x ; FOO=\"a b\" LC_ALL='$HOME it'\"'\"'s' python3";
        let level = |text: &str| String::from_utf8(quote(text.as_bytes())).unwrap();
        let line = format!("/bin/sh -c {}", level(inner));
        let line = format!("su  nobody -s /bin/sh -c {}", level(&line));
        let line = format!("/bin/sh -c {}", level(&line));
        let program = "a \"b\" 'c' $d";
        let parsed = parse(&line).unwrap();
        assert_eq!(parsed.env, [(b"FOO".to_vec(), b"a b".to_vec())]);
        let opened = String::from_utf8(parsed.with_program(program.as_bytes())).unwrap();
        let path = format!("{}:{}", dir.display(), std::env::var("PATH").unwrap());
        let run = |line: &str| {
            let output = Command::new("/bin/sh").args(["-c", line]).env("PATH", &path).output().unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        assert_eq!(run(&line), "BECOME-SUCCESS-x\na b|$HOME it's|");
        assert_eq!(run(&opened), format!("BECOME-SUCCESS-x\n|$HOME it's|-c|{program}|"));
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn other_lines_run_as_they_are() {
        for line in [
            "",
            "/bin/sh -c",
            "/bin/sh -c 'echo ~'",
            "/bin/sh -c '/usr/bin/python3 /tmp/ping.py'",
            "/bin/sh -c '/usr/bin/python3 AnsiballZ_ping.py'",
            "/bin/sh -c '/usr/bin/python3 $HOME/AnsiballZ_ping.py'",
            "/bin/sh -c '/usr/bin/python3 /tmp/AnsiballZ_ping.py _'",
            "/bin/sh -c '/usr/bin/python3 /tmp/AnsiballZ_ping.py <x'",
            "/bin/sh -c '/usr/bin/python3 -I /tmp/AnsiballZ_ping.py'",
            "/bin/sh -c '/usr/bin/python3 /tmp/async_wrapper.py j1 60 false /tmp/AnsiballZ_x.py _'",
            "/bin/sh -c 'A=1 /usr/bin/python3 /tmp/async_wrapper.py j1 60 /usr/bin/python3 /tmp/AnsiballZ_x.py'",
            "/bin/sh -c 'cat /tmp/AnsiballZ_ping.py'",
            "python3 -c /tmp/AnsiballZ_ping.py",
            "/tmp/AnsiballZ_ping.py",
            "/bin/sh -c '/usr/bin/python3 -u'",
            "/bin/sh -c 'cat ; /usr/bin/python3'",
            "/bin/sh -c 'cat | /usr/bin/python3'",
            "/bin/sh -c '/usr/bin/python3 <x'",
            "/bin/sh -c '/usr/bin/python3 &'",
            "/bin/sh -c '/usr/bin/python3 || true'",
            "/bin/sh -c '/usr/bin/python3 ; true'",
            "/bin/sh -c '/usr/bin/python3 && sleep 1'",
            "/bin/sh -c '(/usr/bin/python3)'",
            "/bin/sh -c '/usr/bin/python3",
            "/bin/sh -c \"$HOME/python3\"",
            "python3 -c python3",
            "/bin/sh python3 -c python3",
            "nice python3",
            "/bin/sh -c 'x FOO=1 python3'",
            "/bin/sh -c '! python3'",
            "/bin/sh -c '# python3'",
            "/bin/sh -c 'python3\npython3'",
            "mysql -c python3",
            "/usr/bin/pythonw",
        ] {
            assert_eq!(parse(line), None, "{line}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_line_or_not(line in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Some(line) = PythonLine::parse(&line) {
                line.with_program(b"p");
            }
        }

        #[test]
        fn shell_like_text_never_panics(line in "[-a-c '\"\\\\;&=$python3/shc]{0,60}") {
            if let Some(line) = PythonLine::parse(line.as_bytes()) {
                line.with_program(b"p");
            }
        }

        #[test]
        fn a_quoted_word_is_one_word(text in prop::collection::vec(1_u8..=255, 0..60)) {
            let quoted = quote(&text);
            let word = word(&quoted, 0).unwrap();
            prop_assert_eq!(word.range, 0..quoted.len());
            prop_assert_eq!(word.literal.unwrap(), text);
        }

        #[test]
        fn every_depth_and_value_is_understood(
            value in prop::collection::vec(1_u8..=255, 0..30),
            depth in 0_usize..4,
        ) {
            let mut line = [b"VALUE=".as_slice(), &quote(&value), b" /usr/bin/python3"].concat();
            let mut bare = b"/usr/bin/python3".to_vec();
            for _ in 0..depth {
                line = [b"/bin/sh -c ".as_slice(), &quote(&line)].concat();
                bare = [b"/bin/sh -c ".as_slice(), &quote(&bare)].concat();
            }
            let parsed = PythonLine::parse(&line).unwrap();
            prop_assert_eq!(&parsed.env, &[(b"VALUE".to_vec(), value)]);
            prop_assert_eq!(&parsed.key, &bare);
        }
    }
}
