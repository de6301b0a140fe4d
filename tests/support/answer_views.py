"""Answers as a daemon gives them, with plausible values; a test replaces what it is about."""

from __future__ import annotations

from wire.answers import (
    Accepted,
    DeviceReason,
    Found,
    HealthView,
    Invited,
    PeerList,
    PeerView,
    PlanView,
    RemovalView,
    StatusView,
    StewardReason,
    TaskList,
    TaskView,
    WhyView,
)
from wire.ids import MeshId, PeerId, did_key, mesh_text, peer_text

SELF = PeerId(bytes.fromhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"))
OTHER = PeerId(bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"))
MESH = mesh_text(MeshId(bytes(range(32))))
BATCH = "mrrwgzdfmzxw4zlsobuxg5dfojzwk43t"
TASK = f"{BATCH}.0.hvabpq6.25njqaa"
HEALTH = HealthView(score=0.81, bandwidth=0.9, latency=0.97, compute=0.62, reputation=None)


def peer_view(peer: PeerId = OTHER, **changes: object) -> PeerView:
    """Return a linked device called `kitchen`."""
    fields: dict[str, object] = {
        "id": peer_text(peer),
        "did": did_key(peer),
        "name": "kitchen",
        "is_self": False,
        "state": "linked",
        "reason": None,
        "node_type": "edge",
        "region": "eu-west",
        "roles": ["executor"],
        "operator": "ada",
        "addresses": ["/ip4/127.0.0.1/tcp/4001"],
        "capabilities": ["runtime:wasi-p1", "cpu:4", "label:camera=front"],
        "engine_profiles": ["wasmtime-50.0.1-a"],
        "incarnation": 3,
        "health": HEALTH,
        "breaker": "closed",
        "breaker_reason": None,
        "round_trip_us": 1_840,
        "transfer_bits_per_s": 120_000_000,
        "telemetry": {"cpu_idle": 0.7},
        "telemetry_age_us": 900_000,
        "successes": 12,
        "failures": 1,
        "leases_held": 2,
    }
    return PeerView(**{**fields, **changes})  # type: ignore[arg-type]  # the fields of a test


def peer_list() -> PeerList:
    """Return a mesh of two."""
    own = peer_view(SELF, name="desk", is_self=True, state="self", round_trip_us=None)
    return PeerList(mesh=MESH, peers=[own, peer_view()])


def status_view(**changes: object) -> StatusView:
    """Return the status of the device `desk`."""
    fields: dict[str, object] = {
        "id": peer_text(SELF),
        "did": did_key(SELF),
        "name": "desk",
        "mesh": MESH,
        "operator": "ada",
        "roles": ["admin", "executor"],
        "version": "0.1.0",
        "home": "/home/ada/.local/share/meshd",
        "pid": 4242,
        "uptime_us": 3_723_000_000,
        "addresses": ["/ip4/127.0.0.1/tcp/4001"],
        "incarnation": 5,
        "store": "a" * 26,
        "links": 1,
        "removals": 1,
        "is_removed": False,
        "members": 2,
        "health": HEALTH,
        "breaker": "closed",
        "breaker_reason": None,
        "tasks": {"executing": 1, "settled": 40},
        "leases_held": 2,
        "runs_active": 1,
        "engine_profile": "wasmtime-50.0.1-a",
        "sandbox": {"workers": 2},
        "storage": {"blobs_bytes": 1_000_000},
        "counters": {"frames_received": 10},
        "warnings": ["the recovery key is still in the home"],
    }
    return StatusView(**{**fields, **changes})  # type: ignore[arg-type]  # the fields of a test


def task_view(**changes: object) -> TaskView:
    """Return a task that exited with 0."""
    fields: dict[str, object] = {
        "id": TASK,
        "batch": BATCH,
        "index": 0,
        "state": "complete",
        "reason": None,
        "hint": None,
        "is_decided": True,
        "outcome": "result",
        "status": "exited",
        "exit_code": 0,
        "detail": None,
        "executor": peer_text(OTHER),
        "executor_name": "kitchen",
        "attempts": 1,
        "module": "m" * 52,
        "durability": "local",
        "output_digest": "d" * 52,
        "fuel_used": 123_456,
        "run_us": 12_300,
        "submitted_wall_us": 1_790_000_000_000_000,
        "decided_wall_us": 1_790_000_000_100_000,
    }
    return TaskView(**{**fields, **changes})  # type: ignore[arg-type]  # the fields of a test


def pending_view(**changes: object) -> TaskView:
    """Return a task that nobody has begun."""
    waiting: dict[str, object] = {
        "state": "pending",
        "reason": "no_free_slot",
        "is_decided": False,
        "outcome": None,
        "status": None,
        "exit_code": None,
        "executor": None,
        "executor_name": None,
        "output_digest": None,
        "fuel_used": None,
        "run_us": None,
        "decided_wall_us": None,
    }
    return task_view(**{**waiting, **changes})


def accepted() -> Accepted:
    """Return the acceptance of one task."""
    return Accepted(
        batch=BATCH,
        tasks=[TASK],
        durability="local",
        durability_reason="fewer than three devices are reachable",
        stewards=[peer_text(SELF)],
    )


def found() -> Found:
    """Return that the kitchen has what was looked for."""
    return Found(capabilities=["cpu:4"], source="local", peers=[peer_view()], closest=[])


def invited() -> Invited:
    """Return an invitation."""
    return Invited(
        token="meshd1abcdef",
        command="meshd start --join meshd1abcdef",
        roles=["executor"],
        uses=1,
        ttl_us=86_400_000_000,
        addresses=["/ip4/127.0.0.1/tcp/4001"],
    )


def removal_view(**changes: object) -> RemovalView:
    """Return that the kitchen, an admin, was removed."""
    fields: dict[str, object] = {
        "id": peer_text(OTHER),
        "name": "kitchen",
        "is_done": True,
        "is_admin": True,
        "is_final": False,
        "is_by_recovery_key": False,
        "certificates_kept": ["hall"],
        "certificates_void": [],
        "removals_kept": 1,
        "removals_void": 0,
        "removals": 4,
    }
    return RemovalView(**{**fields, **changes})  # type: ignore[arg-type]  # the fields of a test


def task_list() -> TaskList:
    """Return two tasks, the newer one waiting."""
    return TaskList(
        tasks=[pending_view(), task_view(id=TASK.replace(".0.", ".1."), index=1)],
        is_truncated=False,
    )


def device_reasons() -> list[DeviceReason]:
    """Return that the kitchen would get a task, and that the desk lacks something."""
    return [
        DeviceReason(
            id=peer_text(OTHER),
            name="kitchen",
            is_self=False,
            place="first",
            rule=None,
            detail=None,
            change=None,
            share=0.75,
        ),
        DeviceReason(
            id=peer_text(SELF),
            name="desk",
            is_self=True,
            place="excluded",
            rule="capability_missing",
            detail="mem:4GiB",
            change="require less",
            share=0.0,
        ),
    ]


def plan_view(**changes: object) -> PlanView:
    """Return that the kitchen would get a task."""
    fields: dict[str, object] = {
        "tasks_count": 1,
        "strategy": "weighted",
        "device": peer_text(OTHER),
        "device_name": "kitchen",
        "reason": "kitchen is likeliest to get it, of 2 that could",
        "stewards": ["kitchen", "hall"],
        "devices": device_reasons(),
    }
    return PlanView(**{**fields, **changes})  # type: ignore[arg-type]  # the fields of a test


def why_view(**changes: object) -> WhyView:
    """Return that a task waits, as one tells that does not lead it."""
    fields: dict[str, object] = {
        "task": pending_view(),
        "told_by": peer_text(SELF),
        "told_by_name": "desk",
        "is_current": False,
        "reason": "pending: no_free_slot",
        "hint": None,
        "stewards": [
            StewardReason(id=peer_text(SELF), name="desk", state="self", is_leading=False),
            StewardReason(id=peer_text(OTHER), name="kitchen", state="not_linked", is_leading=True),
        ],
        "devices": device_reasons(),
    }
    return WhyView(**{**fields, **changes})  # type: ignore[arg-type]  # the fields of a test
