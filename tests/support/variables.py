"""Values of environment variables that something on the way might change."""

from __future__ import annotations

# Docker's and podman's env files end a line after 64 KiB: name, "=", value and line break.
ENV_FILE_LINE = 64 << 10

VALUES: dict[str, bytes] = {
    "empty": b"",
    "lines": b"one\ntwo\r\n\nthree\n",
    "return": b"\rx\r",
    "blanks": b"  \ta  b\t ",
    "quotes": b"""it's "quoted" `id` $(id) ${HOME} $HOME \\ \\n""",
    "comment": b"# no comment",
    "equals": b"a=b=c",
    "text": "grüße 汉语 \N{ZERO WIDTH NO-BREAK SPACE}".encode(),
    "control": bytes(range(1, 32)) + b"\x7f",
    "just_fits": b"x" * (ENV_FILE_LINE - len("just_fits=\n")),
    "just_too_long": b"x" * (ENV_FILE_LINE - len("just_too_long=\n") + 1),
    "long": b"0123456789" * 10_240,
    # Names that a shell program might use itself.
    "e": b"1",
    "l": b"2",
    "n": b"3\n3",
    "r": b"4",
    "z": b"5\n5",
}
ENV = {name.encode(): value for name, value in VALUES.items()}
# Prints the values in the same order, each with a NUL byte at its end.
PRINT = f"""printf '%s\\0' {" ".join(f'"${name}"' for name in VALUES)}""".encode()
PRINTED = b"".join(value + b"\0" for value in VALUES.values())
