"""The agent: serves commands and files inside a container, over the stdin and stdout of one exec.

Its text is sent to the container's own Python (3.6 or later, standard library only) and never
stored there; a last line calls `main`. src/wire/mod.rs describes the stream. One process, one
thread, one `poll`: nothing in here may block.

More texts follow it and share its globals: agent_tasks.py, and what it serves, in agent_commands.py
or in warm.py and its parts. That adds to OPERATIONS, PREPARE and FINISH, makes a Task of each
child, and leaves work for idle moments in `Agent.when_idle`.
"""

import sys

if sys.version_info < (3, 6):
    sys.exit("Python %d.%d is too old, 3.6 is the first that serves" % sys.version_info[:2])
WRITES_BYTECODE = not sys.dont_write_bytecode
sys.dont_write_bytecode = True  # nothing is written to the container's disk

# All that serving needs, before HELLO: a Python that lacks some of it (Debian's python3-minimal has
# no json) is then known to be of no use before anything was asked of it.
import _signal as signal
import fcntl
import json
import os
import select
import struct
import time
from binascii import a2b_base64

VERSION, MAGIC = 1, b"\x1egangway-agent"
MAX_PAYLOAD, CHUNK, WINDOW = 1 << 20, 64 << 10, 256 << 10
HELLO, PING, PONG = 1, 2, 3
REQUEST, DATA, END, CREDIT, CANCEL = 16, 17, 18, 19, 20
STARTED, STDOUT, STDERR, EXIT, WANT = 32, 33, 34, 35, 36
RETIRE = 48
HEADER = struct.Struct(">BII")

# Seconds without a frame after which nobody is there any more; the broker sends one every 15.
SILENCE, TICK = 60, 15
# What a container must have to spare, for an agent and a module beside its application.
LEAST_SPARE = 100 << 20

