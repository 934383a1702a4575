"""Print a container's file system as JSON; runs inside it. Times are left out.

{path: [type, mode, uid, gid, links, size, content]}. The content of a symbolic link is its target;
of a file that changed since the second given as argument its SHA-256, and the bytes themselves (as
Latin-1) up to 256 KiB, because some hold times and are compared as text.
"""

import hashlib
import json
import os
import stat
import sys

OTHER = ("/proc", "/sys", "/dev/pts", "/dev/mqueue")
KINDS = {stat.S_IFDIR: "directory", stat.S_IFREG: "file", stat.S_IFLNK: "link"}


def content(path, status, since):
    """Return what tells whether two files are the same."""
    if stat.S_ISLNK(status.st_mode):
        return os.readlink(path)
    if not stat.S_ISREG(status.st_mode) or status.st_ctime < since:
        return None
    with open(path, "rb") as file:
        data = file.read()
    return [hashlib.sha256(data).hexdigest(), data.decode("latin-1") if len(data) < 1 << 18 else ""]


def entries(top, since):
    """Yield each path below `top` on any file system but the kernel's own."""
    for directory, names, files in os.walk(top):
        names[:] = [name for name in names if os.path.join(directory, name) not in OTHER]
        for name in [*names, *files]:
            path = os.path.join(directory, name)
            status = os.lstat(path)
            mode = status.st_mode
            is_directory = stat.S_ISDIR(mode)
            yield (
                path,
                [
                    KINDS.get(stat.S_IFMT(mode), oct(stat.S_IFMT(mode))),
                    oct(stat.S_IMODE(mode)),
                    status.st_uid,
                    status.st_gid,
                    None if is_directory else status.st_nlink,
                    None if is_directory else status.st_size,
                    content(path, status, since),
                ],
            )


if __name__ == "__main__":
    json.dump(dict(entries("/", float(sys.argv[1]))), sys.stdout)
