"""Ansible's own steps around a module, which the agent does without a shell.

Sent behind agent_commands.py's text, whose names it uses. Around each file that it copies, and each
module that it sends as a file, Ansible makes a directory, lets its owner use what is in it, removes
it, and asks where a home is: programs of one line whose texts are fixed (plugins/shell of
ansible-core 2.16 to 2.21). Each takes two shells and up to five programs.

A line is taken only as a whole and with names that no shell would change. Whatever does not go well
is left to the shell: it begins anew, which harms nobody, and has the words for it.
"""

import re

# What shlex.quote leaves as it is, and echo prints as it is.
PLACE = rb"/[\w@%+=:,./-]*"
MADE = rb"ansible-tmp-[\d.]+-\d+-\d+"
LINE = rb"/bin/sh -c '([^']*?)(?: && sleep 0)?'"

USUAL = frozenset([b"/bin", b"/usr/bin", b"/sbin", b"/usr/sbin"])
# What is removed here: many files, or deep ones, would keep others waiting.
MOST_REMOVED, DEEPEST = 100, 5


def step(agent, shell, command):
    """Do one; return what its line prints, None when it is left to the shell."""
    line = re.fullmatch(LINE, command) if shell == b"/bin/sh" else None
    for pattern, program, do in STEPS if line else ():
        found = re.fullmatch(pattern, line.group(1))
        if found and is_usual([shell] + program, agent.environment):
            try:
                return do(agent, found)
            except (OSError, KeyError):
                return None
    return None


def is_usual(programs, environment):
    """Whether a shell would run what systems have under these names."""
    if any(name.startswith(b"BASH_FUNC_") for name in environment):
        return False
    found = [find_program(name, environment) for name in programs]
    return all(path and os.path.dirname(path) in USUAL for path in found)


def make(_agent, found):
    """Make a directory, and those above it that are missing."""
    mask, above, name, path = found.group(1, 2, 4, 3)
    before = os.umask(int(mask, 8))
    try:
        os.makedirs(above, exist_ok=True)
        os.mkdir(path)
    finally:
        os.umask(before)
    return name + b"=" + path + b"\n"


def allow(_agent, found):
    """Give the owner of files rights."""
    rights, paths = found.groups()
    bits = sum({"r": 0o400, "w": 0o200, "x": 0o100}[right] for right in text(rights))
    for path in paths.split():
        os.chmod(path, stat.S_IMODE(os.stat(path).st_mode) | bits)
    return b""


def remove(_agent, found):
    """Remove a directory with what is in it, if it is there; no link is followed."""
    try:
        place = os.open(os.path.dirname(found.group(1)), os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return b""
    try:
        remove_from(place, os.path.basename(found.group(1)), DEEPEST, [MOST_REMOVED])
    finally:
        os.close(place)
    return b""


def remove_from(place, name, deeper, left):
    """Remove a directory of an open directory."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
    try:
        fd = os.open(name, flags, dir_fd=place)
    except FileNotFoundError:
        return
    try:
        for inner in os.listdir(fd):
            left[0] -= 1
            if left[0] < 0 or deeper < 0:
                raise OSError("too much")
            try:
                os.unlink(inner, dir_fd=fd)
            except FileNotFoundError:
                pass
            except (IsADirectoryError, PermissionError):
                remove_from(fd, inner, deeper - 1, left)
    finally:
        os.close(fd)
    os.rmdir(name, dir_fd=place)


def home(agent, found):
    """Say where a home is: of a user, or one's own as the environment has it."""
    name, place = found.group(1), agent.environment.get(b"HOME", b"")
    if name:
        sources = re.findall(SOURCES, contents("/etc/nsswitch.conf") or b"passwd: files")
        users = [line.split(b":") for line in (contents("/etc/passwd") or b"").splitlines()]
        place = {user[0]: user[5] for user in reversed(users) if len(user) == 7}[name]
        if sources != [b"files"]:
            raise KeyError("it is asked for elsewhere first")
    if not re.fullmatch(PLACE, place):
        raise KeyError("a shell may change it")
    return place + b"\n"


# Of the service that a C library asks first for users.
SOURCES = rb"(?m)^[ \t]*passwd:[ \t]*(\w+)"
STEPS = (
    (
        rb'\( umask ([0-7]+) && mkdir -p "` echo (%s) `"&& mkdir "` echo (\2/(%s)) `"'
        rb' && echo \4="` echo \3 `" \)' % (PLACE, MADE),
        [b"mkdir"],
        make,
    ),
    (rb"chmod u\+(r?w?x)((?: %s)+)" % PLACE, [b"chmod"], allow),
    (rb"rm -f -r (%s/%s)/ > /dev/null 2>&1" % (PLACE, MADE), [b"rm"], remove),
    (rb"echo ~([a-z_][\w-]*)?", [], home),
)
