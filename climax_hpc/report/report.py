"""Writes the page of `climax-hpc report`, and a PNG of its summary figure where asked for."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from matplotlib.figure import Figure

from climax_hpc.config.inference import ReportConfig
from climax_hpc.errors import UserError
from climax_hpc.report.style import figure_style, png_writer
from climax_hpc.utils.atomic import write_together
from climax_hpc.utils.files import made_folder, text_writer

Draw = Callable[[ReportConfig], tuple[str, Callable[[], Figure]]]
"""Returns the page as HTML, and a function that draws its summary figure."""


def write_report(config: ReportConfig, draw: Draw) -> Path:
    """Write the page (and the PNG) that `draw` makes, and return the page's path.

    Raises:
        UserError: no evaluation, a run without metrics, an unknown headline variable, or an unusable output path.
    """
    output, picture = Path(config.output), Path(config.figure) if config.figure else None
    for key, path, suffix in (("output", output, ".html"), ("figure", picture, ".png")):
        _check_target(key, path, suffix)
    page, summary = draw(config)
    writes = {output: text_writer(page)}
    with figure_style(for_page=False):
        if picture:
            writes[picture] = png_writer(summary())
        with ExitStack() as folders:
            for path in writes:
                folders.enter_context(made_folder(path.parent, "output"))
            write_together(writes)
    print(f"report: {output}", flush=True)
    return output


def _check_target(key: str, path: Path | None, suffix: str) -> None:
    if path and (path.is_dir() or any(p.exists() and not p.is_dir() for p in path.parents)):
        raise UserError(f"{key}: {path} is a folder or lies inside a file; give the path of a file to write")
    if path and path.suffix != suffix:  # another one may be that of a file which the report reads
        raise UserError(f"{key}: {path} must end in {suffix}")
