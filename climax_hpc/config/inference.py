"""Settings of `evaluate`, `predict` and `report`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from climax_hpc.config.ensemble_output import EnsembleOutputConfig, check_statistics_layout
from climax_hpc.config.ensembles import EnsembleScoresConfig
from climax_hpc.config.network import NetworkConfig
from climax_hpc.config.paths import ConfigPath, check_outside
from climax_hpc.config.training import require
from climax_hpc.fields.periods import check_period
from climax_hpc.fields.regions import region_of
from climax_hpc.fields.variables import lookup
from climax_hpc.utils.bounds import bounded, hours
from climax_hpc.utils.formatting import whole_steps

Precision = Literal["float32", "tf32", "bfloat16"]
PRECISIONS = get_args(Precision)
Layout = Literal["cf", "weatherbench", "cmip"]
LAYOUTS = get_args(Layout)
HEADLINE = ("geopotential_500", "temperature_850", "2m_temperature", "u_component_of_wind_850")
"""Variables that the report shows first."""


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """`climax-hpc evaluate`."""

    run_folder: ConfigPath
    """Folder that evaluation.json and maps.npz are written to; an earlier evaluation there is replaced."""
    models: dict[str, ConfigPath]
    """Label -> run folder or checkpoint folder of a model, or the name of weights in the package (`climax-hpc weights`
    lists them; a folder of that name comes first); the first model is the one that the report shows first."""
    dataset: ConfigPath
    """Folder of a packed data set; for downscaling, the file of `climax-hpc pair`."""
    source: str
    """Source that is the truth, by full name or CMIP6 source_id."""
    truth_members: list[str] = field(default_factory=list)
    """Sources that hold the members of a perfect-model ensemble whose control is `source`, by full name or with `*`
    (`JCM-C_*i2p1f1`): a sample of the true distribution, from which the divergence of every forecast is scored."""
    truth_dataset: ConfigPath | None = None
    """Packed data set that holds `truth_members`; null: `dataset`."""
    period: tuple[str, str]
    """First and last date of the test data, both included; a year or month alone is allowed."""
    train_period: tuple[str, str]
    """First and last date of the data that baselines are fitted on. The climatology's period is that of packing."""
    train_sources: list[str] | None = None
    """Climate projection: scenarios that baselines are fitted on; null: all but `source`."""
    lead_hours: tuple[float, ...] = hours((6, 12, 24, 48, 72, 96, 120, 144, 168))
    """Lead times that are scored [h]."""
    start_every_hours: float | None = hours(None)
    """Score only forecasts that start at multiples of this since 1850-01-01 00:00 [h], for example 12: starts a few
    hours apart have nearly the same errors; null: every time step."""
    variables: list[str] | None = None
    """Registry names that are scored; null: all that a model forecasts and the source holds."""
    map_lead_hours: float = hours(72.0)
    """Lead time of the maps in the report [h]."""
    rollout_hours: dict[str, float] = hours(dict)
    """Label of a model -> step of its iterative roll-out [h]; every lead time must be a multiple of it. Models that are
    not named forecast each lead time in one pass. To compare both, give one checkpoint two labels."""
    members: int = bounded(1, 1000)
    """Members of the forecasts of every network with noise; from 2 on, it is scored as an ensemble
    (docs/guides/ensemble_scores.md). The other scores are those of their mean."""
    ensembles: EnsembleScoresConfig = field(default_factory=EnsembleScoresConfig)
    """Other ensembles, and how all of them are scored."""
    batch_size: int = bounded(16, 65_536)
    """Forecasts in one forward pass; each member counts as one."""
    threads: int = bounded(2, 4096)
    """Batches that are scored at the same time, each on one CPU thread; the scores do not depend on it."""
    precision: Precision = "float32"
    """Arithmetic of the networks: `float32`; `tf32`: products of float32 with factors of 10 bits, only on NVIDIA GPUs;
    or `bfloat16`. Sums of scores do not depend on it (docs/guides/evaluation.md has the errors)."""
    sequence_parallel: int = bounded(1, 1024)
    """Ranks that make each forecast together: a band of rows each (docs/guides/sequence-parallelism.md); 1: none."""
    latitude_weights: str = "cell"
    """Latitude weights of the scores: `cell`, the area of the grid cells (WeatherBench 2), or `cos` (ClimaX)."""
    reference: str = "damped persistence"
    """Label of the model or baseline that every other one is compared with."""
    resamples: int = bounded(1000, 1_000_000)
    """Resamples of the block bootstrap that intervals and comparisons come from, at least 100; 0: none of them."""
    confidence: float = 0.95
    """Confidence level of the intervals."""
    block_hours: float | None = hours(None)
    """Length of the bootstrap's blocks of successive starts [h]; null: from the errors' autocorrelation
    (Wilks 1997)."""
    regions: list[str] = field(default_factory=list)
    """Named regions that are scored in addition to the globe, such as Europe, NorthAmerica or Arctic."""
    region_cells: str = "all"
    """Cells of a region that are scored: `all` whose centre lies inside, or `whole_patches`: only patches of the model
    that lie inside as a whole. ClimaX's regional scores are on whole patches."""
    task: str = "forecast"
    """Downstream task, one that `climax-hpc tasks` lists. The baselines of `downscaling` are interpolations (set
    `reference` to bilinear) and lead times are ignored; those of `projection` are climatology and pattern scaling, and
    its score is NRMSE."""
    unpaired: dict[str, ConfigPath] = field(default_factory=dict)
    """Downscaling: label -> packed data set of a free-running climate model. It has no truth at each time, so only its
    distributions are compared."""
    spectra: bool = True
    """Compute zonal power spectra at the first, the middle and the last lead time."""

    def __post_init__(self) -> None:
        check_period("period", self.period)
        check_period("train_period", self.train_period)
        require(self.resamples == 0 or self.resamples >= 100, "resamples must be 0, or at least 100")
        require(0 < self.confidence < 1, "confidence must lie in (0, 1), for example 0.95")
        require(self.block_hours is None or self.block_hours > 0, "block_hours must be above 0")
        for name in self.regions:
            region_of(name)
        require(self.region_cells in ("all", "whole_patches"), "region_cells: use all or whole_patches")
        require(
            self.truth_dataset is None or bool(self.truth_members), "truth_dataset: name its sources in truth_members"
        )
        require(
            not self.truth_members or self.sequence_parallel == 1,
            "truth_members: set sequence_parallel to 1; the divergence is scored by one process",
        )
        require(bool(self.models), "models is empty: give at least one label: folder pair")
        require(bool(self.lead_hours) and min(self.lead_hours) > 0, "lead_hours: give one lead time or more, above 0 h")
        require(self.start_every_hours is None or self.start_every_hours > 0, "start_every_hours must be above 0")
        for label, step in self.rollout_hours.items():
            known = [*self.models, *self.ensembles.checkpoints]
            require(label in known, f"rollout_hours: models has no label {label!r}; use {', '.join(known)}")
            check_rollout(step, [*self.lead_hours, self.map_lead_hours])
        require(self.map_lead_hours > 0, "map_lead_hours must be above 0")
        require(
            self.variables is None or bool(self.variables),
            "variables is empty: name some, or give null for all",
        )
        require(self.batch_size > 0 and self.threads > 0, "batch_size and threads must be at least 1")
        require(self.members > 0, "members must be at least 1")
        require(self.sequence_parallel > 0, "sequence_parallel must be at least 1")
        require(self.latitude_weights in ("cell", "cos"), "latitude_weights: use cell or cos")
        check_precision(self.precision)


