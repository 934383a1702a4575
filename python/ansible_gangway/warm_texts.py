"""What Ansible sends a warm interpreter: the text of a wrapper, taken apart, and its code.

Sent behind warm.py's text, whose names it uses.
"""

import _imp

NEW_CALL = b'\n\n\nif __name__ == "__main__":\n    _ansiballz_main(\n'
NEW_NAMES = frozenset(
    b"ansible_module module_fqn profile date_time rlimit_nofile params extensions".split()
)
NEW_ZIP = b"\nzip_data='"
OLD_CALL = b"\nif __name__ == '__main__':\n    _ansiballz_main()"
OLD_ZIP = b"\n    ZIPDATA = '"
BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="
MOST_ARCHIVES = 24 << 20  # bytes, as they come
STAND_IN = b"gangway:8c1f0f7c:the archive"  # no text has it


class Program:
    """A text that is known to be an AnsiballZ: its code, with STAND_IN for the archive.

    `path` is the file that it came as; the code says `<stdin>` all the same.
    """

    def __init__(self, codes, archive, path=None):
        self.codes, self.archive, self.path = codes, archive, path


class Archive:
    """The zip in such a text."""

    def __init__(self, encoded):
        import hashlib
        import io
        import zipfile

        TEMPLATE.made += 1
        self.number, self.text = TEMPLATE.made, encoded.decode("ascii")
        self.digests, self.sources, self.sums = {}, {}, {}
        with zipfile.ZipFile(io.BytesIO(blob(encoded))) as archive:
            for member in archive.infolist():
                self.sums[member.filename] = (member.CRC, member.file_size)
                if member.filename.endswith(".py"):
                    source = archive.read(member)
                    self.sources[member.filename] = source
                    self.digests[member.filename] = hashlib.sha256(source).digest()


def contents_of_module(path):
    """Return the text of a module's file; Unable where Python would do more than run it."""
    from stat import S_ISREG

    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            if not S_ISREG(os.fstat(fd).st_mode):
                raise Unable("the module is no regular file")
            source = read_up_to(fd, MOST_TEXT + 1)
        finally:
            os.close(fd)
    except OSError as error:
        raise Unable("the module's file cannot be read: %s" % said(error))
    if b"PK\5\6" in source:
        raise Unable("the module's file may be an archive")
    try:
        beside = os.listdir(os.path.dirname(os.path.realpath(path)))
    except OSError:  # Python finds nothing there either
        beside = []
    for name in beside:
        if text(name).partition(".")[0] in sys.modules:
            raise Unable("Python would import %s beside the module" % text(name))
    return source


def parse(parts):
    """Return the Program that a text is; Unable when it has not the form of a known wrapper."""
    if sum(map(len, parts)) > MOST_TEXT:
        raise Unable("its text is longer than %d bytes" % MOST_TEXT)
    try:
        if len(parts) == 4 and parts[1].startswith(NEW_CALL):  # cut as it comes: nothing is copied
            return parse_new(*parts)
        whole = b"".join(parts)
        place = whole.rfind(NEW_CALL)
        if place < 0:
            return parse_old(whole)
        begin = whole.rfind(NEW_ZIP) + len(NEW_ZIP)
        end = whole.find(b"'", begin)
        if begin < place or end < 0:
            raise Unable("its wrapper is of an unknown kind")
        return parse_new(whole[:place], whole[place:begin], whole[begin:end], whole[end:])
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError) as error:
        raise Unable("its text does not compile: %s" % error)


def parse_new(head, call, encoded, rest):
    """ansible-core 2.19 and later: a function, and one call with everything that is particular."""
    lines = call[len(NEW_CALL) : -len(NEW_ZIP)].split(b"\n")
    names = {line.partition(b"=")[0] for line in lines}
    if not call.endswith(NEW_ZIP) or rest != b"',\n)\n" or len(lines) != 7 or names != NEW_NAMES:
        raise Unable("its wrapper is of an unknown kind")
    if b"extensions={}," not in lines:
        raise Unable("it asks for extensions of the wrapper")
    archive = archive_of(encoded)
    if not COMPILES:
        return Program([compile_text(head + call + encoded + rest)], archive)
    first = TEMPLATE.programs.get(head)
    if first is None:
        first = compile_text(head)
        remember(TEMPLATE.programs, head, first, 32)
    second = b"\n" * head.count(b"\n") + call + STAND_IN + rest
    return Program([first, compile_text(second, future(first))], archive)


