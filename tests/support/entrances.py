"""A container that asks for passwords, entered as root and as an ordinary user."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from support.pods import pod
from support.targets import Target

# Of root and app, and of ops: not ASCII, which is sent as UTF-8.
PASSWORD, UTF_8 = "s3cret-right", "s3cret-pässwörd-汉语"
FILES = {
    # For ops it is the password of ops that is asked for.
    "/etc/sudoers.d/app": "Defaults lecture=never\nDefaults>ops targetpw\napp ALL=(ALL) ALL\n"
    "app ALL=(nobody) NOPASSWD: ALL\n",
    "/etc/doas.conf": "permit nopass root\npermit app\n",
}
# The variables of the container, by the user as whom it is entered: root, app.
Entrances = Mapping[str, dict[str, Any]]


def hashed(password: str) -> str:
    """Return a password as /etc/shadow has it."""
    argv = ["openssl", "passwd", "-6", "-stdin"]
    return subprocess.check_output(argv, input=f"{password}\n", text=True).strip()


@contextmanager
def entrances(target: Target, directory: Path) -> Iterator[Entrances]:
    """Make a container for as long as the block runs; `directory` is for files of its own."""
    hashes = {"root": hashed(PASSWORD), "app": hashed(PASSWORD), "ops": hashed(UTF_8)}
    name = f"gangway-become-{os.getpid()}"
    with ExitStack() as stack:
        if target.engine == "kubectl":  # which enters a container as nobody else than its own user
            shadow = target.run("target", "cat /etc/shadow").decode()
            for user, hash_ in hashes.items():
                shadow = re.sub(rf"(?m)^{user}:[^:]*", f"{user}:{hash_}", shadow)
            mounts = {}
            for path, content in {"/etc/shadow": shadow, **FILES}.items():
                mounts[path] = directory / Path(path).name
                mounts[path].write_text(content)
                mounts[path].chmod(0o440)
            for user, uid in (("root", 0), ("app", 1000)):
                stack.enter_context(pod(target, f"{name}-{user}", {"runAsUser": uid}, mounts))
            yield {user: target.variables(f"{name}-{user}") for user in ("root", "app")}
            return
        stack.enter_context(target.container(name))
        lines = "".join(f"{user}:{hash_}\n" for user, hash_ in hashes.items())
        target.run(name, "chpasswd --encrypted", lines.encode())
        for path, content in FILES.items():
            target.run(name, f"umask 227; cat >{path}", content.encode())
        yield {user: target.variables(name) | {"ansible_user": user} for user in ("root", "app")}
