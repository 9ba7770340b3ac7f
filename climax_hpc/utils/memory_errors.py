"""What ran out of memory, as one line: the device, what was asked for, what is free, and which settings help."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from climax_hpc.errors import NotEnoughMemory

_NO_MEMORY = re.compile(
    # torch's, on the host and on GPUs; cuBLAS's, cuDNN's and rocBLAS's; the loader's of a shared library
    r"can't allocate memory|out of memory|STATUS_ALLOC_FAILED|rocblas_status_memory_error|failed to map segment|"
    r"cannot allocate memory",
    re.IGNORECASE,
)
_SIZE = r"(\d+(?:\.\d+)? \w*B|\d+(?:\.\d+)? bytes)"
_ASKED = re.compile(rf"(?:[Tt]ried to|Unable to) allocate {_SIZE}")  # torch; NumPy
_OF_DEVICE = re.compile(rf"GPU (\d+) has a total capacity of {_SIZE} of which {_SIZE} is free")
_ON_DEVICE = re.compile(r"CUDA|HIP|CUBLAS|CUDNN|rocblas|NCCL")
_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB")
ADVICE = "ask for more, or do less at once"
"""Where no setting is known that helps."""


@contextmanager
def memory_errors_explained(advice: str = ADVICE) -> Iterator[None]:
    """Within the block, an error for lack of memory becomes one line that ends with `advice`.

    Raises:
        NotEnoughMemory: the line.
    """
    try:
        yield
    except NotEnoughMemory:
        raise
    except (MemoryError, RuntimeError, ImportError) as error:
        if not is_memory_error(error):
            raise
        raise NotEnoughMemory(f"{explain_memory_error(error)}: {advice}") from error


def is_memory_error(error: BaseException) -> bool:
    """True if the host or a device had not enough memory; libraries say it in their text only."""
    return isinstance(error, MemoryError) or bool(_NO_MEMORY.search(str(error)))


def explain_memory_error(error: BaseException) -> str:
    """What had not enough memory, what was asked for and what is free, as far as the error says."""
    text = str(error)
    asked = _ASKED.search(text)
    parts = [f"{_readable(asked[1])} more were asked for"] if asked else []
    if device := _OF_DEVICE.search(text):
        parts.append(f"{device[3]} of {device[2]} are free")
        where = f"GPU {device[1]}{_name_of(int(device[1]))}"
    else:
        where = "the GPU" if _ON_DEVICE.search(text) else ""
    if not parts and text:
        parts = [" ".join(text.split())[:200]]
    reason = f" ({', '.join(parts)})" if parts else ""
    return f"not enough memory{' on ' if where else ''}{where}{reason}"


def _readable(size: str) -> str:
    """A size with a unit; the host's allocator counts in bytes."""
    number, unit = size.split()
    if unit != "bytes":
        return size
    value, power = float(number), 0
    while value >= 1024 and power < len(_UNITS) - 1:
        value, power = value / 1024, power + 1
    return f"{value:.2f} {_UNITS[power]}" if power else f"{number} bytes"


def _name_of(device: int) -> str:
    """Name of a GPU; empty where torch cannot tell it any more."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return ""
    try:
        return f", {torch.cuda.get_device_name(device)}"
    except RuntimeError:  # of torch: a device that has failed does not answer
        return ""
