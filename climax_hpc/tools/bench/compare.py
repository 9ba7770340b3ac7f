"""`climax-hpc bench compare`: compares two benchmark files row by row, and marks slower rows."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from climax_hpc.config.paths import ConfigPath
from climax_hpc.config.training import require
from climax_hpc.errors import UserError
from climax_hpc.tools.bench.output import quantity
from climax_hpc.tools.bench.record import read_head, read_rows

_MARK_BELOW = 0.9


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """`climax-hpc bench compare BEFORE AFTER`: for every row in both files, how much better AFTER is."""

    before: ConfigPath
    """File from `climax-hpc bench record`, or from --json of a benchmark."""
    after: ConfigPath
    """Another such file, of a later version or another machine."""
    by: Literal["ours", "ratio"] = "ours"
    """`ours`: the measured values, for files of the same machine. `ratio`: the ratios to the baselines, which depend
    less on the machine."""
    fail_below: float | None = None
    """Exit with status 1 if a row falls below this: 0.9 allows 10 %. null: only mark rows below 0.9."""

    def __post_init__(self) -> None:
        require(self.fail_below is None or self.fail_below > 0, "fail_below must be positive, for example 0.9")


@dataclass(frozen=True, kw_only=True)
class Change:
    """A row that is in both files."""

    name: str
    before: str
    after: str
    factor: float
    """After relative to before; above 1 is better."""


def compare(config: CompareConfig) -> None:
    """Print the table; exits with 1 if a row is below `fail_below`.

    Raises:
        UserError: a file without rows, or no row in common.
    """
    paths = Path(config.before), Path(config.after)
    before, after = ({name_of(row): row for row in read_rows(path)} for path in paths)
    shared = [name for name in before if name in after]
    if config.by == "ratio":
        shared = [name for name in shared if None not in (before[name].get("ratio"), after[name].get("ratio"))]
    if not shared:
        raise UserError(f"{paths[0]} and {paths[1]} have no row in common; compare files of the same benchmarks")
    changes = [change(name, before[name], after[name], config.by) for name in shared]
    limit = _MARK_BELOW if config.fail_below is None else config.fail_below
    worse = [entry for entry in changes if entry.factor < limit]
    print("\n".join(_described(path) for path in paths))
    print("\n| row | before | after | factor | |\n|---|---|---|---|---|")
    for entry in changes:
        mark = "worse" if entry in worse else ""
        print(f"| {entry.name} | {entry.before} | {entry.after} | {entry.factor:.2f} | {mark} |")
    for path, rows, others in ((paths[0], before, after), (paths[1], after, before)):
        alone = [name for name in rows if name not in others]
        if alone:
            print(f"only in {path}: {'; '.join(alone)}")
    print(f"{len(changes)} rows, {len(worse)} below {limit:g}")
    if worse and config.fail_below is not None:
        sys.exit(1)


def name_of(row: dict[str, Any]) -> str:
    """What identifies a row in its file."""
    return row["name"] if row.get("name") is not None else f"{row['case']}, {row['metric']} against {row['against']}"


def change(name: str, before: dict[str, Any], after: dict[str, Any], by: str) -> Change:
    """Improvement of a row: rates should grow, other values shrink."""
    if by == "ratio":
        old, new = float(before["ratio"]), float(after["ratio"])
        return Change(name=name, before=f"{old:.2f}", after=f"{new:.2f}", factor=_factor(old, new, more_is_better=True))
    old, new = (float(row["ours"] if row.get("value") is None else row["value"]) for row in (before, after))
    unit = str(after["unit"])
    return Change(
        name=name,
        before=quantity(old, unit),
        after=quantity(new, unit),
        factor=_factor(old, new, more_is_better=unit.endswith("/s")),
    )


def _factor(before: float, after: float, *, more_is_better: bool) -> float:
    better, worse = (after, before) if more_is_better else (before, after)
    if better == worse:
        return 1.0
    return better / worse if worse else float("inf")


def _described(path: Path) -> str:
    """Machine, date and commit of a file, if stored."""
    head = read_head(path)
    device = head.machine.device or head.device
    facts = [fact for fact in (device, head.date, (head.git_commit or "")[:7]) if fact]
    return f"{path}: {', '.join(facts)}" if facts else str(path)
