"""Settings of `climax-hpc pack`, `verify` and `repack`; invalid values are refused with the fix."""

from dataclasses import dataclass
from pathlib import Path

from climax_hpc.config.network import NetworkConfig
from climax_hpc.config.paths import ConfigPath
from climax_hpc.data_prep.sources.layouts import LAYOUTS
from climax_hpc.data_prep.sources.selection import Selection, check_selection
from climax_hpc.errors import UserError
from climax_hpc.fields.grid import regular_grid
from climax_hpc.fields.periods import check_period
from climax_hpc.fields.regions import Region, region_of
from climax_hpc.shards.chunk_layout import AUTO, check_chunks
from climax_hpc.utils.bounds import bounded

SAMPLE = "@sample"


@dataclass(frozen=True, kw_only=True)
class PackConfig(NetworkConfig):
    """What to pack, how, and where.

    Raises:
        UserError: an invalid value; the message names the key and the fix.
    """

    input: ConfigPath | list[ConfigPath]
    """Folder of input files and zarr stores, searched recursively; `@sample` is the sample in this package. Or zarr
    stores, icechunk repositories or kerchunk references at a URL (https, s3, gs) or path, the prefix of a bucket that
    holds some, or a list of them."""
    output: ConfigPath
    """Folder of the packed data set; new, empty, or with an interrupted pack of the same settings."""
    layout: str = "cmip6"
    """`cmip6` (CMIP7 too), `era5` (WeatherBench 2 zarr, CDS NetCDF), `anemoi` (anemoi-datasets' zarr), `climatebench`,
    or `climate4r` (.rda grids)."""
    grid_spacing_deg: float | None = bounded(5.625, 180)
    """Spacing of the target grid [degrees]; ClimaX (arXiv 2301.10343) uses 5.625 and 1.40625. null: each source keeps
    its own grid."""
    region: list[float] | str | None = None
    """Region to pack: a name (Europe, NorthAmerica, …) or [south, north, west, east] in degrees; required for regional
    input. null: the whole globe."""
    pad_to: int = bounded(1, 1024)
    """Pad the region with missing rows and columns to a multiple of this, the model's patch size [cells]."""
    regrid: str = "conservative"
    """`conservative` (first order, preserves area means) or `bilinear` (as in WeatherBench)."""
    dtype: str = "float16"
    """Type of the stored z-scores: `float16` (error below 0.0005 for a z-score of 1) or `float32`."""
    compression: str = "none"
    """`none`, or `gzip` (HDF5's shuffle and gzip on each time step): about a fifth smaller, and slower to read."""
    chunks: str = AUTO
    """Chunks of a time step, each with its checksum and read on its own: `auto`, one chunk for a step of at most 4 MiB
    and else blocks of channels × bands of rows of about 1 MiB; `step`, always one; or channels x rows, for example
    `2x180`."""
    steps_per_shard: int = bounded(1460, 10_000_000)
    """Maximum number of time steps in one shard file; 1460 is a year of 6-hourly steps."""
    variables: list[str] | None = None
    """Registry names to pack; a name that no source contains is an error. null: all that the input contains."""
    sources: list[str] | None = None
    """Sources to pack, `<source_id>_<experiment_id>_<variant_label>` and what else is in their names, with wildcards *
    and ?; null: all."""
    exclude_sources: list[str] | None = None
    """Sources to leave out, in the same form."""
    tables: list[str] | None = None
    """CMIP6 tables to read, for example [6hrPlevPt, fx], if a variable is in two tables; for CMIP7, branding suffixes,
    for example [tpt-p7h-hxy-air, "ti-*"]; with wildcards * and ?; null: all."""
    frequency: str | None = None
    """`1hr`, `3hr`, `6hr`, `12hr`, `day`, `mon` or `yr`; required only if a source has several frequencies."""
    units: dict[str, str] | None = None
    """Units of input variables whose files state none, by CMIP6 name or name in the file, for example {tas: degC};
    other units than those that a file states are refused."""
    accumulated_hours: dict[str, float] | None = None
    """Accumulation period of input variables that are sums [hours], by name in the file, for example {tp: 24}. Required
    for ERA5's `tp` unless it is hourly: sums cover 3 h in the ensemble, 24 h in daily statistics and monthly means."""
    train_period: list[str] | None = None
    """First and last partial date of the training period, both included, for example ["1850", "2005"] or
    ["2001-01", "2003-12-31"]; mean, std and climatology are computed from it. null: all times."""
    climatology: bool = True
    """Write the climatology (61-day window, by day of year and hour) that ACC and the anomaly output need."""
    keep_first_pass: bool = True
    """Keep the regridded fields on the output's disk between the two passes (twice the size of a float16 data set,
    freed shard by shard), so that the input is read once; false: read it twice. The packed bytes are the same."""
    dry_run: bool = False
    """List the shards with their sizes and the disk usage, and write nothing."""
    allow_mixed_cell_methods: bool = False
    """Allow time means and instantaneous fields in one source; a mean is then combined with the instant at the start of
    its averaging window of one time step."""
    allow_constant: bool = False
    """Pack channels that never change, such as a forcing that an experiment leaves out, with a standard deviation of 1
    instead of refusing them."""

    def __post_init__(self) -> None:
        if self.grid_spacing_deg is not None:
            regular_grid(self.grid_spacing_deg)
        if self.region is None and self.pad_to != 1:
            raise UserError(f"pad_to: {self.pad_to} pads a region, but region is not set; set it, or leave pad_to out")
        if self.pad_to < 1:
            raise UserError(f"pad_to: {self.pad_to} is below 1; use the patch size of the model, or leave pad_to out")
        _ = self.box
        _one_of("layout", self.layout, tuple(LAYOUTS))
        _one_of("regrid", self.regrid, ("conservative", "bilinear"))
        _one_of("dtype", self.dtype, ("float16", "float32"))
        _one_of("compression", self.compression, ("none", "gzip"))
        check_chunks(self.chunks)
        if self.steps_per_shard < 1:
            raise UserError(f"steps_per_shard: {self.steps_per_shard} is below 1; use for example 1460")
        super().__post_init__()
        for key in ("input", "output"):
            if not getattr(self, key) or (isinstance(self.input, list) and "" in self.input):
                raise UserError(f"{key}: is empty; give a folder")
        check_selection(self.selection)
        for name, hours in (self.accumulated_hours or {}).items():
            if not 0 < hours <= 24 * 366:
                raise UserError(f"accumulated_hours: {name}: {hours:g} h is not a period; use for example 24")
        if self.train_period is not None:
            if len(self.train_period) != 2:
                raise UserError(f'train_period: {self.train_period} is not [first, last]; write ["1850", "2005"]')
            check_period("train_period", self.train)

    @property
    def box(self) -> Region | None:
        """The region as a box; None for the globe.

        Raises:
            UserError: unknown region, or invalid box.
        """
        return None if self.region is None else region_of(self.region)

    @property
    def selection(self) -> Selection:
        """The keys that select input."""
        return Selection.of(self)

    @property
    def train(self) -> tuple[str, str]:
        """First and last date of the training period."""
        assert self.train_period is not None
        return str(self.train_period[0]), str(self.train_period[1])

    @property
    def input_folder(self) -> Path:
        """The input as a path, `@sample` resolved.

        Raises:
            UserError: no such folder.
        """
        sample = self.input == SAMPLE
        folder = Path(__file__).parent / "sample" if sample else Path(str(self.input))
        if not folder.is_dir():
            named = str(self.input).startswith("@")
            other = f"{SAMPLE} is the shipped sample" if named else "give the folder of the input files"
            fix = "reinstall climax_hpc" if sample else other
            raise UserError(f"input: {folder} is not a folder; {fix}")
        return folder

    def settings(self) -> dict[str, object]:
        """All settings that determine the bytes of the data set, without paths; recorded in the manifest."""
        return {
            "layout": self.layout,
            "grid": self.grid_spacing_deg,
            "region": list(self.region) if isinstance(self.region, list | tuple) else self.region,
            "pad_to": self.pad_to,
            "units": self.units,
            "regrid": self.regrid,
            "dtype": self.dtype,
            "compression": self.compression,
            "steps_per_shard": self.steps_per_shard,
            "variables": self.variables,
            "sources": self.sources,
            "exclude_sources": self.exclude_sources,
            "tables": self.tables,
            "frequency": self.frequency,
            "train_period": None if self.train_period is None else list(self.train),
            "climatology": self.climatology,
            "allow_mixed_cell_methods": self.allow_mixed_cell_methods,
            "allow_constant": self.allow_constant,
        } | self._later_settings()

    def _later_settings(self) -> dict[str, object]:
        """Settings that data sets packed before they existed lack; left out where they are not used."""
        hours, chunks = self.accumulated_hours, self.chunks
        return ({"accumulated_hours": hours} if hours else {}) | ({"chunks": chunks} if chunks != AUTO else {})


@dataclass(frozen=True, kw_only=True)
class VerifyConfig:
    """Which data set to verify."""

    dataset: ConfigPath
    """Folder of a packed data set (`climax-hpc pack`)."""


@dataclass(frozen=True, kw_only=True)
class RepackConfig:
    """Which data set to write again, with other chunks.

    Raises:
        UserError: an invalid value; the message names the key and the fix.
    """

    dataset: ConfigPath
    """Folder of a packed data set (`climax-hpc pack`)."""
    output: ConfigPath
    """Folder of the new data set; new, empty, or with an interrupted repack of the same data set and chunks."""
    chunks: str = AUTO
    """As in `pack`: `auto`, `step` (one chunk per time step), or channels x rows, for example `2x180`."""

    def __post_init__(self) -> None:
        check_chunks(self.chunks)
        for key in ("dataset", "output"):
            if not str(getattr(self, key)):
                raise UserError(f"{key}: is empty; give a folder")


def _one_of(key: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UserError(f"{key}: {value!r} is not one of {', '.join(allowed)}")
