"""Tell every difference between two results, but for what a clock or chance decides.

What may differ is named: `TEXTS` are patterns of text that is made anew each time (a temporary
name), `VALUES` single values of single modules, which must still look like what they are, and
`CONTENTS` files. Nothing else is normalised; test_compare.py plants differences to show it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any


@dataclass(frozen=True)
class Difference:
    """One place at which two results are not the same."""

    where: str
    one: object
    other: object

    def __str__(self) -> str:
        return f"{self.where}\n    - {shown(self.one)}\n    + {shown(self.other)}"


def shown(value: object) -> str:
    """Return a value as one bounded line."""
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return repr(text if len(text) < 600 else f"{text[:400]} … {text[-200:]}")


class Absent:
    """Stands for what is not there."""

    def __str__(self) -> str:
        return "(absent)"


ABSENT = Absent()


@dataclass(frozen=True)
class Text:
    """A part of any text that is made anew each time; group 1 and 2 of the pattern stay."""

    name: str
    pattern: str
    modules: str = ".*"
    instead: str = "*"


@dataclass(frozen=True)
class Value:
    """One value that a clock or chance decides: its place in the result, and what it looks like."""

    name: str
    modules: str
    path: str
    shape: str


@dataclass(frozen=True)
class Content:
    """A part of a file that a clock or chance decides."""

    name: str
    path: str
    pattern: str


TIME = r"\d\d:\d\d:\d\d"
DAY = r"\d\d\d\d-\d\d-\d\d"
RANDOM = r"[a-z0-9_]{8}"
TEMPORARY = rf"(\.|tmp){RANDOM}"
# Seconds since 1970 as of these years: the files that cases start from are older.
NOW = r"1[7-9]\d{8}(\.\d+)?"

TEXTS = (
    Text("Ansible's temporary directory", r"(ansible-tmp-)\d+\.\d+-\d+-\d+"),
    Text("a module's temporary directory", rf"(ansible-moduletmp-)\d+\.\d+-{RANDOM}"),
    Text("a file in it", rf"(ansible-moduletmp-\*/tmp){RANDOM}"),
    Text("a payload's directory", rf"(ansible_[\w.]+_payload_){RANDOM}(?![\w.])"),
    Text("a file before it is renamed", rf"(\.ansible_tmp){RANDOM}"),
    Text("a backup's name", rf"(\.)\d+\.{DAY}@{TIME}(~)"),
    Text("the host's own directory", r"(/fetched/)(?:one/one|other/other|one|other)(?=/)"),
    Text("a file on its way from here", rf"(/ansible-local-)\w+/(?:\.|tmp){RANDOM}"),
    Text("a temporary file's name", rf"(/(?:ansible|gangway)\.){RANDOM}", "tempfile|tree"),
    Text("the container's name", r"(gangway-modules-\d+-)(?:one|other)\b"),
    Text("the mark of become", r"(BECOME-SUCCESS-)[a-z]{32}"),
    Text("a crontab on its way", rf"(/tmp/crontab){RANDOM}", "cron|tree"),
    Text("when a crontab came", rf"( installed on )\w+ \w+ +\d+ {TIME} \d{{4}}", "cron.*|tree"),
    Text("how fast dd was", r"(\) copied, )[\d.e-]+ s, [\d.]+ [kMG]?B/s", ".*filesize"),
    # Some frames of the agent are below the module's.
    Text("how deep a full stack is", r"(\[Previous line repeated )\d+( more times\])", "leak"),
    Text(
        "those frames, where a traceback goes down to the first one",
        r'(Traceback \(most recent call last\):\n)(?:  File "<string>", line \d+, in '
        r"(?:<module>|main|run)\n)+",
        instead="",
    ),
    Text("a pause of random length", r"(Sleeping for )\d+( seconds, before)", "apt.*"),
    Text("how long curl tried", r"( port \d+ after )\d+( ms: )", "git"),
    Text("the number of a job", r"(\bj)\d{6,12}(?:\.\d{1,7})?\b"),
    Text(
        "the program of a warm interpreter",
        r"(?s)(\0)(?:-c\0import sys;sys\.path.*?;exec\(bytes\(_s\)\)|/[^\0]*/AnsiballZ_\w+\.py)\0",
        "process_state",
        instead="",
    ),
    Text(
        "the same in the environment that it started with",
        r"( ; /usr/bin/python3) (?:-c 'import sys;sys\.path.*?;exec\(bytes\(_s\)\)'|/.*?_\w+\.py)",
        "process_state",
        instead="",
    ),
    Text("a temporary file of ssh-keygen", rf"(/\.ssh/tmp){RANDOM}", "known_hosts"),
    Text("a salted host name", r"(\|1\|)[\w+/]{27}=\|[\w+/]{27}=", "known_hosts|tree"),
)

OF_TASKS = "(GIVEN|ALSO|LC_ALL|LANG|TZ|TMPDIR|PYTHON[A-Z]+|MALLOC_[A-Z_]+|ANSIBLE_[A-Z_]+)"
COMMANDS = "command|shell|script|expect|async_status"
STATS = "stat|find|copy|template|fetch|unarchive|assemble"
FACTS = "setup|gather_facts"
CLOCK = "ansible_facts/ansible_date_time"
VALUES = (
    Value("the time of a command", COMMANDS, "start|end", rf"{DAY} {TIME}\.\d{{6}}"),
    Value("how long it took", COMMANDS, "delta", r"\d:\d\d:\d\d\.\d{6}"),
    # On the plain path a shell that waits for the interpreter leads the session and its group, and
    # names the signal that the interpreter died of. The engine's own exec has no such shell.
    Value("who leads", "process_state", "state/system/leads its (session|group)", "True|False"),
    Value("a session of one's own", "leak_beside_shell", "said", "made one|errno 1"),
    Value("the shell's end", "leak_beside_shell", "rc", "0|143"),
    Value(
        "the shell's words",
        "leak_beside_shell",
        "(module_)?stderr",
        "(Segmentation fault\n|Killed\n)?",
    ),
    # Until ansible-core 2.19; then it has a directory.
    Value("a file of content", "copy", ".*module_args/_original_basename", TEMPORARY),
    Value("a job's process", COMMANDS, "child_pid", r"\d+"),
    Value("seconds that it took", "wait_for|wait_for_connection|uri|get_url", "elapsed", r"\d"),
    Value("the number of a file", STATS, "(stat|files/[0-9]+)/(inode|dev)", r"\d+"),
    Value("a time of a file", STATS, "(stat|files/[0-9]+)/[mc]time", NOW),
    Value("when a file was read", STATS, "(stat|files/[0-9]+)/atime", r"1\d{9}(\.\d+)?"),
    Value("when the package lists came", "apt|package", "cache_update_time", NOW),
    Value("a time in a diff", "file", "diff/(before|after)/[am]time", NOW),
    Value("the time of day", FACTS, rf"{CLOCK}/(second|minute|hour|epoch|epoch_int)", r"\d+"),
    Value("the time", FACTS, f"{CLOCK}/time", TIME),
    Value(
        "the date",
        FACTS,
        rf"{CLOCK}/iso8601(_micro|_basic|_basic_short)?",
        r"2\d\d\d[\d:.TZ-]{11,23}",
    ),
    Value("what runs beside it", FACTS, r"ansible_facts/ansible_loadavg/\d+m", r"\d+\.\d+"),
    Value("how long the machine runs", FACTS, "ansible_facts/ansible_uptime_seconds", r"\d+"),
    Value("free memory", FACTS, "ansible_facts/ansible_(mem|swap)free_mb", r"\d+"),
    Value(
        "memory in use",
        FACTS,
        "ansible_facts/ansible_memory_mb/(real|nocache|swap)/(used|free|cached)",
        r"\d+",
    ),
    Value(
        "free space",
        FACTS + "|mount_facts",
        r"ansible_facts/(ansible_mounts/\d+|mount_points/[^?]*)/(size|block|inode)s?_(available|used)",
        r"\d+",
    ),
    # Until then variables of a task are none that the process was started with: see LACKING.
    Value("a variable", "process_state", rf"state/system/environ/{OF_TASKS}", "(?s).*"),
    # They are joined in the order of a set.
    Value("why no archive", "unarchive", "msg", r"(?s)Failed to find handler for .*"),
    Value("a new key", "user", "ssh_public_key", r"ssh-ed25519 [\w+/]{68} of the worker"),
    Value(
        "its hash", "user", "ssh_fingerprint", r"256 SHA256:[\w+/]{43} of the worker \(ED25519\)"
    ),
)


# What the other side may have beside what the first has.
EXTRA = (
    # A module finds them imported, which it can only tell by looking into sys.modules.
    Value("a module of the standard library", "process_state", r"state/standard/[\w.]+", "True"),
    # Below the frame of the text that Ansible sent.
    Value(
        "frames",
        "process_state",
        r"state/python/frames/\d+",
        r"\['<string>', '(<module>|main|run)'\]",
    ),
)
# What the first side has and the other has not.
LACKING = (
    # /proc/PID/environ of a forked child is its parent's; os.environ has them.
    Value("variables of the task", "process_state", rf"state/system/environ/{OF_TASKS}", "(?s).*"),
)
# Everything of a file: nothing of it stays, but that it is there, its mode and its owner.
ALL = ""
CONTENTS = (
    # Left behind by a module that was killed; the archive holds its own path.
    Content("a payload", r".*_payload_\*/ansible_[\w.]+_payload\.zip", ALL),
    Content("the time in a compressed archive", "/srv/work/made.tar", ALL),
    Content("when a crontab came", "/var/spool/cron/crontabs/.*", r"( installed on ).*"),
    Content("a new key", r"/home/elsewhere/\.ssh/id_ed25519(\.pub)?", ALL),
    Content("times of git's files", r"/srv/work/[^/]+/\.git/index", ALL),
    # The wrapper holds what the controller made for the host, such as its times.
    Content("a module that was kept", r".*/ansible-tmp-\*/AnsiballZ_\w+\.py", ALL),
    Content("a key ring and its trust", r"/root/\.gnupg/(pubring\.kbx|trustdb\.gpg)", ALL),
    Content("git's log", r"/srv/work/[^/]+/(\.git/)?logs/.*", r"(> )\d{10} [+-]\d{4}"),
    Content("Subversion's database", r"/srv/work/[^/]+/\.svn/wc\.db", ALL),
    Content("the time in compiled Python", r".*/__pycache__/[^/]+\.pyc", r"(?s)^(.{8}).{4}"),
    Content("times of package lists", "/var/cache/apt/(src)?pkgcache.bin", ALL),
    Content("the log of packages", "/var/log/(dpkg|alternatives).log", rf"(){DAY} {TIME}"),
    Content("the log of apt", "/var/log/apt/(history|term).log", rf"(){DAY}  {TIME}"),
)


@cache
def _texts(module: str) -> list[tuple[re.Pattern[str], str]]:
    """Return the patterns for a module, each with what stands for it then."""
    return [
        (pattern, r"\1" * (pattern.groups > 0) + text.instead + r"\2" * (pattern.groups > 1))
        for text in TEXTS
        if re.fullmatch(text.modules, module)
        for pattern in [re.compile(text.pattern)]
    ]


@lru_cache(maxsize=1 << 15)
def plain(module: str, text: str) -> str:
    """Return a text without what is made anew each time."""
    for pattern, instead in _texts(module):
        text = pattern.sub(instead, text)
    return text


@cache
def _values(module: str, path: str) -> list[str]:
    return [
        value.shape
        for value in VALUES
        if re.fullmatch(value.modules, module) and re.fullmatch(value.path, path)
    ]


def differences(
    module: str, one: Any, other: Any, path: tuple[str, ...] = (), where: str = ""
) -> Iterator[Difference]:
    """Yield each difference between two values of JSON; `where` is what they are part of."""
    if isinstance(one, dict) and isinstance(other, dict):
        one = {plain(module, str(key)): value for key, value in one.items()}
        other = {plain(module, str(key)): value for key, value in other.items()}
        for key in [*one, *(key for key in other if key not in one)]:
            both = one.get(key, ABSENT), other.get(key, ABSENT)
            yield from differences(module, *both, (*path, key), where)
    elif isinstance(one, list) and isinstance(other, list):
        for index in range(max(len(one), len(other))):
            left = one[index] if index < len(one) else ABSENT
            right = other[index] if index < len(other) else ABSENT
            yield from differences(module, left, right, (*path, str(index)), where)
    elif not _same(module, one, other, "/".join(path)):
        yield Difference(f"{where} {'/'.join(path)}".strip(), one, other)


def _is_named(rules: Sequence[Value], module: str, value: Any, path: str) -> bool:
    path = _in_a_loop(path)
    return any(
        re.fullmatch(rule.modules, module)
        and re.fullmatch(rule.path, path)
        and re.fullmatch(rule.shape, str(value))
        for rule in rules
    )


def _in_a_loop(path: str) -> str:
    """Return a place in the result of a loop as one in the result of a task."""
    return re.sub(r"^results/\d+/", "", path)


def _same(module: str, one: Any, other: Any, path: str) -> bool:
    if one is other:
        return True
    if one is ABSENT:
        return _is_named(EXTRA, module, other, path)
    if other is ABSENT:
        return _is_named(LACKING, module, one, path)
    if type(one) is not type(other):
        return False
    if one == other or (isinstance(one, str) and plain(module, one) == plain(module, other)):
        return True
    shapes = _values(module, _in_a_loop(path))
    return any(
        re.fullmatch(shape, str(one)) and re.fullmatch(shape, str(other)) for shape in shapes
    )


def calls(module: str, one: Sequence[Any], other: Sequence[Any]) -> Iterator[Difference]:
    """Yield each difference between two lists of calls on a connection.

    Output that is one JSON object is compared as such, so that the order of keys, which a hash seed
    may decide, does not matter.
    """
    for index in range(max(len(one), len(other))):
        left = _parsed(one[index]) if index < len(one) else ABSENT
        right = _parsed(other[index]) if index < len(other) else ABSENT
        where = f"call {index}"
        if left is ABSENT or right is ABSENT:
            yield Difference(where, left, right)
            continue
        printed = [side.pop("printed", ABSENT) for side in (left, right)]
        yield from differences(module, left, right, where=where)
        yield from differences(module, *printed, where=f"{where} printed")


def _parsed(call: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in call.items() if key not in ("path", "host", "task")}
    stdout = kept.get("stdout", "")
    if isinstance(stdout, str) and (found := re.search(r"^\{", stdout, re.MULTILINE)):
        try:
            kept["printed"], end = json.JSONDecoder().raw_decode(stdout, found.start())
        except ValueError:
            return kept
        # What is around the object stays text.
        kept["stdout"] = [stdout[: found.start()], stdout[end:]]
    return kept


def trees(one: dict[str, Any], other: dict[str, Any]) -> Iterator[Difference]:
    """Yield each difference between two file systems as tree.py prints them."""
    both = [_by_plain_path(side) for side in (one, other)]
    for path in sorted(both[0].keys() | both[1].keys()):
        left, right = (side.get(path, []) for side in both)
        # Several files may differ only in what is random in their names.
        if left != right:
            yield Difference(path, left or ABSENT, right or ABSENT)


def _by_plain_path(tree: dict[str, Any]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for path in sorted(tree):
        short = plain("tree", path)
        found.setdefault(short, []).append(_contents(short, tree[path]))
    for entries in found.values():
        entries.sort(key=str)
    return found


def _contents(path: str, entry: list[Any]) -> list[Any]:
    """Return a file's entry without what is made anew in its content."""
    if not isinstance(entry[-1], list):
        return entry
    *status, size, content = entry
    digest, text = content
    short = plain("tree", text)
    for rule in CONTENTS:
        if re.fullmatch(rule.path, path):
            short = "*" if rule.pattern is ALL else re.sub(rule.pattern, r"\1*", short)
    # A name may be longer, a number have more digits; without a change the size counts.
    return [*status, size, digest] if short == text else [*status, short]
