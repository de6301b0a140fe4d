"""Errors of the network, by what the caller can do about them."""

from __future__ import annotations

from wire.errors import MeshError


class NetworkError(MeshError):
    """Base of the errors of reaching and talking to other devices."""


class MalformedAddress(NetworkError):
    """A person, a file or a peer gave text that is no address we can dial or listen on."""


class CannotListen(NetworkError):
    """An address to listen on is taken or not ours: show the message, nothing was started."""


class NoMulticast(NetworkError):
    """Multicast does not work on this network or device: nobody is found by it, all else works."""


class PeerUnreachable(NetworkError):
    """No connection to the device could be made at any of its addresses: try later or elsewhere.

    The message says why for each address.
    """


class WrongNetwork(PeerUnreachable):
    """Something answers there, but not with our network key: dialling again will not help."""


class WrongPeer(PeerUnreachable):
    """Another device answers at that address: the address is out of date."""


class ForeignKey(NetworkError):
    """A peer's key is no Ed25519 key, so it can be no device of a mesh: close its connection."""


class ProtocolRefused(NetworkError):
    """The device is connected but does not serve this protocol to us: it is no member, or older."""


class StreamBroken(NetworkError):
    """The stream was reset or its connection was lost: what was under way did not arrive."""


class CircuitRefused(PeerUnreachable):
    """A device does not carry a link to another, or cannot: ask another one, or later."""


class MalformedCircuit(NetworkError):
    """A peer sent what sets up no circuit: give up the stream."""


class RecordTooLarge(NetworkError):
    """We tried to publish more than a gossip message may hold: a bug on our side."""


class UnsupportedLibp2p(NetworkError):
    """Not the py-libp2p that the guards were checked against: install the pinned one."""
