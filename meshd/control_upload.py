"""Taking in a submission: the module, then each input, in chunks, each stored before the next.

At most one content of a client is in memory at a time. What is announced is checked before it is
asked for, and the module is checked before any input is.
"""

from __future__ import annotations

import msgspec

from meshd.content import ContentGate
from meshd.control_errors import ClientMisbehaved
from meshd.control_frames import encode_frame
from meshd.control_requests import SubmitRequest, decode_chunk
from meshd.control_stream import FrameStream
from wire.commands import Submit
from wire.content import Invocation


async def receive_submission(
    frames: FrameStream, request: SubmitRequest, content: ContentGate
) -> Submit:
    """Return the command with which the node runs the batch; its contents are stored and sealed.

    Raises ClientMisbehaved, UnsupportedModule or BlobError.
    """
    await frames.send(encode_frame({"proceed": "module"}))
    module = await content.store_module(await _receive_content(frames, request.module_bytes))
    await frames.send(encode_frame({"proceed": "inputs"}))
    batch = content.new_batch()
    tasks = []
    for index, task in enumerate(request.tasks):
        stdin = await _receive_content(frames, task.stdin_bytes)
        invocation = Invocation(args=task.args, env=task.env, stdin=stdin)
        tasks.append(await batch.seal_task(index, invocation))
    return Submit(
        module=module,
        tasks=tuple(tasks),
        key=batch.sealed_key,
        limits=request.limits,
        requirements=request.requirements,
        preferences=request.preferences,
        node_type=request.node_type,
        strategy=request.strategy,
        priority=request.priority,
        retries_max=request.retries_max,
        deadline_us=request.deadline_us,
        durability=request.durability,
        replicas=request.replicas,
        readers=request.readers,
        quorum=request.quorum,
    )


async def _receive_content(frames: FrameStream, size_bytes: int) -> bytes:
    """Return the next content of exactly `size_bytes`."""
    received = bytearray()
    while len(received) < size_bytes:
        chunk = _chunk_in(await frames.receive_upload())
        if not chunk or len(received) + len(chunk) > size_bytes:
            raise ClientMisbehaved("sent other chunks than it announced")
        received += chunk
    return bytes(received)


def _chunk_in(frame: bytes) -> bytes:
    try:
        return decode_chunk(frame).chunk
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ClientMisbehaved(f"sent something else than a chunk: {error}") from error
