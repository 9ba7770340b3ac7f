"""The table of a packed data set: sources, time, gaps, sizes, variables and statistics, from the manifest."""

from pathlib import Path

from climax_hpc.data_prep.sources.skipped import skipped_lines
from climax_hpc.errors import UserError
from climax_hpc.fields.variables import lookup
from climax_hpc.shards.manifest import Manifest, ShardEntry, SourceEntry
from climax_hpc.shards.shard import RESTORE
from climax_hpc.utils.formatting import readable_size

_FREQUENCIES = {
    "1hr": "hourly", "3hr": "3-hourly", "6hr": "6-hourly", "12hr": "12-hourly", "day": "daily", "mon": "monthly",
    "yr": "yearly",
}  # fmt: skip
_FIGURES = ("mean", "std", "min", "max")
_MOST_GAPS = 3


def describe(dataset: Path, manifest: Manifest, names: list[str]) -> str:
    """The table as text.

    Raises:
        UserError: a shard that is missing or does not have the size in the manifest.
    """
    shards = [shard for name in names for shard in manifest.sources[name].shards]
    _check_files(dataset, shards)
    lines = [
        f"{dataset}: {_count(len(names), 'source')}, {_count(sum(s.steps for s in shards), 'time step')}, "
        f"{_count(len(shards), 'shard')}, {readable_size(sum(s.bytes for s in shards))}",
        _settings(manifest),
    ]
    for name in names:
        lines += ["", *_source(name, manifest.sources[name])]
    if manifest.skipped:
        lines += ["", *skipped_lines(manifest.skipped)]
    return "\n".join(lines)


def _check_files(dataset: Path, shards: list[ShardEntry]) -> None:
    for shard in shards:
        path = dataset / shard.file
        if not path.is_file():
            raise UserError(f"{path} is missing; {RESTORE}")
        if path.stat().st_size != shard.bytes:
            raise UserError(f"{path} has {path.stat().st_size} bytes instead of {shard.bytes}; {RESTORE}")


def _settings(manifest: Manifest) -> str:
    settings = manifest.settings
    period = settings.get("train_period")
    parts = [
        f"layout {settings.get('layout', 'cmip6')}",
        f"{settings.get('regrid')} regridding",
        str(settings.get("dtype")),
        f"statistics over {' … '.join(map(str, period)) if period else 'all times'}",
        f"climax_hpc {manifest.climax_hpc_version or 'unknown'}",
    ]
    return ", ".join(parts)


def _source(name: str, source: SourceEntry) -> list[str]:
    lat, lon = source.grid["lat_bnds"], source.grid["lon_bnds"]
    steps = sum(s.steps for s in source.shards)
    lines = [
        name,
        f"  grid      {len(lat)} × {len(lon)} cells, {lat[0][0]:.4g} … {lat[-1][1]:.4g}° N, "
        f"{lon[0][0]:.4g} … {lon[-1][1]:.4g}° E",
        f"  time      {_FREQUENCIES.get(source.frequency, source.frequency)}, {source.calendar} calendar, "
        f"{source.shards[0].first[:16]} … {source.shards[-1].last[:16]}, {_count(steps, 'step')}",
        f"  gaps      {_gaps(source)}",
        f"  files     {_count(len(source.shards), 'shard')}, {readable_size(sum(s.bytes for s in source.shards))}, "
        f"{'with' if source.climatology else 'no'} climatology",
        f"  static    {', '.join(source.static) or 'none'}",
    ]
    width = max(len(c) for c in source.channels) + (2 if source.derived else 0)
    figures = "".join(f" {key:>11}" for key in _FIGURES)
    lines.append(f"  {'variable':<{width}}  {'short':<6} {'units':<10}{figures} {'missing':>8}")
    for channel in source.channels:
        known, found = lookup(channel), source.statistics[channel]
        figures = "".join(f" {found[key]:>11.5g}" for key in _FIGURES)
        marked = f"{channel} *" if channel in source.derived else channel
        lines.append(
            f"  {marked:<{width}}  {known.short_name:<6} {known.units:<10}{figures} {_share(found['missing_share']):>8}"
        )
    lines += [f"  * {formula}" for formula in sorted(set(source.derived.values()))]
    return lines


def _gaps(source: SourceEntry) -> str:
    dropped = f"; {_count(source.dropped_steps, 'step')} dropped: a variable is missing" if source.dropped_steps else ""
    if not source.gaps:
        return f"none{dropped}"
    shown = "; ".join(f"{g['after'][:16]} … {g['before'][:16]}" for g in source.gaps[:_MOST_GAPS])
    more = f"; and {len(source.gaps) - _MOST_GAPS} more" if len(source.gaps) > _MOST_GAPS else ""
    return f"{len(source.gaps)}: {shown}{more}{dropped}"


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _share(share: float) -> str:
    """A percentage that does not round a few missing cells to none."""
    return "none" if share == 0 else f"{100 * share:.3g} %" if share >= 1e-5 else "<0.001 %"
