"""A device's own records: never two of one version, never rolled back, durable before signed."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st
from support.meshes import Device, small_mesh
from support.records import directory_of, presence_of, telemetry_of

from p2p.directory import Directory
from p2p.own_records import (
    INCARNATION_MAX,
    INCARNATION_ROW,
    RAISE_EVERY_US,
    IncarnationDurable,
    IncarnationRow,
    OwnRecords,
    RaiseDue,
)
from telemetry.publication import INTERVAL_US_MIN, REFRESH_US_MIN
from telemetry.sample import Sample
from wire.codec import Decoder
from wire.effects import Effect, Persist, SetTimer
from wire.ids import PeerId, StoreId
from wire.keys import Ed25519Verifier
from wire.records import (
    Observations,
    Presence,
    ProtocolRange,
    Record,
    RecordKind,
    Watch,
    decode_capabilities,
    decode_presence,
)
from wire.signed import Signed, encode_body

MESH = small_mesh(2)
OWN = MESH.devices[0]
ADDRESS = "/ip4/192.0.2.7/tcp/4001"
STEPS = ("start", "write", "sample", "telemetry", "addresses", "hear", "lose disk")
PRESENCE = Presence(
    name="device", node_type="edge", protocol=ProtocolRange(1, 1), store=StoreId(b"s" * 16)
)


@dataclass
class Bench:
    """One device over several starts, with the disk under its incarnation."""

    device: Device = OWN
    now_us: int = 0
    stored: int = 0
    under_way: list[Persist] = field(default_factory=list)
    signed: list[Signed[Record]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Begin a new life; what was not written is lost."""
        self.under_way.clear()
        self.directory: Directory = directory_of(MESH, self.device)
        self.own = OwnRecords(
            signer=self.device.keys,
            chain=self.device.chain,
            directory=self.directory,
            capabilities=("cpu:1",),
            presence=PRESENCE,
        )
        rows = [IncarnationRow(incarnation=self.stored)] if self.stored else []
        self.take(self.own.on_restarted(rows))

    def take(self, effects: list[Effect]) -> list[Effect]:
        """Begin the writes; return the rest."""
        self.under_way += [effect for effect in effects if isinstance(effect, Persist)]
        return [effect for effect in effects if not isinstance(effect, Persist)]

    def write(self) -> tuple[Signed[Record], ...]:
        """Let all writes end; return what is signed then."""
        spread: tuple[Signed[Record], ...] = ()
        while self.under_way:
            persist = self.under_way.pop(0)
            [row] = persist.rows
            assert row.kind == INCARNATION_ROW
            assert isinstance(row.value, IncarnationRow)
            self.stored = row.value.incarnation
            [timer] = persist.then
            assert isinstance(timer, SetTimer)
            assert isinstance(timer.key, IncarnationDurable)
            spread += self.own.on_incarnation_durable(timer.key, now_us=self.now_us)
        self.signed += spread
        return spread

    def hear(self, incarnation: int, counter: int) -> list[Effect]:
        """Hear a record of this device from somebody else."""
        heard = telemetry_of(self.device, version=(incarnation, counter))
        return self.take(self.own.on_own_record_heard(heard.body, now_us=self.now_us))

    def sample(self, slots_free: int, *, after_us: int = 0) -> tuple[Signed[Record], ...]:
        self.now_us += after_us
        spread = self.own.on_sample(
            Sample(task_slots_free=slots_free), members_count=1, now_us=self.now_us
        )
        self.signed += spread
        return spread


def kinds(records: tuple[Signed[Record], ...]) -> list[str]:
    return [signed.body.kind for signed in records]


def versions(records: tuple[Signed[Record], ...]) -> list[tuple[int, int]]:
    return [signed.body.version for signed in records]


# --- starting -------------------------------------------------------------------------------


def test_nothing_is_signed_before_the_incarnation_is_durable() -> None:
    bench = Bench()
    assert bench.sample(1) == ()
    assert bench.own.on_addresses((ADDRESS,), now_us=0) == ()
    assert bench.own.on_stopping(now_us=0) == ()
    member = bench.directory.get(OWN.peer)
    assert member is not None
    assert member.records == {}


