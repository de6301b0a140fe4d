"""A simulated host carries out every effect, and only for the boot that wanted it."""

from __future__ import annotations

import pytest
from msgspec import Struct
from support.scripted_nodes import Stage

from simulations.crypto import seal_repeatably
from simulations.discovery import Discovery
from simulations.disk import DiskFate
from simulations.engine import US_PER_S
from simulations.errors import InvariantBroken, NodeRaised, UnknownEffect
from simulations.sandbox import Program, module_of, output_of
from simulations.world import WorldSettings
from wire.answers import RefusalCode, Refused
from wire.blobs import BlobRef, blob_ref
from wire.commands import GetStatus
from wire.content import (
    Content,
    Invocation,
    digest_key,
    input_purpose,
    open_content,
    output_digest,
    output_purpose,
)
from wire.effects import (
    Answer,
    Effect,
    Execute,
    Fetch,
    FindProviders,
    Kill,
    Load,
    Offer,
    OutputCheck,
    Persist,
    Provide,
    Publish,
    Release,
    Row,
    RunId,
    SetTimer,
    Trace,
    Withdraw,
)
from wire.events import (
    Event,
    Executed,
    ExecutionFailed,
    Fetched,
    FetchFailed,
    Loaded,
    PersistFailed,
    ProvidersFound,
    PublishedReceived,
    Restarted,
    TimerDue,
    TransferMeasured,
)
from wire.execution import ExecutionFailure, ExecutionStatus
from wire.ids import BatchId
from wire.limits import Limits
from wire.messages import RecordsGiven
from wire.signed import encode_body
from wire.tasks import Epoch

BATCH_KEY = b"k" * 32
RUN = RunId(BatchId(b"b" * 20), 0, Epoch(0, 1, 0), 1)
REFUSED = Refused(code=RefusalCode.REFUSED, message="no")


class Note(Struct, frozen=True):
    text: str


def note(key: bytes, text: str = "") -> Row:
    return Row("note", key, Note(text))


@pytest.fixture
def stage() -> Stage:
    set_up = Stage(WorldSettings(seed=5, discovery=Discovery.SEEDS))
    set_up.forget()
    return set_up


def heard(stage: Stage, node: int, *kinds: type[Event]) -> list[Event]:
    return [event for event in stage.nodes[node].events() if isinstance(event, kinds)]


# Timers and clocks.


def test_a_timer_rings_once_and_setting_its_key_again_replaces_it(stage: Stage) -> None:
    stage.want(0, SetTimer("a", 100), SetTimer("b", 50), SetTimer("a", 300))
    stage.world.run_for(299)
    assert stage.nodes[0].events() == [TimerDue("b")]
    stage.world.run_for(US_PER_S)
    assert stage.nodes[0].events() == [TimerDue("b"), TimerDue("a")]


def test_timers_of_a_dead_process_never_ring(stage: Stage) -> None:
    stage.want(0, SetTimer("a", US_PER_S))
    stage.world.crash(0, DiskFate.KEEP)
    stage.world.start(0)
    stage.world.run_for(2 * US_PER_S)
    assert [type(event) for event in stage.nodes[0].events()] == [Restarted]


def test_each_boot_has_a_clock_of_its_own_that_runs_at_the_same_speed(stage: Stage) -> None:
    origins = []
    for _ in range(2):
        stage.want(0, SetTimer("a", 1_000))
        (began_us, _), *_ = stage.nodes[0].heard
        stage.world.run_for(1_000)
        ended_us, _ = stage.nodes[0].heard[-1]
        assert ended_us - began_us == 1_000
        origins.append(began_us - stage.world.engine.now_us)
        stage.world.crash(0, DiskFate.KEEP)
        stage.world.start(0)
        stage.forget()
    assert origins[0] != origins[1]


# The store.


def test_what_waits_for_the_disk_is_done_when_the_rows_are_durable(stage: Stage) -> None:
    stage.want(0, Persist((note(b"a"),), (SetTimer("durable", 0),)))
    assert stage.world.hosts[0].disk.rows() == ()
    assert stage.nodes[0].events() == []
    stage.world.run_for(10_000)
    assert stage.world.hosts[0].disk.rows() == (note(b"a"),)
    assert stage.nodes[0].events() == [TimerDue("durable")]


def test_a_crash_before_the_sync_undoes_the_promise_with_the_rows(stage: Stage) -> None:
    stage.want(0, Persist((note(b"a"),), (SetTimer("durable", 0),)))
    stage.world.crash(0, DiskFate.LOSE_UNSYNCED)
    stage.world.start(0)
    stage.world.run_for(US_PER_S)
    [restarted] = stage.nodes[0].events()
    assert isinstance(restarted, Restarted)
    assert restarted.rows == ()


