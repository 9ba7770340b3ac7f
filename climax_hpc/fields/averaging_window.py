"""Means over a window of time steps: the targets of sub-seasonal to seasonal forecasts, such as weeks 3-4.

A window of H hours that starts at lead L holds the steps with L <= lead < L + H: [14 d, 28 d) is weeks 3-4.
Dimensions: N times · T steps of a block · C channels · H, W grid.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from climax_hpc.errors import UserError
from climax_hpc.utils.formatting import whole_steps

Field = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Window:
    """The time steps that a mean is taken over.

    Raises:
        UserError: a length or spacing that is not positive, or a spacing longer than the window.
    """

    hours: float
    """Length [h]."""
    step_hours: float | None = None
    """Spacing of the steps [h]; None: every time step of the source."""

    def __post_init__(self) -> None:
        if self.hours <= 0:
            raise UserError(f"data.window_hours must be positive, not {self.hours:g}; null forecasts states, not means")
        if self.step_hours is not None and not 0 < self.step_hours <= self.hours:
            raise UserError(f"data.window_step_hours must lie in (0, data.window_hours = {self.hours:g}]")

    @property
    def offset_hours(self) -> list[float]:
        """Hours after the start of the window of each step; only for a window with a spacing."""
        if self.step_hours is None:
            raise ValueError("a window without step_hours has the steps of a source")
        return np.arange(0, self.hours - 1e-6, self.step_hours).tolist()

    def over(self, step_hours: float, name: str) -> "WindowSteps":
        """The window in time steps of a source.

        Raises:
            UserError: the source has no fixed time step, or its step does not divide window and spacing.
        """
        if step_hours <= 0:
            raise UserError(
                f"source {name} has no fixed time step, so means over {self.hours:g} h cannot be taken: use "
                "data with a fixed step"
            )
        steps, stride = (whole_steps(hours, step_hours) for hours in (self.hours, self.step_hours or step_hours))
        if steps is None or stride is None or steps % stride:
            every = "" if self.step_hours is None else f" every {self.step_hours:g} h"
            raise UserError(
                f"data.window_hours: a mean over {self.hours:g} h{every} does not fit the {step_hours:g} h step of "
                f"source {name}: use multiples of the step, and a window that is a multiple of data.window_step_hours"
            )
        return WindowSteps(steps=steps, stride=stride)


def window_of(hours: float | None, step_hours: float | None) -> Window | None:
    """The window of this length and spacing; None where `hours` is None."""
    return None if hours is None else Window(hours=hours, step_hours=step_hours)


@dataclass(frozen=True, kw_only=True)
class WindowSteps:
    """A window, counted in time steps of one source."""

    steps: int
    """Length in time steps."""
    stride: int
    """Spacing in time steps."""

    @property
    def offsets(self) -> range:
        """The steps that the mean is taken over, from the first step of the window."""
        return range(0, self.steps, self.stride)

    @property
    def tail(self) -> int:
        """Number of time steps from the first of them to the last."""
        return self.offsets[-1]

    def mean(self, read: Callable[[int], Field], first: int) -> NDArray[np.float32]:
        """Mean (…) of `read(t)` over the window that starts at time index `first`; NaN where any step is missing."""
        total = read(first).astype(np.float32)
        for offset in self.offsets[1:]:
            total += read(first + offset)
        total /= len(self.offsets)
        return total

    def means_into(self, read: Callable[[int], Field], firsts: Sequence[int], out_NCHW: Field) -> None:
        """Write the means over the windows that start at these time indices into `out_NCHW`."""
        for first, out_CHW in zip(firsts, out_NCHW, strict=True):
            out_CHW[...] = self.mean(read, first)

    def moving_means(self, block_THW: Field) -> Field:
        """Means (T - tail, …) over the windows that start at each of the consecutive steps (T, …)."""
        count = len(block_THW) - self.tail
        if count <= 0:
            return block_THW[:0]
        steps = np.stack([block_THW[offset : offset + count] for offset in self.offsets])
        return steps.mean(axis=0, dtype=np.float32)
