"""What holds for the repository as a whole: its layers, its locks, its checks, its commands."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from support.layers import (
    LIBP2P_MODULES,
    NONCE_DRAWING_MODULES,
    ROOT,
    SHELLS,
    WASMTIME_MODULES,
    core_offences,
    modules,
    offences,
)

LOCKS = ("requirements.lock", "requirements-dev.lock")


def test_no_module_breaks_the_architecture() -> None:
    found = [line for name, path in modules() for line in offences(name, path.read_text("utf-8"))]
    assert not found, "\n".join(found)


def test_the_lists_name_modules_that_exist_and_need_their_exception() -> None:
    sources = {name: path.read_text("utf-8") for name, path in modules()}
    assert sources.keys() >= SHELLS | LIBP2P_MODULES | WASMTIME_MODULES | NONCE_DRAWING_MODULES
    pure = sorted(name for name in SHELLS if not core_offences(name, ast.parse(sources[name])))
    assert not pure, f"no longer shells: {pure}"
    fenced = {"libp2p": LIBP2P_MODULES, "multiaddr": LIBP2P_MODULES, "wasmtime": WASMTIME_MODULES}
    for name in LIBP2P_MODULES | WASMTIME_MODULES:
        assert any(library in sources[name] for library, names in fenced.items() if name in names)


def test_importing_the_cores_loads_nothing_that_touches_the_world() -> None:
    cores = [name for name, _ in modules() if name not in SHELLS]
    program = (
        f"import importlib, sys\nfor name in {cores!r}: importlib.import_module(name)\n"
        "worldly = {'trio', 'libp2p', 'multiaddr', 'wasmtime', 'psutil', 'sqlite3', 'structlog'}\n"
        "sys.exit(', '.join(sorted(worldly & sys.modules.keys())) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("module", "source", "expected"),
    [
        ("scheduler.planted", "import trio", "a core imports trio"),
        ("scheduler.planted", "import time", "a core imports time"),
        ("scheduler.planted", "from os import path", "a core imports os"),
        ("wire.planted", "import socket", "a core imports socket"),
        ("wire.planted", "import uuid", "a core imports uuid"),
        ("wire.planted", "import logging", "a core imports logging"),
        ("wire.planted", "from pathlib import Path", "a core imports pathlib"),
        ("telemetry.planted", "from datetime import datetime", "a core imports datetime"),
        ("telemetry.planted", "import secrets", "a core imports secrets"),
        ("meshd.node", "def f():\n    import trio", "meshd.node:2: a core imports trio"),
        ("meshd.node", "open('file')", "a core calls open()"),
        ("meshd.node", "print(1)", "a core calls print()"),
        ("meshd.node", "hash('text')", "a core calls hash()"),
        ("telemetry.planted", "import random\nrandom.choice([1])", "random.choice"),
        ("telemetry.planted", "from random import shuffle", "random.shuffle"),
        ("telemetry.planted", "from random import SystemRandom", "random.SystemRandom"),
        ("telemetry.planted", "from random import Random\nRandom()", "without a seed"),
        ("p2p.planted", "import nacl.public\nnacl.public.PrivateKey.generate()", "generate()"),
        ("p2p.planted", "import nacl.public\nnacl.public.SealedBox(k)", "SealedBox()"),
        ("p2p.planted", "import nacl.secret\nnacl.secret.Aead(k).encrypt(x, aad=b'')", "encrypt()"),
        ("p2p.planted", "import nacl.utils", "a core imports nacl"),
        ("p2p.planted", "from Crypto.Random import get_random_bytes", "a core imports Crypto"),
        ("telemetry.planted", "from telemetry import sampler", "the shell telemetry.sampler"),
        ("telemetry.planted", "from telemetry.sampler import calibrate", "the shell"),
        ("wire.planted", "from telemetry.sample import Sample", "wire imports telemetry"),
        ("telemetry.planted", "import sandbox", "telemetry imports sandbox"),
        ("sandbox.planted", "import p2p.gossip", "sandbox imports p2p"),
        ("p2p.planted", "from scheduler.lease import Lease", "p2p imports scheduler"),
        ("scheduler.planted", "import meshd", "scheduler imports meshd"),
        ("meshd.planted", "from simulations import engine", "meshd imports simulations"),
        ("meshd.planted", "from . import node", "a relative import"),
        ("scheduler.planted", "from p2p.host import Host", "the shell p2p.host"),
        (
            "scheduler.planted",
            "from p2p import host",
            "scheduler imports the shell p2p.host of p2p",
        ),
        ("telemetry.sampler", "import libp2p", "libp2p outside"),
        ("telemetry.sampler", "from multiaddr import Multiaddr", "multiaddr outside"),
        ("telemetry.sampler", "import wasmtime", "wasmtime outside"),
    ],
)
def test_a_planted_offence_is_found(module: str, source: str, expected: str) -> None:
    assert expected in "\n".join(offences(module, source))


@pytest.mark.parametrize(
    ("module", "source"),
    [
        (
            "scheduler.planted",
            "from random import Random\ndef f(random: Random): return random.randrange(3)",
        ),
        ("scheduler.planted", "import random\nrandom.Random(7)"),
        ("wire.planted", "class A:\n    def __hash__(self): return hash(self.a)"),
        ("wire.planted", "from Crypto.Cipher import Salsa20"),
        ("scheduler.planted", "from p2p.directory import Directory"),
        ("simulations.planted", "from meshd.node import MeshNode"),
        ("telemetry.sampler", "import time, psutil\nopen('/proc/stat')"),
        ("wire.keys", "import nacl.public\nnacl.public.SealedBox(k)"),
        ("p2p.planted", "import nacl.secret\nnacl.secret.Aead(k).encrypt(x, aad=b'', nonce=n)"),
    ],
)
def test_what_is_allowed_is_not_an_offence(module: str, source: str) -> None:
    assert offences(module, source) == []


def test_mypy_refuses_a_wrong_start_soon(tmp_path: Path) -> None:
    # trio-typing's stubs, which libp2p brings, hide exactly this; setting up deletes them.
    planted = tmp_path / "planted.py"
    planted.write_text(
        "import trio\n\n\n"
        "async def count(limit: int) -> None:\n    await trio.sleep(limit)\n\n\n"
        "async def main() -> None:\n    async with trio.open_nursery() as nursery:\n"
        "        nursery.start_soon(count, 3)\n        nursery.start_soon(count, 'three')\n"
    )
    command = [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", str(planted)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    errors = [line for line in done.stdout.splitlines() if ": error: " in line]
    assert len(errors) == 1, done.stdout + done.stderr
    assert "planted.py:11" in errors[0]
    assert '"start_soon"' in errors[0]


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_names_no_address_and_hashes_every_package(name: str) -> None:
    text = (ROOT / name).read_text("utf-8")
    assert "://" not in text
    assert "--index-url" not in text
    entries = re.split(r"\n(?=[a-z0-9])", text.strip())
    assert len(entries) > 50
    unhashed = [entry.partition("==")[0] for entry in entries if "--hash=sha256:" not in entry]
    assert not unhashed


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_holds_what_the_project_asks_for(name: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    wanted = list(project["project"]["dependencies"])
    if name == "requirements-dev.lock":
        wanted += project["dependency-groups"]["dev"]
    names = {re.split(r"[^A-Za-z0-9._-]", each)[0].lower() for each in wanted}
    text = (ROOT / name).read_text("utf-8")
    assert names <= set(re.findall(r"^([a-z0-9][a-z0-9._-]*)==", text, re.MULTILINE))
    # libp2p 0.8.1 pins a version that needs a compiler.
    assert "\nfastecdsa==4.0.0 " in text


def test_locks_of_npm_name_no_registry() -> None:
    for lock in (ROOT / "tests").glob("*/package-lock.json"):
        assert '"resolved"' not in lock.read_text("utf-8"), lock


def test_every_target_of_the_makefile_is_listed_by_help() -> None:
    text = (ROOT / "Makefile").read_text("utf-8")
    phony = re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    assert phony is not None
    done = subprocess.run(["make"], capture_output=True, text=True, cwd=ROOT, check=True)
    listed = re.findall(r"^  make ([a-z-]+)", done.stdout, re.MULTILINE)
    assert sorted(listed) == sorted(phony[1].split())


def planted_run(directory: Path, ci: str) -> subprocess.CompletedProcess[str]:
    (directory / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text("utf-8"))
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir=.", "."],
        capture_output=True,
        text=True,
        cwd=directory,
        check=False,
        env={**os.environ, "CI": ci, "PYTHONPATH": str(ROOT / "tests")},
    )


SKIPPING = {
    "call": "def test_it():\n    pytest.skip('no such tool')",
    "mark": "@pytest.mark.skipif(True, reason='no such tool')\ndef test_it(): ...",
    "module": "pytest.skip('no such tool', allow_module_level=True)",
    "import": "pytest.importorskip('no_such_tool')",
}
NOT_SKIPPING = {
    "listed": "def test_it():\n    pytest.skip('no IPv6 on this machine')",
    "xfail": "@pytest.mark.xfail(strict=True)\ndef test_it():\n    assert False",
    "passing": "def test_it():\n    assert True",
}


def plant(directory: Path, tests: dict[str, str]) -> None:
    for name, test in tests.items():
        (directory / f"test_{name}.py").write_text(f"import pytest\n\n\n{test}\n")


def test_skipped_tests_fail_a_ci_run_and_no_other(tmp_path: Path) -> None:
    plant(tmp_path, SKIPPING | NOT_SKIPPING)
    in_ci = planted_run(tmp_path, "true")
    assert in_ci.returncode == pytest.ExitCode.TESTS_FAILED, in_ci.stdout
    summary = in_ci.stdout.partition("fails a run with CI=true")[2]
    assert {name for name in SKIPPING | NOT_SKIPPING if f"test_{name}.py" in summary} == set(
        SKIPPING
    )
    assert planted_run(tmp_path, "").returncode == pytest.ExitCode.OK


def test_a_ci_run_of_nothing_but_skips_fails(tmp_path: Path) -> None:
    plant(tmp_path, {"module": SKIPPING["module"]})
    assert planted_run(tmp_path, "true").returncode == pytest.ExitCode.TESTS_FAILED


def test_listed_skips_and_expected_failures_pass_in_ci(tmp_path: Path) -> None:
    plant(tmp_path, NOT_SKIPPING)
    done = planted_run(tmp_path, "true")
    assert done.returncode == pytest.ExitCode.OK, done.stdout