@dataclass(frozen=True, kw_only=True)
class PredictConfig(EnsembleOutputConfig, NetworkConfig):
    """`climax-hpc predict`."""

    models: dict[str, ConfigPath]
    """Label -> run folder or checkpoint folder of a model, or the name of weights in the package (`climax-hpc weights`
    lists them; a folder of that name comes first); several form an ensemble, the dimension `realization` of the
    output."""
    input: ConfigPath | list[ConfigPath]
    """Folder of a packed data set; or NetCDF files, folders of them and zarr stores, with a global grid; or stores at
    URLs, as `pack` reads them."""
    output: ConfigPath
    """A name that ends in .zarr: a zarr store; in .nc: a NetCDF file, for a single start; any other: a folder with one
    NetCDF file per start."""
    layout: Layout = "cf"
    """Names, dimensions and units of the output: `cf`, registry names after the CF conventions; `weatherbench`, a zarr
    store as WeatherBench 2 and WeatherBench-X read forecasts; `cmip`, a folder with one NetCDF file per start, variable
    and member, named and described as CMIP6's."""
    lead_hours: tuple[float, ...] = hours((24, 72, 120))
    """Lead times [h], ascending. Lead times that were not trained are allowed and marked in the output."""
    rollout_hours: float | None = hours(None)
    """Step of an iterative roll-out [h]; every lead time must be a multiple of it; null: each lead time in one pass."""
    source: str | None = None
    """Source of the packed data set that forecasts start from, by full name or CMIP6 source_id; null: the only one."""
    period: tuple[str, str] | None = None
    """First and last date of the starts, both included; a year or month alone is allowed; null: all of them."""
    start_every_hours: float | None = hours(None)
    """Start only at multiples of this since 1850-01-01 00:00 [h], for example 24; null: at every time step."""
    variables: list[str] | None = None
    """Registry names that are written; null: all that the models forecast."""
    climatology: ConfigPath | None = None
    """Packed data set whose climatology models with output_mode `anomaly` use; null: that of `input`, if packed."""
    climatology_source: str | None = None
    """Source of `climatology`; null: the only one."""
    task: str = "forecast"
    """Downstream task, one that `climax-hpc tasks` lists. With `downscaling`, `input` is the coarse data, and
    `climatology` the file of `climax-hpc pair`, which gives the fine grid, its static fields and the climatologies;
    `output` is one file or store. With `projection`, `input` is a packed scenario and `output` one NetCDF file of
    yearly means."""
    regrid: str | None = None
    """Regrid NetCDF or zarr input to the model's grid, `conservative` or `bilinear`; null: refuse other grids."""
    batch_size: int = bounded(8, 65_536)
    """Forecasts in one forward pass, members counted. At most as many starts are held in memory; where statistics are
    written, at least one start with all its members."""
    precision: Precision = "float32"
    """Arithmetic of the networks: `float32`; `tf32`: products of float32 with factors of 10 bits, only on NVIDIA GPUs;
    or `bfloat16`."""
    sequence_parallel: int = bounded(1, 1024)
    """Ranks that make each forecast together, all that there are: a band of rows each
    (docs/guides/sequence-parallelism.md); 1: one process."""

    def __post_init__(self) -> None:
        NetworkConfig.__post_init__(self)
        EnsembleOutputConfig.__post_init__(self)
        require(bool(self.models), "models is empty: give at least one label: folder pair")
        require(bool(self.lead_hours) and min(self.lead_hours) > 0, "lead_hours: give one lead time or more, above 0 h")
        check_period("period", self.period)
        require(sorted(set(self.lead_hours)) == list(self.lead_hours), "lead_hours must ascend, each lead time once")
        require(bool(self.input), "input is empty: give a packed data set, NetCDF files or a zarr store")
        check_outside(self.output, [self.input] if isinstance(self.input, str) else self.input)
        require(
            self.variables is None or bool(self.variables),
            "variables is empty: name some, or give null for all",
        )
        require(self.batch_size > 0, "batch_size must be at least 1")
        require(self.sequence_parallel > 0, "sequence_parallel must be at least 1")
        require(self.start_every_hours is None or self.start_every_hours > 0, "start_every_hours must be above 0")
        require(self.regrid in (None, "conservative", "bilinear"), "regrid: use conservative, bilinear or null")
        check_rollout(self.rollout_hours, self.lead_hours)
        check_precision(self.precision)
        check_layout(self.layout, self.output)
        check_statistics_layout(self, self.layout)


