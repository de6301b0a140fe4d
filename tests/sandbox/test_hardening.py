from __future__ import annotations

import json
import subprocess
import sys

PROBE = """
import encodings.idna, json, os, resource, socket, sys
from sandbox.hardening import harden
enforced = harden(parent_pid=os.getppid())
def outcome(act):
    try:
        act()
    except OSError as error:
        return type(error).__name__
    return "allowed"
probes = {
    "read": lambda: open("/etc/passwd").close(),
    "list": lambda: os.listdir("/"),
    "write": lambda: open("/tmp/meshd-hardening-probe", "w").close(),
    "exec": lambda: os.execv("/bin/true", ["true"]),
    "connect": lambda: socket.create_connection(("127.0.0.1", 9)),
    "signal": lambda: os.kill(os.getppid(), 0),
    "root": lambda: os.setuid(0) if os.geteuid() else None,
}
outcomes = {name: outcome(act) for name, act in probes.items()}
files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
print(json.dumps([enforced, outcomes, os.geteuid(), files]))
"""
DENIED_BY = {
    "no_files": {"read", "list", "write", "exec"},
    "no_tcp": {"connect"},
    "no_signals": {"signal"},
    "unprivileged": {"root"},
}


def probe() -> tuple[set[str], dict[str, str], int, int]:
    output = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, check=True).stdout
    enforced, outcomes, user, files_max = json.loads(output)
    return set(enforced), outcomes, user, files_max


def test_what_is_reported_as_enforced_is_denied() -> None:
    enforced, outcomes, user, files_max = probe()
    denied = {name for name, result in outcomes.items() if result == "PermissionError"}
    for measure, expected in DENIED_BY.items():
        if measure in enforced:
            assert denied >= expected, measure
    assert user != 0
    assert files_max <= 64
    assert {"dies_with_parent", "no_new_privileges", "few_files", "no_core"} <= enforced


def test_a_process_whose_parent_is_gone_ends() -> None:
    program = "from sandbox.hardening import harden; harden(parent_pid=1); print('alive')"
    orphan = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert orphan.returncode != 0
    assert b"alive" not in orphan.stdout


def test_a_kernel_without_landlock_enforces_the_rest() -> None:
    program = (
        "import os, sandbox.hardening as h\n"
        "h._LANDLOCK_CREATE_RULESET = 9_999\n"
        "print(*h.harden(parent_pid=os.getppid()))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    enforced = run.stdout.decode().split()
    assert "no_files" not in enforced
    assert "dies_with_parent" in enforced
