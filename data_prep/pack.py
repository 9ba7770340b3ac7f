"""`climax-hpc pack`: raw input -> packed data set, on one process or many ranks, with the same bytes."""

import resource
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from climax_hpc.config.paths import with_expanded_paths
from climax_hpc.data_prep.config import PackConfig
from climax_hpc.data_prep.packing.climatology import WrittenClimatology, climatology_file, write_climatology
from climax_hpc.data_prep.packing.context import PackContext
from climax_hpc.data_prep.packing.disk_usage import disk_usage_of
from climax_hpc.data_prep.packing.dry_run import print_dry_run, print_notes
from climax_hpc.data_prep.packing.output_folder import OutputFolder, written_by
from climax_hpc.data_prep.packing.process_unit import (
    header_of,
    measure_work_unit,
    static_fields,
    write_static_fields,
    write_work_unit,
)
from climax_hpc.data_prep.packing.statistics import Moments, check_spread, merge_all
from climax_hpc.data_prep.packing.work_queue import WorkQueue
from climax_hpc.data_prep.packing.work_units import make_plan
from climax_hpc.data_prep.sources.input_root import bytes_of_input, identity_of
from climax_hpc.data_prep.sources.skipped import skipped_lines
from climax_hpc.data_prep.stores.sessions import close_sessions
from climax_hpc.fields.plausible_ranges import unusual
from climax_hpc.shards.manifest import (
    FILE_NAME,
    Manifest,
    ShardEntry,
    SourceEntry,
    StaticEntry,
    write_manifest,
)
from climax_hpc.shards.shard import Header
from climax_hpc.shards.static_file import static_file
from climax_hpc.utils.progress import Progress
from climax_hpc.utils.provenance import package_version


def pack(config: PackConfig) -> Path:
    """Pack a folder of input files; returns the path of the manifest (with `dry_run`, where it would be).

    Raises:
        UserError: invalid input, settings or output folder; no incomplete file is left.
    """
    queue = WorkQueue.join()
    return pack_with(queue, with_expanded_paths(config))


def pack_with(queue: WorkQueue, config: PackConfig) -> Path:
    """`pack` on the ranks of a work queue."""
    start = time.monotonic()
    close_sessions()
    output = queue.on_root(lambda: OutputFolder(Path(config.output)))
    with written_by(queue, output, Path(config.output)):
        if config.dry_run:
            queue.on_root(lambda: print_dry_run(make_plan(config), config))
            return Path(config.output) / FILE_NAME
        queue.on_root(output.claim)
        context = _prepare(queue, config, output)
        queue.on_root(lambda: output.begin(config.settings(), context.hashes, _files(context)))
        moments = _measure(queue, context)
        written = _write(queue, context, moments)
        path = queue.on_root(lambda: _write_manifest(context, moments, written))
        memory = queue.largest(1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        if queue.is_root:
            output.finish()
            print_notes(context.plan)
            _warn_of_empty_slots(context, written.climatologies)
            _warn_of_unusual_values(context, moments)
            _summarise(context, written.shards, time.monotonic() - start, memory)
        return path


def _files(context: PackContext) -> list[str]:
    """Every file of the data set but the manifest, relative to the output."""
    shards, sources = [unit.file for unit in context.plan.work_units], context.plan.sources
    return [*shards, *(climatology_file(s) for s in sources), *(static_file(s.name) for s in sources)]


def _prepare(queue: WorkQueue, config: PackConfig, output: OutputFolder) -> PackContext:
    """Plan on rank 0, hash the input files on all ranks."""
    plan = queue.on_root(lambda: make_plan(config))
    expected = queue.on_root(lambda: disk_usage_of(plan, config))  # slow: one date per time step
    if config.compression == "none":
        queue.on_root(lambda: output.check_room(expected.needed))
    root = plan.root
    files = sorted({file for source in plan.sources for file in source.input_files()})
    sizes = [bytes_of_input(root / file) / 1e6 for file in files]
    hashes = queue.map(
        lambda i: identity_of(root / files[i]), len(files), Progress("hash input", sizes, "MB", queue.is_root)
    )
    context = PackContext(
        plan=plan,
        config=config,
        output=Path(config.output),
        hashes=dict(zip(files, hashes, strict=True)),
        disk_usage=expected,
        ranks=queue.size,
    )
    queue.on_root(lambda: _check_sources(context))
    return context


def _check_sources(context: PackContext) -> None:
    """Detect before the long passes what they would refuse."""
    for source in context.plan.sources:
        context.in_training_period(source)
        static_fields(context, source)


def _measure(queue: WorkQueue, context: PackContext) -> list[list[Moments]]:
    """First pass: moments of every source and channel over the training period."""
    work_units = context.plan.work_units
    progress = Progress("statistics", [unit.stop - unit.start for unit in work_units], "steps", queue.is_root)
    parts = queue.map(lambda i: measure_work_unit(context, work_units[i]), len(work_units), progress)
    return queue.on_root(lambda: [_merge(context, number, parts) for number in range(len(context.plan.sources))])


def _merge(context: PackContext, number: int, parts: list[list[Moments]]) -> list[Moments]:
    """Moments of the channels of one source, merged over its work units."""
    source = context.plan.sources[number]
    own = [part for unit, part in zip(context.plan.work_units, parts, strict=True) if unit.source == number]
    totals = [merge_all(part[c] for part in own) for c in range(len(source.channels))]
    files = {name: series.files[0].file for series in source.series for name in series.channels}
    for name, total in zip(source.channels, totals, strict=True):
        check_spread(total, name, source.name, files[name], context.config.allow_constant)
    return totals


@dataclass(frozen=True, kw_only=True)
class _Written:
    """The files of the second pass."""

    shards: list[ShardEntry]
    """In the order of the work units."""
    climatologies: list[WrittenClimatology | None]
    """In the order of the sources, like `static`."""
    static: list[StaticEntry | None]


def _write(queue: WorkQueue, context: PackContext, moments: list[list[Moments]]) -> _Written:
    """Second pass: the static fields, the shards, then the climatologies."""
    headers: dict[int, Header] = {}

    def header(number: int) -> Header:
        if number not in headers:
            mean, std = (np.array([getattr(m, key) for m in moments[number]]) for key in ("mean", "scale"))
            headers[number] = header_of(context, context.plan.sources[number], mean, std)
        return headers[number]

    work_units, sources = context.plan.work_units, context.plan.sources
    static = queue.map(lambda n: write_static_fields(context, sources[n], header(n)), len(sources))
    shards = queue.map(
        lambda i: write_work_unit(context, work_units[i], header(work_units[i].source)),
        len(work_units),
        Progress("shards", [unit.stop - unit.start for unit in work_units], "steps", queue.is_root),
    )
    if not context.config.climatology:
        return _Written(shards=shards, climatologies=[None] * len(sources), static=static)
    own = [[s for s, unit in zip(shards, work_units, strict=True) if unit.source == n] for n in range(len(sources))]
    climatologies = queue.map(
        lambda n: write_climatology(context, sources[n], header(n), own[n]),
        len(sources),
        Progress("climatology", [len(source.seconds) for source in sources], "steps", queue.is_root),
    )
    return _Written(shards=shards, climatologies=list(climatologies), static=static)


def _write_manifest(context: PackContext, moments: list[list[Moments]], written: _Written) -> Path:
    sources, work_units = {}, context.plan.work_units
    for number, source in enumerate(context.plan.sources):
        climatology = written.climatologies[number]
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
            shards=[s for s, unit in zip(written.shards, work_units, strict=True) if unit.source == number],
            climatology=climatology.entry if climatology else None,
            static_file=written.static[number],
            gaps=source.gaps(),
            dropped_steps=source.dropped_steps,
            derived=source.derived(),
        )
    skipped = [s.to_json() for s in context.plan.skipped]
    manifest = Manifest(
        settings=context.config.settings(), sources=sources, skipped=skipped, climax_hpc_version=package_version()
    )
    write_manifest(context.output, manifest)
    return context.output / FILE_NAME


