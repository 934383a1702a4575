//! The small shell programs that run in the container around each request, and what they say.
//!
//! A CLI's exit status is no proof: kubectl exits 0 for a lost stream, every engine mixes its own failures with the command's. So the
//! container's shell marks, on the stream itself, that the command started and how it ended:
//!
//! ```text
//! RS nonce s PID RS      on stderr, before anything else of the container: started
//! RS nonce e RC RS       on stdout and on stderr, after the last byte of the command: ended
//! ```
//!
//! RS is the byte 0x1e, which the script's own text does not contain (it says `\036`), so `ps` in the container cannot forge a mark.
//! What stands before the start mark on stderr, or after the end marks, is the engine's client talking.

use std::fmt::Write;

use super::sum::SumKind;
use crate::engine::Prelude;

/// First thing of every program: keep the real stderr as 3, for marks and for the command, and have the shell's own remarks
/// ("Killed") go nowhere.
const START: &str = r#"exec 3>&2 2>/dev/null;printf '\036%s s%d\036' "$0" "$$" >&3;"#;

/// One mark, `RS nonce KIND REST RS`.
const MARK: &str = r#"m(){ printf '\036%s %s\036' "$0" "$1";};"#;

/// A program and its arguments, ready for an engine, and the nonce that its marks carry.
#[derive(Debug)]
pub struct Script {
    /// `/bin/sh -c PROGRAM NONCE ARGUMENT…`: valid UTF-8 throughout, for engines pass JSON on.
    pub command: Vec<Vec<u8>>,
    /// What the container's shell reads from stdin before anything else.
    pub stdin: Vec<u8>,
    nonce: String,
}

impl Script {
    /// The same, but the shell does not end before it has read its stdin to the end.
    #[must_use]
    pub fn that_reads_to_the_end(mut self) -> Self {
        let read = b"trap 'cat >/dev/null||while read -r l;do :;done' 0;";
        self.command[2].splice(..0, read.iter().copied());
        self
    }

    fn new(nonce: &str, program: &str, arguments: &[&[u8]]) -> Self {
        let program = format!("{}{START}{program}", positional(arguments));
        let fixed = [b"/bin/sh".as_slice(), b"-c", program.as_bytes(), nonce.as_bytes()];
        let mut command: Vec<Vec<u8>> = fixed.map(<[u8]>::to_vec).into();
        command.extend(arguments.iter().map(|argument| match std::str::from_utf8(argument) {
            Ok(text) => text.as_bytes().to_vec(),
            Err(_) => Vec::new(), // set by `positional`
        }));
        Self { command, stdin: Vec::new(), nonce: nonce.to_owned() }
    }

    /// Runs `command` by `shell -c` and reports its exit status.
    ///
    /// `env` of the prelude is read from stdin as one line of shell code: values never stand on a command line.
    pub fn exec(nonce: &str, shell: &[u8], command: &[u8], prelude: Prelude<'_>) -> Self {
        let program = r#"(exec "$1" -c "$2" 2>&3 3>&-);r=$?;printf '\036%s e%d\036' "$0" "$r";printf '\036%s e%d\036' "$0" "$r" >&3;exit "$r""#;
        Self::prepared(nonce, shell, command, prelude, program)
    }

