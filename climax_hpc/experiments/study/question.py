"""A question of the study: steps to run, and a section of the results with a figure."""

from collections.abc import Callable
from dataclasses import dataclass

from matplotlib.figure import Figure

from climax_hpc.experiments.study.commands import Study
from climax_hpc.experiments.study.runner import Step
from climax_hpc.experiments.study.verdicts import VerdictRow


@dataclass(frozen=True, kw_only=True)
class Section:
    """The answer to a question."""

    text: str
    """Markdown; `{figure}` marks the place of the figure."""
    figure: Figure
    """Drawn within `report.style.figure_style`."""
    alt: str
    """Alternative text of the figure."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question of the study."""

    name: str
    """Name for `--steps`."""
    title: str
    """The question, as the heading of its section."""
    steps: Callable[[Study], list[Step]]
    """Its steps, including the evaluations that `section` reads."""
    section: Callable[[Study], Section]
    """The answer, after the steps have finished."""
    compares_networks: bool = True
    """It is about the networks of the study and their recipe; False: about the weights in the package."""
    verdicts: Callable[[Study], list[VerdictRow]] | None = None
    """The pretrained ClimaX against all others on the test period; None: scores of the validation period."""