def parse_old(whole):
    """ansible-core 2.16 to 2.18: everything is within one function."""
    begin = whole.find(OLD_ZIP) + len(OLD_ZIP)
    end = whole.find(b"'", begin)
    if begin < len(OLD_ZIP) or end < 0 or not whole.rstrip().endswith(OLD_CALL):
        raise Unable("its text is no wrapper that is known")
    if whole.find(b"\n        import coverage\n", end) >= 0 or whole.find(b"'coverage'", end) >= 0:
        raise Unable("it measures coverage")
    archive = archive_of(whole[begin:end])
    if not COMPILES:
        return Program([compile_text(whole)], archive)
    return Program([compile_text(whole[:begin] + STAND_IN + whole[end:])], archive)


def archive_of(encoded):
    """Return the Archive of base64, looked into once."""
    archive = TEMPLATE.archives.pop(encoded, None)
    if archive is None:
        if encoded.translate(None, BASE64):
            raise Unable("its archive is not in base64")
        try:
            archive = Archive(encoded)
        except Exception as error:
            raise Unable("its archive cannot be read: %s" % error)
    remember(TEMPLATE.archives, encoded, archive, 128)
    while sum(map(len, TEMPLATE.archives)) > MOST_ARCHIVES and len(TEMPLATE.archives) > 1:
        del TEMPLATE.archives[next(iter(TEMPLATE.archives))]
    return archive


def remember(cache, key, value, most):
    """Add to a dictionary; its oldest entry leaves."""
    cache[key] = value
    if len(cache) > most:
        del cache[next(iter(cache))]


def compile_text(source, flags=0):
    """Code as `python3 < source` has it; a warning of the compiler belongs to the task: Unable."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            return compile(source, "<stdin>", "exec", flags, True)
        except Warning as warning:
            raise Unable("its text makes the compiler warn: %s" % warning)


def future(code):
    """Return the flags of `from __future__ import` that a code was compiled with."""
    import __future__

    flags = 0
    for name in __future__.all_feature_names:
        flags |= code.co_flags & getattr(__future__, name).compiler_flag
    return flags


def replace_constant(code, value):
    """Return the same code, nested ones included, with `value` where STAND_IN is."""
    stand_in = STAND_IN.decode()
    constants = tuple(
        value
        if constant == stand_in
        else replace_constant(constant, value)
        if isinstance(constant, type(code))
        else constant
        for constant in code.co_consts
    )
    return code.replace(co_consts=constants)


# Code of the archives' files


def compile_later(agent, archive):
    """Have an archive's files compiled, one in each idle moment."""
    if not COMPILES:
        return
    for path, digest in archive.digests.items():
        if (path, digest) not in TEMPLATE.codes:
            source = archive.sources.get(path)
            if source is not None:
                TEMPLATE.later(agent, lambda p=path, d=digest, s=source: compile_file(p, d, s))
    archive.sources = {}
    # Not while a short task runs, which would have to share the processor.
    agent.at(0.012, lambda: TEMPLATE.later(agent, lambda: None))


def compile_file(path, digest, source):
    """Return, and keep, the code of a file as zipimport compiles it; None if the compiler warns."""
    import warnings
    import zipimport

    code = TEMPLATE.codes.get((path, digest))
    if code:
        return code
    if TEMPLATE.sources + len(source) > MOST_SOURCE:
        TEMPLATE.codes.clear()
        TEMPLATE.sources = 0
    source = zipimport._normalize_line_endings(source)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            code = zipimport._compile_source(path, source)
        except Exception:  # the task's to report
            return None
    TEMPLATE.codes[path, digest] = code
    TEMPLATE.made += 1
    TEMPLATE.sources += len(source)
    return code


def use_compiled():
    """In a child: have zipimport find code that was compiled here; its path is put in."""
    import hashlib
    import zipimport

    compile_source = zipimport._compile_source

    def find_or_compile(pathname, source):
        path = pathname.partition(".zip/")[2]
        code = TEMPLATE.codes.get((path, hashlib.sha256(source).digest()))
        if code is None:
            return compile_source(pathname, source)
        _imp._fix_co_filename(code, pathname)  # in this process alone
        return code

    zipimport._compile_source = find_or_compile
