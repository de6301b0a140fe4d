"""Members of a mesh who lie, repeat, mix up and overdo, each message well formed and well signed.

They know all that they were sent, and every message that one of them got may be used by another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import TypeVar

from support.linked import hello_of
from support.meshes import Device, SmallMesh
from support.records import capabilities_of, record_of
from support.tasks import ENGINE_PROFILE, contract_of, lease_of, proven_results, result_of, tasks_of
from support.victim import Victim

from telemetry.sample import Sample, encode_sample
from wire import effects as do
from wire import events as on
from wire.blobs import BlobRef, blob_ref
from wire.commands import (
    CancelTask,
    Command,
    GetReceipt,
    GetResult,
    GetTask,
    ListTasks,
    Submit,
    WaitBatch,
)
from wire.content import Content
from wire.execution import ExecutionFailure, ExecutionStatus
from wire.ids import BatchId, Digest, PeerId
from wire.limits import Limits
from wire.membership import JoinRequest
from wire.messages import (
    LINK_PROTOCOL,
    BucketSummary,
    BucketVersions,
    Heartbeat,
    HeartbeatAcknowledged,
    LeaseEnded,
    LeaseGranted,
    LeaseProgress,
    LeaseRef,
    Message,
    Offer,
    OfferAccepted,
    OfferRefusal,
    OfferRejected,
    OfferReleased,
    RecordsGiven,
    RecordsWanted,
    RecordVersion,
    ResultsOffered,
    Settled,
    StateSummary,
)
from wire.records import Presence, Record, RecordKind
from wire.signed import Signed, encode_body
from wire.tasks import Contract, Epoch, Outcome, OutcomeKind, ProvenTask, batch_id_of, prove_tasks

INCARNATION_MAX = (1 << 63) - 1
TASKS_MAX = 4
KEPT_MAX = 40  # of what may be said again

Move = Callable[[], None]
_Kind = TypeVar("_Kind", bound=Message)


class HostilePeers:
    """All devices of the victim's mesh but the victim, in one pair of hands."""

    def __init__(self, mesh: SmallMesh, victim: Victim, rng: Random) -> None:
        self.mesh = mesh
        self.victim = victim
        self.rng = rng
        self.devices = [one for one in mesh.devices if one.peer != victim.device.peer]
        self._said: list[Message] = []
        self._contracts: list[tuple[Signed[Contract], tuple[ProvenTask, ...]]] = []
        self._offered: dict[tuple[PeerId, int], Signed[Contract]] = {}
        self._request = 0

    def moves(self) -> list[Move]:
        """Return everything that they can do; the more often named the likelier."""
        return [
            self.come_or_go,
            self.take_offer,
            self.take_offer,
            self.refuse_offer,
            self.go_on,
            self.give_back,
            self.bring_results,
            self.bring_results,
            self.offer,
            self.offer,
            self.lease,
            self.lease,
            self.call_off,
            self.settle,
            self.tell_records,
            self.ask_for_records,
            self.say_again,
            self.ask_to_join,
            self.end_run,
            self.end_fetch,
            self.submit,
            self.ask,
            self.wait,
            self.wait,
        ]

    def arrive(self) -> None:
        """Link all of them, and let each say that it executes tasks."""
        for device in self.devices:
            self._link(device)
            records = (
                self._presence(device, (1, 1)),
                capabilities_of(device, f"profile:{ENGINE_PROFILE}"),
            )
            self.say(RecordsGiven(records=records, chains=(device.chain,)), device)

    def say(self, message: Message, sender: Device | None = None) -> None:
        """Let one of those who are linked say something."""
        linked = [one for one in self.devices if one.peer in self.victim.linked]
        if not linked:
            return
        if sender is None or sender not in linked or not self.rng.randrange(8):
            sender = self.rng.choice(linked)
        self._said.append(message)
        del self._said[:-KEPT_MAX]
        self.victim.handle(on.Received(sender.peer, message))

    # --- links ------------------------------------------------------------------------------

    def come_or_go(self) -> None:
        """Link, or end a link."""
        device = self.rng.choice(self.devices)
        if device.peer in self.victim.linked and not self.rng.randrange(3):
            self.victim.linked.discard(device.peer)
            self.victim.handle(on.LinkDown(device.peer, "it went"))
        elif device.peer not in self.victim.linked:
            self._link(device)

    def _link(self, device: Device) -> None:
        self.victim.linked.add(device.peer)
        hello = hello_of(self.mesh, device)
        self.victim.handle(on.LinkUp(peer=device.peer, hello=hello, address="", is_outbound=False))

    def say_again(self) -> None:
        """Repeat anything that anybody said, from anybody."""
        if self._said:
            self.say(self.rng.choice(self._said))

    # --- as executors -----------------------------------------------------------------------

    def take_offer(self) -> None:
        """Accept an offer, or one that there never was, for more tasks than were offered."""
        sender, offer = self._heard(Offer)
        number = offer.offer if offer is not None else self.rng.randrange(30)
        telemetry = self._telemetry(sender)
        count, wait_us = self.rng.choice([1, 2, 64]), self.rng.choice([0, 1 << 40])
        self.say(
            OfferAccepted(offer=number, tasks_count=count, wait_us=wait_us, telemetry=telemetry),
            sender,
        )

    def refuse_offer(self) -> None:
        """Refuse an offer for any reason."""
        sender, offer = self._heard(Offer)
        number = offer.offer if offer is not None else self.rng.randrange(30)
        reason = self.rng.choice(list(OfferRefusal))
        self.say(OfferRejected(offer=number, reason=reason, detail="\x1b[2J" * 3), sender)

    def go_on(self) -> None:
        """Renew leases, ours or not, and those that never were."""
        refs = [self._lease_ref() for _ in range(self.rng.randrange(1, 64))]
        self.say(LeaseProgress(leases=tuple(refs)))

    def give_back(self) -> None:
        """End a lease, or part of it, or tasks that are not in it."""
        sender, granted = self._heard(LeaseGranted)
        ref = self._lease_ref(granted)
        indices = tuple(self.rng.randrange(1_024) for _ in range(self.rng.randrange(3)))
        if granted is not None and self.rng.randrange(2):
            indices = granted.lease.body.indices[: self.rng.randrange(3)]
        reason = self.rng.choice(["", "I would rather not", *(f"{one}: x" for one in _FAILURES)])
        self.say(LeaseEnded(lease=ref, indices=indices, reason=reason), sender)

    def bring_results(self) -> None:
        """Offer results under a lease of the victim: true, false, of others, of no task."""
        _, granted = self._heard(LeaseGranted)
        if granted is None:
            return
        lease = granted.lease.body
        indices = [self.rng.choice(lease.indices) for _ in range(self.rng.randrange(1, 3))]
        if not self.rng.randrange(6):
            indices.append(self.rng.randrange(1_024))
        executor = next(one for one in self.devices if one.peer == lease.executor)
        results = [
            result_of(lease, index, b"out", batch_key=b"?" * 32, changes=self._result_changes())
            for index in indices
        ]
        signer = executor if self.rng.randrange(6) else self.rng.choice(self.devices)
        proven = proven_results(results, signer.keys)
        self.say(ResultsOffered(results=proven, lease=granted.lease), executor)

    def _result_changes(self) -> dict[str, object]:
        rng = self.rng
        changes: dict[str, object] = {"fuel_used": rng.choice([0, 1_000, INCARNATION_MAX])}
        kind = rng.randrange(6)
        if kind == 0:
            changes["output"] = Content(blob=BlobRef(Digest(rng.randbytes(32)), rng.randrange(99)))
        elif kind == 1:
            changes["epoch"] = Epoch(0, rng.randrange(4), 0)
        elif kind == 2:
            changes["log"] = Content(blob=blob_ref(b"log"))
        elif kind == 3:
            changes["engine_profile"] = "another-engine/1"
        elif kind == 4:
            changes["status"] = rng.choice(list(ExecutionStatus))
        return changes

    # --- as stewards ------------------------------------------------------------------------

    def offer(self) -> None:
        """Offer tasks of a contract, which may be of somebody who may not submit, or too much."""
        if len(self._contracts) < KEPT_MAX and self.rng.randrange(3):
            self._contracts.append(self._new_contract())
        if self._contracts:
            contract, _ = self.rng.choice(self._contracts[-4:])
            count = self.rng.choice([1, 2, 64])
            number = self.rng.randrange(6)
            sender = self._device_of(self.rng.choice(contract.body.stewards).peer)
            self._offered[sender.peer, number] = contract
            self.say(Offer(offer=number, contract=contract, tasks_count=count), sender)

    def lease(self) -> None:
        """Lease tasks that were offered, or others, once or again."""
        if not self._contracts:
            return
        steward, accepted = self._heard(OfferAccepted)
        number = self.rng.randrange(6) if accepted is None else accepted.offer
        contract, proven = self.rng.choice(self._contracts[-4:])
        if self.rng.randrange(4):
            offered = self._offered.get((steward.peer, number))
            contract, proven = next(
                (one for one in self._contracts if one[0] == offered), (contract, proven)
            )
        indices = self.rng.sample(range(len(proven)), self.rng.randrange(1, len(proven) + 1))
        if not self.rng.randrange(4):
            steward = self._device_of(self.rng.choice(contract.body.stewards).peer)
        lease = lease_of(
            contract,
            indices,
            steward=steward,
            executor=self.victim.device if self.rng.randrange(8) else self.devices[0],
            epoch=Epoch(0, self.rng.randrange(2), 0),
            attempt=self.rng.choice([1, 2, 1 << 31]),
            changes={"duration_us": self.rng.choice([0, 1, 10_000_000, 86_400_000_000])},
        )
        tasks = [proven[index] for index in indices]
        if not self.rng.randrange(4):
            tasks = self.rng.choices(proven, k=self.rng.randrange(1, 64))
        granted = LeaseGranted(offer=number, lease=lease, contract=contract, tasks=tuple(tasks))
        self.say(granted, steward)

    def call_off(self) -> None:
        """End a lease that the victim holds, or release an offer, or neither."""
        if self.rng.randrange(2):
            self.say(OfferReleased(offer=self.rng.randrange(6)))
            return
        indices = tuple(self.rng.randrange(TASKS_MAX) for _ in range(self.rng.randrange(3)))
        self.say(LeaseEnded(lease=self._own_lease_ref(), indices=indices))

    def settle(self) -> None:
        """Say how tasks ended, ours or not."""
        _, offered = self._heard(ResultsOffered)
        batch = offered.lease.body.batch if offered is not None else self._own_lease_ref().batch
        outcome = Outcome(kind=OutcomeKind.FAILED, reason="because")
        indices = [self.rng.randrange(1_024), *range(self.rng.randrange(TASKS_MAX + 1))]
        self.say(Settled(batch=batch, outcomes=dict.fromkeys(indices, outcome)))

    def _new_contract(self) -> tuple[Signed[Contract], tuple[ProvenTask, ...]]:
        tasks = tasks_of(self.rng.randrange(1, TASKS_MAX + 1))
        able = self.devices[:3]  # the others have too few roles, which only costs tries
        stewards = self.rng.sample(self.devices if not self.rng.randrange(5) else able, 1)
        if not self.rng.randrange(3):
            stewards = self.rng.sample(able, 3)
        changes: dict[str, object] = {"nonce": self.rng.randbytes(16)}
        if not self.rng.randrange(5):
            changes["limits"] = Limits(memory_bytes=4096 << 20, fuel=10**12, wall_us=3_600_000_000)
        if not self.rng.randrange(5):
            changes["mesh"] = self.rng.randbytes(32)
        submitter = stewards[0] if self.rng.randrange(3) else self.rng.choice(self.devices)
        contract = contract_of(
            self.mesh, tasks, submitter=submitter, stewards=stewards, changes=changes
        )
        return contract, prove_tasks(tasks)

    # --- as members -------------------------------------------------------------------------

    def tell_records(self) -> None:
        """Tell records: lies about themselves, forgeries, and old words of the victim."""
        records = [self._record(self.rng.choice(self.devices)) for _ in range(3)]
        _, given = self._heard(RecordsGiven)
        if given is not None:
            records += given.records
        message = RecordsGiven(records=tuple(records[:64]), chains=self.mesh.chains)
        if self.rng.randrange(4):
            self.say(message)
        else:
            self.victim.handle(on.PublishedReceived(message))

    def ask_for_records(self) -> None:
        """Ask and compare, with whatever numbers."""
        rng = self.rng
        versions = tuple(
            RecordVersion(
                rng.choice([*self.mesh.devices]).peer,
                rng.choice([*RecordKind, "news"]),
                rng.choice([0, INCARNATION_MAX]),
                0,
            )
            for _ in range(rng.randrange(5))
        )
        messages: list[Message] = [
            StateSummary(state=rng.randbytes(8)),
            BucketSummary(buckets=rng.randbytes(512)),
            BucketVersions(buckets=tuple(range(64)), versions=versions),
            BucketVersions(buckets=(3, 3, 3), versions=versions * 9),
            RecordsWanted(versions=versions),
            Heartbeat(token=rng.randrange(1 << 63)),
            HeartbeatAcknowledged(token=rng.randrange(1 << 63)),
        ]
        self.say(rng.choice(messages))

    def ask_to_join(self) -> None:
        """Guess an invitation."""
        self._request += 1
        join = JoinRequest(secret=self.rng.randbytes(16), name="x")
        self.victim.handle(on.JoinAsked(self._request, self.devices[0].peer, join))

    def _record(self, device: Device) -> Signed[Record]:
        rng = self.rng
        version = rng.choice([(1, rng.randrange(99)), (INCARNATION_MAX, INCARNATION_MAX)])
        match rng.randrange(5):
            case 0:
                return self._presence(device, version, has_left=not rng.randrange(6))
            case 1:
                keys = ["profile:wasmtime-50.0.1/1", "cpu:1"]
                return capabilities_of(device, *keys, version=version)
            case 2:
                owner = rng.choice(self.mesh.devices).peer
                return record_of(device, RecordKind.PRESENCE, rng.randbytes(9), owner=owner)
            case 3:
                return record_of(device, "news", rng.randbytes(30), version=version)
            case _:
                return self._telemetry(device)

    def _presence(
        self, device: Device, version: tuple[int, int], *, has_left: bool = False
    ) -> Signed[Record]:
        presence = Presence(
            name=self.rng.choice(["rm -rf", "device", "🛰"]),
            node_type="any",
            addresses=("/ip4/192.0.2.1/tcp/1", "/dns4/victim.example/tcp/80", "nonsense"),
            protocol=LINK_PROTOCOL,
            engine_profiles=(ENGINE_PROFILE,),
            store=device.store,
            has_left=has_left,
        )
        return record_of(device, RecordKind.PRESENCE, encode_body(presence), version=version)

    def _telemetry(self, device: Device) -> Signed[Record]:
        sample = Sample(
            temperature_millicelsius=self.rng.choice([None, -100_000, 40_000, 250_000]),
            compute_score=self.rng.choice([None, 0, 1_000_000_000]),
            task_slots_total=1_000_000,
            task_slots_free=self.rng.choice([0, 1_000_000]),
        )
        version = (1, self.rng.randrange(1_000))
        return record_of(device, RecordKind.TELEMETRY, encode_sample(sample), version=version)

    # --- what happens at the victim's -------------------------------------------------------

    def submit(self) -> None:
        """Let the victim's owner submit tasks."""
        self._request += 1
        command = Submit(
            module=blob_ref(b"\0asm\1\0\0\0"),
            tasks=tasks_of(self.rng.randrange(1, TASKS_MAX + 1)),
            key=self.victim.device.keys.seal(b"?" * 32, self.victim.device.peer),
            deadline_us=300_000_000,
            priority=self.rng.randrange(3),
        )
        self.victim.handle(on.Asked(self._request, command))

    def ask(self) -> None:
        """Let the victim's owner ask about tasks, or cancel one."""
        self._request += 1
        if not self.victim.accepted:
            return
        task = self.rng.choice(self.rng.choice(self.victim.accepted).tasks)
        commands: list[Command] = [
            CancelTask(task),
            GetTask(task),
            GetResult(task),
            GetReceipt(task),
            WaitBatch(task),
            ListTasks(),
        ]
        command = self.rng.choice(commands)
        self.victim.handle(on.Asked(self._request, command))
        if self.rng.randrange(2):
            self.victim.handle(on.AskedNoMore(self._request))

    def end_run(self) -> None:
        """Let a program end."""
        if not self.victim.runs:
            return
        run = self.rng.choice(sorted(self.victim.runs))
        self.end(self.victim.runs.pop(run), fails=not self.rng.randrange(4))

    def end(self, execute: do.Execute, *, fails: bool = False) -> None:
        """Let one program of the victim's end."""
        if fails:
            reason = self.rng.choice(list(ExecutionFailure))
            self.victim.handle(on.ExecutionFailed(execute.run, reason, "detail"))
            return
        executed = on.Executed(
            run=execute.run,
            status=ExecutionStatus.EXITED,
            exit_code=0,
            output=Content(inline=b"s" * 50),
            output_digest=Digest(b"d" * 32),
            log=None,
            detail="",
            fuel_used=1,
            wall_us=1_000,
        )
        self.victim.handle(executed)

    def end_fetch(self) -> None:
        """Let an output come, or not, or be wrong."""
        if self.victim.fetches:
            fetch = self.victim.fetches.pop(self.rng.randrange(len(self.victim.fetches)))
            event: on.Event = on.Fetched(fetch.token)
            if self.rng.randrange(3):
                event = on.FetchFailed(fetch.token, "no", is_wrong=bool(self.rng.randrange(2)))
            self.victim.handle(event)

    def wait(self) -> None:
        """Let time pass: a moment, or as long as leases last."""
        self.victim.pass_time(self.rng.choice([1_000, 20_000, 1_100_000, 3_000_000, 11_000_000]))

    # --- what they know ---------------------------------------------------------------------

    def _heard(self, kind: type[_Kind]) -> tuple[Device, _Kind | None]:
        heard = [
            (peer, message)
            for peer, message in self.victim.sent[-400:]
            if isinstance(message, kind)
        ]
        if not heard:
            return self.rng.choice(self.devices), None
        peer, message = self.rng.choice(heard[-12:])
        return self._device_of(peer), message

    def _lease_ref(self, granted: LeaseGranted | None = None) -> LeaseRef:
        if granted is None:
            granted = self._heard(LeaseGranted)[1]
        if granted is None or not self.rng.randrange(4):
            return LeaseRef(
                BatchId(self.rng.randbytes(20)), Epoch(0, 1, 0), self.rng.randrange(1, 9)
            )
        lease = granted.lease.body
        return LeaseRef(lease.batch, lease.epoch, lease.attempt)

    def _own_lease_ref(self) -> LeaseRef:
        if not self._contracts:
            return self._lease_ref()
        contract, _ = self.rng.choice(self._contracts[-4:])
        epoch = Epoch(0, self.rng.randrange(2), 0)
        return LeaseRef(batch_id_of(contract), epoch, self.rng.choice([1, 2, 1 << 31]))

    def _device_of(self, peer: PeerId) -> Device:
        return next(one for one in self.mesh.devices if one.peer == peer)


_FAILURES: Sequence[ExecutionFailure] = tuple(ExecutionFailure)
