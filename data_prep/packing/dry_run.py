"""`climax-hpc pack --dry_run true`: lists what would be packed, shard by shard, with sizes; writes nothing."""

from pathlib import Path

from climax_hpc.data_prep.config import PackConfig
from climax_hpc.data_prep.packing.context import in_training_period
from climax_hpc.data_prep.packing.disk_usage import disk_usage_of, free_bytes
from climax_hpc.data_prep.packing.plan import PackPlan, SourcePlan, WorkUnit
from climax_hpc.data_prep.sources.input_root import bytes_of_input
from climax_hpc.data_prep.sources.skipped import skipped_lines
from climax_hpc.fields.calendars import iso


def print_dry_run(plan: PackPlan, config: PackConfig) -> None:
    """Print sources, shards, files left out and expected sizes.

    Raises:
        UserError: a source has no time step in the training period.
    """
    for source in plan.sources:
        in_training_period(config, source)
    sizes, output = disk_usage_of(plan, config), Path(config.output)
    for number, source in enumerate(plan.sources):
        files = source.input_files()
        read = sum(bytes_of_input(plan.root / file) for file in files)
        print(
            f"{source.name}: {len(source.channels)} channels, {len(source.static_channels)} static, "
            f"{len(source.seconds)} steps ({source.frequency}, {source.calendar}), "
            f"{len(source.segment_starts) - 1} gaps; {len(files)} input files, {read / 1e6:.1f} MB"
        )
        for unit in (unit for unit in plan.work_units if unit.source == number):
            size = sizes.shards[unit.file] / 1e6
            print(f"  {unit.file}: {unit.stop - unit.start} steps, {_span(source, unit)}, {size:.2f} MB")
    for line in skipped_lines(s.to_json() for s in plan.skipped):
        print(line)
    print_notes(plan)
    shards, climatologies, kept = (
        f"{sum(part.values()) / 1e6:.2f} MB" for part in (sizes.shards, sizes.climatologies, sizes.kept)
    )
    at_most = "at most " if config.compression != "none" else ""
    print(
        f"{len(plan.sources)} sources, {len(plan.work_units)} shards: {at_most}{shards} of shards, {climatologies} of "
        f"climatologies, {kept} of fields kept between the passes; {free_bytes(output) / 1e6:.0f} MB are free in "
        f"{output}. Dry run: nothing was written",
        flush=True,
    )


def print_notes(plan: PackPlan) -> None:
    """Print what the plan warns of."""
    for note in plan.notes:
        print(f"pack: warning: {note}", flush=True)


def _span(source: SourcePlan, unit: WorkUnit) -> str:
    return " … ".join(iso(source.seconds[i], source.calendar) for i in (unit.start, unit.stop - 1))
