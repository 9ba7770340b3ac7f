"""Forecasts that every model should beat, one module each.

To add a baseline, add a module to this package with a class that forecasts (`base.ForecastModel`) and a constant
`BASELINE` that describes it (`base.Baseline`); it is found by being here.
"""

import pkgutil
from importlib import import_module

from climax_hpc.evaluation.baselines.base import Baseline, BaselineData, ForecastModel


def all_baselines() -> list[Baseline]:
    """The baselines of all modules in this package, in the order of tables."""
    names = (module.name for module in pkgutil.iter_modules(__path__) if module.name != "base")
    found: list[Baseline] = [import_module(f"{__name__}.{name}").BASELINE for name in names]
    return sorted(found, key=lambda baseline: baseline.place)


def build_baselines(data: BaselineData) -> dict[str, ForecastModel]:
    """Label -> baseline, ready to forecast; with a window, means over it."""
    return {baseline.label: baseline.build(data) for baseline in all_baselines()}
