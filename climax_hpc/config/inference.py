"""Settings of what follows training: evaluate, predict, report."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from climax_hpc.config.training import require
from climax_hpc.fields.regions import region_of
from climax_hpc.utils.formatting import whole_steps

HEADLINE = ("geopotential_500", "temperature_850", "2m_temperature", "u_component_of_wind_850")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """`climax-hpc evaluate`."""

    run_folder: str
    """Folder for evaluation.json and maps.npz; an earlier evaluation there is replaced."""
    models: dict[str, str]
    """Label -> run folder or checkpoint folder; the first is the headline model."""
    dataset: str
    """Folder of a packed data set; the file of `climax-hpc pair` to downscale."""
    source: str
    """Source to score against, by full name or CMIP6 source_id."""
    period: tuple[str, str]
    """First and last date of the held-out split, inclusive."""
    train_period: tuple[str, str]
    """Period that damped persistence is fitted on (the climatology's own period is in the manifest)."""
    train_sources: list[str] | None = None
    """Climate projection: scenarios that its baselines are fitted on; all but `source` where null."""
    lead_hours: tuple[float, ...] = (6, 12, 24, 48, 72, 96, 120, 144, 168)
    """Lead times scored [h]."""
    variables: list[str] | None = None
    """Registry names scored; all that a model forecasts and the source has where null."""
    map_lead_hours: float = 72.0
    """Lead time of the maps in the report [h]."""
    rollout_hours: dict[str, float] = field(default_factory=dict)
    """Label of a model -> step of its iterative roll-out [h], of which the lead times are multiples; models not named
    forecast every lead time in one pass. One checkpoint may stand under two labels."""
    batch_size: int = 16
    """Forecasts per forward pass."""
    threads: int = 2
    """Batches scored at the same time, each on one CPU thread; the scores do not depend on it."""
    latitude_weights: str = "cell"
    """`cell` (exact cell area, WeatherBench 2) or `cos` (ClimaX)."""
    reference: str = "damped persistence"
    """Label that every other model and baseline is compared with, pair by pair."""
    resamples: int = 1000
    """Draws of the block bootstrap behind the intervals; 0 leaves intervals and comparisons out."""
    confidence: float = 0.95
    """Share of the draws inside an interval."""
    block_hours: float | None = None
    """Length of the blocks of successive starts [h]; from the autocorrelation of the errors where null (Wilks 1997)."""
    regions: list[str] = field(default_factory=list)
    """Named regions scored beside the globe (Europe, NorthAmerica, Arctic, …)."""
    task: str = "forecast"
    """Downstream task, a name that `climax-hpc tasks` lists.
    `downscaling`: interpolations are the baselines (reference: bilinear), and lead times mean nothing.
    `projection`: climatology and pattern scaling are, and NRMSE is the score."""
    unpaired: dict[str, str] = field(default_factory=dict)
    """Downscaling: label -> data set of a free-running model; only distributions of all its times are scored."""
    spectra: bool = True
    """Take zonal power spectra at the first, the middle and the last lead time."""

    def __post_init__(self) -> None:
        require(self.resamples == 0 or self.resamples >= 100, "resamples: use 0, or 100 and more")
        require(0 < self.confidence < 1, "confidence must lie in (0, 1), for example 0.95")
        require(self.block_hours is None or self.block_hours > 0, "block_hours must be above 0")
        for name in self.regions:
            region_of(name)
        require(bool(self.models), "models is empty: give at least one label: folder pair")
        require(bool(self.lead_hours) and min(self.lead_hours) > 0, "lead_hours must name leads above 0 h")
        for label, step in self.rollout_hours.items():
            require(label in self.models, f"rollout_hours: no model {label!r}; there are {', '.join(self.models)}")
            check_rollout(step, [*self.lead_hours, self.map_lead_hours])
        require(self.map_lead_hours > 0, "map_lead_hours must be above 0")
        require(self.variables is None or bool(self.variables), "variables is empty: name some, or null for all")
        require(self.batch_size > 0 and self.threads > 0, "batch_size and threads must be at least 1")
        require(self.latitude_weights in ("cell", "cos"), "latitude_weights: use cell or cos")


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """`climax-hpc predict`."""

    models: dict[str, str]
    """Label -> run folder or checkpoint folder; several make an ensemble along the dimension `member`."""
    input: str | list[str]
    """Folder of a packed data set; or NetCDF files, folders of them and zarr stores, on a global grid."""
    output: str
    """`….zarr`: a zarr store; `….nc`: the NetCDF file of a single start; else a folder, one NetCDF file per start."""
    lead_hours: tuple[float, ...] = (24, 72, 120)
    """Lead times [h]; any positive ones, and what was not trained is said."""
    rollout_hours: float | None = None
    """Step of an iterative roll-out [h], of which the lead times are multiples; null: every lead time in one pass."""
    source: str | None = None
    """Source of a packed data set to start from, by full name or source_id; needed where there are several."""
    period: tuple[str, str] | None = None
    """First and last date of the starts, inclusive, partial dates allowed; all times of the input where null."""
    start_every_hours: float | None = None
    """Start only at multiples of this since midnight, for example 24; every time step where null."""
    variables: list[str] | None = None
    """Registry names written; all that the models forecast where null."""
    climatology: str | None = None
    """Packed data set whose climatology an `anomaly` model uses; that of the input where the input is packed."""
    climatology_source: str | None = None
    """Its source, where it holds several."""
    task: str = "forecast"
    """Downstream task, a name that `climax-hpc tasks` lists.
    `downscaling`: `input` is coarse, packed or (global) not, and `climatology` the file of `climax-hpc pair`, which
    gives the fine grid, its static fields and the climatologies; all of `output` is one file or store. `projection`:
    `input` is a packed scenario, `output` one NetCDF file of yearly means."""
    regrid: str | None = None
    """`conservative` or `bilinear`: bring NetCDF or zarr input to the model's grid; null refuses other grids."""
    batch_size: int = 8
    """Forecasts per forward pass, and starts in memory."""

    def __post_init__(self) -> None:
        require(bool(self.models), "models is empty: give at least one label: folder pair")
        require(bool(self.lead_hours) and min(self.lead_hours) > 0, "lead_hours must name leads above 0 h")
        require(sorted(set(self.lead_hours)) == list(self.lead_hours), "lead_hours must ascend without repeats")
        require(bool(self.input), "input is empty: give a packed data set, NetCDF files or a zarr store")
        require(self.variables is None or bool(self.variables), "variables is empty: name some, or null for all")
        require(self.batch_size > 0, "batch_size must be at least 1")
        require(self.start_every_hours is None or self.start_every_hours > 0, "start_every_hours must be above 0")
        require(self.regrid in (None, "conservative", "bilinear"), "regrid: use conservative, bilinear or null")
        check_rollout(self.rollout_hours, self.lead_hours)


def check_rollout(rollout_hours: float | None, lead_hours: Sequence[float]) -> None:
    """Refuse lead times that a roll-out does not reach.

    Raises:
        UserError: names the lead time.
    """
    if rollout_hours is None:
        return
    require(rollout_hours > 0, "rollout_hours must be above 0; null forecasts every lead time in one pass")
    for lead in lead_hours:
        require(
            whole_steps(lead, rollout_hours) is not None,
            f"lead_hours: {lead:g} h is no multiple of rollout_hours = {rollout_hours:g}; choose another step or lead",
        )


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """`climax-hpc report`."""

    evaluation: str
    """Folder that `climax-hpc evaluate` wrote; or that of a sweep or pipeline, for one page of all its members."""
    runs: dict[str, str] = field(default_factory=dict)
    """Label -> run folder whose loss curves are drawn."""
    output: str = "report.html"
    """The page to write."""
    figure: str | None = None
    """A PNG that sums the page up, to write beside it; none where null."""
    title: str = "Forecast scorecard"
    """Heading of the page."""
    headline: list[str] = field(default_factory=lambda: list(HEADLINE))
    """Registry names of the headline table, the plots and the maps, where they were scored."""