def test_once_durable_presence_and_capabilities_are_signed_with_what_happened_meanwhile() -> None:
    bench = Bench()
    bench.own.on_addresses((ADDRESS,), now_us=0)
    presence, capabilities = bench.write()
    assert decode_presence(presence.body.body).addresses == (ADDRESS,)
    assert decode_capabilities(capabilities.body.body).keys == ("cpu:1",)
    assert versions((presence, capabilities)) == [(1, 1), (1, 2)]
    assert bench.directory.record(OWN.peer, RecordKind.PRESENCE) == presence
    for signed in (presence, capabilities):
        received = encode_body(signed)
        assert Decoder(Signed[Record], Ed25519Verifier()).decode(received) == signed


def test_every_start_is_a_new_incarnation() -> None:
    bench = Bench()
    for expected in (1, 2, 3):
        assert bench.own.incarnation == expected
        bench.write()
        bench.start()


# --- hearing of oneself ---------------------------------------------------------------------


def test_a_device_that_lost_its_disk_rises_above_what_others_hold() -> None:
    bench = Bench()
    bench.write()
    bench.sample(1)
    bench.stored = 0
    bench.start()
    bench.write()
    bench.hear(7, 3)
    assert bench.own.incarnation == 8
    records = bench.write()
    assert kinds(records) == [RecordKind.PRESENCE, RecordKind.CAPABILITIES]
    assert {incarnation for incarnation, _ in versions(records)} == {8}
    bench.start()
    assert bench.own.incarnation == 9


def test_a_record_that_this_life_did_not_sign_is_outbid_even_at_its_own_incarnation() -> None:
    bench = Bench()
    bench.write()
    assert bench.hear(1, 2) == [], "our own word"
    bench.hear(1, 3)
    assert bench.own.incarnation == 2


def test_a_record_of_an_incarnation_not_durable_yet_is_none_of_ours() -> None:
    bench = Bench()
    bench.write()
    bench.sample(1)
    bench.hear(1, 9)
    assert bench.own.incarnation == 2
    bench.now_us += RAISE_EVERY_US
    bench.hear(2, 1)  # another device with our key, or an older disk of ours
    assert bench.own.incarnation == 3


def test_old_words_are_no_news() -> None:
    bench = Bench(stored=4)
    bench.write()
    for heard in ((1, 1), (4, 1_000), (5, 1)):
        assert bench.hear(*heard) == []
    assert bench.own.incarnation == 5


def test_all_that_was_said_is_signed_again_under_the_higher_incarnation() -> None:
    bench = Bench()
    bench.write()
    bench.sample(3)
    bench.own.on_watch(Watch(observers=(PeerId(b"p" * 32),)), now_us=bench.now_us)
    bench.own.on_observations(Observations(), now_us=bench.now_us)
    bench.hear(4, 1)
    assert sorted(kinds(bench.write())) == sorted(RecordKind)


def test_a_watch_waits_for_the_incarnation_that_is_not_durable_yet() -> None:
    bench = Bench()
    assert bench.own.on_watch(Watch(), now_us=bench.now_us) == ()
    assert RecordKind.WATCH in kinds(bench.write())
    [signed] = bench.own.on_watch(Watch(), now_us=bench.now_us)
    assert signed.body.kind == RecordKind.WATCH


def test_a_write_that_was_overtaken_signs_nothing() -> None:
    bench = Bench()
    bench.hear(5, 1)
    records = bench.write()
    assert {incarnation for incarnation, _ in versions(records)} == {6}


