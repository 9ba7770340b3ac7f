"""The table of a sweep: one row per member, index -> (task, variable, lead, seed, …), made once and open to inspection.

TSV with a header: index, task, variable, lead_hours, seed, run_folder, then any dotted keys. An empty cell leaves the
config's own setting. `variable` may name several, joined by +; `lead_hours` is one lead or a range such as 6-168.
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
"""The table's name in the folder of a sweep or pipeline."""
COLUMNS = ("index", "task", "variable", "lead_hours", "seed", "run_folder")


@dataclass(frozen=True, kw_only=True)
class Member:
    """One row: one training run."""

    index: int
    task: str = "forecast"
    variable: str = ""
    lead_hours: str = ""
    seed: str = ""
    run_folder: str
    settings: Mapping[str, str] = field(default_factory=dict)
    """Other dotted keys -> values, as on the command line."""

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
            raise UserError(f"{where}: seed {self.seed!r} is not a whole number from 0")
        if not self.run_folder:
            raise UserError(f"{where}: run_folder is empty: every member needs its own")
        for cell in self.cells():
            if any(mark in cell for mark in "\t\n\r\0"):
                raise UserError(f"{where}: {cell!r} holds a tab or a line break, which a table cannot")

    @property
    def variables(self) -> list[str]:
        """Registry names; none where the config's own are kept."""
        return [name for name in self.variable.split("+") if name]

    def leads(self) -> tuple[float, float] | None:
        """Shortest and longest lead time [h]; None where the config's own are kept."""
        if not self.lead_hours:
            return None
        low, dash, high = self.lead_hours.partition("-")
        try:
            leads = float(low), float(high if dash else low)
        except ValueError:
            leads = (0.0, 0.0)
        if not 0 < leads[0] <= leads[1]:
            raise UserError(f"row {self.index}: lead_hours {self.lead_hours!r} is no lead such as 24 or 6-168 [h]")
        return leads

    def arguments(self) -> list[str]:
        """What the row adds to the verb's command line."""
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
        """The row as text, in the order of the header."""
        return [str(getattr(self, column)) for column in COLUMNS] + list(self.settings.values())


@dataclass(frozen=True, kw_only=True)
class MemberTable:
    """The members of a sweep."""

    members: tuple[Member, ...]

    def __post_init__(self) -> None:
        if [member.index for member in self.members] != list(range(len(self.members))):
            raise UserError("the table's index must count 0, 1, 2, … without a gap: one row per array task")
        folders = [member.run_folder for member in self.members]
        double = next((folder for folder in folders if folders.count(folder) > 1), None)
        if double:
            raise UserError(f"run_folder {double} stands in two rows: every member needs its own")

    def row(self, index: int) -> Member:
        """One member.

        Raises:
            UserError: the table has no such row.
        """
        if not 0 <= index < len(self.members):
            raise UserError(f"the table has rows 0 to {len(self.members) - 1}, no row {index}: mend --array of sbatch")
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
    """Every combination of variables, leads, seeds and of the values of other dotted keys, as members below `folder`.

    Raises:
        UserError: an unknown task or variable, a bad lead or seed, an empty grid.
    """
    axes: dict[str, list[str]] = {
        "variable": list(variables) or [""],
        "lead_hours": [lead if isinstance(lead, str) else f"{lead:g}" for lead in lead_hours] or [""],
        "seed": [str(seed) for seed in seeds] or [""],
    }
    for key, values in (grid or {}).items():
        if not values:
            raise UserError(f"sweep.grid: {key} has no values: give at least one, or leave the key out")
        axes[key] = [value if isinstance(value, str) else json.dumps(value) for value in values]
    members = []
    for index, combination in enumerate(product(*axes.values())):
        chosen = dict(zip(axes, combination, strict=True))
        name = _name(index, [task, *(_label(key, value) for key, value in chosen.items() if value)])
        own = {key: chosen.pop(key) for key in ("variable", "lead_hours", "seed")}
        members.append(Member(index=index, task=task, run_folder=str(folder / name), settings=chosen, **own))
    return MemberTable(members=tuple(members))


def write_table(table: MemberTable, path: Path) -> None:
    """Write the TSV atomically, making its folder."""
    make_folder(path.parent, "folder")
    write_text(path, table.to_tsv())


def read_table(path: Path) -> MemberTable:
    """Read a table and check every row.

    Raises:
        UserError: absent, another header, or a bad row; names the row.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the table {path} ({error}): docs/guides/sweeps.md says how to make one") from None
    header = lines[0].split("\t") if lines else []
    if tuple(header[: len(COLUMNS)]) != COLUMNS:
        raise UserError(
            f"{path} is no table of a sweep: its first line must begin with {' '.join(COLUMNS)} (tabs between)"
        )
    return MemberTable(members=tuple(_member(path, header, line) for line in lines[1:] if line))


def _member(path: Path, header: Sequence[str], line: str) -> Member:
    cells = line.split("\t")
    if len(cells) != len(header) or not cells[0].isdigit():
        raise UserError(
            f"{path}: the row {line[:60]!r} has {len(cells)} cells under {len(header)} headings, or no index"
        )
    own = dict(zip(COLUMNS[1:], cells[1:], strict=False))
    extra = {key: cell for key, cell in zip(header[len(COLUMNS) :], cells[len(COLUMNS) :], strict=True) if cell}
    return Member(index=int(cells[0]), settings=extra, **own)


def _label(key: str, value: str) -> str:
    return {"lead_hours": f"{value}h", "variable": value}.get(key, f"{key.rpartition('.')[2]}{value}")


def _name(index: int, labels: Iterable[str]) -> str:
    text = "_".join([f"{index:03d}", *labels])
    return "".join(c if c.isalnum() or c in "_-+." else "-" for c in text)[:120]
