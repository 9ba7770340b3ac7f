"""`climax-hpc report`: one self-contained HTML page from an evaluation or a sweep, and a PNG of it where asked for."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from climax_hpc.config.inference import ReportConfig
from climax_hpc.errors import UserError
from climax_hpc.evaluation.scorecard import PROJECTION_SCHEMA, Scorecard, read_evaluation
from climax_hpc.fields.variables import lookup
from climax_hpc.report import figures
from climax_hpc.report.downscaling_page import downscaling_figure, downscaling_page
from climax_hpc.report.forecast_page import forecast_page
from climax_hpc.report.projection_page import projection_figure, projection_page
from climax_hpc.report.projection_results import Projections
from climax_hpc.report.style import figure_style, write_png
from climax_hpc.report.sweep_page import sweep_page, sweep_summary_figure
from climax_hpc.report.sweep_results import SweepResults
from climax_hpc.report.training_curves import RunHistory
from climax_hpc.utils.files import write_text


def report(config: ReportConfig) -> Path:
    """Write the page (and the PNG) and return the page's path.

    Raises:
        UserError: no evaluation, a run without metrics, an unknown headline variable, or an output that cannot be.
    """
    output, picture = Path(config.output), Path(config.figure) if config.figure else None
    for key, path in (("output", output), ("figure", picture)):
        _check_target(key, path)
    page, summary = _drawn(config)
    with figure_style(for_page=False):
        drawn = summary() if picture else None
    output.parent.mkdir(parents=True, exist_ok=True)
    write_text(output, page)
    if picture and drawn:
        picture.parent.mkdir(parents=True, exist_ok=True)
        with figure_style(for_page=False):
            write_png(drawn, picture)
    print(f"report: {output}", flush=True)
    return output


def _drawn(config: ReportConfig) -> tuple[str, Callable[[], Figure]]:
    """The page, and what draws the figure that sums it up."""
    title, wanted = config.title, [lookup(name).name for name in config.headline]
    if SweepResults.is_one(config.evaluation):
        sweep = SweepResults.load(config.evaluation)
        return sweep_page(title, sweep, _histories(config)), partial(sweep_summary_figure, sweep)
    content = read_evaluation(config.evaluation)
    if content["schema"] == PROJECTION_SCHEMA:
        found = Projections.load(config.evaluation)
        return projection_page(title, found, _histories(config)), partial(projection_figure, found)
    card, maps = Scorecard(content=content), figures.SampleMaps.load(config.evaluation)
    if content.get("task") == "downscaling":
        return downscaling_page(title, card, maps, _histories(config)), partial(downscaling_figure, card)
    variables = card.headline(wanted)
    note = "Anomaly output mode, an addition to ClimaX." if card.uses_anomaly_mode else ""
    page = forecast_page(title, card, maps, _histories(config), variables)
    return page, partial(figures.summary, card, maps, variables, note)


def _histories(config: ReportConfig) -> list[RunHistory]:
    return [RunHistory.load(label, folder) for label, folder in config.runs.items()]


def _check_target(key: str, path: Path | None) -> None:
    if path and (path.is_dir() or any(p.exists() and not p.is_dir() for p in path.parents)):
        raise UserError(f"{key}: {path} is a folder or lies in a file; give the path of a file to write")
