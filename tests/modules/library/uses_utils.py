#!/usr/bin/python
"""Say which module_utils it was given."""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.common import text
from ansible.module_utils.common.text import formatters


def main():
    """Return the marks that a test adds to files, and where formatters belongs."""
    module = AnsibleModule({})
    marks = [getattr(part, "MARK", None) for part in (formatters, text)]
    module.exit_json(
        marks=marks, parent=formatters is text.formatters, size=formatters.bytes_to_human(2048)
    )


if __name__ == "__main__":
    main()
