"""Container images out of the root file systems, written as archives that every engine can load.

An archive is what `docker save` writes: a tar of manifest.json, the image's configuration and one
layer. No engine is needed to make one. Source of the format: the "Combined Image JSON + Filesystem
Changeset Format" of Docker's image specification, version 1.2.
"""

from __future__ import annotations

import hashlib
import json
import platform
import tarfile
from pathlib import Path
from typing import Any

import _bed
import _rootfs

# Image: root file system, and what its configuration adds.
IMAGES: dict[str, tuple[str, dict[str, Any]]] = {
    "base": ("base", {"Cmd": ["sleep", "infinity"]}),
    "busybox": ("busybox", {"Cmd": ["sleep", "2147483647"]}),
    "noshell": ("noshell", {"Cmd": ["/sleep", "2147483647"]}),
    "nonroot": ("base", {"Cmd": ["sleep", "infinity"], "User": "app"}),
    "pause": ("noshell", {"Entrypoint": ["/sleep", "2147483647"]}),
}
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def tag(name: str) -> str:
    """Return what engines call the image `name`."""
    return f"localhost/gangway-{name}:1"


def image_id(name: str) -> str:
    """Return the id (64 hexadecimal digits) under which Docker and Podman know the image."""
    with tarfile.open(archive(name)) as tar:
        file = tar.extractfile("manifest.json")
        assert file is not None
        config: str = json.load(file)[0]["Config"]
    return config.partition(".")[0]


def archive(name: str) -> Path:
    """Return the image's archive, tagged `tag(name)`, made first if the cache has none."""
    if name not in IMAGES:
        raise _bed.BedError(f"no image is named {name!r}: {', '.join(IMAGES)} are")
    rootfs_name, settings = IMAGES[name]
    rootfs = _rootfs.archive(rootfs_name)
    source = json.dumps([tag(name), rootfs.name, settings])
    key = hashlib.sha256(source.encode()).hexdigest()[:12]
    target = _bed.cache_dir("images") / f"{name}-{key}.tar"
    return _bed.cached(target, lambda path: write(path, name, rootfs, settings))


def write(target: Path, name: str, rootfs: Path, settings: dict[str, Any]) -> None:
    """Write the archive: manifest.json first, so that readers need not search."""
    digest = hashlib.sha256()
    with rootfs.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    layer = digest.hexdigest()
    config = {
        "architecture": ARCHITECTURES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "created": "2023-06-10T00:00:00Z",  # Debian 12's release; a clock would change the id
        "config": {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer}"]},
        "history": [{"created": "2023-06-10T00:00:00Z", "created_by": "tests/beds"}],
    }
    config["config"].update(settings)
    config_text = json.dumps(config).encode()
    config_name = f"{hashlib.sha256(config_text).hexdigest()}.json"
    layer_name = f"{layer}/layer.tar"
    manifest = [{"Config": config_name, "RepoTags": [tag(name)], "Layers": [layer_name]}]
    with tarfile.open(target, "w") as tar:
        _rootfs.add(tar, "manifest.json", 0o100644, json.dumps(manifest).encode())
        _rootfs.add(tar, config_name, 0o100644, config_text)
        tar.add(rootfs, layer_name)
