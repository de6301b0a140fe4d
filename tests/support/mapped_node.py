"""A node behind a real control socket that runs a map: each task puts out its input in capitals."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

import trio
from support.answer_views import task_view
from support.control_node import KEYS, ScriptedNode

from meshd.batch_content import BatchContent
from wire.answers import Accepted, Answer, RefusalCode, Refused, ResultView, TaskView
from wire.commands import Command, GetResult, Submit, WaitBatch
from wire.content import Invocation

# What becomes of one task: changes of a view that exited with 0.
Ending = Callable[[Invocation, int], dict[str, object]]


@dataclass(slots=True)
class _Batch:
    submit: Submit
    invocations: list[Invocation]


class MappedNode(ScriptedNode):
    """Runs what is submitted. `ends` gets a task's invocation and how often it was tried."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[_Batch] = []
        self.ends: Ending = lambda *_: {}
        self.tries: dict[str, int] = {}
        self.forgets = False
        self.holds = threading.Event()  # once set, nothing ends any more
        self.results_count = 0

    @property
    def sizes(self) -> list[int]:
        """How many tasks each batch has."""
        return [len(batch.invocations) for batch in self.batches]

    async def _answers(self, command: Command) -> AsyncGenerator[Answer, None]:
        await trio.lowlevel.checkpoint()
        match command:
            case Submit():
                yield self._accept(command)
            case WaitBatch(task):
                async for view in self._views(task):
                    yield view
            case GetResult(task):
                self.results_count += 1
                yield self._result(task)
            case _:
                async for answer in super()._answers(command):
                    yield answer

    def _accept(self, submit: Submit) -> Accepted:
        content = BatchContent(KEYS.unseal(submit.key), self.blobs)
        opened = [content.open_invocation(task.index, task.input) for task in submit.tasks]
        self.batches.append(_Batch(submit, opened))
        tasks = [f"batch{len(self.batches)}.{index}.x" for index in range(len(opened))]
        return Accepted(
            batch=f"batch{len(self.batches)}",
            tasks=tasks,
            durability="local",
            durability_reason=None,
            stewards=[],
        )

    async def _views(self, task: str) -> AsyncGenerator[Answer, None]:
        batch, _ = self._found(task)
        if batch is None:
            yield Refused(code=RefusalCode.NOT_FOUND, message="unknown task")
            return
        name = task.partition(".")[0]
        for index, invocation in enumerate(batch.invocations):
            if self.holds.is_set():
                await trio.sleep_forever()
            await trio.lowlevel.checkpoint()
            yield self._view(f"{name}.{index}.x", invocation)

    def _view(self, task: str, invocation: Invocation) -> TaskView:
        item = dict(invocation.env)["MAP_INDEX"]
        self.tries[item] = self.tries.get(item, 0) + 1
        return task_view(id=task, **self.ends(invocation, self.tries[item]))

    def _result(self, task: str) -> Answer:
        batch, index = self._found(task)
        if batch is None:
            return Refused(code=RefusalCode.NOT_FOUND, message="unknown task")
        invocation = batch.invocations[index]
        content = BatchContent(KEYS.unseal(batch.submit.key), self.blobs)
        output = invocation.stdin.upper() or dict(invocation.env)["MAP_INDEX"].encode()
        sealed = content.seal_output(index, stdout=output, stderr=b"")
        return ResultView(
            task=task_view(id=task),
            index=index,
            output=sealed.output,
            log=sealed.log,
            box=batch.submit.key,
        )

    def _found(self, task: str) -> tuple[_Batch | None, int]:
        name, index, _ = task.split(".")
        number = int(name.removeprefix("batch"))
        is_known = not self.forgets and number <= len(self.batches)
        return (self.batches[number - 1] if is_known else None), int(index)
