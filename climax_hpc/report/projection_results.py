"""evaluation.json and maps.npz of climate projections as an object.

Dimensions: N years · O variables · H, W grid.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from climax_hpc.errors import UserError
from climax_hpc.evaluation.nrmse import PROJECTION_METRICS, TOTAL
from climax_hpc.evaluation.output import MAPS_FILE, read_evaluation
from climax_hpc.evaluation.scorecard import Scorecard
from climax_hpc.evaluation.stored import TRUTH
from climax_hpc.report.maps import SampleMaps
from climax_hpc.utils.files import check_is_plain_file
from climax_hpc.utils.system_errors import refuse_system_error


@dataclass(frozen=True, kw_only=True)
class Projections:
    """The scores of an evaluation of climate projections, its maps and global means."""

    content: dict[str, Any]
    """The content of evaluation.json."""
    maps: SampleMaps
    """Means over the years, of the headline model and of the truth."""
    series_NO: dict[str, NDArray[np.float64]]
    """Label, or `truth` -> global mean of every year."""

    @classmethod
    def load(cls, folder: str | Path) -> "Projections":
        """Read the evaluation in a folder.

        Raises:
            UserError: there is none, or a file of it is not readable.
        """
        content, path = read_evaluation(folder), Path(folder) / MAPS_FILE
        variables, headline = list(content["variables"]), next(iter(content["models"]))
        check_is_plain_file(path, "the maps of `climax-hpc evaluate`; run it again")
        try:
            with np.load(path, allow_pickle=False) as file:
                maps = SampleMaps(
                    variables=variables,
                    lat=file["lat"],
                    lon=file["lon"],
                    forecast_MHW=file[f"map/{headline}"],
                    truth_MHW=file[f"map/{TRUTH}"],
                    land_HW=None,
                )
                series = {
                    label: file[f"series/{label}"] for label in (TRUTH, *content["models"], *content["baselines"])
                }
        except Exception as error:
            refuse_system_error(error, path)
            raise UserError(
                f"{path} is not readable ({str(error).split('. ')[0]}): run `climax-hpc evaluate` again"
            ) from None
        return cls(content=content, maps=maps, series_NO=series)

    @property
    def models(self) -> list[str]:
        """Labels of the trained models, headline model first."""
        return list(self.content["models"])

    @property
    def labels(self) -> list[str]:
        """Labels of models and baselines."""
        return [*self.models, *self.content["baselines"]]

    @property
    def variables(self) -> list[str]:
        """Registry names scored."""
        return list(self.content["variables"])

    @property
    def reference(self) -> str | None:
        """Label that the others are compared with; None where nothing is compared."""
        return self.content.get("comparison", {}).get("reference")

    def value(self, label: str, variable: str, score: str) -> float:
        """One score, a name of `nrmse.PROJECTION_METRICS`."""
        return float(self.content["scores"][label][variable][score])

    def interval(self, label: str, variable: str, score: str) -> list[float] | None:
        """Confidence interval of a score; None where the evaluation has none."""
        found = self.content.get("intervals", {}).get(label, {}).get(variable)
        return None if found is None else found[score]

    def difference(self, label: str, variable: str) -> dict[str, Any] | None:
        """`total` minus the reference's and its `interval`; None where there is none."""
        return self.content.get("comparison", {}).get("differences", {}).get(label, {}).get(variable)

    def is_significant(self, label: str, variable: str) -> bool:
        """True where the interval of the difference excludes 0."""
        found = self.difference(label, variable)
        return found is not None and Scorecard.is_significant(found)

    def best(self, variable: str, score: str) -> float | None:
        """The best score of all labels."""
        return PROJECTION_METRICS[score].best(self.value(label, variable, score) for label in self.labels)

    def unbeaten_baselines(self, model: str, variable: str) -> list[str]:
        """Baselines whose total the model's is not better than, best first."""
        others = {label: self.value(label, variable, TOTAL.name) for label in self.content["baselines"]}
        mine = self.value(model, variable, TOTAL.name)
        unbeaten = (label for label, value in others.items() if not TOTAL.is_better(mine, value))
        return sorted(unbeaten, key=others.__getitem__)