def test_two_devices_with_one_key_outbid_each_other_at_most_every_ten_seconds() -> None:
    one, other = Bench(), Bench()
    one.write()
    other.write()
    raised = 0
    for _ in range(60):
        for here, there in ((one, other), (other, one)):
            for signed in there.signed[-2:]:
                effects = here.take(here.own.on_own_record_heard(signed.body, now_us=here.now_us))
                timers = [effect for effect in effects if isinstance(effect, SetTimer)]
                assert all(0 < timer.after_us <= RAISE_EVERY_US for timer in timers)
            raised += len(here.under_way)
            here.write()
            here.now_us += 1_000_000
            here.sample(raised)
    assert 2 <= raised <= 2 * (1 + 60_000_000 // RAISE_EVERY_US)


def test_what_is_heard_in_the_pause_is_outbid_after_it() -> None:
    bench = Bench()
    bench.write()
    bench.hear(5, 1)
    bench.write()
    for incarnation in (9, 7):
        assert bench.hear(incarnation, 1) == [SetTimer(RaiseDue(), RAISE_EVERY_US)]
    bench.now_us += RAISE_EVERY_US
    bench.take(bench.own.on_raise_due(now_us=bench.now_us))
    assert bench.own.incarnation == 10
    bench.write()
    assert bench.own.on_raise_due(now_us=bench.now_us) == []


def test_the_highest_incarnation_there_is_stays_readable() -> None:
    bench = Bench()
    bench.write()
    bench.hear(INCARNATION_MAX, 1)
    for signed in bench.write():
        Decoder(Signed[Record], Ed25519Verifier()).decode(encode_body(signed))


# --- saying more ----------------------------------------------------------------------------


def test_new_addresses_are_told_once() -> None:
    bench = Bench()
    bench.write()
    [presence] = bench.own.on_addresses((ADDRESS,), now_us=0)
    assert presence.body.version == (1, 3)
    assert bench.own.on_addresses((ADDRESS,), now_us=0) == ()


def test_goodbye_is_said_and_said_again_if_the_incarnation_must_rise() -> None:
    bench = Bench()
    bench.write()
    [goodbye] = bench.own.on_stopping(now_us=0)
    assert decode_presence(goodbye.body.body).has_left
    bench.hear(5, 1)
    assert decode_presence(bench.write()[0].body.body).has_left


def test_telemetry_is_signed_when_it_says_something_new_but_not_too_often() -> None:
    bench = Bench()
    bench.write()
    assert kinds(bench.sample(8)) == [RecordKind.TELEMETRY]
    assert bench.sample(8, after_us=INTERVAL_US_MIN) == (), "nothing new"
    assert bench.sample(1, after_us=0) != ()
    assert bench.sample(8, after_us=1) == (), "too soon"
    assert bench.sample(1, after_us=REFRESH_US_MIN) != (), "its age says something"


def test_fresh_telemetry_while_an_incarnation_is_being_written_outranks_nothing() -> None:
    bench = Bench()
    first = bench.own.telemetry(Sample(), now_us=0)
    assert first.body.incarnation == 0
    bench.write()
    bench.hear(5, 1)
    while_raising = bench.own.telemetry(Sample(), now_us=0)
    assert while_raising.body.incarnation == 1
    bench.write()
    assert bench.own.telemetry(Sample(), now_us=0).body.incarnation == 6


# --- whatever happens -----------------------------------------------------------------------


@settings(max_examples=60)
@given(st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 12)), max_size=30))
def test_no_version_is_ever_signed_twice_unless_the_disk_was_lost(
    steps: list[tuple[str, int]],
) -> None:
    bench = Bench()
    seen: dict[tuple[str, tuple[int, int]], bytes] = {}
    for name, number in steps:
        bench.now_us += 7_000_000
        records: tuple[Signed[Record], ...] = ()
        match name:
            case "start":
                bench.start()
            case "write":
                records = bench.write()
            case "sample":
                records = bench.sample(number)
            case "telemetry":
                signed = bench.own.telemetry(Sample(task_slots_free=number), now_us=bench.now_us)
                records = (signed,) if signed.body.incarnation else ()
            case "addresses":
                records = bench.own.on_addresses((f"{ADDRESS}{number}",), now_us=bench.now_us)
            case "hear":
                bench.hear(number, number)
            case "lose disk":
                bench.stored = 0
                bench.start()
                seen.clear()
        for signed in records:
            assert 0 < signed.body.incarnation <= bench.stored, "not durable"
            known = seen.setdefault((signed.body.kind, signed.body.version), signed.received)
            assert known == signed.received


def test_the_presence_that_others_hold_is_the_newest_after_a_lost_disk() -> None:
    bench = Bench()
    old = presence_of(OWN, version=(9, 4), has_left=True)
    others = directory_of(MESH, MESH.devices[1])
    others.merge(old, OWN.chain, now_us=0)
    bench.write()
    bench.take(bench.own.on_own_record_heard(old.body, now_us=0))
    for signed in bench.write():
        others.merge(signed, OWN.chain, now_us=1)
    member = others.get(OWN.peer)
    assert member is not None
    assert not member.has_left
