"""Real daemons that remove each other: who serves whom, what each says, and who comes back."""

from __future__ import annotations

import json
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest
from msgspec.structs import replace
from support.daemons import Daemons, Device, await_linked, await_ready, meshctl, until
from support.secrets_kept import find

from meshd.home import Home
from meshd.membership import MembershipRow, load_membership
from meshd.recovery_key import seed_of_recovery_text
from meshd.store import Store
from p2p.network_keys import NetworkKeyRow
from wire.codec import Decoder
from wire.keys import Ed25519Verifier
from wire.signed import encode_body

HEARD_S_MAX = 20.0  # on two busy cores; it takes a fraction of a second


@pytest.fixture(scope="module")
def four(daemons: Daemons) -> list[Device]:
    """Return the founder, an admin it let in, one that this admin let in, and another admin."""
    attic = daemons.start("attic")
    await_ready(attic)
    (garage,) = daemons.start_joined(attic, ["garage"])
    (shed,) = daemons.start_joined(garage, ["shed"])
    (porch,) = daemons.start_joined(attic, ["porch"])
    await_linked(attic, garage, shed, porch)
    return [attic, garage, shed, porch]


def state_of(device: Device, name: str) -> str | None:
    peer = device.peers().get(name)
    return None if peer is None else str(peer["state"])


def await_state(device: Device, name: str, state: str | None) -> None:
    until(
        lambda: state_of(device, name) == state or None,
        f"{device.name} does not see {name} as {state}",
        device,
        within_s=HEARD_S_MAX,
    )


def warnings_of(device: Device) -> str:
    return " ".join(device.ask("status")["warnings"])


def removed(device: Device, name: str, *flags: str) -> dict[str, object]:
    ended = meshctl(device.home, "--output", "json", "remove", name, "--yes", *flags)
    assert ended.returncode == 0, ended.stderr
    view: dict[str, object] = json.loads(ended.stdout)
    return view


def await_warning(device: Device, text: str) -> None:
    until(
        lambda: text in warnings_of(device) or None,
        f"{device.name} does not warn: {text}",
        device,
        within_s=HEARD_S_MAX,
    )


def test_a_removal_without_yes_and_of_oneself_is_refused(four: list[Device]) -> None:
    attic, *_ = four
    asked = meshctl(attic.home, "remove", "porch")
    assert (asked.returncode, "--yes" in asked.stderr) == (2, True)
    oneself = meshctl(attic.home, "remove", "attic", "--yes")
    assert (oneself.returncode, "itself" in oneself.stderr) == (1, True)
    assert state_of(attic, "porch") == "linked"


def test_the_recovery_key_leaves_the_home_for_a_file_and_no_copy_stays(
    four: list[Device], tmp_path: Path
) -> None:
    attic, garage, *_ = four
    assert "recovery key of the mesh is still in this home" in warnings_of(attic)
    assert "recovery key" not in warnings_of(garage)
    file = attic.home.parent / "recovery.key"
    copy = b"".join(path.read_bytes() for path in files_of(attic))
    taken = meshctl(attic.home, "recovery-key", "--to", str(file))
    assert taken.returncode == 0, taken.stderr
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    seed = seed_of_recovery_text(file.read_text())
    assert seed in copy, "this test looks where the key was"
    assert "recovery key" not in warnings_of(attic)
    for path in files_of(attic):
        assert find({"seed": seed}, path.read_bytes()) == [], path
    assert find({"seed": seed}, attic.log.read_bytes()) == []
    again = meshctl(attic.home, "recovery-key", "--to", str(tmp_path / "again"))
    assert (again.returncode, "any more" in again.stderr) == (1, True)
    never = meshctl(garage.home, "recovery-key", "--to", str(tmp_path / "never"))
    assert (never.returncode, "another device founded" in never.stderr) == (1, True)


