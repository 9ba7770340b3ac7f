"""Lengths in the header of a Blosc chunk: the decoder itself does not compare them with the bytes that it is given.

Header: https://github.com/Blosc/c-blosc/blob/main/README_CHUNK_FORMAT.rst, 16 bytes, the last four the length.
"""

from typing import Any

HEADER_BYTES = 16


def is_blosc(array: Any) -> bool:
    """True if the chunks of a zarr array are stored as Blosc made them."""
    compressors = tuple(array.compressors or ())
    return bool(compressors) and "blosc" in type(compressors[-1]).__name__.lower() and not array.shards


def is_whole(head: bytes, length: int) -> bool:
    """True if a chunk of `length` bytes that begins with `head` has the length in its header."""
    return len(head) >= HEADER_BYTES and int.from_bytes(head[12:16], "little") == length