HANDLED = (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
# op of a REQUEST -> called with (agent, id, head); an exception from it means that nothing ran.
OPERATIONS = {}
# Called with the agent once its HELLO is on the way.
PREPARE = []
# Called when nothing is left to do, before its process ends.
FINISH = []


class Broken(Exception):
    """What came is no stream of frames."""


def text(raw):
    """Return bytes as text that JSON can carry."""
    return raw.decode("utf-8", "replace")


def said(error):
    """Return what an OSError means, in the words of the shell."""
    return os.strerror(error.errno) if error.errno else str(error)


def blob(value):
    """Return the bytes that a head carries as base64."""
    return a2b_base64(value)


def contents(path, most=1 << 20):
    """Return the bytes of a small file; None where it cannot be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return None
    try:
        return read_up_to(fd, most)
    except OSError:
        return None
    finally:
        os.close(fd)


def read_up_to(fd, most):
    """Return the bytes of an open file, at most so many."""
    parts = []
    while most > 0:
        part = os.read(fd, min(most, 1 << 20))
        if not part:
            break
        parts.append(part)
        most -= len(part)
    return b"".join(parts)


class Agent:
    """The stream, the requests on it, and the one loop."""

    def __init__(self, config, directory, score, environment):
        self.config = config
        self.directory = directory  # where children start; None: where the agent is
        self._score = score  # what become_first_victim returned
        self.environment = environment  # of children: bytes to bytes
        self.requests = {}  # id -> Request
        self.children = {}  # process id -> called with its wait status
        self.when_idle = None  # called once when nothing is to be done
        self.ending = None  # why nothing new is accepted
        self.lost = False
        self._poll = select.poll()
        self._watched = {}  # descriptor -> called with (descriptor, events)
        self._timers = []  # [when, called without arguments]
        self._out, self._queued = [], 0
        self._in = bytearray()
        self._silent = 0.0

        self._stdin, self._stdout = own_streams()
        for fd in (self._stdin, self._stdout):
            os.set_blocking(fd, False)
        self.watch(self._stdin, select.POLLIN, self._readable)
        self._poll.register(self._stdout, 0)  # tells when nobody reads any more
        self._watched[self._stdout] = self._writable
        wakeup, wakes = os.pipe()
        os.set_blocking(wakeup, False)
        os.set_blocking(wakes, False)
        signal.set_wakeup_fd(wakes)
        self.handlers = {number: signal.getsignal(number) for number in HANDLED}
        for number, handler in self.handlers.items():
            if handler != signal.SIG_IGN or number == signal.SIGCHLD:
                signal.signal(number, lambda *_: None)
        self.watch(wakeup, select.POLLIN, self._signalled)

    # The loop

    def run(self):
        """Serve until nothing is left to do."""
        while not self._finished():
            idle = self.when_idle is not None
            asked = 0 if idle else self._patience()
            begun = time.monotonic()
            happened = self._poll.poll(asked * 1000)
            self._count_silence(time.monotonic() - begun)
            if idle and not happened:
                work, self.when_idle = self.when_idle, None
                work()
            for fd, events in happened:
                if fd in self._watched:  # an earlier one may have closed it
                    self._watched[fd](fd, events)
            now = time.monotonic()
            for timer in [timer for timer in self._timers if timer[0] <= now]:
                if timer in self._timers:
                    self._timers.remove(timer)
                    timer[1]()
            self._flush()

    def _finished(self):
        return self.ending and not self.requests and not self._timers and not self._out

    def _patience(self):
        soonest = min([timer[0] - time.monotonic() for timer in self._timers] + [TICK])
        return max(0, soonest) + 0.001

    def _count_silence(self, elapsed):
        """End the stream when nobody was heard for long; who was frozen has not listened."""
        self._silent = 0.0 if elapsed > 2 * TICK else self._silent + elapsed
        if self._silent > SILENCE and not self.lost:
            self._readable(self._stdin, 0)  # it may have been here all the time
            if self._silent > SILENCE:
                self.lose("nothing came for %d seconds" % SILENCE)

    def watch(self, fd, events, function):
        """Call function(fd, events) when one of the poll events happens; 0 ends that."""
        if events:
            self._poll.register(fd, events)
            self._watched[fd] = function
        elif self._watched.pop(fd, None):
            self._poll.unregister(fd)

    def close(self, fd):
        """Stop watching and close a descriptor."""
        self.watch(fd, 0, None)
        os.close(fd)

    def at(self, seconds, function):
        """Call the function in so many seconds; return what `never` takes."""
        timer = [time.monotonic() + seconds, function]
        self._timers.append(timer)
        return timer

    def never(self, timer):
        """Take back an `at`."""
        if timer in self._timers:
            self._timers.remove(timer)

    def _signalled(self, fd, _events):
        """Reap children; another signal (`pkill python` in a command) is a request to retire."""
        for number in set(os.read(fd, 4096)) - {signal.SIGCHLD}:
            complain("signal %d" % number)
            self.ending = "signal %d" % number
        while self.children:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            self.children.pop(pid, lambda _: None)(status)

    # What a child inherits

    def give_score(self):
        """Have the original memory score, for a child that is begun at once."""
        if self._score:
            os.pwrite(self._score[0], self._score[1], 0)

    def take_score(self):
        """Be the first victim again."""
        if self._score:
            os.pwrite(self._score[0], b"1000", 0)

    # The stream

    def greet(self, hello):
        """Say HELLO."""
        self._out.append(MAGIC + b" " + self.config["nonce"].encode() + b"\n")
        self.send_head(HELLO, 0, hello)
        self._flush()

    def send(self, kind, number, payload=b""):
        """Queue a frame."""
        if not self.lost:
            self._out.append(HEADER.pack(kind, number, len(payload)) + payload)
            self._queued += len(payload)

    def send_head(self, kind, number, head):
        """Queue a frame with a JSON object."""
        self.send(kind, number, json.dumps(head).encode())

    @property
    def has_room(self):
        """Whether more output of children may be queued: much of one must not hold up others."""
        return self._queued < WINDOW

    def _writable(self, _fd, events):
        if events & (select.POLLERR | select.POLLNVAL):
            self.lose("nobody reads")

    def _flush(self):
        had_room = self.has_room
        try:
            while self._out:
                count = os.writev(self._stdout, self._out[:64])
                while count:
                    size = len(self._out[0])
                    if count < size:
                        self._out[0] = memoryview(self._out[0])[count:]
                        break
                    count -= size
                    self._out.pop(0)
        except BlockingIOError:
            pass
        except OSError as error:
            self.lose(said(error))
        self._queued = sum(map(len, self._out))
        if not self.lost:
            self._poll.register(self._stdout, select.POLLOUT if self._out else 0)
        if self.has_room and not had_room:
            for request in list(self.requests.values()):
                request.look()

    def _readable(self, fd, _events):
        while not self.lost:
            try:
                data = os.read(fd, WINDOW)
            except BlockingIOError:
                return
            except OSError as error:
                return self.lose(said(error))
            if not data:
                return self.lose("")
            self._in += data
            try:
                self._take_frames()
            except Broken as error:
                return self.lose("what came is no frame: %s" % error)
            if len(data) < WINDOW:
                return

    def _take_frames(self):
        start, held = 0, self._in
        while len(held) - start >= HEADER.size:
            kind, number, length = HEADER.unpack_from(held, start)
            if kind not in FRAMES:
                raise Broken("kind %d" % kind)
            if length > MAX_PAYLOAD:
                raise Broken("%d bytes" % length)
            end = start + HEADER.size + length
            if end > len(held):
                break
            payload = bytes(held[start + HEADER.size : end])
            start, self._silent = end, 0.0
            FRAMES[kind](self, number, payload)
        del held[:start]

    def _request(self, number, payload):
        if number in self.requests:
            raise Broken("request %d twice" % number)
        try:
            if self.ending:
                raise Unable("the agent is retiring")
            head = json.loads(payload.decode())
            op = head["op"]
            if op not in OPERATIONS:
                raise Unable("the agent does not know the operation %s" % op)
            OPERATIONS[op](self, number, head)
        except Unable as error:
            self.exit(number, plain=str(error))
        except Exception as error:
            self.exit(number, plain="the agent could not do it: %s" % error)

    def exit(self, number, **head):
        """Say how a request ended."""
        self.requests.pop(number, None)
        self.send_head(EXIT, number, head)

    def _of_request(self, number, payload, name):
        request = self.requests.get(number)  # none when its end crossed the frame
        if request:
            getattr(request, name)(*payload)

    def _data(self, number, payload):
        request = self.requests.get(number)
        if request:
            request.window -= len(payload)
            if request.window < 0:
                raise Broken("more than the credit of request %d" % number)
            request.data(payload)

    def _retire(self, _number, _payload):
        self.ending = self.ending or "retired"

    def lose(self, reason):
        """Nobody is there any more: what runs may finish, then the agent ends."""
        if self.lost:
            return
        self.lost, self.ending = True, reason or "the stream ended"
        if reason:
            complain(reason)
        self._out, self._queued = [], 0
        for fd in (self._stdin, self._stdout):
            self.close(fd)
        for request in list(self.requests.values()):
            (request.cancel if self.config.get("kill_on_disconnect") else request.lose)()


FRAMES = {
    PING: lambda agent, number, _: agent.send(PONG, number),
    REQUEST: Agent._request,
    DATA: Agent._data,
    END: lambda agent, number, _: agent._of_request(number, (), "end"),
    CREDIT: lambda agent, number, raw: agent._of_request(number, (credited(raw),), "credited"),
    CANCEL: lambda agent, number, _: agent._of_request(number, (), "cancel"),
    RETIRE: Agent._retire,
}


def credited(raw):
    """Return the number in a CREDIT."""
    if len(raw) != 4:
        raise Broken("a credit of %d bytes" % len(raw))
    return struct.unpack(">I", raw)[0]


class Unable(Exception):
    """Nothing was run: the caller must take the plain way."""


# The start


def own_streams():
    """Move the exec's stdin and stdout out of the reach of whatever prints."""
    streams = []
    for fd in (0, 1):
        try:
            streams.append(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 100))
        except OSError:  # fewer descriptors may be open
            streams.append(os.dup(fd))
    try:
        null = os.open("/dev/null", os.O_RDWR)
        nulls = (null, null)
    except OSError:
        nulls = os.pipe()
    try:
        os.fstat(2)
    except OSError:
        os.dup2(nulls[1], 2)
    for fd, null in enumerate(nulls):
        os.dup2(null, fd)
    for null in set(nulls) - {2}:
        os.close(null)
    return streams


