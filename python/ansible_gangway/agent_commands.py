"""What the plain agent serves: commands, and files small enough to be held in memory.

Sent behind agent.py's text, whose names it uses; agent_steps.py follows.
"""

import errno
import stat

# What all of it may hold of a file, in either direction: nothing is touched before all is here.
MOST_HELD = 1 << 20


# What Python ignores although the exec did not.
IGNORED = (signal.SIGPIPE, signal.SIGXFSZ)


def execute(agent, number, head):
    """Serve exec: run `shell -c command`."""
    shell, command = blob(head["shell"]), blob(head["command"])
    said = step(agent, shell, command)
    if said is not None:
        agent.send_head(STARTED, number, {})
        if said:
            agent.send(STDOUT, number, said)
        return agent.exit(number, rc=0)
    enter(agent.directory)
    fds = []
    try:
        program = find_program(shell, agent.environment)
        if not program:
            raise Unable("there is no program %s in the container" % text(shell))
        for _ in range(3):
            fds += os.pipe()
        streams = fds[0], fds[3], fds[5]
        pid = spawn(agent, program, [shell, b"-c", command], streams)
    except OSError:
        for fd in fds:
            os.close(fd)
        raise
    finally:
        if agent.directory:
            os.chdir("/")
    for fd in streams:
        os.close(fd)
    return Task(agent, number, pid, fds[1], fds[2], fds[4])


def spawn(agent, program, argv, streams):
    """Start a program as the exec itself would have been; return its process id.

    posix_spawn copies no memory, which halves the time; older Pythons lack it. glibc's leaves the
    signals 32 and 33 ignored, which are its own, as in all that its `system` and `popen` start.
    """
    if hasattr(os, "posix_spawn") and agent.handlers[signal.SIGCHLD] != signal.SIG_IGN:
        moves = [(os.POSIX_SPAWN_DUP2, source, fd) for fd, source in enumerate(streams)]
        agent.give_score()
        try:
            return os.posix_spawn(
                program,
                argv,
                agent.environment,
                file_actions=moves,
                setsid=True,
                setsigdef=IGNORED,
            )
        except NotImplementedError:
            pass  # this C library cannot begin a session
        finally:
            agent.take_score()
    pid = fork(agent)
    if pid == 0:
        try:
            set_streams(*streams)
            for number in IGNORED:
                signal.signal(number, signal.SIG_DFL)
            os.execve(program, argv, agent.environment)
        except OSError as error:
            os.write(2, argv[0] + b": " + said(error).encode() + b"\n")
        finally:
            os._exit(126)
    return pid


def sha256(data):
    """Return the sum as hexadecimal; by OpenSSL, which costs memory, only where it must be."""
    try:
        from _sha2 import sha256 as new
    except ImportError:
        try:
            from _sha256 import sha256 as new
        except ImportError:
            from hashlib import sha256 as new
    return new(data).hexdigest()


