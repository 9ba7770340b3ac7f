"""What evaluation.json must hold, by task: the schema that a file is checked against when it is read.

Keys that are not named here are allowed: a task may add some.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field

from climax_hpc.config.inference import EvaluateConfig
from climax_hpc.evaluation.metrics import RMSE
from climax_hpc.evaluation.nrmse import PROJECTION_METRICS
from climax_hpc.fields.averaging_window import Window
from climax_hpc.fields.regions import Region
from climax_hpc.fields.variables import lookup
from climax_hpc.utils.provenance import Provenance
from climax_hpc.utils.typed_json import Count, Number, Sha256

TRUTH = "truth"
"""Label of the truth among models and baselines, where it is listed with them."""
Interval = Annotated[list[float], Field(min_length=2, max_length=2)] | None
Value = float | None
LeadTable = dict[str, dict[str, dict[str, dict[str, Value]]]]
LeadIntervals = dict[str, dict[str, dict[str, dict[str, Interval]]]]
YearTable = dict[str, dict[str, dict[str, float]]]
YearIntervals = dict[str, dict[str, dict[str, Interval]]]


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """One trained model of an evaluation."""

    checkpoint: str
    """Its folder or file."""
    kind: str
    step: Count
    weights_sha256: Sha256
    parameters: Count
    output_mode: str


@dataclass(frozen=True, kw_only=True)
class VariableEntry:
    """One variable scored."""

    short_name: str
    units: str


@dataclass(frozen=True, kw_only=True)
class StoredEvaluation:
    """What the evaluations of forecasts, downscaling and climate projections have in common."""

    task: str | None = None
    """None in early files."""
    source: str
    settings: EvaluateConfig
    provenance: Provenance
    models: Annotated[dict[str, ModelEntry], Field(min_length=1)]
    variables: Annotated[dict[str, VariableEntry], Field(min_length=1)]
    baselines: dict[str, str]

    def __post_init__(self) -> None:
        for name in self.variables:
            lookup(name)

    def check_labels(self, table: Mapping[str, Mapping[str, Any]], what: str, *, whole: bool = False) -> None:
        """Refuse a table that lacks a model or baseline, or has variables that were not scored; `whole`: or lacks one.

        Raises:
            ValueError: names the label.
        """
        for label in (*self.models, *self.baselines):
            if label not in table:
                raise ValueError(f"{what} lacks {label!r}")
        for label, variables in table.items():
            if not variables.keys() <= self.variables.keys() or (whole and len(variables) < len(self.variables)):
                raise ValueError(f"{what}.{label} is not of the variables scored")


@dataclass(frozen=True, kw_only=True)
class LeadDifference:
    """A difference of RMSE from the reference's."""

    rmse: Value
    interval: Interval
    relative: Value


@dataclass(frozen=True, kw_only=True)
class LeadComparison:
    """`PairedComparison` of scores with lead times."""

    reference: str
    differences: dict[str, dict[str, dict[str, LeadDifference]]]


@dataclass(frozen=True, kw_only=True)
class MapEntry:
    """The sample on the maps."""

    file: str
    model: str
    lead_hours: Number
    start: str
    valid: str


@dataclass(frozen=True, kw_only=True)
class RegionEntry:
    """Scores of a region."""

    scores: LeadTable
    intervals: LeadIntervals | None = None


@dataclass(frozen=True, kw_only=True)
class DomainEntry(Region):
    """Region of regional models."""

    cells: Annotated[list[Count], Field(min_length=2, max_length=2)]