def complain(words):
    """Say something to whoever looks for the reason of a failure."""
    try:
        os.write(2, b"gangway-agent: %s\n" % words.encode())
    except OSError:
        pass


def leave_directory():
    """Go to `/`; return the exec's own directory, None when there is no way back: then stay."""
    try:
        directory = os.getcwdb()
        os.chdir(directory)
        os.chdir("/")
    except OSError:
        return None
    return directory


def initial_environment():
    """Return the environment that the exec had: Python changes LC_CTYPE in its own."""
    raw = contents("/proc/self/environ", 1 << 23)
    if not raw:
        return dict(os.environb)
    pairs = [entry.partition(b"=") for entry in raw.split(b"\0")]
    return {name: value for name, equals, value in pairs if name and equals}


def become_first_victim():
    """Have the kernel end the agent, not the application, when memory runs out.

    Returns an open file that sets the score and what it was, or None where it cannot be set.
    """
    path = "/proc/self/oom_score_adj"
    original = contents(path)
    try:
        fd = os.open(path, os.O_WRONLY)
        os.pwrite(fd, b"1000", 0)
    except OSError:
        return None
    return fd, original.strip()


def spare_memory(root="/sys/fs/cgroup", groups="/proc/self/cgroup"):
    """Return how many bytes the memory cgroup can still give; None when it shows no limit.

    The cache of files that the kernel could drop counts as spare.
    """
    spare = []
    for line in (contents(groups) or b"").decode("utf-8", "replace").splitlines():
        _, _, line = line.partition(":")
        controllers, colon, path = line.partition(":")
        if colon and not controllers:
            top, limit, usage, total = root, "memory.max", "memory.current", b""
        elif "memory" in controllers.split(","):
            top, total = root + "/memory", b"total_"
            limit, usage = "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        # A container often sees its own cgroup at the top, and the machine's path to it here.
        parts = [part for part in path.split("/") if part]
        for depth in range(len(parts) + 1):
            place = "/".join([top] + parts[:depth])
            most, now = contents(place + "/" + limit), contents(place + "/" + usage)
            if most and now and most.strip().isdigit() and int(most) < 1 << 60:
                statistics = (contents(place + "/memory.stat") or b"").split()
                known = dict(zip(statistics[::2], statistics[1::2]))
                cache = [known.get(total + key, 0) for key in (b"active_file", b"inactive_file")]
                spare.append(int(most) - int(now) + sum(map(int, cache)))
    return min(spare) if spare else None


