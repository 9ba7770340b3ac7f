"""evaluation.json as an object: scores by model, variable and lead, who is best, and the headline table as text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from climax_hpc.errors import UserError
from climax_hpc.evaluation.scoring import lead_key
from climax_hpc.fields.variables import lookup
from climax_hpc.model.output_modes import ANOMALY_NOTE
from climax_hpc.utils.files import read_json
from climax_hpc.utils.formatting import format_score, pretty_units

EVALUATION_FILE = "evaluation.json"
MAPS_FILE = "maps.npz"
SCHEMA, SCHEMA_VERSION = "climax_hpc/evaluation", 1
PROJECTION_SCHEMA, PROJECTION_SCHEMA_VERSION = "climax_hpc/projection", 2
_VERSIONS = {SCHEMA: SCHEMA_VERSION, PROJECTION_SCHEMA: PROJECTION_SCHEMA_VERSION}


def read_evaluation(folder: str | Path) -> dict[str, Any]:
    """evaluation.json of any task.

    Raises:
        UserError: there is none, or the file is something else.
    """
    path = Path(folder) / EVALUATION_FILE
    content = read_json(path, "what `climax-hpc evaluate` writes; run it first")
    if not isinstance(content, dict) or content.get("schema") not in _VERSIONS:
        raise UserError(f"{path} is not an evaluation of climax_hpc: run `climax-hpc evaluate` again")
    version = _VERSIONS[content["schema"]]
    if content.get("schema_version") != version:
        raise UserError(
            f"{path} has schema version {content.get('schema_version')}, this climax_hpc reads {version}: "
            "run `climax-hpc evaluate` again"
        )
    return content


def uses_anomaly_mode(content: Mapping[str, Any]) -> bool:
    """True where a model of an evaluation.json is not ClimaX as published."""
    return any(model["output_mode"] == "anomaly" for model in content["models"].values())


@dataclass(frozen=True, kw_only=True)
class Scorecard:
    """What `climax-hpc evaluate` found."""

    content: dict[str, Any]
    """evaluation.json as it stands."""

    @classmethod
    def load(cls, folder: str | Path) -> "Scorecard":
        """Read the evaluation in a folder.

        Raises:
            UserError: there is none, or the file is something else.
        """
        content = read_evaluation(folder)
        if content["schema"] != SCHEMA:
            raise UserError(f"{Path(folder) / EVALUATION_FILE} is of climate projections: give one with lead times")
        return cls(content=content)

    @property
    def models(self) -> list[str]:
        """Labels of the trained models, headline model first."""
        return list(self.content["models"])

    @property
    def baselines(self) -> list[str]:
        """Labels of the baselines."""
        return list(self.content["baselines"])

    @property
    def variables(self) -> list[str]:
        """Registry names scored."""
        return list(self.content["variables"])

    @property
    def lead_hours(self) -> list[float]:
        """Lead times scored [h], ascending."""
        return list(self.content["lead_hours"])

    @property
    def uses_anomaly_mode(self) -> bool:
        """True where a model is not ClimaX as published."""
        return uses_anomaly_mode(self.content)

    @property
    def scope(self) -> str:
        """Region and window that the scores are of, as a table's head has them; empty for states on the whole grid."""
        region, window = self.content.get("domain"), self.content.get("window")
        means = f"means over {window['hours']:g} h from the lead time on, " if window else ""
        return (f"{region['name']}, " if region else "") + means

    def value(self, label: str, variable: str, lead_hours: float, metric: str = "rmse") -> float | None:
        """One score; None where the model does not forecast the variable or the score is undefined."""
        scores = self.content["scores"][label].get(variable)
        return None if scores is None else scores[lead_key(lead_hours)][metric]

    def interval(self, label: str, variable: str, lead_hours: float, metric: str = "rmse") -> list[float] | None:
        """Confidence interval of a score; None where the evaluation has none."""
        found = self.content.get("intervals", {}).get(label, {}).get(variable)
        return None if found is None else found[lead_key(lead_hours)][metric]

    @property
    def reference(self) -> str | None:
        """Label that the others are compared with; None where the evaluation compares none."""
        return self.content.get("comparison", {}).get("reference")

    def difference(self, label: str, variable: str, lead_hours: float) -> dict[str, Any] | None:
        """`rmse` less the reference's, its `interval`, `relative` to the reference's; None where there is none."""
        found = self.content.get("comparison", {}).get("differences", {}).get(label, {}).get(variable, {})
        return found.get(lead_key(lead_hours))

    @staticmethod
    def is_significant(difference: dict[str, Any]) -> bool:
        """True where the interval of a difference leaves 0 out."""
        interval = difference["interval"]
        return interval is not None and (interval[0] > 0 or interval[1] < 0)

    @property
    def spectra(self) -> dict[str, dict[str, dict[str, list[float]]]]:
        """Lead [h] -> label, or `truth` -> variable -> power by zonal wavenumber; empty where none were taken."""
        return self.content.get("spectra", {})

    @property
    def regions(self) -> dict[str, Any]:
        """Region -> scores and intervals as those of the globe."""
        return self.content.get("regions", {})

    def of_region(self, name: str) -> "Scorecard":
        """The same scorecard with the scores of a region in place of the globe's."""
        return Scorecard(content=self.content | self.regions[name])

    def best(self, variable: str, lead_hours: float, metric: str = "rmse") -> list[str]:
        """Labels with the best score among models and baselines; several where equal."""
        values = self._values([*self.models, *self.baselines], variable, lead_hours, metric)
        if not values:
            return []
        top = (max if metric in ("acc", "pearson") else min)(values.values())
        return [label for label, value in values.items() if value == top]

    def unbeaten_baselines(self, model: str, variable: str, lead_hours: float) -> list[str]:
        """Baselines whose RMSE the model's is not below, best first."""
        mine = self.value(model, variable, lead_hours)
        if mine is None:
            return []
        others = self._values(self.baselines, variable, lead_hours, "rmse")
        return sorted((label for label, value in others.items() if value <= mine), key=others.__getitem__)

    def losses(self, model: str) -> dict[str, dict[tuple[str, ...], list[float]]]:
        """Variable -> baselines that the model does not beat -> lead times [h]; variables without any are left out."""
        found: dict[str, dict[tuple[str, ...], list[float]]] = {}
        for variable in self.variables:
            for lead in self.lead_hours:
                if unbeaten := tuple(self.unbeaten_baselines(model, variable, lead)):
                    found.setdefault(variable, {}).setdefault(unbeaten, []).append(lead)
        return found

    def best_baseline(self, variable: str, lead_hours: float) -> float | None:
        """Lowest RMSE of a baseline."""
        return min(self._values(self.baselines, variable, lead_hours, "rmse").values(), default=None)

    def headline(self, wanted: Sequence[str]) -> list[str]:
        """Those of the wanted variables that were scored; the first four scored where none was."""
        return [lookup(name).name for name in wanted if name in self.variables] or self.variables[:4]

    def _values(self, labels: Sequence[str], variable: str, lead_hours: float, metric: str) -> dict[str, float]:
        values = {label: self.value(label, variable, lead_hours, metric) for label in labels}
        return {label: value for label, value in values.items() if value is not None}

    def text_table(self, wanted: Sequence[str]) -> str:
        """RMSE of the headline variables for a terminal; `*` marks what does not beat every baseline."""
        width = max(len(label) for label in (*self.models, *self.baselines)) + 2
        head = f"RMSE on {self.content['source']}, {self.scope}{' … '.join(self.content['settings']['period'])}, "
        lines = [head + f"{sum(self.content['pairs'].values())} forecasts"]
        lines.append(" " * width + "".join(f"{lead_key(lead) + ' h':>9} " for lead in self.lead_hours))
        for variable in self.headline(wanted):
            lines.append(f"{lookup(variable).short_name} [{pretty_units(lookup(variable).units)}]")
            for label in (*self.models, *self.baselines):
                cells = (self._text_cell(label, variable, lead) for lead in self.lead_hours)
                lines.append(f"{label:<{width}}" + "".join(cells))
        lines.append("* not better than the best baseline")
        return "\n".join([*lines, ANOMALY_NOTE] if self.uses_anomaly_mode else lines)

    def _text_cell(self, label: str, variable: str, lead_hours: float) -> str:
        value = self.value(label, variable, lead_hours)
        if value is None:
            return f"{'-':>9} "
        lost = label in self.models and self.unbeaten_baselines(label, variable, lead_hours)
        return f"{format_score(value):>9}{'*' if lost else ' '}"
