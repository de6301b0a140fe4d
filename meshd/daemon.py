"""The daemon: the node with real parts around it, from the first start to a clean stop.

Only here is decided which part is started when, and what happens when one fails: a part that fails
ends all parts, which begin again from what is durable (`meshd.defects`), unless it failed for a
reason that a person has to see to.
"""

from __future__ import annotations

import os
import platform
import signal
from collections.abc import Callable
from dataclasses import dataclass
from random import SystemRandom

import psutil
import structlog
import trio

from meshd.blobstore import BlobStore
from meshd.clock import BootClock, now_us
from meshd.config import Config
from meshd.content import ContentGate
from meshd.control import ControlServer
from meshd.defects import Defects, NodeFailed
from meshd.errors import StoreFailed
from meshd.finding import Finding
from meshd.heap import run_trimming
from meshd.home import Home, control_socket_path
from meshd.logs import bind_device
from meshd.mailbox import US_PER_S, Mailbox
from meshd.membership import (
    MembershipRow,
    Papers,
    check_owner,
    found,
    joined,
    load_membership,
    may_leave,
    needs_new_papers,
    network_key_of,
    refuse_other_mesh,
    removals_of,
    save_membership,
    with_key_of,
)
from meshd.node import MeshNode
from meshd.questions import Questions
from meshd.recovery import RecoveryDesk
from meshd.rows import with_row
from meshd.runs import Contents, ModuleShelf, Runs
from meshd.secrecy import forbid_core_dumps
from meshd.sensing import run_sensing
from meshd.settings import NodeSettings
from meshd.shell import Shell
from meshd.status import StatusDesk
from meshd.store import Store
from meshd.version import version
from meshd.writer import RowReader, Writer
from p2p.blob_exchange import BlobFetcher, BlobServer
from p2p.capability import own_capabilities
from p2p.circuit_book import CircuitLimits
from p2p.errors import CannotListen
from p2p.host import Host, HostConfig
from p2p.host_metrics import HostCounters
from p2p.joining import JoinServer, redeem
from p2p.judge import Judge
from p2p.links import Links, LinkSettings
from p2p.mdns import service_name
from p2p.network_keys import NETWORK_KEY_KEY, NETWORK_KEY_ROW, NetworkKeyRow
from sandbox.pool import Pool
from sandbox.profile import ENGINE_PROFILE
from telemetry.metrics import Metrics
from wire.codec import Decoder, FrameCodec
from wire.effects import Row
from wire.errors import MalformedFrame, MeshError
from wire.events import (
    Listening,
    PeerNeeded,
    PeerSeen,
    PersistFailed,
    PublishedReceived,
    Restarted,
    Stopping,
)
from wire.ids import PeerId, mesh_text, peer_text
from wire.keys import Ed25519Keys, Ed25519Verifier
from wire.membership import Invitation, Removal
from wire.messages import MESSAGES, RecordsGiven
from wire.signed import Signed, encode_body

GOODBYE_S = 1.0
STOP_S_MAX = 4.0
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class StartOptions:
    """What a start is told besides its settings. `ready` gets the one line of a good start."""

    home: Home
    join: Invitation | None
    ready: Callable[[str], None]


def run_daemon(config: Config, seed: bytes, options: StartOptions) -> None:
    """Run the daemon of a locked home until it is stopped, over defects of its own.

    Raises MeshError with one line that says what to do: the store is damaged, the port is taken,
    the invitation is not accepted, the disk is full, ...
    """
    forbid_core_dumps()
    defects = Defects()
    while True:
        try:
            _run_once(config, seed, options, defects)
        except MeshError:
            raise
        except Exception as error:  # noqa: BLE001 - the one supervisor, which decides
            defects.note(error, now_us=now_us())
        else:
            return


def _run_once(config: Config, seed: bytes, options: StartOptions, defects: Defects) -> None:
    store = Store.open(options.home.database)
    try:
        trio.run(
            _run,
            config,
            seed,
            options,
            store,
            defects,
            clock=BootClock(),
            strict_exception_groups=True,
        )
    except BaseExceptionGroup as group:
        error = _only_error(group)
        raise error from error.__cause__ or group
    finally:
        store.close()


