"""What every question of the study gives: steps to run, and a section of the results with its figure."""

from collections.abc import Callable
from dataclasses import dataclass

from matplotlib.figure import Figure

from climax_hpc.experiments.study.commands import Study
from climax_hpc.experiments.study.runner import Step


@dataclass(frozen=True, kw_only=True)
class Section:
    """One question answered."""

    text: str
    """Markdown, `{figure}` where the figure goes."""
    figure: Figure
    """Drawn within `report.style.figure_style`."""
    alt: str
    """What the figure shows, for those who do not see it."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question of the study."""

    name: str
    """As `--steps` names it."""
    title: str
    """The question in words."""
    steps: Callable[[Study], list[Step]]
    """Its steps, the evaluations that `section` reads among them."""
    section: Callable[[Study], Section]
    """The answer, once the steps have finished."""