def check_precision(precision: str) -> None:
    """Refuse an unknown arithmetic.

    Raises:
        UserError: names those that there are.
    """
    require(precision in PRECISIONS, f"precision: use one of {', '.join(PRECISIONS)}")


def check_layout(layout: str, output: str) -> None:
    """Refuse an unknown layout, and an output that the layout cannot have.

    Raises:
        UserError: names the layouts that there are, or the output that the layout needs.
    """
    require(layout in LAYOUTS, f"layout: {layout!r} is unknown; use one of {', '.join(LAYOUTS)}")
    suffix = Path(output).suffix
    require(
        layout != "weatherbench" or suffix == ".zarr",
        f"output: {output} must end in .zarr, because layout weatherbench is one zarr store",
    )
    require(
        layout != "cmip" or suffix not in (".nc", ".zarr"),
        f"output: {output} must be a folder, without .nc or .zarr, because layout cmip writes one NetCDF file per "
        "start, variable and member",
    )


def check_rollout(rollout_hours: float | None, lead_hours: Sequence[float]) -> None:
    """Refuse lead times that are not multiples of the step of a roll-out.

    Raises:
        UserError: names the lead time.
    """
    if rollout_hours is None:
        return
    require(rollout_hours > 0, "rollout_hours must be above 0, or null to forecast each lead time in one pass")
    for lead in lead_hours:
        require(
            whole_steps(lead, rollout_hours) is not None,
            f"lead_hours: {lead:g} h is not a multiple of rollout_hours = {rollout_hours:g}; change one of the two",
        )


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """`climax-hpc report`."""

    evaluation: ConfigPath
    """Folder that `climax-hpc evaluate` wrote; or the folder of a sweep or pipeline, for a page about all its runs."""
    runs: dict[str, ConfigPath] = field(default_factory=dict)
    """Label -> run folder whose loss curves are shown."""
    output: ConfigPath = "report.html"
    """HTML file that is written; must end in .html."""
    figure: ConfigPath | None = None
    """PNG file with a summary figure; must end in .png; null: none."""
    title: str | None = None
    """Heading of the page; one that names the task where null."""
    headline: list[str] = field(default_factory=lambda: list(HEADLINE))
    """Registry names in the first table, the plots and the maps; those that were not scored are left out."""

    def __post_init__(self) -> None:
        for name in self.headline:
            lookup(name)
