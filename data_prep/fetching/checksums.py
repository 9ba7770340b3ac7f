"""Checksums as ESGF states them: the algorithm by name, or the multihash of STAC's file extension.

A multihash is hexadecimal: a code of the algorithm, the number of bytes of the digest, the digest
(github.com/multiformats/multihash).
"""

import hashlib
import re
from typing import Any

_LENGTHS = {"sha256": 64, "md5": 32, "sha512": 128, "sha1": 40}
"""Algorithm -> hexadecimal digits of its digest."""
_MULTIHASH = {"1220": "sha256", "d50110": "md5", "1340": "sha512", "1114": "sha1"}
"""Code and length in front of a digest -> algorithm."""
_STATED = "SHA256, MD5, SHA1, SHA512 or multihash"


class BadChecksum(ValueError):
    """A checksum that cannot be one: the message says which, and what is expected."""


def parse_checksum(kind: str, value: str) -> str:
    """`algorithm:digest`, in lower case; empty where an index states no checksum.

    Raises:
        BadChecksum: an unknown algorithm, or a digest of another form.
    """
    digest = value.strip().lower()
    if not digest:
        return ""
    algorithm = kind.strip().lower().replace("-", "")
    if algorithm == "multihash":
        algorithm, digest = _from_multihash(digest)
    if algorithm not in _LENGTHS:
        raise BadChecksum(f"checksum_type is {kind[:40]!r}, expected {_STATED}")
    if not re.fullmatch(rf"[0-9a-f]{{{_LENGTHS[algorithm]}}}", digest):
        raise BadChecksum(
            f"checksum is {value[:80]!r}, expected {_LENGTHS[algorithm]} hexadecimal digits of {algorithm}"
        )
    return f"{algorithm}:{digest}"


def hasher(checksum: str) -> Any:
    """A new hash object of a parsed checksum; of sha256 where there is none."""
    return hashlib.new(checksum.partition(":")[0] or "sha256", usedforsecurity=False)


def agrees(checksum: str, digest: Any) -> bool:
    """True if a hash object has the digest of a parsed checksum, or there is none to compare."""
    return not checksum or checksum.partition(":")[2] == digest.hexdigest()


def _from_multihash(text: str) -> tuple[str, str]:
    for prefix, algorithm in _MULTIHASH.items():
        if text.startswith(prefix) and len(text) == len(prefix) + _LENGTHS[algorithm]:
            return algorithm, text[len(prefix) :]
    raise BadChecksum(f"checksum is {text[:80]!r}, expected a multihash of sha256 (1220…), md5, sha1 or sha512")
