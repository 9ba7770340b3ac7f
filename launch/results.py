"""The results of a sweep or pipeline, read from the folders of its members: one table, as TSV and as Markdown."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from climax_hpc.config.inference import ReportConfig
from climax_hpc.errors import UserError
from climax_hpc.evaluation.output import read_evaluation
from climax_hpc.evaluation.summary import (
    EVALUATIONS,
    RESULTS,
    SUMMARY_COLUMNS,
    summary_scores,
)
from climax_hpc.launch.members import COLUMNS, Member, MemberTable
from climax_hpc.launch.status import read_status
from climax_hpc.tasks.registry import report
from climax_hpc.utils.files import write_text


@dataclass(frozen=True, kw_only=True)
class Results:
    """A table: column names, and one row of text per member."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def to_tsv(self) -> str:
        """As tab-separated values."""
        return "".join("\t".join(row) + "\n" for row in (self.header, *self.rows))

    def to_markdown(self) -> str:
        """As a Markdown table, without columns that are empty in every row."""
        kept = [i for i, name in enumerate(self.header) if name != "run_folder" and any(row[i] for row in self.rows)]
        lines = [[self.header[i] for i in kept], ["---"] * len(kept)]
        lines += [[row[i].replace("|", "\\|") for i in kept] for row in self.rows]
        return "".join("| " + " | ".join(cells) + " |\n" for cells in lines)

    def column(self, name: str) -> list[str]:
        """The cells of a column."""
        return [row[self.header.index(name)] for row in self.rows]


def collect(table: MemberTable, folder: Path) -> Results:
    """The state of every member, and its scores if it has been evaluated below `folder`/evaluations."""
    extra = tuple(table.members[0].settings) if table.members else ()
    rows = [(*member.cells(), *_outcome(member, folder)) for member in table.members]
    clean = [tuple(" ".join(cell.split()) for cell in row) for row in rows]
    return Results(header=(*COLUMNS, *extra, *SUMMARY_COLUMNS), rows=tuple(clean))


def write_results(results: Results, folder: Path) -> None:
    """Write results.tsv and results.md."""
    write_text(folder / RESULTS, results.to_tsv())
    write_text(folder / "results.md", results.to_markdown())


def evaluation_of(member: Member, folder: Path) -> Path:
    """Folder of a member's evaluation."""
    return folder / EVALUATIONS / Path(member.run_folder).name


def _outcome(member: Member, folder: Path) -> list[str]:
    status = read_status(Path(member.run_folder))
    loss = "" if status.loss is None else f"{status.loss:.4g}"
    scores = _scores(member, folder)
    return [status.state, str(status.step), loss, str(status.restarts), *scores, status.message]


def _scores(member: Member, folder: Path) -> list[str]:
    """RMSE, ACC and the RMSE of the best baseline, of the first variable at the longest scored lead time.

    For a climate projection the RMSE is that of the mean map; for a task without ACC that cell is empty.
    """
    path = evaluation_of(member, folder) / "evaluation.json"
    if not path.is_file():
        return ["", "", ""]
    return [_number(value) for value in summary_scores(read_evaluation(path.parent), member.variables)]


def _number(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.4g}"


def report_pages(table: MemberTable, folder: Path) -> Sequence[Path]:
    """Write one HTML page per evaluated member, and report.html of all members; returns their paths.

    Needs results.tsv.

    Raises:
        UserError: no member has been evaluated.
    """

    pages = []
    for member in table.members:
        evaluation, name = evaluation_of(member, folder), Path(member.run_folder).name
        if (evaluation / "evaluation.json").is_file():
            page = folder / f"report_{name}.html"
            report(ReportConfig(evaluation=str(evaluation), output=str(page), title=f"Member {name}"))
            pages.append(page)
    if not pages:
        raise UserError(f"no member below {folder} has been evaluated; see the messages in results.tsv")
    summary = folder / "report.html"
    report(ReportConfig(evaluation=str(folder), output=str(summary), title=f"Members of {folder.name}"))
    return [summary, *pages]
