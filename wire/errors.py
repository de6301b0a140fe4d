"""Errors of the wire, by what the caller can do about them."""


class MeshError(Exception):
    """Base of every error that meshd raises on purpose."""


class WireError(MeshError):
    """Base of the errors of encoding, decoding and signing."""


class MalformedFrame(WireError):
    """A remote peer or a file gave bytes that we do not accept: lower its score, keep running."""


class BadSignature(MalformedFrame):
    """A signature does not match the bytes received: worse than garbage, somebody forged it."""


class FrameTooLarge(WireError):
    """We tried to send more than a frame holds: a bug on our side."""


class MalformedId(WireError):
    """A person or a file gave text that is no id of the wanted kind: show the message."""


class NotAMember(WireError):
    """A certificate chain does not lead to this mesh's founder: serve its holder nothing."""


class Removed(NotAMember):
    """The device, or an admin in its chain, was removed: serve it nothing, blame nobody."""


class CannotUnseal(WireError):
    """A sealed box is not for this device, or was changed on the way."""
