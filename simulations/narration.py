"""Writes into the trace who each device is and what becomes of each task, for whoever reads it.

What nodes handle and say names tasks and peers in many ways, or not at all. These lines name a task
by its batch, as people see it, and its index, and a device by the beginning of its id, as the other
lines do.

| event | node | fields |
|---|---|---|
| `device.named` | the device, at each boot | peer |
| `batch.accepted` | where it was submitted | batch, count |
| `task.leased` | the steward | batch, indices, executor, attempt |
| `run.begun`, `run.ended` | the executor | batch, index, attempt; how it ended |
| `task.decided` | the whole mesh | batch, index, outcome |

Who is told of an outcome is in the lines `answer.TaskView`.
"""

from __future__ import annotations

from simulations.engine import Engine
from simulations.host import SimulatedHost
from simulations.trace import WORLD, Field, TraceLog
from wire import effects as do
from wire import events as on
from wire.answers import Accepted
from wire.effects import Effect, RunId
from wire.events import Event
from wire.ids import BatchId, base32_text
from wire.messages import LeaseGranted
from wire.tasks import Lease, Outcome

PEER_CHARACTERS = 12  # of hexadecimal, as in all lines of a trace


class Narrator:
    """An observer of every device, which changes nothing."""

    observed_events = (on.Restarted, on.Executed, on.ExecutionFailed)
    observed_effects = (LeaseGranted, do.Execute, do.Kill, do.Answer)

    def __init__(self, engine: Engine, trace: TraceLog) -> None:
        self._engine = engine
        self._trace = trace

    def saw_event(self, host: SimulatedHost, event: Event) -> None:
        """Note who a device is, and how its runs end."""
        match event:
            case on.Restarted():
                host.note("device.named", {"peer": host.peer.hex()[:PEER_CHARACTERS]})
            case on.Executed(run=run, status=status):
                _note_end(host, run, status.value)
            case on.ExecutionFailed(run=run, reason=reason):
                _note_end(host, run, reason.value)

    def saw_effect(self, host: SimulatedHost, effect: Effect) -> None:
        """Note what a node accepts, leases and runs."""
        match effect:
            case do.Send(_, LeaseGranted(lease=lease)):
                _note_lease(host, lease.body)
            case do.Execute(run=run):
                host.note("run.begun", _named(run))
            case do.Kill(run):
                _note_end(host, run, "killed")
            case do.Answer(_, Accepted(batch=batch, tasks=tasks)):
                host.note("batch.accepted", {"batch": batch, "count": len(tasks)})

    def note_decided(self, batch: BatchId, index: int, outcome: Outcome) -> None:
        """Note what an onlooker counts as decided."""
        fields: dict[str, Field] = {"batch": base32_text(batch), "index": index}
        fields["outcome"] = outcome.kind.value
        self._trace.add(self._engine.now_us, WORLD, "task.decided", fields)


def _note_lease(host: SimulatedHost, lease: Lease) -> None:
    fields: dict[str, Field] = {
        "batch": base32_text(lease.batch),
        "indices": " ".join(map(str, lease.indices)),
        "executor": lease.executor.hex()[:PEER_CHARACTERS],
        "attempt": lease.attempt,
    }
    host.note("task.leased", fields)


def _note_end(host: SimulatedHost, run: RunId, how: str) -> None:
    host.note("run.ended", {**_named(run), "how": how})


def _named(run: RunId) -> dict[str, Field]:
    return {"batch": base32_text(run.batch), "index": run.index, "attempt": run.attempt}