    /// Becomes `shell -c line`, which starts an agent: that one reports for itself.
    pub fn agent(nonce: &str, shell: &[u8], line: &[u8], prelude: Prelude<'_>) -> Self {
        Self::prepared(nonce, shell, line, prelude, r#"exec "$1" -c "$2" 2>&3 3>&-"#)
    }

    fn prepared(nonce: &str, shell: &[u8], command: &[u8], prelude: Prelude<'_>, last: &str) -> Self {
        let mut program = String::new();
        if prelude.env.is_some() {
            // A shell that cannot set a variable ends at once, so one that is not needed tries first. What it says may show the value.
            program += "_gangway_n='\n';IFS= read -r _gangway_l;";
            program += r#"(eval "$_gangway_l")||{ printf '\036%s v\036' "$0" >&3;exit 126;};"#;
            program += r#"eval "$_gangway_l";unset _gangway_l _gangway_n;"#;
        }
        if prelude.working_dir.is_some() {
            program += r#"_gangway_e=$(cd -- "$3" 2>&1)||{ printf '\036%s d%s\036' "$0" "${_gangway_e##*: }" >&3;exit 126;};cd -- "$3";"#;
        }
        if shell != b"/bin/sh" {
            program += r#"command -v "$1" >/dev/null||{ printf '\036%s n\036' "$0" >&3;exit 127;};"#;
        }
        program += last;
        let mut arguments = vec![shell, command];
        arguments.extend(prelude.working_dir);
        let mut script = Self::new(nonce, &program, &arguments);
        if let Some(env) = prelude.env {
            let mut line = String::new();
            for (name, value) in env {
                let _ = write!(
                    line,
                    "export {}={}&&",
                    String::from_utf8_lossy(name),
                    word(value, "\"$_gangway_n\"")
                );
            }
            line.push_str(":\n");
            script.stdin = line.into_bytes();
        }
        script
    }

    /// Reads stdin into the file `path`: `length` bytes with the sum `sum`, or the file is as it was. An empty `sum` is what
    /// follows those bytes.
    ///
    /// Says on stdout: `ok`, `in place: REASON`, `failed: REASON` (the file is as it was), `incomplete: REASON` (so it is here, and it
    /// may be tried again), `broken: REASON` (a write in place failed), or, before anything is read, `replaced`: this is not the
    /// instance of the container that an agent called `instance`; `unsummed`: the container does not have this way to sum;
    /// `first`: here the sum cannot follow.
    pub fn put(nonce: &str, instance: &str, path: &[u8], by: SumKind, length: u64, sum: &str) -> Self {
        let length = length.to_string();
        let program = format!("{MARK}{}{}{PUT}", only_in(instance), by.functions());
        Self::new(nonce, &program, &[path, sum.as_bytes(), length.as_bytes()])
    }

    /// Writes the file `path` to stdout: a mark `k SUM LENGTH`, the bytes, a mark `e RC`; or one mark that says why not.
    ///
    /// Unless the sum is to be `first`, a large file has a mark `l LENGTH` there, and the other on stderr, whenever it is known.
    pub fn fetch(nonce: &str, instance: &str, path: &[u8], by: SumKind, first: bool) -> Self {
        let program = format!("{MARK}{}{}{FETCH}", only_in(instance), by.functions());
        let first: &[u8] = if first { b"first" } else { b"" };
        Self::new(nonce, &program, &[path, first])
    }

    /// Ends the processes of an interrupted command, whose shell had the process id `pid`, and returns at once.
    ///
    /// They are in its process group, unless `su` started them: it puts its child into a session of its own, and of a TERM it
    /// hands on no more than that child. Other sessions are services, and stay.
    pub fn kill(nonce: &str, pid: u32) -> Self {
        let program = r#"g=$1 s= n=
while [ "$n" != "$g" ];do n=$g
for f in /proc/[0-9]*/stat;do read -r l <"$f"||continue
p=${l%% *};set -- ${l##*) }
case " $g " in *" $3 "*)case $l in *" (su) "*)s="$s $p";;esac;;esac
case " $s " in *" $2 "*)case " $g " in *" $3 "*);;*)g="$g $3";;esac;;esac
done;done 2>/dev/null
for p in $g;do kill -TERM "-$p"||continue
(for i in 1 2 3;do sleep 1;kill -0 "-$p"||exit;done;kill -KILL "-$p") </dev/null >/dev/null 2>&1 3>&- &
done"#;
        Self::new(nonce, program, &[pid.to_string().as_bytes()])
    }

    /// The start mark in `stderr`: `(where it begins, where it ends, the shell's process id)`.
    pub fn find_start(&self, stderr: &[u8]) -> Option<(usize, usize, u32)> {
        let (from, to, text) = self.find(stderr, b"s", 0)?;
        Some((from, to, text.parse().ok()?))
    }

    /// The end mark in `stream`, searched from byte `from`: `(where it begins, exit status)`.
    pub fn find_end(&self, stream: &[u8], from: usize) -> Option<(usize, i32)> {
        let (at, _, text) = self.find(stream, b"e", from)?;
        Some((at, text.parse().ok()?))
    }

    /// The first mark whose text begins with `kind`, at or after byte `from`: `(where it begins, where it ends, its text)`.
    pub fn find<'s>(
        &self,
        stream: &'s [u8],
        kind: &[u8],
        from: usize,
    ) -> Option<(usize, usize, std::borrow::Cow<'s, str>)> {
        let opening = [b"\x1e", self.nonce.as_bytes(), b" ", kind].concat();
        let at = from + memchr::memmem::find(stream.get(from..)?, &opening)?;
        let text = at + opening.len();
        let end = text + memchr::memchr(0x1e, &stream[text..])?;
        Some((at, end + 1, String::from_utf8_lossy(&stream[text..end])))
    }

    /// The longest a mark with a number can be: what a search must look at again when more bytes arrive.
    pub fn mark_length(&self) -> usize {
        self.nonce.len() + 16
    }
}

