"""What the shell does with a submission before its node hears of it, and with a result after.

It stores the module, seals each input under a new key, and seals that key to its own device.
"""

from __future__ import annotations

from dataclasses import dataclass

from simulations.contents import stored_content
from simulations.crypto import seal_repeatably
from simulations.host import SimulatedHost
from simulations.sandbox import Program, module_of, output_of
from simulations.seeds import derived_bytes
from wire.answers import ResultView
from wire.commands import Submit
from wire.content import (
    BATCH_KEY_BYTES,
    Content,
    Invocation,
    digest_key,
    input_purpose,
    open_content,
    output_digest,
    output_purpose,
)
from wire.ids import digest_text
from wire.signed import encode_body
from wire.tasks import Durability, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A batch to be run: one program, and the standard input of each task."""

    program: Program
    inputs: tuple[bytes, ...]
    deadline_us: int
    durability: Durability | None = None
    replicas: int = 1
    quorum: int = 1

    def expected_output(self, index: int) -> bytes:
        """Return what task `index` must put out, wherever it runs."""
        return output_of(module_of(self.program), _plaintext(self.inputs[index]), index)


def work_of(
    count: int, program: Program, *, deadline_us: int, durability: Durability | None = None
) -> Work:
    """Return a batch of `count` tasks whose inputs differ."""
    inputs = tuple(b"input %d" % number for number in range(count))
    return Work(program=program, inputs=inputs, deadline_us=deadline_us, durability=durability)


def submit_command(host: SimulatedHost, work: Work, *, number: int) -> Submit:
    """Store and seal what `work` needs on `host`; return what to ask of its node.

    `number` tells this submission from others of the run.
    """
    seed = host.around.seed
    batch_key = derived_bytes(seed, "batch key", number, length=BATCH_KEY_BYTES)
    tasks = tuple(
        Task(index=index, input=_sealed_input(host, text, batch_key, index))
        for index, text in enumerate(work.inputs)
    )
    signer = host.device.signer
    return Submit(
        module=host.blobs.put(module_of(work.program)),
        tasks=tasks,
        key=signer.seal(batch_key, signer.peer),
        deadline_us=work.deadline_us,
        durability=work.durability,
        replicas=work.replicas,
        quorum=work.quorum,
    )


def opened_output(host: SimulatedHost, view: ResultView) -> bytes | None:
    """Return the output that a result names, None if it is not on `host`."""
    sealed = view.output.inline if view.output.blob is None else host.blobs.get(view.output.blob)
    if sealed is None:
        return None
    batch_key = host.device.signer.unseal(view.box)
    return open_content(sealed, batch_key=batch_key, purpose=output_purpose(view.index))


def shown_digest(host: SimulatedHost, view: ResultView, output: bytes) -> str:
    """Return the digest of `output` as people are shown it, keyed as the result's executor did."""
    batch_key = host.device.signer.unseal(view.box)
    return digest_text(output_digest(output, key=digest_key(batch_key)))


def _sealed_input(host: SimulatedHost, text: bytes, batch_key: bytes, index: int) -> Content:
    purpose = input_purpose(index)
    sealed = seal_repeatably(_plaintext(text), batch_key=batch_key, purpose=purpose)
    return stored_content(host.blobs, sealed)


def _plaintext(text: bytes) -> bytes:
    return encode_body(Invocation(stdin=text))