def _warn_of_empty_slots(context: PackContext, climatologies: list[WrittenClimatology | None]) -> None:
    period = "all times" if context.config.train_period is None else " … ".join(context.config.train)
    for source, climatology in zip(context.plan.sources, climatologies, strict=True):
        if climatology and climatology.empty_slots:
            print(
                f"pack: warning: the climatology of {source.name} is missing (NaN) at {climatology.empty_slots} of "
                f"{climatology.entry.slots} days and hours, because train_period {period} has no value near "
                "them; there are no anomalies and no scores there; choose a train_period of whole years",
                flush=True,
            )


def _warn_of_unusual_values(context: PackContext, moments: list[list[Moments]]) -> None:
    """Warn of ranges that are possible but unusual, over the training period; departures have none."""
    for source, totals in zip(context.plan.sources, moments, strict=True):
        departures = {c for s in source.series if s.files[0].departures for c in s.channels}
        for name, total in zip(source.channels, totals, strict=True):
            note = unusual(total.low, total.high, name, total.mean, total.missing_share)
            if note and name not in departures:
                print(f"pack: warning: {source.name}: {note}", flush=True)


def _summarise(context: PackContext, shards: list[ShardEntry], seconds: float, memory: float) -> None:
    for source in context.plan.sources:
        gaps = len(source.segment_starts) - 1
        dropped = f", {source.dropped_steps} steps dropped (not in all variables)" if source.dropped_steps else ""
        print(
            f"{source.name}: {len(source.channels)} channels, {len(source.static_channels)} static, "
            f"{len(source.seconds)} steps ({source.frequency}, {source.calendar}), {gaps} gaps{dropped}"
        )
    for line in skipped_lines(s.to_json() for s in context.plan.skipped):
        print(line)
    size = sum(s.bytes for s in shards)
    print(
        f"packed {len(context.plan.sources)} sources, {sum(s.steps for s in shards)} steps, {len(shards)} shards, "
        f"{size / 1e6:.1f} MB in {seconds:.1f} s with at most {memory / 1e6:.0f} MB of memory per rank: "
        f"{context.output / FILE_NAME}",
        flush=True,
    )