def _only_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first error that somebody raised on purpose, or the first defect."""
    errors = [*_leaves(group)]
    for kind in (MeshError, NodeFailed):
        for error in errors:
            if isinstance(error, kind):
                return error
    return errors[0]


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]


async def _run(
    config: Config, seed: bytes, options: StartOptions, store: Store, defects: Defects
) -> None:
    keys = Ed25519Keys(seed)
    bind_device(peer_text(keys.peer))
    daemon = Daemon(
        config=config, keys=keys, seed=seed, options=options, store=store, defects=defects
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_stop_on_signal, daemon)
        await daemon.run()
        nursery.cancel_scope.cancel()


async def _stop_on_signal(daemon: Daemon) -> None:
    try:
        with trio.open_signal_receiver(*STOP_SIGNALS) as signals:
            async for number in signals:
                log.info("daemon.signalled", signal=signal.Signals(number).name)
                daemon.stop()
    finally:
        if daemon.is_stopping:
            # From here on the process only ends: a second Ctrl-C must not make that look a failure.
            for number in STOP_SIGNALS:
                signal.signal(number, signal.SIG_IGN)


class Daemon:
    """One running device."""

    def __init__(
        self,
        *,
        config: Config,
        keys: Ed25519Keys,
        seed: bytes,
        options: StartOptions,
        store: Store,
        defects: Defects,
    ) -> None:
        self._config = config
        self._keys = keys
        self._seed = seed
        self._options = options
        self._home = options.home
        self._store = store
        self._defects = defects
        self._metrics = Metrics()
        self._judge = Judge(metrics=self._metrics)
        self._host_counters = HostCounters(self._metrics)
        self._mailbox = Mailbox()
        self._stopping = trio.Event()
        self._failure: StoreFailed | None = None
        self._starting: trio.CancelScope | None = None
        self._links: Links | None = None
        self._writer: Writer | None = None

    @property
    def is_stopping(self) -> bool:
        """Whether it was asked to stop, or cannot go on."""
        return self._stopping.is_set()

    def stop(self) -> None:
        """Begin to stop; `run` returns within five seconds."""
        self._stopping.set()
        if self._starting is not None:  # nothing was promised yet, and joining may take minutes
            self._starting.cancel()

    async def run(self) -> None:
        """Start every part, say that the device is ready, and run until `stop`."""
        rows = RowReader(Ed25519Verifier())
        stored = rows.read_all(self._store)
        known = load_membership(self._store)
        if known is not None:
            check_owner(known, own=self._keys.peer, home=self._home)
        invitation = self._invitation(known, stored)
        granted_removals: tuple[Signed[Removal], ...] = ()
        async with trio.open_nursery() as nursery:
            self._starting = nursery.cancel_scope
            await nursery.start(self._store.run)
            if invitation is None and known is None:
                known = found(self._keys, operator=self._config.name)
                await save_membership(self._store, known)
            network_key = self._network_key(known, stored)
            host = await self._start_host(nursery, known, invitation, network_key)
            if invitation is not None:
                granted = await redeem(host, invitation, self._config.name)
                known = joined(invitation, granted, known)
                granted_removals = granted.removals
                await save_membership(self._store, known, network_key)
                log.info("mesh.joined", mesh=mesh_text(known.mesh))
            elif self._options.join is not None and known is not None:
                await save_membership(self._store, known, network_key)  # it may be a later key
            assert known is not None, "founded, joined or known before"  # noqa: S101
            stored = with_row(stored, Row(NETWORK_KEY_ROW, NETWORK_KEY_KEY, network_key))
            # Those of the grant are the node's to keep: its first event writes them.
            removals = (*known.removals, *granted_removals)
            await self._start_parts(nursery, host, known, removals, stored, rows)
            await self._mailbox.post(Listening(host.addresses))
            if invitation is not None:
                seen = PeerSeen(invitation.issuer, invitation.addresses, "invitation")
                await self._mailbox.post(seen)
            self._starting = None
            self._options.ready(self._ready_line(known, host))
            await self._stopping.wait()
            await self._say_goodbye()
            nursery.cancel_scope.cancel()
        if self._failure is not None:
            raise self._failure

    def _invitation(
        self, known: MembershipRow | None, stored: tuple[Row, ...]
    ) -> Invitation | None:
        """Return the invitation to redeem; None if there is none, or none is needed any more."""
        invitation = self._options.join
        if invitation is None or known is None:
            return invitation
        if known.mesh == invitation.mesh:
            removals = removals_of(known, stored)
            if needs_new_papers(known, removals, own=self._keys.peer):
                return invitation
            log.info("mesh.joined_before", mesh=mesh_text(known.mesh))
            return None
        if not may_leave(known, own=self._keys.peer, store=self._store):
            raise refuse_other_mesh(known, invitation)
        log.info("mesh.left_unused", mesh=mesh_text(known.mesh))
        return invitation

    def _network_key(self, known: MembershipRow | None, stored: tuple[Row, ...]) -> NetworkKeyRow:
        """Return the network key to begin with: the home's, or that of an invitation."""
        invitation = self._options.join
        if invitation is not None and (known is None or known.mesh != invitation.mesh):
            return NetworkKeyRow(key=invitation.network_key)
        assert known is not None, "a mesh was founded before"  # noqa: S101
        held = network_key_of(known, stored)
        return held if invitation is None else with_key_of(invitation, held)

    async def _start_host(
        self,
        nursery: trio.Nursery,
        known: MembershipRow | None,
        invitation: Invitation | None,
        network_key: NetworkKeyRow,
    ) -> Host:
        papers = invitation or known
        assert papers is not None, "a mesh was founded before"  # noqa: S101
        *preferred, last = self._config.listen_choices
        for listen in preferred:
            host = self._new_host(nursery, papers, network_key, listen)
            try:
                await nursery.start(host.run)
            except CannotListen as error:
                log.info("listen.elsewhere", reason=str(error))
            else:
                return host
        host = self._new_host(nursery, papers, network_key, last)
        try:
            await nursery.start(host.run)
        except CannotListen as error:
            raise CannotListen(
                f"{error}: choose another with --listen, or end the program that has it"
            ) from error
        return host

    def _new_host(
        self,
        nursery: trio.Nursery,
        papers: MembershipRow | Invitation,
        network_key: NetworkKeyRow,
        listen: tuple[str, ...],
    ) -> Host:
        def discovered(peer: PeerId, addresses: tuple[str, ...]) -> None:
            nursery.start_soon(self._mailbox.post, PeerSeen(peer, addresses, "mdns"))

        def moved(addresses: tuple[str, ...]) -> None:
            nursery.start_soon(self._mailbox.post, Listening(addresses))

        host = Host(
            HostConfig(
                identity_seed=self._seed,
                network_key=network_key.key,
                dht_prefix=f"/meshd/{mesh_text(papers.mesh)}/kad",
                listen=listen,
                circuits=CircuitLimits(circuits_max=self._config.links.circuits_max),
                mdns_service=service_name(papers.mesh) if self._config.mdns.enabled else None,
            ),
            on_discovered=discovered,
            on_moved=moved,
            introduce=self._introduce,
            judge=self._judge,
            counters=self._host_counters,
        )
        host.use_network_keys(network_key.keys)
        return host

    async def _introduce(self, peer: PeerId, addresses: tuple[str, ...]) -> None:
        """Kademlia wants to ask a device: link to it first, so that it knows us for a member."""
        if self._links is not None and addresses:
            # Known before the link is there, or one link too many would be hung up at once.
            await self._mailbox.post(PeerNeeded(peer))
            await self._links.dial(peer, addresses)

    async def _start_parts(
        self,
        nursery: trio.Nursery,
        host: Host,
        known: MembershipRow,
        removals: tuple[Signed[Removal], ...],
        stored: tuple[Row, ...],
        rows: RowReader,
    ) -> None:
        node = self._new_node(known, removals)
        host.rank_gossip_by(node.reputation)
        emit = self._mailbox.post
        blobs = BlobStore(self._home.blobs, self._config.storage.blobs_bytes_max)
        gate = ContentGate(self._keys, blobs)
        shelf = ModuleShelf(blobs)
        pool = Pool(
            worker_count=self._config.sandbox.workers,
            cache_directory=self._home.cache,
            cache_bytes_max=self._config.sandbox.cache_bytes_max,
            load_module=shelf.load,
        )
        links = self._links = Links(
            host,
            codec=FrameCodec(MESSAGES, Ed25519Verifier()),
            hello=node.hello,
            genesis=known.genesis,
            objection=node.objection,
            emit=emit,
            settings=self._link_settings(),
            judge=self._judge,
            metrics=self._metrics,
        )
        for peer in self._defects.quarantined():
            links.ban(peer, for_s=self._defects.quarantine_us(peer, now_us=now_us()) / US_PER_S)
        contents = Contents(blobs=blobs, gate=gate, fetcher=BlobFetcher(host, blobs), emit=emit)
        finding = Finding(host, is_enabled=self._config.dht.enabled, emit=emit)
        questions = Questions(emit, emit_now=self._mailbox.post_now)
        writer = self._writer = Writer(
            self._store, on_durable=self._mailbox.post_durable, on_failed=self._store_failed
        )
        shell = Shell(
            node=node,
            mailbox=self._mailbox,
            links=links,
            store=self._store,
            writer=writer,
            rows=rows,
            blobs=blobs,
            contents=contents,
            runs=Runs(pool=pool, contents=contents, gate=gate, shelf=shelf, emit=emit),
            finding=finding,
            questions=questions,
            publish=lambda topic, records: host.publish(topic, encode_body(records)),
            use_network_keys=host.use_network_keys,
            now_us=now_us,
        )
        # The node's first event, before anything else can reach it.
        self._mailbox.post_durable(
            tuple(node.handle(Restarted(store=self._store.store_id, rows=stored), now_us()))
        )
        papers = Papers(self._store, known)
        recovery = RecoveryDesk(papers, own=self._keys.peer, name=self._config.name)
        status = StatusDesk(
            home=self._home,
            metrics=self._metrics,
            pool=pool,
            blobs=blobs,
            store=self._store,
            defects=self._defects,
            recovery_warning=recovery.warning,
        )
        control = ControlServer(
            control_socket_path(self._home.path),
            ask=lambda command: status.completed(questions.ask(command)),
            content=gate,
            recovery=recovery,
            stop=self.stop,
        )
        nursery.start_soon(writer.run)
        nursery.start_soon(shell.run)
        await nursery.start(pool.run)
        BlobServer(host, blobs).serve()
        JoinServer(host, questions.ask_join).serve()
        await nursery.start(links.run)
        await nursery.start(host.subscribe, _topic(known), self._is_welcome, self._deliver(nursery))
        nursery.start_soon(finding.run)
        nursery.start_soon(self._sense)
        nursery.start_soon(run_trimming)
        await nursery.start(control.run)

    async def _sense(self) -> None:
        await run_sensing(
            storage=self._home.path,
            interval_us=self._config.telemetry.sample_interval_us,
            emit=self._mailbox.post,
        )

    def _deliver(self, nursery: trio.Nursery) -> Callable[[PeerId, bytes], None]:
        def deliver(author: PeerId, record: bytes) -> None:
            event = PublishedReceived(_records.decode(record), author)
            nursery.start_soon(self._mailbox.post, event)

        return deliver

    def _is_welcome(self, author: PeerId, record: bytes) -> bool:
        return not self._defects.quarantine_us(author, now_us=now_us()) and _is_records(record)

    def _new_node(self, known: MembershipRow, removals: tuple[Signed[Removal], ...]) -> MeshNode:
        config = self._config
        return MeshNode(
            settings=NodeSettings(
                name=config.name,
                version=version(),
                node_type=config.type,
                region=config.region,
                capabilities=own_capabilities(
                    engine_profile=ENGINE_PROFILE,
                    architecture=platform.machine() or "unknown",
                    cpu_count=os.cpu_count() or 1,
                    memory_bytes=psutil.virtual_memory().total,
                    node_type=config.type,
                    region=config.region,
                    labels=config.labels,
                ),
                engine_profile=ENGINE_PROFILE,
                workers_count=config.sandbox.workers,
                task_slots=config.tasks_max,
                caps=config.to_limits(),
                leases_max=config.executor.leases_max,
                spot_checks=config.verification.spot_checks,
                spot_check_floor_permille=config.verification.floor_permille,
                links_max=config.links.max,
                dials_max=config.links.dials_max,
                members_max=config.directory.members_max,
                breaker=config.breaker.to_breaker(),
                weights=config.health.weights,
                references=config.health.to_references(),
            ),
            signer=self._keys,
            genesis=known.genesis,
            chain=known.chain,
            network_key=known.network_key,
            removals=removals,
            rng=SystemRandom(),
        )

    def _link_settings(self) -> LinkSettings:
        # Room for the links that are wanted, and for short ones, whoever dials them.
        links = self._config.links
        return LinkSettings(
            links_count_max=links.max + links.dials_max, dials_count_max=links.dials_max
        )

    def _store_failed(self, reason: str) -> None:
        """The disk is full or broken: what is not durable is not promised, so stop here."""
        log.error("store.failed", reason=reason)
        self._failure = StoreFailed(f"{reason}; everything that was accepted is kept")
        self._stopping.set()

    async def _say_goodbye(self) -> None:
        """Give leases back and say goodbye, as far as a second goes."""
        with trio.move_on_after(STOP_S_MAX):
            if self._failure is not None:
                await self._mailbox.post(PersistFailed(str(self._failure)))
                return
            await self._mailbox.post(Stopping())
            await trio.sleep(GOODBYE_S)
            if self._writer is not None:
                await self._writer.wait_idle()

    def _ready_line(self, known: MembershipRow, host: Host) -> str:
        where = " ".join(host.addresses) or "nowhere"
        return (
            f"ready: {self._config.name} {peer_text(self._keys.peer)} in mesh"
            f" {mesh_text(known.mesh)[:12]}, listening on {where}, home {self._home.path}"
        )


_records = Decoder(RecordsGiven, Ed25519Verifier())


def _is_records(record: bytes) -> bool:
    try:
        _records.decode(record)
    except MalformedFrame:
        return False
    return True


def _topic(known: MembershipRow) -> str:
    return f"/meshd/{mesh_text(known.mesh)}/presence"
