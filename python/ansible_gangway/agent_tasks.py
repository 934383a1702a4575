"""What serves one request: its credit, its child, the child's pipes and its end.

Sent behind agent.py's text, whose names it uses.
"""

import fcntl
import termios

# After a command's end: how long its pipes must be silent, and how long at most one waits for that.
QUIET, LINGER = 0.3, 0.5
# From TERM to KILL, and from there to giving up a process that is another user's.
MERCY, HOPELESS = 3, 1


class Request:
    """What serves one request until its EXIT."""

    def __init__(self, agent, number):
        self.agent, self.number = agent, number
        self.credit = WINDOW  # bytes that may be sent
        self.window = WINDOW  # bytes that may come
        self._used = 0
        agent.requests[number] = self

    def used(self, count):
        """Let the other side send so many bytes more, sooner or later."""
        self._used += count
        if self._used >= CHUNK:
            self.agent.send(CREDIT, self.number, struct.pack(">I", self._used))
            self.window += self._used
            self._used = 0

    def credited(self, count):
        """Take CREDIT."""
        self.credit += count
        self.look()

    def look(self):
        """Send more, or watch what can be sent: there may be credit or room for it now."""

    def data(self, payload):
        """Take DATA; here nothing is done with it."""
        self.used(len(payload))

    def end(self):
        """Take END."""

    def cancel(self):
        """Take CANCEL."""
        self.agent.exit(self.number, failed="interrupted")

    def lose(self):
        """Go on without the stream."""
        self.cancel()


class Task(Request):
    """A child that was forked for a request, and what passes through its pipes.

    `stdin`, `stdout` and `stderr` are the agent's ends; without `stdin` what comes is dropped.
    """

    def __init__(self, agent, number, pid, stdin, stdout, stderr):
        Request.__init__(self, agent, number)
        self.pid = pid
        self._stdin, self._pending, self._at_end = stdin, [], False
        self._pipes = {stdout: STDOUT, stderr: STDERR}
        self._owed = {}  # descriptor -> bytes that were in it at the end of the process
        self._mute = False
        self._done = False
        self._status = None
        self._cancelled = False
        self._sessions = {pid}
        self._quiet_at = self._linger_until = None
        self._timer = None
        for fd in (stdin, stdout, stderr):
            if fd is not None:
                os.set_blocking(fd, False)
        agent.children[pid] = self._ended
        agent.send_head(STARTED, number, {"pid": pid})
        self.look()

    def look(self):
        """Watch the pipes, unless there is no credit: then the child has to wait."""
        wanted = self._mute or (self.credit > 0 and self.agent.has_room)
        for fd in self._pipes:
            self.agent.watch(fd, select.POLLIN if wanted else 0, self._readable)

    def _readable(self, fd, _events):
        if not self._mute and (self.credit <= 0 or not self.agent.has_room):
            return self.look()
        try:
            data = os.read(fd, CHUNK if self._mute else min(CHUNK, self.credit))
        except BlockingIOError:
            return None
        except OSError:
            data = b""
        if not data:
            del self._pipes[fd]
            self.agent.close(fd)
        elif not self._mute:
            self.agent.send(self._pipes[fd], self.number, data)
            self.credit -= len(data)
            if self.credit <= 0 or not self.agent.has_room:
                self.look()
        if self._status is not None and not self._done:
            self._owed[fd] = self._owed.get(fd, 0) - len(data)
            self._quiet_at = time.monotonic() + QUIET
            self._settle()
        return None

    def _ended(self, status):
        self._status = status
        self._owed = {fd: readable_bytes(fd) for fd in self._pipes}
        self._settle()

    def _settle(self):
        """Report the end once all that the process wrote is sent.

        What it left in the background may hold the pipes for ever.
        """
        self.agent.never(self._timer)
        if self._done:
            return
        if self._pipes and not self._mute:
            if any(self._owed[fd] > 0 for fd in self._pipes):
                return  # however long the credit takes
            now = time.monotonic()
            if self._linger_until is None:
                self._quiet_at, self._linger_until = now + QUIET, now + LINGER
            left = min(self._quiet_at, self._linger_until) - now
            if left > 0:
                self._timer = self.agent.at(left, self._settle)
                return
        if os.WIFSIGNALED(self._status):
            self._finish(rc=128 + os.WTERMSIG(self._status))
        else:
            self._finish(rc=os.WEXITSTATUS(self._status))

    def _finish(self, **head):
        self._done = self._mute = True
        self._close_stdin()
        self.look()  # whoever still writes must not be ended by that
        self.agent.exit(self.number, **head)

    def data(self, payload):
        """Give bytes to the child."""
        if self._stdin is None:
            self.used(len(payload))
        else:
            self._pending.append(memoryview(payload))
            self._feed()

    def end(self):
        """Close the child's stdin behind what it has not read yet."""
        self._at_end = True
        if self._stdin is not None:
            self._feed()

    def _feed(self, _fd=None, _events=0):
        try:
            while self._pending:
                first = self._pending[0]
                count = os.write(self._stdin, first)
                self.used(count)
                if count < len(first):
                    self._pending[0] = first[count:]
                else:
                    self._pending.pop(0)
        except BlockingIOError:
            return self.agent.watch(self._stdin, select.POLLOUT, self._feed)
        except OSError:  # the child reads no more
            return self._close_stdin()
        self.agent.watch(self._stdin, 0, None)
        return self._close_stdin() if self._at_end else None

    def _close_stdin(self):
        if self._stdin is not None:
            self.agent.close(self._stdin)
            self._stdin = None
            self.used(sum(map(len, self._pending)))
            self._pending = []

    def cancel(self):
        """End the processes of the child's session."""
        if self._cancelled:
            return
        self._cancelled = self._mute = True
        self._close_stdin()
        self.look()
        signal_sessions(self._sessions, self.pid, signal.SIGTERM, self._status is not None)
        self._see_it_end(time.monotonic() + MERCY)
        if self._status is not None:
            self._settle()

    def _see_it_end(self, until):
        reaped = self._status is not None
        if reaped and not session_members(self._sessions):
            return
        if time.monotonic() < until:
            self.agent.at(0.1, lambda: self._see_it_end(until))
            return
        signal_sessions(self._sessions, self.pid, signal.SIGKILL, reaped)
        if not self._done:
            self.agent.at(HOPELESS, self._give_up)

    def _give_up(self):
        if not self._done:
            self._finish(failed="it cannot be ended: its processes are another user's")

    def lose(self):
        """Let it finish: its stdin ends, and its output goes nowhere."""
        self._mute = True
        self.end()
        self.look()
        if self._status is not None:
            self._settle()


