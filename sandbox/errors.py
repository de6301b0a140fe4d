"""Errors of the sandbox, by what the caller can do about them."""

from __future__ import annotations

from typing import ClassVar

from wire.errors import MeshError
from wire.execution import ExecutionFailure


class SandboxError(MeshError):
    """Base of the errors of running programs."""


class UnsupportedModule(SandboxError):
    """The submitter's module cannot run on any device: show the message, which says what to do."""

    reason: ClassVar[ExecutionFailure] = ExecutionFailure.UNSUPPORTED_MODULE


class NotWasm(UnsupportedModule):
    """The submitter's file is no WebAssembly at all: show the message."""

    reason: ClassVar[ExecutionFailure] = ExecutionFailure.NOT_WASM


class ModuleMissing(SandboxError):
    """The device does not have the module's bytes: fetch them, or let another device run it."""


class JobFailed(SandboxError):
    """This device could not run a job to an end. It is no result: offer the task elsewhere."""

    def __init__(self, reason: ExecutionFailure, detail: str) -> None:
        super().__init__(f"{reason.value}: {detail}")
        self.reason = reason
        self.detail = detail


class UnusableCache(SandboxError):
    """The directory of compiled modules cannot be used: the device's owner must repair it."""


class ChildBroken(SandboxError):
    """A worker or compiler died or broke the protocol: kill it, and start another."""


class UnusableNativeCode(SandboxError):
    """A cached compilation is damaged, forged or of another engine: compile the module again."""


class HostOutOfMemory(SandboxError):
    """This device, not the program's limit, is short of memory: the job must run elsewhere."""
