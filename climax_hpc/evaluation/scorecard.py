"""evaluation.json of forecasts or downscaling as an object: scores, which of them is best, and a table as text."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from climax_hpc.errors import UserError
from climax_hpc.evaluation.metrics import METRICS, RMSE, ForecastMeans, Metric, TaskName, metrics_of
from climax_hpc.evaluation.output import (
    EVALUATION_FILE,
    SCHEMA,
    lead_key,
    lead_titles,
    read_evaluation,
    task_of_evaluation,
    uses_anomaly_mode,
)
from climax_hpc.fields.variables import lookup
from climax_hpc.model.output_modes import ANOMALY_NOTE
from climax_hpc.utils.formatting import format_score, pretty_units


@dataclass(frozen=True, kw_only=True)
class Scorecard:
    """The scores of an evaluation with lead times; of downscaling there is the one lead time 0."""

    content: dict[str, Any]
    """The content of evaluation.json."""

    @classmethod
    def load(cls, folder: str | Path) -> "Scorecard":
        """Read the evaluation in a folder.

        Raises:
            UserError: there is none, or the file is something else.
        """
        content = read_evaluation(folder)
        if content["schema"] != SCHEMA:
            raise UserError(
                f"{Path(folder) / EVALUATION_FILE} is an evaluation of climate projections: use one of forecasts"
            )
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
    def metrics(self) -> list[Metric[ForecastMeans]]:
        """The metrics of the task that this evaluation holds."""
        task: TaskName = "downscaling" if task_of_evaluation(self.content) == "downscaling" else "forecast"
        tables = (leads for of in self.content["scores"].values() for leads in of.values())
        held = {name for leads in tables for values in leads.values() for name in values}
        return [metric for metric in metrics_of(task) if metric.name in held]

    @property
    def uses_anomaly_mode(self) -> bool:
        """True where a model is not ClimaX as published."""
        return uses_anomaly_mode(self.content)

    @property
    def scope(self) -> str:
        """Region and window of the scores, as the head of a table names them; empty for states on the whole grid."""
        region, window = self.content.get("domain"), self.content.get("window")
        means = f"means over {window['hours']:g} h from the lead time on, " if window else ""
        return (f"{region['name']}, " if region else "") + means

    def value(self, label: str, variable: str, lead_hours: float, metric: str = RMSE.name) -> float | None:
        """One score; None where the model does not forecast the variable or the score is undefined."""
        found = self.content["scores"][label].get(variable)
        return None if found is None else found[lead_key(lead_hours)].get(metric)

    def interval(self, label: str, variable: str, lead_hours: float, metric: str = RMSE.name) -> list[float] | None:
        """Confidence interval of a score; None where the evaluation has none."""
        found = self.content.get("intervals", {}).get(label, {}).get(variable)
        return None if found is None else found[lead_key(lead_hours)].get(metric)

    @property
    def reference(self) -> str | None:
        """Label that the others are compared with; None where nothing is compared."""
        return self.content.get("comparison", {}).get("reference")

    def difference(self, label: str, variable: str, lead_hours: float) -> dict[str, Any] | None:
        """`rmse` minus the reference's, its `interval`, and `relative` to the reference's; None where there is none."""
        found = self.content.get("comparison", {}).get("differences", {}).get(label, {}).get(variable, {})
        return found.get(lead_key(lead_hours))

    @staticmethod
    def is_significant(difference: dict[str, Any]) -> bool:
        """True where the interval of a difference excludes 0."""
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

    def best(self, variable: str, lead_hours: float, metric: str = RMSE.name) -> list[str]:
        """Labels with the best score among models and baselines; several where equal, none where no value is better."""
        values = self._values([*self.models, *self.baselines], variable, lead_hours, metric)
        top = METRICS[metric].best(values.values())
        return [label for label, value in values.items() if value == top]

    def unbeaten_baselines(self, model: str, variable: str, lead_hours: float) -> list[str]:
        """Baselines whose RMSE the model's is not better than, best first."""
        mine = self.value(model, variable, lead_hours)
        if mine is None:
            return []
        others = self._values(self.baselines, variable, lead_hours, RMSE.name)
        unbeaten = (label for label, value in others.items() if not RMSE.is_better(mine, value))
        return sorted(unbeaten, key=others.__getitem__)

    def losses(self, model: str) -> dict[str, dict[tuple[str, ...], list[float]]]:
        """Variable -> baselines that the model does not beat -> lead times [h]; only variables that have any."""
        found: dict[str, dict[tuple[str, ...], list[float]]] = {}
        for variable in self.variables:
            for lead in self.lead_hours:
                if unbeaten := tuple(self.unbeaten_baselines(model, variable, lead)):
                    found.setdefault(variable, {}).setdefault(unbeaten, []).append(lead)
        return found

    def best_baseline(self, variable: str, lead_hours: float) -> float | None:
        """Best RMSE of a baseline."""
        return RMSE.best(self._values(self.baselines, variable, lead_hours, RMSE.name).values())

    def headline(self, wanted: Sequence[str]) -> list[str]:
        """The wanted variables that were scored; the first four scored where none of them was."""
        return [lookup(name).name for name in wanted if name in self.variables] or self.variables[:4]

    def _values(self, labels: Sequence[str], variable: str, lead_hours: float, metric: str) -> dict[str, float]:
        values = {label: self.value(label, variable, lead_hours, metric) for label in labels}
        return {label: value for label, value in values.items() if value is not None}

    def text_table(self, wanted: Sequence[str]) -> str:
        """RMSE of the headline variables for a terminal; `*` marks models that do not beat every baseline."""
        width = max(len(label) for label in (*self.models, *self.baselines)) + 2
        head = (
            f"{RMSE.title} on {self.content['source']}, {self.scope}{' … '.join(self.content['settings']['period'])}, "
        )
        lines = [head + f"{sum(self.content['pairs'].values())} forecasts"]
        lines.append(" " * width + "".join(f"{title:>9} " for title in lead_titles(self.lead_hours)))
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
