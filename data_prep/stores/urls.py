"""URLs of stores: their parts, and what of them may be shown; passwords and queries are never printed or recorded."""

import re
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from climax_hpc.errors import UserError

SCHEMES = ("http", "https", "s3", "gs", "file")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def is_url(text: str) -> bool:
    """True for what begins as a URL does, of any scheme."""
    return bool(_URL.match(text))


def display(url: str) -> str:
    """A URL without user, password, query and fragment."""
    if not is_url(url):
        return url
    try:
        parts = urlsplit(url)
    except ValueError:
        return display_broken(url)
    if parts.scheme == "file":
        return unquote(parts.path)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}".rstrip("/")


def check_url(url: str, key: str) -> None:
    """Check that a URL can be that of a store.

    Raises:
        UserError: unknown scheme, no host or bucket, a query; names `key`.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise UserError(f"{key}: {display_broken(url)} is no URL ({error}); correct it") from None
    if parts.scheme not in SCHEMES:
        raise UserError(
            f"{key}: {display(url)} has the scheme {parts.scheme}, expected a path or one of {', '.join(SCHEMES)}"
        )
    if not parts.netloc and parts.scheme != "file":
        raise UserError(f"{key}: {display(url)} names no host or bucket; write {parts.scheme}://NAME/…")
    if parts.query or parts.fragment:
        raise UserError(
            f"{key}: {display(url)} has a query or fragment (a signed URL?), and keys of a store cannot be added to "
            "it; give the URL without it, with credentials in the environment or in storage_options"
        )


def display_broken(url: str) -> str:
    """What may be shown of text that need not be a URL: its scheme, and what follows the last @ up to a query.

    Where an @ follows a ? or #, either may be part of a password: then the scheme only.
    """
    scheme, mark, rest = url.rpartition("://") if url.count("://") == 1 else ("", "", url)
    place = re.split(r"[?#]", rest, maxsplit=1)
    return scheme + mark + ("…" if "@" in "".join(place[1:]) else place[0].rpartition("@")[2])


def split(url: str) -> tuple[str, str]:
    """The root of a URL (scheme, user, host or bucket), and the key below it, without a slash at either end."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}", unquote(parts.path).strip("/")


def join(url: str, key: str) -> str:
    """The URL of a key below another."""
    return f"{url.rstrip('/')}/{quote(key)}" if key else url


def as_url(location: str) -> str:
    """A path as a file URL; URLs stay."""
    return location if is_url(location) else Path(location).absolute().as_uri()
