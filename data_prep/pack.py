"""`climax-hpc pack`: raw CMIP6 -> packed data set, on one process or on all ranks; the same bytes either way."""

import resource
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import numpy as np

from climax_hpc.data_prep.config import PackConfig
from climax_hpc.data_prep.packing.climatology import Climatology, write_climatology
from climax_hpc.data_prep.packing.disk_usage import sizes_of
from climax_hpc.data_prep.packing.dry_run import tell
from climax_hpc.data_prep.packing.output_folder import Output, disk_full
from climax_hpc.data_prep.packing.process_unit import Job, header_of, static_fields, unit_moments, write_unit
from climax_hpc.data_prep.packing.statistics import Moments, check_spread, merge_all
from climax_hpc.data_prep.packing.work_queue import OtherRankFailed, Team
from climax_hpc.data_prep.packing.work_units import make_plan
from climax_hpc.shards.manifest import (
    FILE_NAME,
    Manifest,
    ShardEntry,
    SourceEntry,
    write_manifest,
)
from climax_hpc.shards.shard import Header
from climax_hpc.utils.files import sha256, size_of
from climax_hpc.utils.progress import Progress
from climax_hpc.utils.provenance import package_version


def pack(config: PackConfig) -> Path:
    """Pack a folder of CMIP6 files; the path of the manifest (with `dry_run`, where it would be).

    Raises:
        UserError: bad input, settings or output folder; nothing half-written is left.
    """
    team = Team.join()
    return pack_with(team, config)


