"""What a process remembers of stores between reads; imports nothing heavy."""

from typing import Any

SESSIONS: dict[str, Any] = {}
"""Settings of the network -> their `Session`."""


def close_sessions() -> None:
    """Forget all that was read: a store may have changed since."""
    SESSIONS.clear()
