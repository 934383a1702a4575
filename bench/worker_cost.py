"""Run by a contender's own Python: what a worker pays before the first byte, step by step.

Ansible forks a worker for every task. Each measurement here is in a process forked from one that
has Ansible imported, as the worker's parent has. Prints JSON: {step: [seconds …]}.

    python worker_cost.py CONNECTION VARIABLES-AS-JSON COUNT [NATIVE-MODULE [broker]]
"""

from __future__ import annotations

import json
import os
import struct
import sys
import tempfile
import time


def forked(measure):
    """Return what `measure` returns in a forked process."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            answer = {"figures": measure()}
        except BaseException as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        with os.fdopen(writer, "w") as file:
            json.dump(answer, file)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        answer = json.load(file)
    os.waitpid(pid, 0)
    if "error" in answer:
        sys.exit(answer["error"])
    return answer["figures"]


def steps(name, variables):
    """Return a function that does what a worker does with a connection plugin, by the clock."""
    start = connecting(name, variables)

    def measure():
        connection, times = start()
        for _ in range(2):
            status = connection.exec_command("true")[0]
            if status != 0:
                raise RuntimeError(f"`true` ended with {status}")
            times.append(time.perf_counter())
        names = ("load the plugin", "read its options", "connect", "run `true`", "once more")
        return {n: b - a for n, a, b in zip(names, times, times[1:], strict=False)}

    return measure


def connecting(name, variables):
    """Return a function that gives a connection and when each step to it began and ended."""
    from ansible.playbook.play_context import PlayContext
    from ansible.plugins.loader import connection_loader
    from ansible.template import Templar

    def start():
        context = PlayContext()
        context.remote_addr = variables.get("ansible_host", "localhost")
        times = [time.perf_counter()]
        # As ansible.executor.task_executor does.
        connection = connection_loader.get(
            name, context, new_stdin=None, task_uuid="0", ansible_playbook_pid=str(os.getppid())
        )
        if connection is None:
            raise LookupError(f"there is no connection plugin {name}")
        times.append(time.perf_counter())
        options = connection._resolve_option_variables(variables, Templar(None, variables))
        connection.set_options(task_keys={"timeout": 10}, var_options=options)
        times.append(time.perf_counter())
        connection._connect()
        times.append(time.perf_counter())
        return connection, times

    return start


def first_bytes(name, variables, reader):
    """Return a function that takes the time from the call to its bytes at the imitated broker."""
    start = connecting(name, variables)

    def measure():
        connection, _ = start()
        begun = time.perf_counter()
        if connection.exec_command("true") != (0, b"", b""):
            raise RuntimeError("the imitated broker was not asked")
        connection.close()
        first, request = struct.unpack("dd", os.read(reader, 16))
        return {
            "call to first byte at the broker": first - begun,
            "call to first byte of the request": request - begun,
        }

    return measure


def native(module):
    """Return a function that imports the native module."""

    def measure():
        start = time.perf_counter()
        __import__(module)
        return {"of it, the native module": time.perf_counter() - start}

    return measure


def main():
    """Measure, and print the figures."""
    name, variables, count = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
    # What ansible-playbook has imported and set up before it forks.
    from ansible import context
    from ansible.cli.playbook import PlaybookCLI
    from ansible.plugins.loader import (
        become_loader,
        connection_loader,
        init_plugin_loader,
        shell_loader,
    )

    cli = PlaybookCLI(["ansible-playbook", "-i", "localhost,", os.devnull])
    cli.parse()
    init_plugin_loader()
    cli._play_prereqs()
    assert context.CLIARGS
    # As PlaybookExecutor.run does, with all plugins that are in no collection.
    for loader in (connection_loader, shell_loader, become_loader):
        list(loader.all(class_only=True))

    import ansible.executor.playbook_executor
    import ansible.executor.process.worker  # noqa: F401

    figures = {}

    def take(measure):
        for turn in range(count + 1):
            for step, seconds in forked(measure).items():
                if turn:  # the first only warms the files
                    figures.setdefault(step, []).append(seconds)

    take(steps(name, variables))
    if len(sys.argv) > 4:
        take(native(sys.argv[4]))
    if sys.argv[5:] == ["broker"]:
        import first_byte

        with (
            tempfile.TemporaryDirectory(prefix="gangway-") as directory,
            first_byte.imitation(directory) as reader,
        ):
            take(first_bytes(name, variables, reader))
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