def write_all(fd, data):
    """Write all of it to a file."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


class Put(Request):
    """Writes what comes to a file: whole, or not at all."""

    def __init__(self, agent, number, head):
        self._path, self._length, self._sum = blob(head["path"]), head["length"], head["sha256"]
        if self._length > MOST_HELD:
            raise Unable("the agent takes files of up to %d bytes" % MOST_HELD)
        Request.__init__(self, agent, number)
        self._held = bytearray()
        agent.send_head(STARTED, number, {})

    def data(self, payload):
        """Hold bytes."""
        if len(self._held) <= self._length:
            self._held += payload
        self.used(len(payload))

    def end(self):
        """Write them."""
        temporary = b".gangway-%s-%d" % (self.agent.config["nonce"].encode(), self.number)
        data = bytes(self._held)
        kind, words = "failed", None
        found, wanted = "%s %d" % (sha256(data), len(data)), "%s %d" % (self._sum, self._length)
        if found != wanted:
            words = "it arrived incomplete or changed (sum and length are %s, not %s)" % (
                found,
                wanted,
            )
        else:
            try:
                kind, words = write_file(self._path, data, temporary)
            except OSError as error:
                words = said(error)
        self.agent.exit(self.number, **{kind: words})


def write_file(path, data, temporary):
    """Write a file through `temporary` beside it and a rename; in place where that cannot be.

    Returns ("done", "ok"), ("done", "in place: REASON"), ("failed", REASON) with everything as it
    was, or ("broken", REASON).
    """
    if os.path.islink(path):
        path = os.path.realpath(path)
        if os.path.islink(path) or not os.path.isdir(os.path.dirname(path)):
            return "failed", "it is a link that cannot be followed"
    try:
        old = os.stat(path)
    except OSError:
        old = None
    if old and stat.S_ISDIR(old.st_mode):
        return "failed", "it is a directory"
    if old and (stat.S_ISFIFO(old.st_mode) or stat.S_ISSOCK(old.st_mode)):
        return "failed", "it is a FIFO or a socket"
    parent = path[: path.rfind(b"/") + 1]
    if not os.path.isdir(parent):
        return "failed", "there is no directory %s" % text(parent)
    if old and not stat.S_ISREG(old.st_mode):
        return write_in_place(path, data, "it is not a regular file", False)
    if old and old.st_nlink != 1:
        return write_in_place(path, data, "it has %d links" % old.st_nlink, True)
    temporary = parent + temporary
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        if not old:
            return "failed", said(error)
        why = "no file can be made beside it (%s)" % said(error)
        return write_in_place(path, data, why, True)
    try:
        write_all(fd, data)
        why = give_name(fd, temporary, path, old)
        if not why:
            temporary = None
            return "done", "ok"
    finally:
        os.close(fd)
        if temporary:
            os.unlink(temporary)
    return write_in_place(path, data, why, True)


def give_name(fd, temporary, path, old):
    """Give a new file the owner, mode and name of the old one; return why that cannot be, if so."""
    try:
        if old:
            os.fchown(fd, old.st_uid, old.st_gid)
            os.fchmod(fd, stat.S_IMODE(old.st_mode))
        else:
            mask = os.umask(0)
            os.umask(mask)
            os.fchmod(fd, 0o666 & ~mask)
    except OSError:
        return "its owner and mode cannot be given to a new file"
    try:
        os.rename(temporary, path)
    except OSError:
        return "it cannot be replaced, as a mount point cannot"
    return None


def write_in_place(path, data, why, verify):
    """Write an existing file as it stands, and read it back."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        return "failed", said(error)
    try:
        write_all(fd, data)
        if verify:
            os.ftruncate(fd, len(data))
    except OSError as error:
        return "broken", said(error)
    finally:
        os.close(fd)
    if verify and contents(path, len(data) + 1) != data:
        return "broken", "what was written reads differently"
    return "done", "in place: " + why + ("" if verify else ", which cannot be verified")


def fetch(agent, number, head):
    """Serve fetch: the file as it is at this moment."""
    path = blob(head["path"])
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            return agent.exit(number, failed="it is a directory")
        if not stat.S_ISREG(mode):
            return agent.exit(number, failed="it is not a regular file")
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            data = read_up_to(fd, MOST_HELD + 1)
        finally:
            os.close(fd)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG):
            return agent.exit(number, missing=True)
        return agent.exit(number, failed=said(error))
    if len(data) > MOST_HELD:
        raise Unable("the agent sends files of up to %d bytes" % MOST_HELD)
    agent.send_head(STARTED, number, {"length": len(data)})
    return Fetch(agent, number, data).look()


class Fetch(Request):
    """Sends bytes as the credit allows."""

    def __init__(self, agent, number, data):
        Request.__init__(self, agent, number)
        self._left, self._sum = memoryview(data), sha256(data)

    def look(self):
        """Send what may be sent."""
        while self._left and self.credit > 0:
            part = self._left[: min(CHUNK, self.credit)]
            self._left = self._left[len(part) :]
            self.credit -= len(part)
            self.agent.send(STDOUT, self.number, bytes(part))
        if not self._left:
            self.agent.exit(self.number, sha256=self._sum)


OPERATIONS.update({"exec": execute, "put": Put, "fetch": fetch})
