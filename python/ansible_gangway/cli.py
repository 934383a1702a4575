"""The command `gangway`: short names for the plugins, and a look at what they would meet."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from ansible_gangway import __version__, link


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    options = _parser().parse_args(arguments)
    try:
        status: int = options.run(options)
    except link.LinkError as exc:
        print(f"gangway {options.command}: {exc}", file=sys.stderr)
        return 1
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gangway", description="Ansible inside containers that run no sshd."
    )
    parser.add_argument("--version", action="version", version=f"gangway {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, run, text in (
        (
            "link",
            _link,
            f"make the short names {', '.join(link.NAMES)} mean gangway's plugins",
        ),
        ("unlink", _unlink, "take back what link did"),
    ):
        command = commands.add_parser(name, help=text, description=f"{name.title()}: {text}.")
        where = command.add_mutually_exclusive_group()
        where.add_argument(
            "--user",
            action="store_true",
            help="for all of this user's playbooks, in ~/.ansible (the default)",
        )
        where.add_argument(
            "--playbook-dir", metavar="DIR", help="for the playbooks in DIR only, next to them"
        )
        command.set_defaults(run=run)
    doctor = commands.add_parser(
        "doctor",
        help="tell which engines can be reached, and what to do about what is not right",
        description="Doctor: look at this installation, Ansible's view of it, and the engines.",
    )
    doctor.add_argument("--json", action="store_true", help="print the findings as JSON")
    doctor.add_argument(
        "--playbook-dir", metavar="DIR", default=".", help="where the playbooks are (default: here)"
    )
    doctor.set_defaults(run=_doctor)
    broker = commands.add_parser(
        "broker",
        help="show or end the daemon that keeps agents in containers between tasks",
        description="Broker: the daemon that keeps agents in containers between tasks.",
    )
    verbs = broker.add_subparsers(dest="verb", required=True, metavar="COMMAND")
    show = verbs.add_parser("status", help="list its agents, in which containers and how long")
    show.add_argument("--json", action="store_true", help="print all of it as JSON")
    show.set_defaults(run=_broker_status)
    stop = verbs.add_parser("stop", help="end its agents, each when nothing runs on it, and itself")
    stop.set_defaults(run=_broker_stop)
    return parser


def _directory(options: argparse.Namespace) -> Path:
    if options.playbook_dir is None:
        return link.user_directory()
    return link.playbook_directory(options.playbook_dir)


def _link(options: argparse.Namespace) -> int:
    directory = _directory(options)
    print(*link.link(directory), sep="\n")
    warning = options.playbook_dir is None and link.why_not_searched(directory)
    if warning:
        print(f"gangway link: warning: {warning}", file=sys.stderr)
    return 0


def _unlink(options: argparse.Namespace) -> int:
    print(*link.unlink(_directory(options)), sep="\n")
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from ansible_gangway import doctor

    findings = doctor.examine(options.playbook_dir)
    if options.json:
        print(json.dumps([finding._asdict() for finding in findings], indent=2))
    else:
        print(*map(doctor.render, findings), sep="\n")
    return 1 if any(finding.state == "broken" for finding in findings) else 0


def _broker_status(options: argparse.Namespace) -> int:
    from ansible_gangway import brokers

    return brokers.status(options.json)


def _broker_stop(_: argparse.Namespace) -> int:
    from ansible_gangway import brokers

    return brokers.stop()