/// Ends a program with the mark `replaced` in another instance of the container than the one that an agent called this
/// ([`crate::wire::message::AgentHello::instance`]); empty when none did.
fn only_in(instance: &str) -> String {
    if instance.is_empty() {
        return String::new();
    }
    // Where it cannot be told nothing is said against it.
    format!(
        "i(){{ read -r b </proc/sys/kernel/random/boot_id&&read -r l </proc/1/stat&&k=$(readlink /proc/self/ns/mnt)||return 0;\
         set -- ${{l##*) }};[ $# -lt 20 ]||[ \"$b ${{20}} $k\" = {} ];}};i||{{ m replaced;exit;}};",
        word(instance.as_bytes(), "\n")
    )
}

/// `set --` with every argument, when one of them is not UTF-8: engines hand arguments on as JSON or protobuf text, which loses
/// other bytes, so those are spelled in octal for the shell's `printf`.
fn positional(arguments: &[&[u8]]) -> String {
    if arguments.iter().all(|argument| std::str::from_utf8(argument).is_ok()) {
        return String::new();
    }
    let words = arguments.iter().enumerate().map(|(index, argument)| match std::str::from_utf8(argument) {
        Ok(_) => format!(" \"${{{}}}\"", index + 1),
        Err(_) => format!(" {}", word(argument, "'\n'")),
    });
    format!("set --{};", words.collect::<String>())
}

/// `bytes` as one word of shell code in ASCII; a line break is written as `newline`.
fn word(bytes: &[u8], newline: &str) -> String {
    let mut code = String::new();
    // Octal runs hold no line break, so `$(…)`, which drops trailing ones, drops nothing.
    for run in bytes.chunk_by(|a, b| a.is_ascii() == b.is_ascii()) {
        if run.is_ascii() {
            let text = String::from_utf8_lossy(run).replace('\'', r"'\''");
            let lines: Vec<String> = text.split('\n').map(|line| format!("'{line}'")).collect();
            code += &lines.join(newline);
        } else {
            code += "\"$(printf '";
            for byte in run {
                let _ = write!(code, "\\{byte:03o}");
            }
            code += "')\"";
        }
    }
    if code.is_empty() { "''".to_owned() } else { code }
}