def test_a_restart_gives_the_rows_and_the_store_and_a_lost_disk_another_store(stage: Stage) -> None:
    stage.want(0, Persist((note(b"b"), note(b"a"))))
    stage.world.run_for(10_000)
    store = stage.world.hosts[0].disk.store
    stage.world.crash(0, DiskFate.KEEP)
    stage.world.start(0)
    assert stage.nodes[0].events() == [Restarted(store=store, rows=(note(b"b"), note(b"a")))]
    stage.world.crash(0, DiskFate.LOSE_ALL)
    stage.world.start(0)
    [restarted] = stage.nodes[0].events()
    assert isinstance(restarted, Restarted)
    assert restarted.rows == ()
    assert restarted.store != store


def test_a_full_disk_fails_every_write_until_a_restart(stage: Stage) -> None:
    stage.world.fill_disk(0)
    stage.want(0, Persist((note(b"a"),), (SetTimer("durable", 0),)))
    stage.world.run_for(US_PER_S)
    stage.world.free_disk(0)
    stage.want(0, Persist((note(b"b"),), (SetTimer("durable", 0),)))
    stage.world.run_for(US_PER_S)
    assert [type(event) for event in stage.nodes[0].events()] == [PersistFailed, PersistFailed]
    stage.world.crash(0, DiskFate.KEEP)
    stage.world.start(0)
    stage.want(0, Persist((note(b"c"),)))
    stage.world.run_for(US_PER_S)
    assert stage.world.hosts[0].disk.rows() == (note(b"c"),)


def test_rows_can_be_loaded_newest_first(stage: Stage) -> None:
    stage.want(0, Persist((note(b"x1"), note(b"y"), note(b"x2"))))
    stage.world.run_for(10_000)
    stage.want(0, Load("note", b"x", 5, "token"))
    stage.world.run_for(10_000)
    assert stage.nodes[0].events() == [Loaded("token", (note(b"x2"), note(b"x1")))]


# The process.


def test_a_frozen_process_does_everything_when_it_is_thawed(stage: Stage) -> None:
    stage.want(0, SetTimer("a", 100), Persist((note(b"a"),), (SetTimer("durable", 0),)))
    stage.world.freeze(0)
    stage.world.run_for(US_PER_S)
    assert stage.nodes[0].events() == []
    stage.world.thaw(0)
    stage.world.run_for(0)
    assert stage.nodes[0].events() == [TimerDue("a"), TimerDue("durable")]


def test_what_was_under_way_when_a_frozen_process_died_never_comes(stage: Stage) -> None:
    stage.want(0, SetTimer("a", 100))
    stage.world.freeze(0)
    stage.world.run_for(US_PER_S)
    stage.world.crash(0, DiskFate.KEEP)
    stage.world.start(0)
    stage.world.run_for(US_PER_S)
    assert [type(event) for event in stage.nodes[0].events()] == [Restarted]


def test_an_unknown_effect_is_an_error_with_the_seed(stage: Stage) -> None:
    class Dream(Struct):
        pass

    dream: Effect = Dream()  # type: ignore[assignment]
    with pytest.raises(UnknownEffect, match="Dream"):
        stage.want(0, dream)


def test_what_a_node_raises_says_where_and_how_to_repeat_it(stage: Stage) -> None:
    def fail(event: Event, now_us: int) -> list[Effect]:
        raise LookupError("lost")

    stage.want(0, SetTimer("a", 7))
    stage.nodes[0].handle = fail  # type: ignore[method-assign]
    with pytest.raises(NodeRaised, match="TimerDue made device-0 raise LookupError") as raised:
        stage.world.run_for(US_PER_S)
    assert any("seed 5; repeat:" in line for line in raised.value.__notes__)


# Requests.


def test_answers_are_collected_by_request_and_none_may_follow_the_last(stage: Stage) -> None:
    request = stage.world.ask(0, GetStatus())
    stage.want(0, Answer(request.number, REFUSED, is_last=False))
    stage.want(0, Answer(request.number, REFUSED))
    assert request.parts == [REFUSED, REFUSED]
    assert request.is_done
    with pytest.raises(InvariantBroken, match="after its last"):
        stage.want(0, Answer(request.number, REFUSED))


def test_nobody_answers_what_another_device_or_an_earlier_boot_was_asked(stage: Stage) -> None:
    request = stage.world.ask(0, GetStatus())
    with pytest.raises(InvariantBroken, match="nobody asked"):
        stage.want(1, Answer(request.number, REFUSED))
    stage.world.crash(0, DiskFate.KEEP)
    assert request.is_lost
    stage.world.start(0)
    with pytest.raises(InvariantBroken, match="nobody asked"):
        stage.want(0, Answer(request.number, REFUSED))


