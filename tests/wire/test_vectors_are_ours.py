"""The vectors are what today's code makes and reads: a change of the wire shows in a diff."""

from __future__ import annotations

import json

import pytest
from support.vectors import DIRECTORY, OUTPUTS, all_vectors, as_text

from scheduler.receipt import verify_receipt
from wire.codec import FrameCodec, UnknownMessage
from wire.content import decode_invocation
from wire.errors import MalformedFrame, MalformedId
from wire.ids import mesh_from_text, peer_from_text, task_id_from_text
from wire.keys import Ed25519Keys, Ed25519Verifier
from wire.messages import MESSAGES

MADE = all_vectors()
FRAMES = json.loads((DIRECTORY / "frames.json").read_text("ascii"))
LINK = FrameCodec(MESSAGES, Ed25519Verifier())


@pytest.mark.parametrize("name", MADE)
def test_the_file_is_what_the_code_makes(name: str) -> None:
    """If the wire was meant to change: `PYTHONPATH=tests python tests/wire/make_vectors.py`."""
    assert (DIRECTORY / name).read_text("ascii") == as_text(MADE[name])


def test_no_file_is_left_over() -> None:
    assert {path.name for path in DIRECTORY.iterdir()} == set(MADE)


@pytest.mark.parametrize("name", ["hello", "heartbeat", "offer_rejected"])
def test_good_frames_decode_to_their_message(name: str) -> None:
    message = LINK.decode(bytes.fromhex(FRAMES[name]))
    assert type(message) is MESSAGES[name]


def test_an_unknown_tag_is_skipped() -> None:
    assert LINK.decode(bytes.fromhex(FRAMES["unknown_tag"])) == UnknownMessage("probe")


@pytest.mark.parametrize("name", FRAMES["malformed"])
def test_malformed_frames_are_refused(name: str) -> None:
    with pytest.raises(MalformedFrame):
        LINK.decode(bytes.fromhex(FRAMES["malformed"][name]))


def test_texts_that_are_no_ids_are_refused() -> None:
    refused = json.loads((DIRECTORY / "ids.json").read_text("ascii"))["refused"]
    parsers = {"mesh": mesh_from_text, "task": task_id_from_text, "peer": peer_from_text}
    assert refused.keys() == parsers.keys()
    for kind, texts in refused.items():
        for text in texts:
            with pytest.raises(MalformedId):
                parsers[kind](text)


def test_the_receipt_verifies_with_its_output() -> None:
    vectors = json.loads((DIRECTORY / "tasks.json").read_text("ascii"))
    verdict = verify_receipt(
        bytes.fromhex(vectors["receipt"]),
        verifier=Ed25519Verifier(),
        mesh=None,
        result=OUTPUTS[0],
    )
    assert verdict.is_good, verdict.faults
    assert verdict.facts.task == vectors["receipt_task"] == vectors["task_ids"][0]
    assert verdict.facts.stewards_count == 3


def test_the_boxes_and_inputs_open() -> None:
    content = json.loads((DIRECTORY / "content.json").read_text("ascii"))
    keys = Ed25519Keys(bytes.fromhex(content["box_recipient_seed"]))
    assert keys.unseal(bytes.fromhex(content["box"])).hex() == content["batch_key"]
    tasks = json.loads((DIRECTORY / "tasks.json").read_text("ascii"))
    invocation = decode_invocation(bytes.fromhex(tasks["invocations"][2]))
    assert invocation.args == ("greet", "2")
