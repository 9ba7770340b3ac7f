"""Layouts of forecasts by name: those of a zarr store, and those of NetCDF files.

To add a layout, add it to `config.inference.Layout`, and to `STORES`, `FILES` or both.
"""

from collections.abc import Callable, Mapping

from climax_hpc.inference.cf import ForecastContent
from climax_hpc.inference.layouts.base import ForecastFiles, ForecastStore
from climax_hpc.inference.layouts.cf import CfFiles, CfStore
from climax_hpc.inference.layouts.cmip import CmipFiles
from climax_hpc.inference.layouts.weatherbench import WeatherBenchStore

STORES: Mapping[str, Callable[[ForecastContent], ForecastStore]] = {"cf": CfStore, "weatherbench": WeatherBenchStore}
FILES: Mapping[str, Callable[[ForecastContent], ForecastFiles]] = {"cf": CfFiles, "cmip": CmipFiles}
