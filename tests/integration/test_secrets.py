"""What a daemon knows and nobody else may read is in no log and on no command line."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
from support.complaints import start
from support.daemons import Daemons, Device, await_linked, await_ready
from support.secrets_kept import batch_keys, find, forms_of
from support.wasm import example

from meshd.client import TaskInput
from meshd.keyfile import read_seed
from meshd.membership import load_membership
from meshd.store import Store
from wire.keys import Ed25519Keys, Ed25519Verifier
from wire.membership import invitation_from_text

LOUD = {"MESHD_LOG__LEVEL": "debug"}
INPUT = b"what only the submitter and the executor may read"
PASSPHRASE = b"correct horse battery staple"


@pytest.mark.parametrize("form", list(forms_of(bytes(range(100, 132)))))
def test_every_form_of_a_secret_is_found(form: bytes) -> None:
    assert find({"it": bytes(range(100, 132))}, b"before " + form + b" after") == ["it"]
    assert find({"it": bytes(range(32))}, b"before " + form + b" after") == []


def test_no_secret_is_logged_or_on_a_command_line(tmp_path: Path) -> None:
    with Daemons(tmp_path) as daemons:
        (tmp_path / "passphrase").write_bytes(PASSPHRASE)
        first = daemons.start(
            "attic", "--passphrase-file", str(tmp_path / "passphrase"), environ=LOUD
        )
        await_ready(first)
        tokens = [first.invite() for _ in range(3)]
        (tmp_path / "invitation").write_text(tokens[1])
        piped = daemons.start("garage", "--label", "home=garage", environ=LOUD, join=tokens[0])
        filed = daemons.start("shed", "--join", f"@{tmp_path / 'invitation'}", environ=LOUD)
        await_linked_soon(first, piped, filed)
        refused = start(tmp_path / "refused", join=tokens[0], environ=LOUD)
        refused.complaint(1, "used by others already")

        task = TaskInput(args=["an-argument-of-the-program"], env={"NAME": "v" * 30}, stdin=INPUT)
        (done,) = first.submit(example("faults/echo"), task, requirements=["label:home=garage"])
        assert first.wait(done)["executor_name"] == "garage"
        assert INPUT in first.result(done)
        first.receipt(done)  # with its digest key

        devices = [first, piped, filed]
        lines = command_lines(devices)
        for device in devices:
            assert device.stop() == 0
        secrets = secrets_of(first, devices, tokens)
        logs = {str(path): path.read_bytes() for path in log_files(tmp_path)}

    assert any(b'"level": "debug"' in text for text in logs.values())
    found = {place: find(secrets, text) for place, text in {**logs, **lines}.items()}
    assert {place: names for place, names in found.items() if names} == {}


def await_linked_soon(*devices: Device) -> None:
    await_ready(*devices)
    await_linked(*devices)


def log_files(directory: Path) -> list[Path]:
    """Return all that the daemons wrote for people to read."""
    return [
        *directory.glob("*.log"),
        *directory.glob("*.out"),
        *directory.glob("*/logs/*"),
    ]


def command_lines(devices: list[Device]) -> dict[str, bytes]:
    """Return the command lines of daemons and workers, and the environments of workers."""
    lines = {}
    for device in devices:
        daemon = psutil.Process(device.process.pid)
        lines[f"{device.name} {daemon.pid}"] = " ".join(daemon.cmdline()).encode()
        for worker in device.workers():
            words = [*worker.cmdline(), *map(str, worker.environ().items())]
            lines[f"{device.name} worker {worker.pid}"] = " ".join(words).encode()
    assert len(lines) > len(devices)
    return lines


def secrets_of(first: Device, devices: list[Device], tokens: list[str]) -> dict[str, bytes]:
    """Return all that is secret about these daemons, which have stopped."""
    secrets = {"input": INPUT, "environment": b"v" * 30, "argument": b"an-argument-of-the-program"}
    secrets["passphrase"] = PASSPHRASE
    for number, token in enumerate(tokens):
        invitation = invitation_from_text(token, Ed25519Verifier())
        secrets[f"token {number}"] = token.encode()
        secrets[f"token {number} without its beginning"] = token[-60:].encode()
        secrets[f"secret {number}"] = invitation.secret
        secrets["network key"] = invitation.network_key
    for device in devices:
        passphrase = PASSPHRASE if device is first else None
        secrets[f"seed of {device.name}"] = read_seed(device.home / "key", passphrase)
    store = Store.open(first.home / "mesh.db")
    membership = load_membership(store)
    store.close()
    assert membership is not None
    assert membership.recovery_seed is not None
    secrets["recovery seed"] = membership.recovery_seed
    keys = Ed25519Keys(read_seed(first.home / "key", PASSPHRASE))
    (key,) = batch_keys(first.home / "mesh.db", keys)
    secrets["batch key"] = key
    return secrets
