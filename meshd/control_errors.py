"""Errors of the control socket, by what the caller can do about them.

Standard library only, because the command line imports it. The text of each is one line for a
person, and `hint` a second one that says what to type.
"""

from __future__ import annotations

from typing import Any

from meshd.errors import DaemonError


class ControlError(DaemonError):
    """Base of the errors of the control socket, on both of its sides."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class ControlSocketInUse(ControlError):
    """Something else listens, or lies, where our socket belongs: the person must clear it away."""


class ClientMisbehaved(ControlError):
    """A client sent what no client sends, or was too slow: end its connection."""


class NoDaemon(ControlError):
    """Nobody answers at the socket: nothing was asked, nothing has happened."""


class ProtocolMismatch(ControlError):
    """Daemon and client share no version of the protocol: install the same release of both."""


class ContactLost(ControlError):
    """The daemon went away, or sent what no daemon sends, after it had been asked."""


class NotConfirmed(ControlError):
    """The daemon had everything and went away before it answered: it may run the task, or not."""


class CommandRefused(ControlError):
    """The daemon said no. `answer` is its whole answer, with `code` and perhaps `closest`."""

    def __init__(self, answer: dict[str, Any]) -> None:
        super().__init__(str(answer.get("message") or "refused"), hint=answer.get("hint"))
        self.answer = answer
        self.code = str(answer.get("code") or "refused")
