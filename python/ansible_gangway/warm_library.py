"""The library of a warm interpreter: what the wrapper imports before any module.

Sent behind warm.py's text, whose names it uses.
"""

import _imp

BASIC = "ansible/module_utils/basic.py"
NOWHERE = "/gangway/"  # stands for the archive, whose path each task chooses


class Library:
    """A part of `ansible.module_utils`, imported here from one archive.

    It is what the wrapper imports in every task, first and unconditionally, so a child that gets it
    is where a new interpreter is behind that import, provided its archive has the same files.
    """

    def __init__(self, archive):
        """Import; the archive still has its sources."""
        import importlib

        self._archive = archive
        self._codes = {}  # of the files that were imported, by path
        self._loaded = []  # modules whose code ran here, with their specs
        entry = "ansible.module_utils._internal._ansiballz._loader"
        if entry.replace(".", "/") + ".py" not in archive.digests:
            entry = BASIC[:-3].replace("/", ".")
        finders = list(sys.meta_path)
        sys.meta_path.insert(0, self)
        try:
            importlib.import_module(entry)
        finally:
            sys.meta_path.remove(self)
            found = {name: sys.modules.pop(name) for name in list(sys.modules) if of_ansible(name)}
            self._finders = [finder for finder in sys.meta_path if finder not in finders]
            for finder in self._finders:
                sys.meta_path.remove(finder)
        # These two look for other directories of the same name: a task's own have to do it.
        roots = [found.pop(name) for name in ("ansible", "ansible.module_utils")]
        self._loaded = [pair for pair in self._loaded if pair[0] not in roots]
        for module, _ in self._loaded:
            if any(value is root for value in vars(module).values() for root in roots):
                raise ImportError("a module keeps a package that each task has for itself")
        self._modules = found  # not all were loaded here: a name may stand for another module
        self._archive = None
        self.paths = [spec.origin[len(NOWHERE) :] for _, spec in self._loaded]

    def find_spec(self, name, path=None, target=None):
        """Find a module of the archive: called by the import system."""
        from importlib.util import spec_from_file_location

        path = name.replace(".", "/")
        archive = self._archive
        if path + "/__init__.py" in archive.digests:
            file, places = path + "/__init__.py", [NOWHERE + path]
        elif path + ".py" in archive.digests:
            file, places = path + ".py", None
        else:
            return None
        code = compile_file(file, archive.digests[file], archive.sources[file])
        if code is None:
            return None
        self._codes[file] = code
        return spec_from_file_location(
            name, NOWHERE + file, loader=self, submodule_search_locations=places
        )

    def create_module(self, spec):
        """Have the import system make it."""

    def exec_module(self, module):
        """Run its code."""
        spec = module.__spec__
        self._loaded.append((module, spec))
        if sys.version_info < (3, 10):  # as zipimport there
            module.__cached__ = None
        exec(self._codes[spec.origin[len(NOWHERE) :]], module.__dict__)

    def give(self, archive):
        """Have the modules be, in a child, those of the task's archive; return them by name."""
        from pkgutil import get_importer

        def moved(path):
            return archive + "/" + path[len(NOWHERE) :] if path.startswith(NOWHERE) else path

        for module, spec in self._loaded:
            path, place = spec.origin[len(NOWHERE) :], moved(os.path.dirname(spec.origin))
            _imp._fix_co_filename(self._codes[path], archive + "/" + path)
            loader = get_importer(
                os.path.dirname(place) if path.endswith("/__init__.py") else place
            )
            spec.loader, spec.origin = loader, moved(spec.origin)
            if spec._cached:
                spec._cached = moved(spec._cached)
            names = module.__dict__
            if names.get("__loader__") is self:
                names["__loader__"] = loader
            for name in ("__file__", "__cached__"):
                if names.get(name):
                    names[name] = moved(names[name])
            for places in (spec.submodule_search_locations, names.get("__path__")):
                if places:
                    places[:] = map(moved, places)
        sys.meta_path += self._finders
        return dict(self._modules)


