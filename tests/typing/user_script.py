"""What a user writes against the public API; `make typecheck` runs `mypy --strict` on it, nothing runs it.

Each `type: ignore` is a mistake that mypy must report: if the API lost its types, it would report an unused comment.
"""

from pathlib import Path

import xarray as xr

import climax_hpc
from climax_hpc import ClimaX, DataSet, PackConfig, UserError, launch, open_physical, pack, verify


def pack_the_sample(folder: Path) -> int:
    """Number of time steps packed."""
    manifest_file = pack(PackConfig(input="@sample", output=str(folder), train_period=["2001", "2003"]))
    manifest = verify(manifest_file.parent)
    return sum(shard.steps for source in manifest.sources.values() for shard in source.shards)


def look_at_it(folder: Path) -> float:
    """Mean 2 m temperature of the first shard [K], and of its first time step from the source."""
    source = DataSet(folder).select(["JCM-C"])[0]
    print(source.name, source.channels, source.steps, source.grid.shape, source.read(0).mean())
    states: xr.Dataset = open_physical(next(folder.glob("JCM-C*/*.h5")))
    return float(states["2m_temperature"].mean())


def forecast(states: xr.Dataset, run: str, dataset: str) -> xr.Dataset | None:
    """Forecasts for one and three days, or None where the input does not fit."""
    try:
        model = ClimaX.from_pretrained(run)
        return model.forecast(states, lead=["24h", "72h"], climatology=dataset, climatology_source="JCM-C")
    except UserError as error:
        print(f"climax_hpc {climax_hpc.__version__}: {error}")
        return None


def train(folder: Path) -> str:
    """The table of a sweep over two lead times, after a pretraining."""
    where = launch.Resources(executor="local", minutes=30)
    run = launch.pretrain("demo_pretrain", {"train.steps": 20}, folder=folder / "jobs", where=where)
    print(run.wait().ok, launch.read_status(run.folder).state)
    runs = launch.sweep(
        "demo_finetune", {"checkpoint": run.folder}, folder=folder / "sweep", where=where, lead_hours=[24, "6-168"]
    )
    return runs.results().to_markdown()


def mistakes(states: xr.Dataset) -> None:
    """Calls that a type checker reports."""
    ClimaX.from_pretrained(7)  # type: ignore[arg-type]
    ClimaX.from_pretrained("run").forecast(states)  # type: ignore[call-arg]
    climax_hpc.forecast(states)  # type: ignore[attr-defined]
    launch.Resources(executer="local")  # type: ignore[call-arg]
    open_physical(3.0)  # type: ignore[arg-type]
