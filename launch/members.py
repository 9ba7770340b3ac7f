"""The table of a sweep: one row per member, with its task, variable, lead time, seed and run folder.

TSV with a header: index, task, variable, lead_hours, seed, run_folder, then any dotted keys. An empty cell keeps the
setting of the config. `variable` may name several, joined by +; `lead_hours` is one lead time or a range such as 6-168.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

from climax_hpc.config.parser import nearest
from climax_hpc.errors import UserError
from climax_hpc.fields.variables import lookup
from climax_hpc.tasks.registry import TASKS
from climax_hpc.utils.files import make_folder, write_text

MEMBERS = "members.tsv"
"""Name of the table in the folder of a sweep or pipeline."""
COLUMNS = ("index", "task", "variable", "lead_hours", "seed", "run_folder")


@dataclass(frozen=True, kw_only=True)
class Member:
    """One row of the table: one training run."""

    index: int
    task: str = "forecast"
    variable: str = ""
    lead_hours: str = ""
    seed: str = ""
    run_folder: str
    settings: Mapping[str, str] = field(default_factory=dict)
    """Further dotted keys -> values, as on the command line."""

    def __post_init__(self) -> None:
        where = f"row {self.index}"
        if self.task not in TASKS:
            raise UserError(
                f"{where}: unknown task {self.task!r}{nearest(self.task, TASKS)}; known: {', '.join(TASKS)}"
            )
        for name in self.variables:
            lookup(name)
        self.leads()
        if self.seed and not self.seed.isdigit():
            raise UserError(f"{where}: seed {self.seed!r} must be a whole number, 0 or greater")
        if not self.run_folder:
            raise UserError(f"{where}: run_folder is empty; every member needs its own folder")
        for cell in self.cells():
            if any(character in cell for character in "\t\n\r\0"):
                raise UserError(
                    f"{where}: {cell!r} contains a tab or a line break; remove it: cells are separated by tabs"
                )

    @property
    def variables(self) -> list[str]:
        """Registry names; empty: those of the config."""
        return [name for name in self.variable.split("+") if name]

    def leads(self) -> tuple[float, float] | None:
        """Shortest and longest lead time [h]; None: those of the config."""
        if not self.lead_hours:
            return None
        low, dash, high = self.lead_hours.partition("-")
        try:
            leads = float(low), float(high if dash else low)
        except ValueError:
            leads = (0.0, 0.0)
        if not 0 < leads[0] <= leads[1]:
            raise UserError(
                f"row {self.index}: lead_hours {self.lead_hours!r} must be a lead time (24) or a range (6-168) [h]"
            )
        return leads

    def arguments(self) -> list[str]:
        """Arguments that the row adds to the command line of `finetune`."""
        words = [f"--run_folder={self.run_folder}"]
        if self.task != "forecast":
            words.append(f"--task={self.task}")
        if self.variables:
            words.append(f"--data.out_variables={json.dumps(self.variables)}")
        if leads := self.leads():
            words += [f"--data.min_lead_hours={leads[0]:g}", f"--data.max_lead_hours={leads[1]:g}"]
        if self.seed:
            words.append(f"--train.seed={self.seed}")
        return words + [f"--{key}={value}" for key, value in self.settings.items()]

    def cells(self) -> list[str]:
        """The cells of the row, in the order of the header."""
        return [str(getattr(self, column)) for column in COLUMNS] + list(self.settings.values())


@dataclass(frozen=True, kw_only=True)
class MemberTable:
    """The members of a sweep."""

    members: tuple[Member, ...]

    def __post_init__(self) -> None:
        if [member.index for member in self.members] != list(range(len(self.members))):
            raise UserError("index must count 0, 1, 2, … without a gap, one row per array task")
        folders = [member.run_folder for member in self.members]
        repeated = next((folder for folder in folders if folders.count(folder) > 1), None)
        if repeated:
            raise UserError(f"run_folder {repeated} is used by two rows; every member needs its own folder")

    def row(self, index: int) -> Member:
        """The member of that index.

        Raises:
            UserError: the table has no such row.
        """
        if not 0 <= index < len(self.members):
            raise UserError(
                f"the table has rows 0 to {len(self.members) - 1}, no row {index}; correct --array of sbatch"
            )
        return self.members[index]

    def to_tsv(self) -> str:
        """The table as text."""
        extra = list(self.members[0].settings) if self.members else []
        return "".join("\t".join(row) + "\n" for row in ([*COLUMNS, *extra], *(m.cells() for m in self.members)))


def make_table(
    folder: Path,
    *,
    task: str = "forecast",
    variables: Sequence[str] = (),
    lead_hours: Sequence[float | str] = (),
    seeds: Sequence[int] = (),
    grid: Mapping[str, Sequence[object]] | None = None,
) -> MemberTable:
    """One member below `folder` for every combination of variables, lead times, seeds and values of other dotted keys.

    Raises:
        UserError: unknown task or variable, bad lead time or seed, empty grid.
    """
    axes: dict[str, list[str]] = {
        "variable": list(variables) or [""],
        "lead_hours": [lead if isinstance(lead, str) else f"{lead:g}" for lead in lead_hours] or [""],
        "seed": [str(seed) for seed in seeds] or [""],
    }
    for key, values in (grid or {}).items():
        if not values:
            raise UserError(f"sweep.grid: {key} has no values; give at least one, or remove the key")
        axes[key] = [value if isinstance(value, str) else json.dumps(value) for value in values]
    members = []
    for index, combination in enumerate(product(*axes.values())):
        chosen = dict(zip(axes, combination, strict=True))
        name = _name(index, [task, *(_label(key, value) for key, value in chosen.items() if value)])
        own = {key: chosen.pop(key) for key in ("variable", "lead_hours", "seed")}
        members.append(Member(index=index, task=task, run_folder=str(folder / name), settings=chosen, **own))
    return MemberTable(members=tuple(members))


def write_table(table: MemberTable, path: Path) -> None:
    """Write the TSV atomically, creating its folder."""
    make_folder(path.parent, "folder")
    write_text(path, table.to_tsv())


def read_table(path: Path) -> MemberTable:
    """Read a table and check every row.

    Raises:
        UserError: missing file, wrong header, or a bad row, which is named.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"cannot read the table {path} ({error}); see docs/guides/sweeps.md on how to write one"
        ) from None
    header = lines[0].split("\t") if lines else []
    if tuple(header[: len(COLUMNS)]) != COLUMNS:
        raise UserError(
            f"{path} is not the table of a sweep: its first line must begin with {' '.join(COLUMNS)}, separated by tabs"
        )
    return MemberTable(members=tuple(_member(path, header, line) for line in lines[1:] if line))


def _member(path: Path, header: Sequence[str], line: str) -> Member:
    cells = line.split("\t")
    if len(cells) != len(header):
        raise UserError(f"{path}: row {line[:60]!r} has {len(cells)} cells, the header {len(header)}")
    if not cells[0].isdigit():
        raise UserError(f"{path}: row {line[:60]!r} must begin with its index, a whole number")
    own = dict(zip(COLUMNS[1:], cells[1:], strict=False))
    extra = {key: cell for key, cell in zip(header[len(COLUMNS) :], cells[len(COLUMNS) :], strict=True) if cell}
    return Member(index=int(cells[0]), settings=extra, **own)


def _label(key: str, value: str) -> str:
    return {"lead_hours": f"{value}h", "variable": value}.get(key, f"{key.rpartition('.')[2]}{value}")


def _name(index: int, labels: Iterable[str]) -> str:
    text = "_".join([f"{index:03d}", *labels])
    return "".join(c if c.isalnum() or c in "_-+." else "-" for c in text)[:120]