class Giver:
    """In a child's sys.meta_path until something of `ansible.module_utils` is imported."""

    def __init__(self, library, sums):
        self._library, self._sums = library, sums

    def find_spec(self, name, path=None, target=None):
        """Find a module: called by the import system."""
        if not name.startswith("ansible.module_utils.") or not path:
            return None
        import zipimport

        sys.meta_path.remove(self)
        archive = os.path.dirname(os.path.dirname(path[0]))
        listed = zipimport._zip_directory_cache.get(archive, {})
        for path, (checksum, size) in self._sums.items():
            entry = listed.get(path.replace("/", os.sep))
            if not entry or (entry[7], entry[3]) != (checksum, size):
                return None
        given = self._library.give(archive)
        parent = sys.modules["ansible.module_utils"]
        self._first = given.pop(name, None)
        sys.modules.update(given)
        for child, module in given.items():
            if child.count(".") == 2:
                setattr(parent, child.rpartition(".")[2], module)
        if not self._first:
            return None
        from importlib.machinery import ModuleSpec

        return ModuleSpec(name, self)

    def create_module(self, spec):
        """Give what is there."""
        self._spec = self._first.__spec__
        return self._first

    def exec_module(self, module):
        """Do nothing: it has run."""
        module.__spec__ = self._spec


def of_ansible(name):
    """Whether a module is one that only tasks may see."""
    return name == "ansible" or name.startswith("ansible.")


def snapshot():
    """Return what imports could change in modules that are there."""
    return {name: dict(vars(module)) for name, module in sys.modules.items() if vars(module)}


def difference(before):
    """Return what imports did that a task which did not do them could notice; None if nothing."""
    for name, module in list(sys.modules.items()):
        if name not in before:
            if not of_the_standard_library(module):
                return name
            continue
        old = before[name]
        for key, value in list(vars(module).items()):
            if old.get(key, before) is not value and not isinstance(value, type(sys)):
                return "%s.%s" % (name, key)
    return None


def of_the_standard_library(module):
    """Whether a module is Python's own."""
    place = getattr(module, "__file__", None)
    own = os.path.dirname(os.__file__)
    return not place or (place.startswith(own + "/") and "-packages/" not in place)


def side_effects():
    """Return what no import of a library may change in its process."""
    import locale

    return (
        len(os.listdir("/proc/self/task")),
        sum(not is_of_libffi(int(name)) for name in os.listdir("/proc/self/fd")),
        os.getcwd(),
        dict(os.environ),
        list(sys.path),
        list(sys.path_hooks),
        locale.setlocale(locale.LC_ALL),
        [signal.getsignal(number) for number in range(1, signal.NSIG)],
        sys.getrecursionlimit(),
        sys.modules["warnings"].filters[:],
        sys.excepthook,
    )


def load_library(agent, archive):
    """Import the library from the first archive that has it; Unable if that spoils the interpreter.

    The task would import it itself in the same time, and the next one would have to wait for this.
    """
    template = TEMPLATE
    if not COMPILES or template.library is not None or BASIC not in archive.digests:
        return
    template.library = False
    modules, process = snapshot(), side_effects()
    try:
        library = Library(archive)
    except (Exception, SystemExit):  # the task's to report
        library = False
    exclusive = difference(modules)
    if side_effects() != process or (exclusive and not library):
        template.refused = "the import of its library changes the process"
        raise Unable(template.refused)
    if library:
        library.exclusive = exclusive
        library.digests = [(path, archive.digests[path]) for path in library.paths]
        template.library = library
    template.made += 1
    template.later(agent, template.settle)


def library_for(archive):
    """Return the library if an archive has the same; Unable where no other could run here now."""
    library = TEMPLATE.library
    if not library:
        return None
    if all(archive.digests.get(path) == digest for path, digest in library.digests):
        return library
    if library.exclusive:
        raise Unable(
            "its module_utils are not those that were imported here, which changed %s"
            % library.exclusive
        )
    return None
