"""What must hold when a run is over: nothing accepted was lost, and everybody knows everybody."""

from __future__ import annotations

from simulations.checks import AcceptedTask
from simulations.engine import US_PER_S
from simulations.errands import Errands
from simulations.errors import InvariantBroken
from simulations.submission import opened_output
from simulations.world import World
from wire.answers import PeerList, ReceiptView, RefusalCode, Refused, ResultView, TaskView
from wire.commands import Command, GetReceipt, GetResult, GetTask, ListPeers
from wire.tasks import OutcomeKind

ANSWER_US_MAX = 30 * US_PER_S


class Aftermath:
    """Asks the devices of a mended world what they know."""

    def __init__(self, world: World, errands: Errands) -> None:
        self._world = world
        self._errands = errands

    def check(self) -> None:
        """Raise InvariantBroken for anything that is not as it must be."""
        for follower in self._errands.followers.values():
            if not follower.is_done and not follower.is_lost:
                raise InvariantBroken(f"L2: device {follower.node} lets {follower.number} wait")
        for host in self._world.hosts:
            peers = self._answer(host.index, ListPeers())
            if not isinstance(peers, PeerList) or len(peers.peers) != len(self._world.hosts):
                raise InvariantBroken(f"L1: {host.device.name} does not know everybody: {peers}")
        kept = set(self._errands.kept())
        for one in self._world.checks.accepted:
            self._check_task(one, is_kept=one in kept)

    def _check_task(self, one: AcceptedTask, *, is_kept: bool) -> None:
        """S1: a task is known where it was accepted; a store that was lost says so."""
        view = self._answer(one.host, GetTask(str(one.task)))
        if is_kept:
            self._check_kept(one, view)
        elif not (isinstance(view, Refused) and view.code is RefusalCode.NOT_FOUND):
            raise InvariantBroken(f"S1: {one.task} was lost with its store, yet: {view}")

    def _check_kept(self, one: AcceptedTask, view: object) -> None:
        if not isinstance(view, TaskView) or not view.is_decided:
            raise InvariantBroken(f"S1: {one.task} was accepted, and now: {view}")
        receipt = self._answer(one.host, GetReceipt(view.id))
        if not isinstance(receipt, ReceiptView):
            raise InvariantBroken(f"S3: {view.id} is decided and has no receipt: {receipt}")
        if view.outcome == OutcomeKind.RESULT:
            self._check_output(one, view)

    def _check_output(self, one: AcceptedTask, view: TaskView) -> None:
        result = self._answer(one.host, GetResult(view.id))
        if not isinstance(result, ResultView):
            raise InvariantBroken(f"S1: {view.id} has a result and does not give it: {result}")
        output = opened_output(self._world.hosts[one.host], result)
        if output != self._errands.expected_output(view.id, view.index):
            raise InvariantBroken(f"S3: {view.id} put out something else than its program does")

    def _answer(self, node: int, command: Command) -> object:
        request = self._world.ask(node, command)
        if request.last is None:
            self._world.run_until(
                lambda: request.last is not None,
                within_us=ANSWER_US_MAX,
                what=f"device {node} to answer",
            )
        return request.last