# Processes


def fork(agent):
    """Fork a child in a session of its own, with the exec's handlers of signals and memory score.

    A signal that comes before all that is done waits for it. Returns as os.fork does; an OSError
    means that there is no child.
    """
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
    pid = None
    agent.give_score()
    try:
        pid = os.fork()
        if pid == 0:
            try:
                os.setsid()
                signal.set_wakeup_fd(-1)
                for number, handler in agent.handlers.items():
                    signal.signal(number, handler)
            except BaseException:  # it must not go on as a second agent on the same stream
                os._exit(126)
    finally:
        if pid != 0:
            agent.take_score()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return pid


def set_streams(stdin, stdout, stderr):
    """Put a forked child's pipes in their places; an exec closes the agent's descriptors."""
    for fd, source in enumerate((stdin, stdout, stderr)):
        os.dup2(source, fd)


def enter(directory):
    """Go where children start: the agent itself keeps no file system busy."""
    try:
        if directory:
            os.chdir(directory)
    except OSError as error:
        raise Unable("its directory %s cannot be entered: %s" % (text(directory), said(error)))


# Of most shells, without a PATH.
DEFAULT_PATH = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def find_program(name, environment):
    """Return the path of a program, found as a shell would; None if there is none."""
    if b"/" in name:
        return name if os.access(name, os.X_OK) else None
    for directory in environment.get(b"PATH", DEFAULT_PATH).split(b":"):
        path = os.path.join(directory or b".", name)
        if os.access(path, os.X_OK) and os.path.isfile(path):
            return path
    return None


def readable_bytes(fd):
    """Return how many bytes a pipe holds."""
    raw = fcntl.ioctl(fd, termios.FIONREAD, b"\0\0\0\0")
    return struct.unpack("i", raw)[0]


def session_members(sessions):
    """Return the ids of the living processes of sessions; [] also where /proc does not show them.

    `su` begins a session for its command, and hands no signal on to what is below: sessions found
    so are added to the set.
    """
    try:
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return []
    while True:
        members, hosts = [], set()
        for pid in pids:
            if session_of(pid) in sessions:
                command, state, _ = process_state(pid)
                if state not in (b"Z", b"X", None):
                    members.append(pid)
                    hosts.update({pid} if command == b"su" else ())
        begun = {session_of(pid) for pid in pids if hosts and process_state(pid)[2] in hosts}
        if begun <= sessions | {None}:
            return members
        sessions |= begun - {None}


def session_of(pid):
    """Return a process's session; None when it is gone."""
    try:
        return os.getsid(pid)
    except OSError:
        return None


def process_state(pid):
    """Return a process's command name, its state's letter and its parent; Nones when it is gone."""
    line = contents("/proc/%d/stat" % pid)
    if not line or b")" not in line:
        return None, None, None
    state, parent = line[line.rindex(b")") + 2 :].split()[:2]
    return line[line.index(b"(") + 1 : line.rindex(b")")], state, int(parent)


def signal_sessions(sessions, leader, number, reaped):
    """Send a signal to all processes of sessions; those that made another are not ours to end.

    Group by group, the leader's first: the kernel signals all of a group before any of them acts on
    it. Else a shell would see its child end, and go on with its next command before its own turn.
    """
    members = session_members(sessions)
    if reaped and leader in members:
        return  # somebody else's by now
    groups = {group_in(sessions, pid) for pid in members} - {None}
    # The leader's, too, where /proc does not show it.
    targets = [-group for group in sorted(groups | {leader}, key=lambda g: (g != leader, g))]
    if not reaped and leader not in members:  # perhaps it has not begun its session yet
        targets.append(leader)
    for target in targets:
        try:
            os.kill(target, number)
        except OSError:  # gone, or another user's
            pass


def group_in(sessions, pid):
    """Return the group of a process of these sessions; None when it is gone."""
    try:
        group = os.getpgid(pid)
        return group if os.getsid(pid) in sessions else None
    except OSError:
        return None
