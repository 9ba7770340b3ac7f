"""The thread in which all requests of a process run."""

import asyncio
import os
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

Result = TypeVar("Result")
_LOCK = threading.Lock()
_LOOPS: dict[int, asyncio.AbstractEventLoop] = {}
"""Process -> loop: a forked process has none of its parent's threads."""


def submit(work: Coroutine[Any, Any, Result]) -> "Future[Result]":
    """Start work in the thread."""
    with _LOCK:
        loop = _LOOPS.get(os.getpid())
        if loop is None:
            loop = _LOOPS[os.getpid()] = asyncio.new_event_loop()
            threading.Thread(target=loop.run_forever, name="stores", daemon=True).start()
    return asyncio.run_coroutine_threadsafe(work, loop)


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """Do work in the thread, and wait for it."""
    return submit(work).result()