@dataclass(frozen=True, kw_only=True)
class StoredLeads(StoredEvaluation):
    """An evaluation with lead times."""

    lead_hours: Annotated[list[Number], Field(min_length=1)]
    pairs: dict[str, Count]
    map: MapEntry
    scores: LeadTable
    intervals: LeadIntervals | None = None
    comparison: LeadComparison | None = None
    block_hours: dict[str, Number] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        leads = {f"{hours:g}" for hours in self.lead_hours}
        for what, table in self.tables():
            self.check_labels(table, what)
            for label, variables in table.items():
                for name, by_lead in variables.items():
                    if by_lead.keys() != leads or any(RMSE.name not in values for values in by_lead.values()):
                        raise ValueError(f"{what}.{label}.{name} does not hold the {RMSE.name} of every lead time")

    def tables(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Name and content of the tables of scores and of their intervals."""
        yield "scores", self.scores
        if self.intervals is not None:
            yield "intervals", self.intervals


@dataclass(frozen=True, kw_only=True)
class EnsembleEntry:
    """One ensemble of an evaluation."""

    kind: str
    """How its members come about: `ensembles.base.Kind`."""
    members: Count
    description: str
    checkpoints: dict[str, Sha256] = field(default_factory=dict)
    """Of an ensemble of checkpoints: path -> sha256 of the weights."""
    caveats: list[str] = field(default_factory=list)
    """Sentences for readers, such as of forecasts in another season than the errors that it is made from."""


@dataclass(frozen=True, kw_only=True)
class EnsembleDifference:
    """A difference of a score of an ensemble from the reference's."""

    difference: Value
    interval: Interval
    relative: Value


@dataclass(frozen=True, kw_only=True)
class RankEntry:
    """A rank histogram: shares by the number of members below the truth."""

    frequency: list[Value]
    interval: list[Interval] | None = None


@dataclass(frozen=True, kw_only=True)
class ReliabilityEntry:
    """A reliability diagram: by the number of members in an event."""

    forecasts: list[Value]
    """Share of the forecasts with each probability."""
    observed: list[Value]
    """Observed frequency of the event after each; None where it was never forecast."""
    base_rate: Value
    interval: list[Interval] | None = None


@dataclass(frozen=True, kw_only=True)
class EnergyEntry:
    """Energy scores of one ensemble over these variables."""

    variables: list[str]
    scores: dict[str, dict[str, Value]]
    intervals: dict[str, dict[str, Interval]] | None = None
    comparison: dict[str, dict[str, dict[str, EnsembleDifference]]] | None = None


@dataclass(frozen=True, kw_only=True)
class StoredForecasts(StoredLeads):
    """An evaluation of forecasts."""

    other_scores: LeadTable
    spectra: dict[str, dict[str, dict[str, list[float]]]] | None = None
    regions: dict[str, RegionEntry] | None = None
    domain: DomainEntry | None = None
    window: Window | None = None
    ensembles: dict[str, EnsembleEntry] | None = None
    """The label of everything with members; absent, as all below, where there is nothing."""
    ensemble_percentiles: list[Number] | None = None
    """Percentiles of the climatology that events are defined by."""
    ensemble_scores: LeadTable | None = None
    ensemble_intervals: LeadIntervals | None = None
    ensemble_comparison: dict[str, dict[str, dict[str, dict[str, dict[str, EnsembleDifference]]]]] | None = None
    """Reference -> label -> variable -> lead -> score -> difference."""
    rank_histograms: dict[str, dict[str, dict[str, RankEntry]]] | None = None
    reliability: dict[str, dict[str, dict[str, dict[str, ReliabilityEntry]]]] | None = None
    """Label -> variable -> lead -> percentile -> diagram."""
    energy_scores: dict[str, EnergyEntry] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for label, entry in (self.ensembles or {}).items():
            for variable, by_lead in (self.rank_histograms or {}).get(label, {}).items():
                if any(len(one.frequency) != entry.members + 1 for one in by_lead.values()):
                    raise ValueError(f"rank_histograms.{label}.{variable} has not one rank more than members")
            if label not in (self.ensemble_scores or {}):
                raise ValueError(f"ensemble_scores lacks {label!r}")
        for lead, spectra in (self.spectra or {}).items():
            of_truth = {name: len(power) for name, power in spectra.get(TRUTH, {}).items()}
            for label, powers in spectra.items():
                if any(len(power) != of_truth.get(name) for name, power in powers.items()):
                    raise ValueError(f"spectra.{lead}.{label} has not the wavenumbers of the truth")

    def tables(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Those of the globe and of each region."""
        yield from super().tables()
        for name, region in (self.regions or {}).items():
            yield f"regions.{name}.scores", region.scores
            if region.intervals is not None:
                yield f"regions.{name}.intervals", region.intervals


@dataclass(frozen=True, kw_only=True)
class UnpairedEntry:
    """Distributions of the downscaled fields of a free-running model."""

    source: str
    note: str
    times: Count
    scores: YearTable


@dataclass(frozen=True, kw_only=True)
class StoredDownscaling(StoredLeads):
    """An evaluation of downscaling."""

    coarse_source: str
    distributions: YearTable
    unpaired: dict[str, UnpairedEntry]


@dataclass(frozen=True, kw_only=True)
class YearDifference:
    """A difference of the total from the reference's."""

    total: float
    interval: Interval


@dataclass(frozen=True, kw_only=True)
class YearComparison:
    """`PairedComparison` of scores without lead times."""

    reference: str
    differences: dict[str, dict[str, YearDifference]]


@dataclass(frozen=True, kw_only=True)
class StoredProjections(StoredEvaluation):
    """An evaluation of climate projections."""

    identity: dict[str, str]
    training_sources: list[str]
    years: Annotated[list[int], Field(min_length=1)]
    rmse: dict[str, dict[str, float]]
    scores: YearTable
    intervals: YearIntervals | None = None
    comparison: YearComparison | None = None
    block_years: Count | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_labels(self.rmse, "rmse", whole=True)
        for what, table in (("scores", self.scores), ("intervals", self.intervals)):
            if table is None:
                continue
            self.check_labels(table, what, whole=True)
            for label, variables in table.items():
                if any(not PROJECTION_METRICS.keys() <= values.keys() for values in variables.values()):
                    raise ValueError(f"{what}.{label} lacks one of {', '.join(PROJECTION_METRICS)}")


STORED: dict[str, type[StoredEvaluation]] = {
    "forecast": StoredForecasts,
    "downscaling": StoredDownscaling,
    "projection": StoredProjections,
}
"""Task -> what its file holds; files of tasks outside this package are their own business."""