def test_traces_are_written_down(stage: Stage) -> None:
    stage.want(2, Trace("cat.slept", {"hours": 18}))
    assert any('"node":2' in line and '"hours":18' in line for line in stage.world.trace.lines())


# Blobs.


def blob_content(stage: Stage, node: int, content: bytes) -> Content:
    return Content(blob=stage.world.hosts[node].blobs.put(content))


def test_a_blob_is_fetched_from_the_first_source_that_has_it_and_measured(stage: Stage) -> None:
    content = blob_content(stage, 2, b"x" * 1_000_000)
    stage.want(0, Fetch(content, (stage.peer(1), stage.peer(2)), "token"))
    stage.world.run_for(US_PER_S)
    assert heard(stage, 0, Fetched) == [Fetched("token")]
    assert content.blob is not None
    assert stage.world.hosts[0].blobs.get(content.blob) == b"x" * 1_000_000
    [measured] = heard(stage, 0, TransferMeasured)
    assert isinstance(measured, TransferMeasured)
    assert (measured.peer, measured.received_bytes) == (stage.peer(2), 1_000_000)
    assert measured.duration_us > 80_000  # a megabyte at 12.5 MB/s


def test_a_blob_that_nobody_has_or_that_is_cut_off_is_not_fetched(stage: Stage) -> None:
    content = blob_content(stage, 2, b"x" * 12_500_000)
    missing = Content(blob=blob_ref(b"nowhere"))
    stage.want(0, Fetch(missing, (stage.peer(1),), "missing"))
    stage.want(0, Fetch(content, (stage.peer(2),), "cut"))
    stage.world.run_for(US_PER_S // 2)
    stage.world.isolate(2)
    stage.world.run_for(20 * US_PER_S)
    failed = heard(stage, 0, FetchFailed)
    assert [event.token for event in failed if isinstance(event, FetchFailed)] == ["missing", "cut"]


def test_an_output_is_checked_when_it_is_fetched(stage: Stage) -> None:
    host = stage.world.hosts[0]
    sealed = seal_repeatably(b"output", batch_key=BATCH_KEY, purpose=output_purpose(3))
    box = stage.world.hosts[1].device.signer.seal(BATCH_KEY, host.peer)
    good = output_digest(b"output", key=digest_key(BATCH_KEY))
    bad = output_digest(b"other", key=digest_key(BATCH_KEY))
    for digest in (good, bad):
        check = OutputCheck(box, 3, digest)
        stage.want(0, Fetch(Content(inline=sealed), (), digest, check))
    stage.world.run_for(US_PER_S)
    fetched, failed = stage.nodes[0].events()
    assert fetched == Fetched(good)
    assert isinstance(failed, FetchFailed)
    assert failed.is_wrong


def test_blobs_stay_as_long_as_somebody_keeps_them(stage: Stage) -> None:
    blobs = stage.world.hosts[0].blobs
    kept, dropped = blobs.put(b"kept"), blobs.put(b"dropped")
    stage.want(0, Offer(kept, b"one"), Offer(kept, b"two"), Release(b"one"))
    stage.world.crash(0, DiskFate.KEEP)
    stage.world.start(0)
    assert (blobs.get(kept), blobs.get(dropped)) == (b"kept", None)
    stage.want(0, Release(b"two"))
    assert blobs.get(kept) is None


# Programs.


def execute(stage: Stage, module: BlobRef, text: bytes, *, limits: Limits | None = None) -> Execute:
    host = stage.world.hosts[0]
    plaintext = encode_body(Invocation(stdin=text))
    sealed = seal_repeatably(plaintext, batch_key=BATCH_KEY, purpose=input_purpose(RUN.index))
    return Execute(
        run=RUN,
        module=module,
        input=Content(inline=sealed),
        sources=(stage.peer(1),),
        box=host.device.signer.seal(BATCH_KEY, host.peer),
        limits=limits or Limits(),
        seed=b"",
    )


def test_a_program_puts_out_what_it_must_wherever_its_module_comes_from(stage: Stage) -> None:
    program = Program(work_us=US_PER_S, exit_code=3)
    module = stage.world.hosts[1].blobs.put(module_of(program))
    stage.want(0, execute(stage, module, b"input"))
    stage.world.run_for(3 * US_PER_S)
    [executed] = heard(stage, 0, Executed)
    assert isinstance(executed, Executed)
    assert (executed.status, executed.exit_code) == (ExecutionStatus.EXITED, 3)
    assert executed.output.inline is not None
    output = open_content(executed.output.inline, batch_key=BATCH_KEY, purpose=output_purpose(0))
    plaintext = encode_body(Invocation(stdin=b"input"))
    assert output == output_of(module_of(program), plaintext, 0)
    assert executed.output_digest == output_digest(output, key=digest_key(BATCH_KEY))
    assert US_PER_S // 2 <= executed.wall_us <= 2 * US_PER_S


@pytest.mark.parametrize(
    ("limits", "status"),
    [
        (Limits(wall_us=1_000), ExecutionStatus.OUT_OF_TIME),
        (Limits(fuel=1_000), ExecutionStatus.OUT_OF_FUEL),
        (Limits(output_bytes=10), ExecutionStatus.OUT_OF_OUTPUT),
    ],
)
def test_limits_end_programs(stage: Stage, limits: Limits, status: ExecutionStatus) -> None:
    module = stage.world.hosts[0].blobs.put(module_of(Program()))
    stage.want(0, execute(stage, module, b"", limits=limits))
    stage.world.run_for(3 * US_PER_S)
    [executed] = heard(stage, 0, Executed)
    assert isinstance(executed, Executed)
    assert executed.status is status


def test_what_cannot_run_says_why(stage: Stage) -> None:
    blobs = stage.world.hosts[0].blobs
    no_wasm, fine = blobs.put(b"GIF89a"), blobs.put(module_of(Program()))
    foreign = execute(stage, fine, b"")
    theirs = stage.world.hosts[1].device.signer.seal(BATCH_KEY, stage.peer(1))
    foreign = Execute(
        run=RUN,
        module=fine,
        input=foreign.input,
        sources=(),
        box=theirs,
        limits=Limits(),
        seed=b"",
    )
    for wanted in (execute(stage, no_wasm, b""), execute(stage, blob_ref(b"?"), b""), foreign):
        stage.want(0, wanted)
        stage.world.run_for(US_PER_S)
    reasons = [
        event.reason for event in stage.nodes[0].events() if isinstance(event, ExecutionFailed)
    ]
    assert reasons == [
        ExecutionFailure.NOT_WASM,
        ExecutionFailure.MODULE_MISSING,
        ExecutionFailure.INPUT_UNREADABLE,
    ]


def test_a_killed_run_is_never_heard_of_and_frees_its_worker(stage: Stage) -> None:
    module = stage.world.hosts[0].blobs.put(module_of(Program(work_us=US_PER_S)))
    stage.want(0, execute(stage, module, b""))
    stage.world.run_for(100_000)
    assert stage.world.hosts[0].runs_count == 1
    stage.want(0, Kill(RUN))
    stage.world.run_for(5 * US_PER_S)
    assert stage.world.hosts[0].runs_count == 0
    assert stage.nodes[0].events() == []


# Publication and lookups.


def test_a_publication_reaches_whoever_is_linked_by_any_way(stage: Stage) -> None:
    stage.link(0, 1)
    stage.link(1, 2)
    records = RecordsGiven(records=())
    stage.want(0, Publish("topic", records))
    stage.world.run_for(US_PER_S)
    assert [heard(stage, node, PublishedReceived) for node in (0, 1, 2)] == [
        [],
        [PublishedReceived(records)],
        [PublishedReceived(records)],
    ]
    stage.world.isolate(2)
    stage.forget()
    stage.want(0, Publish("topic", records))
    stage.world.run_for(US_PER_S)
    assert heard(stage, 2, PublishedReceived) == []


def providers(stage: Stage, node: int) -> list[str]:
    stage.forget()
    stage.want(node, FindProviders("cpu:8", "token"))
    stage.world.run_for(US_PER_S)
    [found] = heard(stage, node, ProvidersFound)
    assert isinstance(found, ProvidersFound)
    names = {host.peer: host.device.name for host in stage.world.hosts}
    return [names[provider.peer] for provider in found.providers]


def test_a_provider_is_found_after_a_while_and_still_after_it_has_gone(stage: Stage) -> None:
    stage.want(1, Provide("cpu:8"))
    assert providers(stage, 0) == []
    stage.world.run_for(US_PER_S)
    assert providers(stage, 0) == ["device-1"]
    stage.want(1, Withdraw("cpu:8"))
    stage.world.crash(1, DiskFate.LOSE_ALL)
    assert providers(stage, 0) == ["device-1"]
    stage.world.run_for(1_300 * US_PER_S)
    assert providers(stage, 0) == []


def test_a_lookup_sees_what_its_side_of_a_split_holds(stage: Stage) -> None:
    stage.world.isolate(0)
    stage.want(1, Provide("cpu:8"))
    stage.world.run_for(2 * US_PER_S)
    assert providers(stage, 0) == []
    assert providers(stage, 2) == ["device-1"]
