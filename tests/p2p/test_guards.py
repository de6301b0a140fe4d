"""The guards' own table, version and filters."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import inspect
from collections.abc import Callable

import pytest
import trio
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.pubsub import Pubsub
from libp2p.tools.anyio_service.exceptions import LifecycleError
from support.hosts import Watched, config, connect, echo, running, until

from p2p.errors import CannotListen, UnsupportedLibp2p
from p2p.guards import CHECKED_VERSION, PRIVATE_NAMES, PrivateName, accepts, check_version
from p2p.guards import is_benign_at_shutdown as is_benign
from p2p.host import Host


def test_the_installed_libp2p_is_the_one_that_was_checked() -> None:
    assert importlib.metadata.version("libp2p") == CHECKED_VERSION
    check_version(CHECKED_VERSION)


def test_another_libp2p_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedLibp2p, match=r"0\.9\.0 is installed.*0\.8\.1"):
        check_version("0.9.0")


@pytest.mark.parametrize("private", PRIVATE_NAMES, ids=lambda private: private.name)
def test_every_private_name_is_where_the_table_says(private: PrivateName) -> None:
    found: object = importlib.import_module(private.module)
    for part in private.name.split("."):
        found = getattr(found, part)
    assert private.reason


def test_only_the_two_known_errors_of_a_late_task_are_benign() -> None:
    assert is_benign(RuntimeError("Nursery is closed to new arrivals"))
    assert is_benign(LifecycleError("Cannot schedule task after service has stopped"))
    assert not is_benign(RuntimeError("dictionary changed size during iteration"))
    assert not is_benign(LifecycleError("Already started?"))
    assert not is_benign(RecursionError("Nursery is closed to new arrivals"))
    assert not is_benign(ValueError("Nursery is closed to new arrivals"))


def test_a_validator_that_raises_refuses() -> None:
    def fail() -> bool:
        raise ValueError("a bug")

    assert accepts(lambda: True)
    assert not accepts(lambda: False)
    assert not accepts(fail)


@pytest.mark.parametrize("service", [GossipSub, Pubsub])
def test_every_option_of_gossip_is_given(service: type, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, object] = {}
    construct: Callable[..., None] = vars(service)["__init__"]
    wanted = set(list(inspect.signature(construct).parameters)[1:])

    def recorded(self: object, *positional: object, **options: object) -> None:
        given.update(options)
        construct(self, *positional, **options)

    monkeypatch.setattr(service, "__init__", recorded)
    Host(config(1))._gossip.stop()
    if service is Pubsub:  # host and router come by position; the rest has to do with async
        wanted -= {"host", "router", "msg_id_constructor", "max_concurrent_validator_count"}
    else:
        assert given["heartbeat_interval"] == 1
        assert given["protocols"] == ["/meshsub/1.1.0"]
        assert given["spam_protection_enabled"] is False
    assert wanted <= set(given)


async def test_a_stop_under_traffic_is_silent_and_quick() -> None:
    for _ in range(3):
        hosts = [Watched(config(number)) for number in range(1, 4)]
        alice, bob, carol = (watched.host for watched in hosts)
        bob.serve("/test/echo/1", echo, members_only=False)
        before = 0.0
        async with trio.open_nursery() as chatter:
            async with running(alice, bob, carol):
                for one, other in ((alice, bob), (bob, carol), (alice, carol)):
                    await connect(one, other)
                    await one.admit(other.peer, other.addresses)
                    await other.admit(one.peer, one.addresses)
                for host in (alice, bob, carol):
                    await chatter.start(host.subscribe, "/t", _any, _ignore)
                    chatter.start_soon(_publish_for_ever, host)
                await until(functools.partial(_is_meshed, carol))
                await trio.sleep(0.2)
                before = trio.current_time()
            assert trio.current_time() - before < 3
            chatter.cancel_scope.cancel()


def _is_meshed(host: Host) -> bool:
    return len(host._gossip.router.mesh["/t"]) == 2


def _any(author: bytes, record: bytes) -> bool:
    return True


def _ignore(author: bytes, record: bytes) -> None:
    pass


async def _publish_for_ever(host: Host) -> None:
    while True:
        await host.publish("/t", b"x" * 200)
        await trio.sleep(0.002)


async def test_a_late_task_of_libp2p_does_not_fail_a_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(config(1))

    async def late() -> None:
        raise RuntimeError("Nursery is closed to new arrivals")

    monkeypatch.setattr(host._swarm, "close_all", late)
    async with running(host):
        pass


async def test_a_serious_error_during_a_stop_is_not_swallowed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host = Host(config(1))

    async def fail() -> None:
        raise ValueError("a bug")

    monkeypatch.setattr(host._swarm, "close_all", fail)
    with pytest.RaisesGroup(pytest.RaisesExc(ValueError, match="a bug"), flatten_subgroups=True):
        async with running(host):
            pass


async def test_an_error_of_a_service_ends_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(self: object) -> None:
        raise RuntimeError("Nursery is closed to new arrivals")  # benign at a stop, not before

    host = Host(config(1))
    monkeypatch.setattr(type(host._dht.kad), "_run_main_loop", fail)
    with trio.fail_after(5), pytest.RaisesGroup(RuntimeError, flatten_subgroups=True):
        await host.run()


async def test_a_callback_that_raises_ends_the_host() -> None:
    def fail(event: object) -> None:
        raise ValueError("a bug")

    alice, bob = Host(config(1), on_connected=fail), Host(config(2))
    async with running(bob):
        with trio.fail_after(5), pytest.RaisesGroup(ValueError, flatten_subgroups=True):
            async with running(alice):
                await connect(alice, bob)
                await trio.sleep_forever()


async def test_a_stopped_host_leaves_no_thread_behind() -> None:
    host, second = Host(config(1)), Host(config(2, listen=("/ip4/203.0.113.1/tcp/1",)))
    async with running(host):
        pass
    with pytest.raises(CannotListen):
        await second.run()
    for stopped in (host, second):
        assert not stopped._gossip.pubsub.seen_messages._thread.is_alive()