/// A temporary file beside the target, verified, then renamed over it; in place where a rename cannot be or would lose something.
///
/// Every `dd` and `cat` leaves the shell's own stdout open: containerd closes an exec's stdin as soon as the command closes
/// its stdout, and the file would be cut short with exit status 0. A file that cannot be opened for writing was not changed, so
/// `a` tries that before a write in place is called broken.
///
/// A new file is not truncated: ext4 would write all of it to the disk before `dd` ends, to be safe with programs that replace
/// a file that way. A sum that follows lands in the file and is cut off: only of a temporary one, and only `dd` does that.
///
/// PIPE is among what interrupts: runc hands its own on to the shell when nobody reads its stdout any more.
const PUT: &str = r#"d=$1;t=;n=;w=;o=
h||{ m unsummed;exit;}
q(){ trap '' HUP INT PIPE TERM;[ "$t" ]&&rm -f "$t";m "$1";exit 1;}
f(){ q "failed: $1";}
b(){ [ "$t" ]&&f "$1";q "broken: $1";}
a(){ [ ! -f "$d" ]||e=$( (: >>"$d") 2>&1)||{ rm -f "$n";f "${e##*: }";};}
v(){ k=$(c "$1");[ "$k" = "$2 $3" ]&&return;k="it arrived incomplete or changed (sum and length are $k, not $2 $3)";[ "$t" ]||b "$k";q "incomplete: $k";}
trap 'q "failed: interrupted"' HUP INT PIPE TERM
if [ -L "$d" ];then d=$(readlink -f "$d"&&echo .)||f "it is a link that cannot be followed";d=${d%??};fi
if [ -d "$d" ];then f "it is a directory";elif [ -p "$d" ]||[ -S "$d" ];then f "it is a FIFO or a socket";fi
p=${d%/*}/
[ -d "$p" ]||f "there is no directory $p"
if [ -e "$d" ]&&[ ! -f "$d" ];then w="it is not a regular file"
else
t=$p.gangway-$0
if e=$( (umask 077;set -C;: >"$t") 2>&1);then :;else t=;[ -e "$d" ]||f "${e##*: }";w="no file can be made beside it (${e##*: })";fi
if [ -e "$d" ];then
if s=$(stat -c '%h %a %u:%g' "$d");then set -- "$1" "$2" "$3" $s;[ "$4" = 1 ]||w="it has $4 links";else w="the container has no stat";fi
fi
fi
[ "$2" ]||{ [ "$t" ]&&command -v dd >/dev/null;}||{ [ "$t" ]&&rm -f "$t";m first;exit;}
[ "$t" ]||a
r=${t:-$d}
if command -v dd >/dev/null;then e=$(dd of="$r" bs=65536 ${t:+conv=notrunc} 2>&1 >/dev/null)||b "${e%%
*}";else e=$( (cat >"$r") 2>&1)||b "$e";fi
u=$2
[ "$u" ]||{ u=$(dd if="$r" bs=1 skip="$3")&&[ "$u" ]&&dd if=/dev/null of="$r" bs=1 seek="$3";}
if [ -f "$r" ];then v "$r" "$u" "$3";else o=", which cannot be verified";fi
if [ "$t" ]&&[ ! "$w" ];then
if [ "$4" ];then chown "$6" "$t"&&chmod "$5" "$t"||w="its owner and mode cannot be given to a new file";else chmod =rw "$t";fi
[ "$w" ]||mv -f "$t" "$d"||w="it cannot be replaced, as a mount point cannot"
[ "$w" ]||t=
fi
if [ "$t" ];then
n=$t;t=;a
e=$( (cat "$n" >"$d") 2>&1)||{ rm -f "$n";b "$e";}
[ "$(c "$d")" = "$(c "$n")" ]||{ rm -f "$n";b "what was written reads differently";}
rm -f "$n"
fi
if [ "$w" ];then m "in place: $w$o";else m "ok$o";fi"#;

/// Only as many bytes as were summed count, so a log that grows meanwhile is fetched whole as of its start.
const FETCH: &str = r#"if [ -d "$1" ];then m d;exit;elif [ -e "$1" ]&&[ ! -f "$1" ];then m x;exit;fi
e=$( (: <"$1") 2>&1)||{ case $e in *ermission*)m "p${e##*: }";;*)m n;;esac;exit;}
h||{ m unsummed;exit;}
n=
[ "$2" ]||n=$(stat -L -c %s "$1")
if [ "${n:-0}" -gt 1048576 ];then (m "k$(c "$1")" >&3)&
m "l $n";else m "k$(c "$1")";fi
if command -v dd >/dev/null;then dd if="$1" bs=65536;else cat "$1";fi
r=$?
wait
m "e$r""#;

#[cfg(test)]
mod tests {
    use super::super::sum::Sum;
    use super::*;
    use crate::engine::Env;
    use proptest::prelude::*;
    use std::io::Write as _;
    use std::os::unix::ffi::OsStrExt;
    use std::process::{Command, Output, Stdio};

    /// What the host's own /bin/sh makes of a script: the language is tested here, the engines elsewhere.
    fn run(script: &Script, stdin: &[u8]) -> Output {
        feed(script, stdin).0
    }

    fn spawn(script: &Script) -> std::process::Child {
        let words: Vec<&std::ffi::OsStr> =
            script.command.iter().map(|word| std::ffi::OsStr::from_bytes(word)).collect();
        Command::new(words[0])
            .args(&words[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// The same, and whether all of stdin was read.
    fn feed(script: &Script, stdin: &[u8]) -> (Output, bool) {
        let mut child = spawn(script);
        let mut pipe = child.stdin.take().unwrap();
        let read = pipe.write_all(&[script.stdin.as_slice(), stdin].concat()).is_ok();
        drop(pipe);
        (child.wait_with_output().unwrap(), read)
    }

    fn command_output(script: &Script, stdin: &[u8]) -> (i32, Vec<u8>, Vec<u8>) {
        let output = run(script, stdin);
        let (_, after, pid) = script.find_start(&output.stderr).expect("a start mark");
        assert!(pid > 1);
        let (out_end, rc) = script.find_end(&output.stdout, 0).expect("an end mark on stdout");
        let (err_end, same) = script.find_end(&output.stderr, after).expect("an end mark on stderr");
        assert_eq!(rc, same);
        (rc, output.stdout[..out_end].to_vec(), output.stderr[after..err_end].to_vec())
    }

    fn exec(command: &[u8], stdin: &[u8]) -> (i32, Vec<u8>, Vec<u8>) {
        command_output(&Script::exec("0123456789abcdef", b"/bin/sh", command, Prelude::default()), stdin)
    }

    #[test]
    fn output_and_status_are_exact() {
        assert_eq!(
            exec(b"printf 'a\\0b\\r\\n'; printf x >&2; exit 7", b""),
            (7, b"a\0b\r\n".to_vec(), b"x".to_vec())
        );
        assert_eq!(exec(b"cat", b"in\n"), (0, b"in\n".to_vec(), b"".to_vec()));
        assert_eq!(exec(b"kill -KILL $$", b""), (137, b"".to_vec(), b"".to_vec()));
        assert_eq!(exec(b"echo $0", b"").1, b"/bin/sh\n");
    }

    #[test]
    fn a_transfer_is_for_one_instance() {
        let stat = std::fs::read_to_string("/proc/1/stat").unwrap();
        let started = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(19).unwrap();
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        let mounts = std::fs::read_link("/proc/self/ns/mnt").unwrap();
        let here = format!("{} {started} {}", boot.trim(), mounts.display());
        for (instance, first) in [("", "d"), (here.as_str(), "d"), ("it's 1 mnt:[2]", "replaced")] {
            let script = Script::fetch("n", instance, b"/", SumKind::Cksum, false);
            let stdout = run(&script, b"").stdout;
            assert_eq!(script.find(&stdout, b"", 0).unwrap().2, first, "{instance}");
        }
    }

    #[test]
    fn an_interrupted_put_leaves_nothing() {
        let dir = std::env::temp_dir().join(format!("gangway-put-{}", crate::sys::nonce().unwrap()));
        std::fs::create_dir(&dir).unwrap();
        let path = dir.join("file");
        let files = || std::fs::read_dir(&dir).unwrap().count();
        for signal in ["HUP", "INT", "PIPE", "TERM"] {
            let put = Script::put("n", "", path.as_os_str().as_bytes(), SumKind::Cksum, 1, "1");
            let mut child = spawn(&put);
            let started = std::time::Instant::now();
            while files() == 0 {
                assert!(started.elapsed().as_secs() < 20);
            }
            let pid = child.id().to_string();
            assert!(Command::new("kill").args(["-s", signal, &pid]).status().unwrap().success());
            drop((child.stdout.take(), child.stderr.take(), child.stdin.take()));
            assert_eq!((child.wait().unwrap().code(), files()), (Some(1), 0), "{signal}");
        }
        std::fs::remove_dir(&dir).unwrap();
    }

    #[test]
    fn a_sum_may_follow_the_bytes() {
        let dir = std::env::temp_dir().join(format!("gangway-put-{}", crate::sys::nonce().unwrap()));
        std::fs::create_dir(&dir).unwrap();
        let path = dir.join("file");
        let data: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
        let put = |stdin: &[u8], kind: SumKind, prefix: &str| {
            let name = path.as_os_str().as_bytes();
            let mut script = Script::put("0123456789abcdef", "", name, kind, data.len() as u64, "");
            script.command[2].splice(..0, prefix.bytes());
            let stdout = run(&script, stdin).stdout;
            script.find(&stdout, b"", 0).unwrap().2.into_owned()
        };
        let is = |content: &[u8]| {
            std::fs::read(&path).unwrap() == content && std::fs::read_dir(&dir).unwrap().count() == 1
        };
        let whole = |kind| {
            let mut sum = Sum::new(kind);
            sum.update(&data);
            [data.clone(), sum.finish().into_bytes()].concat()
        };
        for kind in [SumKind::Cksum, SumKind::Sha256, SumKind::Length] {
            std::fs::write(&path, "old").unwrap();
            let sent = whole(kind);
            // Cut in the bytes and in the sum, changed, and too long.
            let mut changed = sent.clone();
            changed[7] ^= 1;
            let mut cuts = vec![&sent[..0], &sent[..1000], &sent[..data.len()]];
            if kind != SumKind::Length {
                cuts.extend([&sent[..sent.len() - 1], &changed]);
            }
            let longer = [sent.as_slice(), b"0"].concat();
            for wrong in cuts.into_iter().chain([longer.as_slice()]) {
                let said = put(wrong, kind, "");
                assert!(said.starts_with("incomplete: it arrived incomplete or changed"), "{said}");
                assert!(is(b"old"), "{kind:?}");
            }
            assert_eq!(put(&sent, kind, ""), "ok");
            assert!(is(&data), "{kind:?}");
        }
        // Without dd, and where the file is written in place.
        let sent = whole(SumKind::Cksum);
        std::fs::write(&path, "old").unwrap();
        let without = "command(){ case $2 in dd)return 1;;esac;};";
        assert_eq!(put(&sent, SumKind::Cksum, without), "first");
        assert!(is(b"old"));
        assert_eq!(put(&sent, SumKind::Cksum, "umask(){ exit 1;};"), "first");
        assert!(is(b"old"));
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn stdin_is_read_to_the_end_without_a_change_of_output_or_status() {
        let data = vec![b'x'; 1 << 20];
        let program = |text: &[u8]| Script::exec("0123456789abcdef", b"/bin/sh", text, Prelude::default());
        let script = program(b"head -c 3; exit 7");
        assert!(!feed(&script, &data).1);
        let script = script.that_reads_to_the_end();
        assert!(feed(&script, &data).1);
        assert_eq!(command_output(&script, &data), (7, b"xxx".to_vec(), Vec::new()));
        // Without a program to read with, too: the shell's own `read` is left.
        let mut script = program(b"echo $PATH; exit 7").that_reads_to_the_end();
        script.command[2].splice(..0, *b"PATH=/nowhere;");
        assert_eq!(command_output(&script, &data[..1000]), (7, b"/nowhere\n".to_vec(), Vec::new()));
        let script =
            Script::put("0123456789abcdef", "", b"/proc", SumKind::Cksum, 0, "0").that_reads_to_the_end();
        let (output, read) = feed(&script, &data);
        assert!(read);
        assert_eq!(output.stdout, b"\x1e0123456789abcdef failed: it is a directory\x1e");
        assert_eq!(output.status.code(), Some(1));
    }

    #[test]
    fn ps_in_the_container_forges_no_mark() {
        let (rc, out, _) = exec(b"tr '\\0' ' ' </proc/$PPID/cmdline; exit 3", b"");
        assert!(rc == 3 && memchr::memmem::find(&out, b"0123456789abcdef").is_some());
    }

    #[test]
    fn bytes_that_are_no_text_pass_in_ascii() {
        let (_, out, _) = exec(b"printf %s '\xff\xfe\n\n' ' \xc3\x28'", b"");
        assert_eq!(out, b"\xff\xfe\n\n \xc3\x28");
    }

    #[test]
    fn environment_and_directory_of_a_pod() {
        let env = Env::from([
            (b"A".to_vec(), b"it's\ntwo \xc3\xa4 $x\n\n".to_vec()),
            (b"B".to_vec(), b"".to_vec()),
            (b"e".to_vec(), b"e".to_vec()),
            (b"l".to_vec(), b"l".to_vec()),
            (b"n".to_vec(), b"n".to_vec()),
            (b"z".to_vec(), b"\n".to_vec()),
        ]);
        let prelude = Prelude { env: Some(&env), working_dir: Some(b"/usr") };
        let script = Script::exec(
            "0123456789abcdef",
            b"/bin/sh",
            b"printf '%s|' \"$A\" \"${B-unset}\" \"$e$l$n$z\"; pwd; cat",
            prelude,
        );
        assert!(!script.command.iter().any(|word| memchr::memmem::find(word, b"it's").is_some()));
        let (rc, out, _) = command_output(&script, b"rest");
        assert_eq!((rc, String::from_utf8_lossy(&out).as_ref()), (0, "it's\ntwo ä $x\n\n||eln\n|/usr\nrest"));
    }

    #[test]
    fn a_missing_directory_or_shell_is_marked() {
        let prelude = Prelude { env: None, working_dir: Some(b"/proc/nowhere") };
        let script = Script::exec("0123456789abcdef", b"/bin/sh", b"true", prelude);
        let (_, _, said) =
            script.find(&run(&script, b"").stderr, b"d", 0).map(|(a, b, s)| (a, b, s.into_owned())).unwrap();
        assert!(said.contains("/proc/nowhere"), "{said}");
        let script = Script::exec("0123456789abcdef", b"/no/shell", b"true", Prelude::default());
        assert!(script.find(&run(&script, b"").stderr, b"n", 0).is_some());
    }

    #[test]
    fn a_variable_that_the_shell_cannot_set_is_marked() {
        let env = Env::from([(b"1ST".to_vec(), b"v".to_vec()), (b"B".to_vec(), b"v".to_vec())]);
        let prelude = Prelude { env: Some(&env), working_dir: None };
        let script = Script::exec("0123456789abcdef", b"/bin/sh", b"echo never", prelude);
        let output = run(&script, b"");
        assert!(script.find(&output.stderr, b"v", 0).is_some() && output.stdout.is_empty());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_name_reaches_the_shell_unchanged(bytes in proptest::collection::vec(1_u8..=255, 0..40)) {
            let script = Script::new("0123456789abcdef", r#"printf %s "$1""#, &[&bytes]);
            prop_assert!(script.command.iter().all(|word| std::str::from_utf8(word).is_ok()));
            prop_assert_eq!(run(&script, b"").stdout, bytes);
        }

        #[test]
        fn any_value_is_one_line_of_code(bytes in proptest::collection::vec(1_u8..=255, 0..40)) {
            let env = Env::from([(b"V".to_vec(), bytes.clone())]);
            let prelude = Prelude { env: Some(&env), working_dir: None };
            let script = Script::exec("0123456789abcdef", b"/bin/sh", b"printf %s \"$V\"", prelude);
            prop_assert_eq!(script.stdin.split(|byte| *byte == b'\n').count(), 2);
            prop_assert_eq!(command_output(&script, b"").1, bytes);
        }

        #[test]
        fn hostile_streams_never_panic(stream in proptest::collection::vec(any::<u8>(), 0..200), from in 0_usize..300) {
            let script = Script::kill("0123456789abcdef", 7);
            let _ = script.find_start(&stream);
            let _ = script.find_end(&stream, from);
        }
    }
}
