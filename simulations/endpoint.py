"""What the network wants of devices, and of whatever carries messages between them."""

from __future__ import annotations

from typing import Protocol

from wire.events import Event
from wire.ids import PeerId
from wire.messages import Hello, Message


class Carrier(Protocol):
    """What becomes of a message between two devices: nothing, or encoding and decoding."""

    def pack(self, message: Message) -> tuple[object, int]:
        """Return what travels, and its bytes on the stream. Raises FrameTooLarge."""
        ...

    def unpack(self, packed: object) -> Message | None:
        """Return the message that arrives, None for one that this version does not know.

        Raises MalformedFrame for what no honest device sends.
        """
        ...

    def corrupt(self, packed: object, fate: int) -> object:
        """Return what arrives of `packed` when some of its bits, which `fate` decides, flip."""
        ...


class Endpoint(Protocol):
    """A device, as the network sees it."""

    @property
    def peer(self) -> PeerId:
        """The device's id."""
        ...

    @property
    def index(self) -> int:
        """The device's number in the simulation."""
        ...

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where the device can be dialled."""
        ...

    @property
    def boot(self) -> int:
        """How many times its process has started."""
        ...

    @property
    def is_powered(self) -> bool:
        """Whether there is a device that could say that no process listens."""
        ...

    @property
    def is_running(self) -> bool:
        """Whether its process exists."""
        ...

    @property
    def is_answering(self) -> bool:
        """Whether its process exists and is not frozen."""
        ...

    def hello(self) -> Hello:
        """Return its half of a handshake."""
        ...

    def deliver(self, event: Event) -> None:
        """Let the device handle `event` now, or when it is thawed."""
        ...
