"""Bad input ends in one sentence: the container, the cause, and what to do."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from ansible_gangway import _core
from support.ask import Answer

UNREACHABLE, FAILED = _core.ConnectionFailed, _core.Error

# What the sentences of all engines have in common, as patterns.
CHECK_NAME = "check its name, or start it first"
CHECK_ENGINE = "check that it is up and where it listens"
CHECK_SETTINGS = "check the options of this connection and the client's own configuration"
ASK_FOR_PERMISSION = "ask for the permission, or use other credentials"
CREATE_USER = "create it in the container, or set another remote_user"
NO_SHELL = "every connection runs commands through a shell"
WRONG_SETTINGS = rf"the engine's client is configured wrongly \({{}}\): {CHECK_SETTINGS}"
NOT_REACHED = rf"the engine cannot be reached \({{}}\): {CHECK_ENGINE}"
REFUSED_ACCESS = rf"the engine refused access \({{}}\): {ASK_FOR_PERMISSION}"
NO_SUCH_USER = rf'the user "{{}}" cannot be used \({{}}\): {CREATE_USER}'


def assert_refused(call: Callable[[], object], error: type[_core.Error], sentence: str) -> None:
    """Assert that `call` raises exactly `error`, with a text that is `sentence`, a pattern."""
    with pytest.raises(_core.Error) as raised:
        call()
    assert re.fullmatch(sentence, str(raised.value)), str(raised.value)
    assert type(raised.value) is error, repr(raised.value)


def assert_unreachable(answer: Answer, sentence: str) -> None:
    """Assert that a task found its host UNREACHABLE, with a text that has `sentence` in it."""
    assert answer.get("unreachable") is True, answer
    assert re.search(sentence, answer["msg"]), answer