def test_a_removed_device_is_served_by_nobody_and_says_so(
    four: list[Device], daemons: Daemons
) -> None:
    attic, garage, shed, porch = four
    shed.kill()  # it is off while the others hear of it
    view = removed(garage, "porch")
    assert not view["is_final"], "both were let in by the founder"
    for device in (attic, garage):
        await_state(device, "porch", "removed")
    await_warning(porch, "removed from the mesh by garage")
    status = porch.ask("status")
    assert status["is_removed"]
    until(lambda: porch.ask("status")["links"] == 0 or None, "somebody is linked", porch)
    # What was off hears of it with its first link, and what was removed is refused after a restart.
    porch.stop()
    daemons.restart(porch)
    daemons.restart(shed)
    await_ready(porch, shed)
    await_state(shed, "porch", "removed")
    await_warning(porch, "removed from the mesh by")  # nobody told it the names again
    assert porch.ask("status")["links"] == 0
    again = meshctl(attic.home, "remove", porch.id, "--yes")
    assert again.returncode == 0, "the founder outranks who removed it: now it is for good"


def test_a_device_whose_papers_are_void_comes_back_with_those_of_another_admin(
    four: list[Device], daemons: Daemons
) -> None:
    attic, garage, shed, _ = four
    view = removed(attic, "garage", "--void-papers")
    assert view["certificates_void"] == ["shed"]
    assert view["is_final"]
    await_warning(shed, "certificate of this device is void")
    await_state(attic, "garage", "removed")
    await_state(attic, "shed", None)
    token = attic.invite()
    before = shed.id
    shed.stop()
    rejoin(daemons, shed, token)
    await_ready(shed)
    await_linked(attic, shed)
    assert shed.id == before
    assert "void" not in warnings_of(shed)
    # A removed device is not let in again in the same home.
    garage.stop()
    rejoin(daemons, garage, attic.invite())
    until(lambda: not garage.is_running or None, "garage was let in again", within_s=60)
    assert "removed from mesh" in garage.log.read_text()


def test_the_recovery_key_removes_the_founder_from_any_device(four: list[Device]) -> None:
    attic, _, shed, _ = four
    key = attic.home.parent / "recovery.key"
    wrong = attic.home.parent / "wrong.key"
    wrong.write_text(key.read_text().splitlines()[-1][:-3])
    refused = meshctl(shed.home, "remove", "attic", "--yes", "--recovery-key", str(wrong))
    assert refused.returncode != 0
    view = removed(shed, "attic", "--recovery-key", str(key))
    assert (view["is_final"], view["is_by_recovery_key"]) == (True, True)
    await_warning(attic, "removed from the mesh by the recovery key")
    await_state(shed, "attic", "removed")
    assert shed.ask("status")["is_removed"] is False, "what the founder let in was kept by name"


def files_of(device: Device) -> list[Path]:
    """Return all files in a home but its cache of programs."""
    cache = Home(device.home).cache
    found = (path for path in device.home.rglob("*") if not path.is_relative_to(cache))
    return [path for path in found if path.is_file()]


def rejoin(daemons: Daemons, device: Device, token: str) -> None:
    """Start a daemon that ended again, with an invitation."""
    file = device.home.parent / f"{device.name}.invitation"
    file.write_text(token)
    flags = device.flags
    device.flags = (*flags, "--join", f"@{file}")
    daemons.restart(device)
    device.flags = flags


# --- two meshes on one host -----------------------------------------------------------------


def test_two_meshes_on_one_host_do_not_disturb_each_other(tmp_path: Path) -> None:
    with Daemons(tmp_path) as daemons:
        mine, yours = daemons.start("mine"), daemons.start("yours")
        await_ready(mine, yours)
        (my_second,) = daemons.start_joined(mine, ["my-second"])
        (your_second,) = daemons.start_joined(yours, ["your-second"])
        await_linked(mine, my_second)
        await_linked(yours, your_second)
        assert mine.ask("status")["mesh"] != yours.ask("status")["mesh"]
        assert set(mine.peers()) == {"mine", "my-second"}
        assert set(your_second.peers()) == {"yours", "your-second"}
        assert len({device.port for device in (mine, yours, my_second, your_second)}) == 4
        # At an address that one mesh remembers, a device of the other is not taken for a member.
        address = my_second.address
        my_second.kill()
        your_second.stop()
        daemons.restart(your_second, listen=address)
        await_ready(your_second)
        await_linked(yours, your_second)
        removed(yours, "your-second")
        await_state(yours, "your-second", "removed")
        await_state(mine, "my-second", "dead")
        assert set(mine.peers()) == {"mine", "my-second"}
        assert warnings_of(mine).count("removed") == 0


