"""Copies from the host to the device during which neither waits for the other.

A copy from pageable memory waits until the device has done all earlier work; one from page-locked memory does not.
"""

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor


def to_device(values: NDArray[Any] | Tensor, device: torch.device) -> Tensor:
    """Values of the host as a tensor on the device; on a CPU it shares their memory.

    torch keeps the page-locked block until the copy is complete, and uses it for a later copy then.
    """
    host = values if isinstance(values, Tensor) else torch.from_numpy(values)
    return host if device.type == "cpu" else host.pin_memory().to(device, non_blocking=True)


class DeviceBuffer:
    """Bytes in page-locked memory and their copy on a GPU, made on a stream beside the one that computes.

    `fill` of the host's bytes may begin after `wait_for_copy`; the device's bytes are valid from `hand_over` to
    `take_back`. So neither copy is overwritten while it is read, however late the device does its work.
    """

    def __init__(self, nbytes: int, device: torch.device, stream: torch.cuda.Stream) -> None:
        self.host = torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)
        self.there = torch.empty(nbytes, dtype=torch.uint8, device=device)
        self._device, self._stream = device, stream
        self._copied, self._used = torch.cuda.Event(), torch.cuda.Event()
        self.take_back()  # its memory may have belonged to a tensor that the device still computes with

    def wait_for_copy(self) -> None:
        """Wait, on the host, until the last copy is complete."""
        self._copied.synchronize()

    def start_copy(self, nbytes: int) -> None:
        """Copy the first bytes as soon as the device has done all work before `take_back`; does not wait."""
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(self._used)
            self.there[:nbytes].copy_(self.host[:nbytes], non_blocking=True)
            self._copied.record(self._stream)

    def hand_over(self) -> None:
        """Let the current stream's later work wait for the copy."""
        torch.cuda.current_stream(self._device).wait_event(self._copied)

    def take_back(self) -> None:
        """Let later copies wait for the current stream's work so far."""
        self._used.record(torch.cuda.current_stream(self._device))
