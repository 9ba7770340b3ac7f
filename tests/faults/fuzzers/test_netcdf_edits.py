"""Changed NetCDF files for `pack`: the same result, another one where that is right, or a refusal."""

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import pytest

from .case import Case
from .harness import Harness, every
from .netcdf_edits import Change, attribute_changes, axis_changes, raw_changes, storage_changes, value_changes
from .results import netcdf_content

SAYS = ("cmip6", "TEST-1", "tas", "zg", "orog", "source_id", "units", ".nc", "input")


def files(chain: Path) -> list[str]:
    """Files of time-varying variables, relative to the chain."""
    return sorted(str(path.relative_to(chain)) for path in (chain / "cmip6").rglob("*.nc") if "/fx/" not in str(path))


def cases(changes: Iterable[Change], paths: list[str], *, all_years: bool = False) -> Iterator[Case]:
    """Each change on one of the files in turn; `all_years`: on all files of its variable."""
    for number, change in enumerate(changes):
        path = paths[number % len(paths)]
        name = Path(path).name
        changed = [p for p in paths if Path(p).parent == Path(path).parent] if all_years else [path]
        yield Case(
            name=f"{name.split('_')[0]} {'all' if all_years else name[-7:-3]} {change.name}",
            verb="pack",
            damage=partial(_apply, change, changed),
            expects=change.expects,
            names=SAYS,
            tells=(
                *(Path(p).name for p in changed),
                f"copy_{name}",
                f"link_{name}",
                f"gone_{name}",
                "folder.nc",
                "empty.nc",
            ),
            reread=partial(_content, path) if change.raw else None,
        )


def _apply(change: Change, paths: list[str], folder: Path) -> None:
    for path in paths:
        change.apply(folder / path)


def _content(path: str, folder: Path) -> str:
    """What the library reads; of a file that it cannot read, nothing: then a result is never right."""
    try:
        return netcdf_content(folder / path)
    except (OSError, RuntimeError, ValueError, LookupError, AttributeError):
        return ""


def header_cases(paths: list[str]) -> list[Case]:
    changes = [*storage_changes(), *axis_changes(), *value_changes(), *attribute_changes()]
    return [*cases(changes, paths), *cases(changes, paths[2:] + paths[:2], all_years=True)]


def byte_cases(chain: Path, paths: list[str], count: int) -> list[Case]:
    size = (chain / paths[0]).stat().st_size
    return [
        case
        for seed, classic in ((1, False), (2, True))
        for case in cases(raw_changes(size, count, seed, classic=classic), paths)
    ]


def test_a_sample_of_headers(faults: Harness) -> None:
    paths = files(faults.chain)
    faults.run_all(every(header_cases(paths), 8) + every(byte_cases(faults.chain, paths, 300), 4), "netcdf_edits")


@pytest.mark.faults
def test_headers(faults: Harness) -> None:
    faults.run_all(header_cases(files(faults.chain)), "netcdf_edits")


@pytest.mark.faults
def test_bytes(faults: Harness) -> None:
    faults.run_all(byte_cases(faults.chain, files(faults.chain), 300), "netcdf_edits")