def test_the_papers_of_a_home_hold_no_removals_of_a_join(four: list[Device]) -> None:
    shed = four[2]
    shed.stop()
    store = Store.open(Home(shed.home).database)
    try:
        papers = load_membership(store)
        rows = store.load_all(("removal",))["removal"]
    finally:
        store.close()
    assert papers is not None
    assert papers.removals == ()
    assert len(rows) >= 3


# --- another network key --------------------------------------------------------------------


def test_a_rolled_network_key_reaches_members_and_those_who_were_away(tmp_path: Path) -> None:
    with Daemons(tmp_path) as daemons:
        attic = daemons.start("attic")
        await_ready(attic)
        garage, shed = daemons.start_joined(attic, ["garage", "shed"])
        await_linked(attic, garage, shed)
        old = key_of(attic)
        invited_before = attic.invite()
        shed.stop()  # away for less than a week
        rolled = meshctl(garage.home, "--output", "json", "rekey")
        assert rolled.returncode == 0, rolled.stderr
        assert json.loads(rolled.stdout)["generation"] == 1
        until(lambda: key_of(attic) != old or None, "the key did not come", attic, within_s=20)
        assert key_of(attic) == key_of(garage)
        # What comes back has the old key, what starts again has both.
        daemons.restart(shed)
        garage.stop()
        daemons.restart(garage)
        await_ready(shed, garage)
        await_linked(attic, garage, shed)
        until(lambda: key_of(shed) == key_of(attic) or None, "shed has the old", shed, within_s=30)
        # Old and new invitations let devices in.
        late = daemons.start("late", join=invited_before)
        new = daemons.start("new", join=attic.invite())
        await_ready(late, new)
        await_linked(attic, late, new)
        # Who was away for longer has a key that nobody accepts any more.
        shed.stop()
        set_key(shed, old)
        assert meshctl(attic.home, "rekey").returncode == 0
        for device in (garage, late, new):
            until(
                lambda device=device: key_of(device) == key_of(attic) or None,  # type: ignore[misc]
                f"{device.name} has an old key",
                device,
                within_s=30,
            )
        stopped = (attic, garage, late, new)
        for device in stopped:
            where = device.address
            device.stop()
            forget_previous(device)
            daemons.restart(device, listen=where)
        await_ready(*stopped)
        await_linked(*stopped)
        daemons.restart(shed)
        await_ready(shed)
        failing = "another network key"
        until(lambda: failing in shed.log.read_text() or None, "shed dials nobody", shed)
        assert shed.ask("status")["links"] == 0
        shed.stop()
        rejoin(daemons, shed, attic.invite())
        await_ready(shed)
        await_linked(attic, shed)
        # Started with the first invitation again, as a service may be, it keeps the later key.
        shed.stop()
        rejoin(daemons, shed, invited_before)
        await_ready(shed)
        await_linked(attic, shed)


def row_of(device: Device) -> NetworkKeyRow:
    with closing(sqlite3.connect(f"file:{Home(device.home).database}?mode=ro", uri=True)) as found:
        query = "SELECT body FROM records WHERE kind = ?"
        row = found.execute(query, ("network_key",)).fetchone()
        papers = found.execute(query, ("membership",)).fetchone()
    if row is not None:
        return Decoder(NetworkKeyRow, Ed25519Verifier()).decode(bytes(row[0]))
    founded = Decoder(MembershipRow, Ed25519Verifier()).decode(bytes(papers[0]))
    return NetworkKeyRow(key=founded.network_key)


def keys_of(device: Device) -> tuple[bytes, ...]:
    return row_of(device).keys


def key_of(device: Device) -> bytes:
    return keys_of(device)[0]


def write_row(device: Device, row: NetworkKeyRow) -> None:
    with closing(sqlite3.connect(Home(device.home).database)) as found:
        found.execute("UPDATE records SET body = ? WHERE kind = 'network_key'", (encode_body(row),))
        found.commit()


def set_key(device: Device, key: bytes) -> None:
    """Let a device that does not run have slept since before the key was rolled."""
    write_row(device, NetworkKeyRow(key=key))


def forget_previous(device: Device) -> None:
    """Let a week pass for a device that does not run."""
    write_row(device, replace(row_of(device), previous=None, previous_left_us=0))
