"""Files of several sizes into a container and out of it, beside `dd` through the engine's exec.

A put counts until the container itself says how long the file is, which is one more exec; all
contenders pay for it. Everything else, Ansible's start included, is outside of the clock.
"""

from __future__ import annotations

import os
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from contenders import Contender
from engines import CONTAINER, CannotStart
from measure import Failed
from session import Bench, say
from tools import play
from works import DIRECTORY, HERE, MIB

REMOTE = f"{DIRECTORY}/transfer"
SECONDS = 180  # for all transfers of a size in one direction


def run(bench: Bench) -> None:
    """Transfer every size in both directions with everyone, round by round."""
    source = bench.out / "source"
    try:
        for size, times in bench.plan.sizes.items():
            make_file(source, size)
            tired: set[str] = set()
            for turn in range(bench.plan.transfer_rounds):
                say(
                    f"put and fetch of {size} MiB, round {turn + 1} of {bench.plan.transfer_rounds}"
                )
                for contender in who(bench):
                    if contender.name not in tired and not once(
                        bench, contender, source, size, times, turn
                    ):
                        tired.add(contender.name)
    finally:
        source.unlink(missing_ok=True)
        source.with_name("fetched").unlink(missing_ok=True)
    bench.results.write()


def who(bench: Bench) -> list[Contender]:
    """Return each plugin once: pipelining makes no difference here."""
    taking_part = bench.taking_part("transfer", ("ansible", "cli"))
    return list({(c.environment, c.connection or c.name): c for c in taking_part}.values())


def make_file(path: Path, size: int) -> None:
    """Write `size` MiB that do not compress: a megabyte of noise, shifted each time."""
    noise = os.urandom(2 * MIB)
    with path.open("wb") as file:
        for i in range(size):
            file.write(noise[i * 4099 % MIB :][:MIB])


def once(
    bench: Bench, contender: Contender, source: Path, size: int, times: int, turn: int
) -> bool:
    """Let a contender put a file and fetch it, `times` times; tell whether it could."""
    engine = bench.engines[contender.engine]
    transfer = through_cli if contender.tool == "cli" else through_plugin
    try:
        for direction in ("put", "fetch"):
            for seconds in transfer(bench, contender, direction, source, size * MIB, times):
                bench.results.add(
                    "transfers", f"{direction} {size}", contender.name, turn, seconds=seconds
                )
        return True
    except (Failed, CannotStart, subprocess.TimeoutExpired) as error:
        say(f"  {contender.name}: {error}")
        bench.results.add(
            "transfers", f"{direction} {size}", contender.name, turn, error=str(error)
        )
        return False
    finally:
        with suppress(CannotStart):
            engine.run(f"rm -f {REMOTE}")


def through_plugin(
    bench: Bench, contender: Contender, direction: str, source: Path, size: int, times: int
) -> list[float]:
    """Use a connection plugin; one play, several transfers."""
    local = source if direction == "put" else source.with_name("fetched")
    arguments = {"direction": direction, "local": str(local), "remote": REMOTE, "size": size}
    job = play(
        contender,
        bench.engine(contender),
        bench.place,
        "transfer",
        [{"bench_transfer": arguments} for _ in range(times)],
        settings={"ANSIBLE_ACTION_PLUGINS": str(HERE / "plugins/action")},
    )
    figures = bench.measure(contender, job, seconds=SECONDS)
    return [result["seconds"] for result in figures["results"]]


def through_cli(
    bench: Bench, contender: Contender, direction: str, source: Path, size: int, times: int
) -> list[float]:
    """Use `dd` through the engine's own exec.

    The shell around it stays until the end: containerd closes an exec's stdin as soon as the
    command closes its stdout, which `dd of=` does at once.
    """
    engine = bench.engines[contender.engine]
    found = []
    for _ in range(times):
        start = time.perf_counter()
        if direction == "put":
            put = engine.exec(CONTAINER, "/bin/sh", "-c", f"dd of={REMOTE} bs=1M; true", stdin=True)
            with source.open("rb") as file:
                call(put, engine.env, stdin=file)
            length = engine.exec(CONTAINER, "/bin/sh", "-c", f"wc -c < {REMOTE}")
            arrived = int(call(length, engine.env) or 0)
            found.append(time.perf_counter() - start)
        else:
            fetched = source.with_name("fetched")
            with fetched.open("wb") as file:
                fetch = engine.exec(CONTAINER, "dd", f"if={REMOTE}", "bs=1M")
                call(fetch, engine.env, stdout=file)
            found.append(time.perf_counter() - start)
            arrived = fetched.stat().st_size
        if arrived != size:
            raise Failed(f"{arrived} of {size} bytes arrived")
    return found


def call(argv: list[str], env: dict[str, str], **streams: object) -> str:
    """Run a command, with its stdin and stdout given or empty."""
    options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, **streams}
    done = subprocess.run(
        argv,
        stderr=subprocess.PIPE,
        env=env,
        timeout=SECONDS,
        **options,  # type: ignore[call-overload]
    )
    if done.returncode != 0:
        raise Failed(done.stderr.decode(errors="replace").strip())
    return done.stdout.decode() if done.stdout else ""