def instance():
    """Return what processes in one run of a container share; empty where /proc does not tell."""
    boot, init = contents("/proc/sys/kernel/random/boot_id"), contents("/proc/1/stat")
    try:
        mounts = os.readlink("/proc/self/ns/mnt")
    except OSError:
        return ""
    if not boot or not init:
        return ""
    started = init.rpartition(b")")[2].split()[19]
    return "%s %s %s" % (text(boot.strip()), text(started), mounts)


def main(config):
    """Serve the exec's stdin and stdout; ends the process."""
    refused = None
    spare = None if config.get("always") else spare_memory()
    if spare is not None and spare < LEAST_SPARE:
        refused = "the container has only %d MiB of memory to spare" % (max(spare, 0) >> 20)
    try:
        os.setsid()
    except OSError:
        pass  # it leads a group already
    environment = initial_environment()
    agent = Agent(config, leave_directory(), become_first_victim(), environment)
    hello = {
        "version": VERSION,
        "pid": os.getpid(),
        "uid": os.geteuid(),
        "python": "%d.%d.%d" % sys.version_info[:3],
        "executable": text(os.fsencode(sys.executable or "")),
        "instance": instance(),
    }
    if refused:
        hello["refused"] = refused
        agent.ending = refused
    agent.greet(hello)
    if not refused:
        for prepare in PREPARE:
            prepare(agent)
    agent.run()
    for finish in FINISH:
        finish()
    os._exit(0)
