"""One compiled module on disk: an authentication code, then native code.

Native code is run as it is, so an entry counts only if this device's own key made its code. The
code covers what the entry is for: another module's good entry under this name is as bad as a wrong
byte.
"""

from __future__ import annotations

import os
import platform
from typing import Final

from blake3 import blake3

from sandbox.errors import UnusableNativeCode
from sandbox.profile import ENGINE_PROFILE
from wire.ids import Digest
from wire.limits import MIB

KEY_BYTES: Final = 32
CODE_BYTES: Final = 32
_PIECE_BYTES = 1 * MIB


def entry_name(module: Digest) -> str:
    """Return the file name of a module's entry: one per module, engine profile and kind of CPU."""
    return f"{module.hex()}-{blake3(_purpose(module)).hexdigest(8)}.native"


def seal_entry(descriptor: int, module: Digest, key: bytes) -> None:
    """Write the code of an entry whose native code is already behind CODE_BYTES of room."""
    hasher = blake3(_purpose(module), key=key)
    at = CODE_BYTES
    while piece := os.pread(descriptor, _PIECE_BYTES, at):
        hasher.update(piece)
        at += len(piece)
    os.pwrite(descriptor, hasher.digest(), 0)


def read_entry(descriptor: int, module: Digest, key: bytes) -> bytes:
    """Return the native code in an open entry. Raises UnusableNativeCode.

    The bytes that are checked are the bytes that are returned, whatever happens to the file.
    """
    size = os.fstat(descriptor).st_size
    code = os.pread(descriptor, CODE_BYTES, 0)
    native = bytearray(max(0, size - CODE_BYTES))
    view = memoryview(native)
    while view:
        read_bytes = os.preadv(descriptor, [view], size - len(view))
        if read_bytes == 0:
            raise UnusableNativeCode("the entry became shorter while it was read")
        view = view[read_bytes:]
    expected = blake3(_purpose(module), key=key).update(native).digest()
    if code != expected:
        raise UnusableNativeCode("the entry does not carry this device's authentication code")
    return bytes(native)


def _purpose(module: Digest) -> bytes:
    label = f"{ENGINE_PROFILE}/{platform.machine()}".encode()
    return len(label).to_bytes(2, "big") + label + module
