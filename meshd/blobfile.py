"""One blob in one file: its manifest, then its content, both checked whenever they are read.

Layout: `meshblob`, length of the manifest (u32), manifest, content. A blob under way has the same
layout with holes, under another name: which chunks are there is found by checking them, so there is
no list that could disagree with the disk. A file gets its final name only when it is whole and on
the disk.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from meshd.home import PRIVATE_FILE
from wire.blobs import CHUNK_BYTES, CHUNKS_MAX, BlobRef, Manifest, blob_digest
from wire.errors import MalformedFrame
from wire.ids import DIGEST_BYTES
from wire.signed import encode_body
from wire.strict import decode_strictly

MANIFEST_BYTES_MAX = CHUNKS_MAX * DIGEST_BYTES + 32

_HEAD = struct.Struct(">8sI")
_MAGIC = b"meshblob"
_BLOCK_BYTES = 4096


class WrongReference(MalformedFrame):
    """The bytes are what the digest says, but they are no blob, or not one of the stated size."""


def open_manifest(encoded: bytes, ref: BlobRef) -> Manifest:
    """Return the manifest of `ref`. Raises MalformedFrame if `encoded` is not that, byte for byte.

    Only one encoding is taken, so that one content has one id. It is a WrongReference if no other
    bytes could do better.
    """
    if len(encoded) > MANIFEST_BYTES_MAX or blob_digest(encoded) != ref.digest:
        raise MalformedFrame("this is not the blob's manifest")
    try:
        manifest = decode_strictly(_manifest, encoded, "manifest")
    except MalformedFrame as error:
        raise WrongReference(f"the reference is to no blob: {error}") from error
    chunks_count = -(-manifest.size_bytes // CHUNK_BYTES)
    if len(manifest.chunks) != DIGEST_BYTES * chunks_count or encode_body(manifest) != encoded:
        raise WrongReference("the reference is to no blob: its manifest is irregular")
    if manifest.size_bytes != ref.size_bytes:
        raise WrongReference(f"the blob has {manifest.size_bytes} bytes, not {ref.size_bytes}")
    return manifest


def disk_bytes(manifest_bytes: int, content_bytes: int) -> int:
    """Return what a blob takes of the disk, in whole blocks and with one for its inode."""
    return _blocks(_HEAD.size + manifest_bytes + content_bytes) + _BLOCK_BYTES


def disk_bytes_of(file: os.stat_result) -> int:
    """Return the same for a file that is there."""
    return _blocks(file.st_size) + _BLOCK_BYTES


def write_blob(path: Path, temporary: Path, manifest: bytes, content: bytes) -> None:
    """Write a whole blob to `path` by way of `temporary`; durable on return. Raises OSError."""
    try:
        with _create(temporary) as file:
            file.write(_HEAD.pack(_MAGIC, len(manifest)) + manifest)
            file.write(content)
        publish(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def start_partial(path: Path, manifest: bytes, content_bytes: int) -> None:
    """Make the file of a blob under way, as long as it will be, without any chunk."""
    try:
        with _create(path) as file:
            file.write(_HEAD.pack(_MAGIC, len(manifest)) + manifest)
            file.truncate(_HEAD.size + len(manifest) + content_bytes)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def write_chunk(path: Path, manifest_bytes: int, index: int, chunk: bytes) -> None:
    """Put a checked chunk into the file of a blob under way. Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY)
    try:
        offset = _HEAD.size + manifest_bytes + index * CHUNK_BYTES
        view = memoryview(chunk)
        while view:
            count = os.pwrite(descriptor, view, offset)
            view, offset = view[count:], offset + count
    finally:
        os.close(descriptor)


def publish(temporary: Path, path: Path) -> None:
    """Give a complete file its final name, both on the disk. Raises OSError."""
    _sync(temporary)
    temporary.replace(path)
    _sync(path.parent)


def read_manifest(path: Path, ref: BlobRef) -> bytes:
    """Return the encoded manifest of the blob in `path`. Raises MalformedFrame or OSError."""
    with path.open("rb") as file:
        return _read_manifest(file, ref)[1]


def read_chunk(path: Path, ref: BlobRef, index: int) -> bytes:
    """Return one checked chunk. Raises IndexError, MalformedFrame or OSError."""
    with path.open("rb") as file:
        manifest, encoded = _read_manifest(file, ref)
        if not 0 <= index < manifest.chunk_count:
            raise IndexError(index)
        file.seek(_HEAD.size + len(encoded) + index * CHUNK_BYTES)
        chunk = file.read(manifest.chunk_bytes(index))
    if not manifest.accepts(index, chunk):
        raise MalformedFrame(f"chunk {index} has changed on the disk")
    return chunk


def read_content(path: Path, ref: BlobRef) -> bytes:
    """Return the whole checked content. Raises MalformedFrame or OSError."""
    with path.open("rb") as file:
        manifest, _ = _read_manifest(file, ref)
        chunks = [file.read(CHUNK_BYTES) for _ in range(manifest.chunk_count)]
        is_longer = bool(file.read(1))
    if is_longer or not all(manifest.accepts(*numbered) for numbered in enumerate(chunks)):
        raise MalformedFrame("the content has changed on the disk")
    return b"".join(chunks)


def missing_chunks(path: Path, ref: BlobRef) -> set[int]:
    """Return which chunks the file of a blob under way lacks. Raises MalformedFrame or OSError."""
    with path.open("rb") as file:
        manifest, _ = _read_manifest(file, ref)
        indices = range(manifest.chunk_count)
        return {index for index in indices if not manifest.accepts(index, file.read(CHUNK_BYTES))}


def _read_manifest(file: BinaryIO, ref: BlobRef) -> tuple[Manifest, bytes]:
    """Return the manifest at the start of `file`, which is left at the content."""
    head = file.read(_HEAD.size)
    if len(head) != _HEAD.size or not head.startswith(_MAGIC):
        raise MalformedFrame("this is no file of a blob")
    _, manifest_bytes = _HEAD.unpack(head)
    encoded = file.read(min(manifest_bytes, MANIFEST_BYTES_MAX + 1))
    return open_manifest(encoded, ref), encoded


@contextlib.contextmanager
def _create(path: Path) -> Iterator[BinaryIO]:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, PRIVATE_FILE)
    with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor has no path
        yield file


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _blocks(size_bytes: int) -> int:
    return -(-size_bytes // _BLOCK_BYTES) * _BLOCK_BYTES


_manifest = msgspec.msgpack.Decoder(Manifest)
