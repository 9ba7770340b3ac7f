"""What a failed request means: whether to repeat it, what was seen, and the fix. Nothing of it holds a secret."""

import re
from dataclasses import dataclass

_STATUS = re.compile(r"status code: (\d{3}) ?([A-Za-z -]{0,40})")
_SERVICE = re.compile(r"<Code>(\w{1,60})</Code>")
_EXPIRED = {"ExpiredToken", "InvalidToken", "ExpiredTokenException", "RequestExpired", "InvalidAccessKeyId"}
_AGAIN = {408, 425, 429, 500, 502, 503, 504}
_SIGNS = (
    ("IncompleteBody", "the body ended before its Content-Length"),
    ("UnexpectedEof", "the body ended before its Content-Length"),
    ("MissingContentLength", "an answer without Content-Length"),
    ("RangeNotSupported", "an answer without the range that was asked for"),
    ("ConnectionReset", "the connection was reset"),
    ("ConnectionRefused", "the connection was refused"),
    ("dns error", "the name of the host was not found"),
    ("certificate", "the certificate was not accepted"),
    ("IncompleteMessage", "the connection ended without an answer"),
    ("kind: Connect", "no connection"),
    ("kind: Timeout", "no answer in time"),
)
"""Signs in the text of an error, and what they mean."""
CREDENTIALS = (
    "renew the credentials (AWS_*, GOOGLE_* in the environment, or storage_options; `skip_signature: true` for a "
    "public bucket), and run the same command again"
)
LATER = "check the network and the server, and run the same command again: it resumes"


@dataclass(frozen=True)
class Failure:
    """One failed request."""

    seen: str
    """Such as `HTTP 503 Service Unavailable`."""
    fix: str = LATER
    again: bool = True
    """Another try may help."""
    most: int = 1_000_000
    """Number of tries after which it does not."""


SILENCE = Failure("no answer in time")
WEB_PAGE = Failure("a web page in place of the object", "check the URL and the server", most=5)


def wrong_length(found: int, expected: int) -> Failure:
    """Fewer or more bytes than were announced, or asked for."""
    return Failure(f"{found} bytes where {expected} were expected", most=8)


def failure_of(error: Exception) -> Failure:
    """What an exception of obstore or icechunk says."""
    text = str(error)
    if found := _STATUS.search(text):
        status = int(found[1])
        code = _SERVICE.search(text)
        seen = f"HTTP {status} {code[1] if code else found[2].strip()}".strip()
        if status in (401, 403) or (code and code[1] in _EXPIRED):
            absent = "; or the object is absent, and you may not list the bucket" if status == 403 else ""
            return Failure(f"{seen} (access denied, or expired credentials{absent})", CREDENTIALS, again=False)
        return Failure(seen, again=status in _AGAIN)
    for sign, seen in _SIGNS:
        if sign in text:
            return Failure(seen)
    if "credential" in text.lower() or "InvalidGetResult" in text:
        return Failure("no valid credentials", CREDENTIALS, again=False)
    return Failure(f"{type(error).__name__} without a status", most=20)
