"""Texts of modules as an ansible-core other than the installed one would send them."""

from __future__ import annotations

import ast
import base64
import io
import re
import zipfile

# A wrapper as the versions before 2.19 send it: all in one function, in a zip of another basic.py.
WRAPPER = """\
def _ansiballz_main():
    import base64
    import runpy
    import shutil
    import sys
    import tempfile
    sys.path = [path for path in sys.path if path not in ('', '.')]
    ZIPDATA = '{archive}'
    directory = tempfile.mkdtemp(prefix='ansible_x_payload_')
    payload = directory + '/ansible_x_payload.zip'
    with open(payload, 'wb') as file:
        file.write(base64.b64decode(ZIPDATA))
    sys.path.insert(0, payload)
    try:
        from ansible.module_utils import basic
        basic._ANSIBLE_ARGS = {params!r}.encode()
        basic._ANSIBLE_PROFILE = 'legacy'
        runpy.run_module({module!r}, None, '__main__', True)
    finally:
        shutil.rmtree(directory)


if __name__ == '__main__':
    _ansiballz_main()
"""
# What its results have and those of the installed one have not.
MARK = b'"core": "another"'
ANOTHER = """
_exit_json = AnsibleModule.exit_json
AnsibleModule.exit_json = lambda self, **result: _exit_json(self, core='another', **result)
"""

# How the text of either kind says it.
ZIP = re.compile(rb"(?:ZIPDATA = |\nzip_data=)'([^']*)'")
PARAMS = re.compile(r"(?:\n    ANSIBALLZ_PARAMS = |\nparams=)('.*'),?\n")
MODULE = re.compile(r"(?:mod_name=|\nmodule_fqn=)'([^']*)'")


def another(text: bytes) -> bytes:
    """Return what another core sends for the task of which this is the installed one's text."""
    found = ZIP.search(text)
    assert found
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(base64.b64decode(found[1]))) as members,
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as made,
    ):
        for name in members.namelist():
            source = members.read(name)
            if name == "ansible/module_utils/basic.py":
                source += ANOTHER.encode()
            # With the time that it has there: what is made of equal texts is equal.
            made.writestr(members.getinfo(name), source)
    rest = (text[: found.start()] + text[found.end() :]).decode()
    params, module = PARAMS.search(rest), MODULE.search(rest)
    assert params and module
    archive = base64.b64encode(buffer.getvalue()).decode()
    wrapped = WRAPPER.format(archive=archive, params=ast.literal_eval(params[1]), module=module[1])
    return wrapped.encode()