def pack_with(team: Team, config: PackConfig) -> Path:
    """`pack` on a team of ranks."""
    start = time.monotonic()
    output = team.on_root(lambda: Output(Path(config.output)))
    try:
        if config.dry_run:
            team.on_root(lambda: tell(make_plan(config), config))
            return Path(config.output) / FILE_NAME
        job = _prepare(team, config, output)
        team.on_root(lambda: output.begin(config.settings(), job.hashes))
        moments = _measure(team, job)
        shards, climatologies = _write(team, job, moments)
        path = team.on_root(lambda: _write_manifest(job, moments, shards, climatologies))
        memory = team.largest(1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        if team.is_root:
            output.finish()
            _warn_of_empty_slots(job, climatologies)
            _summarise(job, shards, time.monotonic() - start, memory)
        return path
    except (Exception, OtherRankFailed) as error:
        if team.is_root:
            output.clean_up(error)
        team.wait()
        raise (disk_full(error, Path(config.output)) or error) from None
    except KeyboardInterrupt as error:
        if team.is_root:
            output.clean_up(error)
        raise


def _prepare(team: Team, config: PackConfig, output: Output) -> Job:
    """Plan on rank 0, hash the inputs on all."""
    plan = team.on_root(lambda: make_plan(config))
    expected = team.on_root(lambda: sizes_of(plan, config))  # a calendar date for every step: not on every rank
    if config.compression == "none":
        team.on_root(lambda: output.check_room(expected.needed))
    root = Path(plan.root)
    files = sorted({file for source in plan.sources for file in source.input_files()})
    sizes = [size_of(root / file) / 1e6 for file in files]
    hashes = team.map(lambda i: sha256(root / files[i]), len(files), Progress("hash input", sizes, "MB", team.is_root))
    job = Job(
        plan=plan,
        config=config,
        output=Path(config.output),
        hashes=dict(zip(files, hashes, strict=True)),
        sizes=expected,
    )
    team.on_root(lambda: _check_sources(job))
    return job


def _check_sources(job: Job) -> None:
    """Find before the long passes what they would refuse."""
    for source in job.plan.sources:
        job.trained(source)
        static_fields(job, source)


def _measure(team: Team, job: Job) -> list[list[Moments]]:
    """First pass: moments of every source and channel over the training period."""
    units = job.plan.units
    progress = Progress("statistics", [unit.stop - unit.start for unit in units], "steps", team.is_root)
    parts = team.map(lambda i: unit_moments(job, units[i]), len(units), progress)
    return team.on_root(lambda: [_merge(job, number, parts) for number in range(len(job.plan.sources))])


def _merge(job: Job, number: int, parts: list[list[Moments]]) -> list[Moments]:
    """Moments of the channels of one source, its units merged in unit order."""
    source = job.plan.sources[number]
    own = [part for unit, part in zip(job.plan.units, parts, strict=True) if unit.source == number]
    totals = [merge_all(part[c] for part in own) for c in range(len(source.channels))]
    files = {name: series.files[0].file for series in source.series for name in series.channels}
    for name, total in zip(source.channels, totals, strict=True):
        check_spread(total, name, source.name, files[name], job.config.allow_constant)
    return totals


def _write(team: Team, job: Job, moments: list[list[Moments]]) -> tuple[list[ShardEntry], list[Climatology | None]]:
    """Second pass: the shards, then the climatologies."""
    headers: dict[int, Header] = {}

    def header(number: int) -> Header:
        if number not in headers:
            mean, std = (np.array([getattr(m, key) for m in moments[number]]) for key in ("mean", "scale"))
            headers[number] = header_of(job, job.plan.sources[number], mean, std)
        return headers[number]

    units, sources = job.plan.units, job.plan.sources
    shards = team.map(
        lambda i: write_unit(job, units[i], header(units[i].source)),
        len(units),
        Progress("shards", [unit.stop - unit.start for unit in units], "steps", team.is_root),
    )
    if not job.config.climatology:
        return shards, [None] * len(sources)
    own = [[s for s, unit in zip(shards, units, strict=True) if unit.source == n] for n in range(len(sources))]
    climatologies = team.map(
        lambda n: write_climatology(job, sources[n], header(n), own[n]),
        len(sources),
        Progress("climatology", [len(source.seconds) for source in sources], "steps", team.is_root),
    )
    return shards, list(climatologies)


def _write_manifest(
    job: Job, moments: list[list[Moments]], shards: list[ShardEntry], climatologies: list[Climatology | None]
) -> Path:
    sources = {}
    for number, (source, climatology) in enumerate(zip(job.plan.sources, climatologies, strict=True)):
        sources[source.name] = SourceEntry(
            identity=source.identity,
            frequency=source.frequency,
            step_hours=source.step_hours,
            calendar=source.calendar,
            channels=source.channels,
            static=source.static_channels,
            grid=source.target.grid.to_dict(),
            statistics={
                name: {"mean": m.mean, "std": m.scale, "min": m.low, "max": m.high, "missing_share": m.missing_share}
                for name, m in zip(source.channels, moments[number], strict=True)
            },
            shards=[s for s, unit in zip(shards, job.plan.units, strict=True) if unit.source == number],
            climatology=climatology.entry if climatology else None,
            gaps=source.gaps(),
            dropped_steps=source.dropped_steps,
            derived=source.derived(),
        )
    skipped = [asdict(s) for s in job.plan.skipped]
    manifest = Manifest(
        settings=job.config.settings(), sources=sources, skipped=skipped, climax_hpc_version=package_version()
    )
    write_manifest(job.output, manifest)
    return job.output / FILE_NAME


def _warn_of_empty_slots(job: Job, climatologies: list[Climatology | None]) -> None:
    period = "all times" if job.config.train_period is None else " … ".join(job.config.train)
    for source, climatology in zip(job.plan.sources, climatologies, strict=True):
        if climatology and climatology.empty_slots:
            print(
                f"pack: warning: the climatology of {source.name} stays missing (NaN) at {climatology.empty_slots} of "
                f"{climatology.entry.slots} days and hours, because train_period {period} has no value near "
                "them: there are no anomalies and no scores there; choose a train_period of whole years",
                flush=True,
            )


def _summarise(job: Job, shards: list[ShardEntry], seconds: float, memory: float) -> None:
    for source in job.plan.sources:
        gaps = len(source.stretch_starts) - 1
        dropped = f", {source.dropped_steps} steps dropped that some variable lacks" if source.dropped_steps else ""
        print(
            f"{source.name}: {len(source.channels)} channels, {len(source.static_channels)} static, "
            f"{len(source.seconds)} steps ({source.frequency}, {source.calendar}), {gaps} gaps{dropped}"
        )
    for reason, count in sorted(Counter(s.reason for s in job.plan.skipped).items()):
        example = next(s.file for s in job.plan.skipped if s.reason == reason).rsplit("/", 1)[-1]
        print(f"skipped {example}{f' and {count - 1} more' if count > 1 else ''}: {reason}")
    size = sum(s.bytes for s in shards)
    print(
        f"packed {len(job.plan.sources)} sources, {sum(s.steps for s in shards)} steps, {len(shards)} shards, "
        f"{size / 1e6:.1f} MB in {seconds:.1f} s with at most {memory / 1e6:.0f} MB of memory per rank: "
        f"{job.output / FILE_NAME}",
        flush=True,
    )
