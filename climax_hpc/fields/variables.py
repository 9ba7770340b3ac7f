"""The table of variables: name, CMIP6 id, level, units; the 48 of ClimaX first, in the order of its checkpoints."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Literal

from climax_hpc.errors import UserError

STANDARD_GRAVITY = 9.80665  # m s-2 (WMO, CGPM 1901): geopotential = g · geopotential height
PRESSURE_LEVELS_HPA = (50, 250, 500, 600, 700, 850, 925)  # ClimaX, table 4


@dataclass(frozen=True, kw_only=True)
class Variable:
    """One channel of a model or a shard."""

    name: str
    """Registry name, spelled as in ClimaX and WeatherBench; on pressure levels it ends in the level in hPa."""
    cmip6: str | None
    """CMIP6 `variable_id`; None where CMIP6 has none (latitude, ClimateBench)."""
    units: str
    """CF units in shards, metrics and forecasts; `data_prep/sources/conversions.py` converts inputs to them."""
    level_hpa: int | None = None
    """Pressure level [hPa]; None at the surface."""
    static: bool = False
    """True where the field does not change in time."""
    standard_name: str
    """CF standard name; empty where CF has none."""
    climatebench: str | None = None
    """Name in ClimateBench, for variables that only ClimateBench has."""
    tendency_of: str | None = None
    """The variable whose change over the last 6 h this is, which only the input of a network can have; else None."""
    solar: Literal["insolation", "cosine"] | None = None
    """What of the sun's position this is, which only the input of a network can have; else None."""
    at_valid_time: bool = False
    """True of the sun at the time that is forecast, False at that of the input."""

    @property
    def variable_id(self) -> str | None:
        """Id of the variable in input files of any layout: that of CMIP6, else that of ClimateBench."""
        return self.cmip6 or self.climatebench

    @property
    def can_be_forecast(self) -> bool:
        """True of what changes in time and is not computed."""
        return not self.static and not self.is_computed

    @property
    def is_computed(self) -> bool:
        """True of tendencies and solar inputs: a network may take them, but nothing holds or forecasts them."""
        return self.tendency_of is not None or self.solar is not None

    @property
    def has_anomalies(self) -> bool:
        """True of what has a climatology: states and their tendencies."""
        return not self.static and self.solar is None

    @property
    def is_northward(self) -> bool:
        """True for components that change sign when north and south are exchanged."""
        return self.standard_name == "northward_wind"

    @property
    def is_vector_component(self) -> bool:
        """True for components of horizontal vectors, whose directions reverse beyond a pole."""
        return self.standard_name in ("eastward_wind", "northward_wind")

    @property
    def short_name(self) -> str:
        """Label for tables and plots, such as Z500, T850, T2m; of tendencies dZ500."""
        if self.tendency_of:
            return f"d{REGISTRY[self.tendency_of].short_name}"
        return _SHORT.get(self.name, self.name) if self.level_hpa is None else f"{_SHORT[self.stem]}{self.level_hpa}"

    @property
    def stem(self) -> str:
        """Name without the pressure level; the whole name at the surface."""
        return self.name if self.level_hpa is None else self.name.rsplit("_", 1)[0]


_SHORT = {
    "geopotential": "Z", "u_component_of_wind": "U", "v_component_of_wind": "V", "temperature": "T",
    "relative_humidity": "R", "specific_humidity": "Q", "2m_temperature": "T2m", "10m_u_component_of_wind": "U10",
    "10m_v_component_of_wind": "V10", "mean_sea_level_pressure": "MSLP", "surface_pressure": "SP",
    "total_precipitation_rate": "PR", "skin_temperature": "SKT", "sea_surface_temperature": "SST",
    "land_sea_mask": "LSM", "orography": "OROG", "latitude": "LAT", "cumulative_co2_emissions": "CO2",
    "methane_emissions": "CH4", "sulfur_dioxide_emissions": "SO2", "black_carbon_emissions": "BC",
    "diurnal_temperature_range": "DTR", "precipitation_rate_90th_percentile": "PR90", "toa_insolation": "INSOL",
    "cosine_of_solar_zenith_angle": "COSZ", "toa_insolation_at_valid_time": "INSOL+",
    "cosine_of_solar_zenith_angle_at_valid_time": "COSZ+",
}  # fmt: skip


def _surface(name: str, cmip6: str, units: str, standard_name: str) -> Variable:
    return Variable(name=name, cmip6=cmip6, units=units, standard_name=standard_name)


def _static(name: str, cmip6: str | None, units: str, standard_name: str) -> Variable:
    return Variable(name=name, cmip6=cmip6, units=units, static=True, standard_name=standard_name)


def _climatebench(name: str, own_name: str, units: str, standard_name: str = "") -> Variable:
    return Variable(name=name, cmip6=None, units=units, standard_name=standard_name, climatebench=own_name)


def _pressure_levels(stem: str, cmip6: str, units: str, standard_name: str) -> list[Variable]:
    return [
        Variable(name=f"{stem}_{level}", cmip6=cmip6, units=units, level_hpa=level, standard_name=standard_name)
        for level in PRESSURE_LEVELS_HPA
    ]


# In the order of the released checkpoints (ClimaX, arXiv 2301.10343, appendix).
CLIMAX_48: tuple[Variable, ...] = (
    _static("land_sea_mask", "sftlf", "1", "land_area_fraction"),
    _static("orography", "orog", "m", "surface_altitude"),
    _static("latitude", None, "degrees_north", "latitude"),
    _surface("2m_temperature", "tas", "K", "air_temperature"),
    _surface("10m_u_component_of_wind", "uas", "m s-1", "eastward_wind"),
    _surface("10m_v_component_of_wind", "vas", "m s-1", "northward_wind"),
    *_pressure_levels("geopotential", "zg", "m2 s-2", "geopotential"),
    *_pressure_levels("u_component_of_wind", "ua", "m s-1", "eastward_wind"),
    *_pressure_levels("v_component_of_wind", "va", "m s-1", "northward_wind"),
    *_pressure_levels("temperature", "ta", "K", "air_temperature"),
    *_pressure_levels("relative_humidity", "hur", "%", "relative_humidity"),
    *_pressure_levels("specific_humidity", "hus", "1", "specific_humidity"),
)  # fmt: skip

CLIMAX_SPELLING = {"lattitude": "latitude"}
"""Spelling in the files of ClimaX -> registry name."""

# Not in ClimaX's 48: surface fields of CMIP6; yearly forcings and targets of ClimateBench.
EXTRA: tuple[Variable, ...] = (
    _surface("mean_sea_level_pressure", "psl", "Pa", "air_pressure_at_mean_sea_level"),
    _surface("surface_pressure", "ps", "Pa", "surface_air_pressure"),
    _surface("total_precipitation_rate", "pr", "kg m-2 s-1", "precipitation_flux"),
    _surface("skin_temperature", "ts", "K", "surface_temperature"),
    _surface("sea_surface_temperature", "tos", "K", "sea_surface_temperature"),
    _climatebench("cumulative_co2_emissions", "CO2", "Gt"),
    _climatebench("methane_emissions", "CH4", "Gt yr-1"),
    _climatebench("sulfur_dioxide_emissions", "SO2", "kg m-2 s-1"),
    _climatebench("black_carbon_emissions", "BC", "kg m-2 s-1"),
    _climatebench("diurnal_temperature_range", "diurnal_temperature_range", "K"),
    _climatebench("precipitation_rate_90th_percentile", "pr90", "kg m-2 s-1", "precipitation_flux"),
)

REGISTRY: dict[str, Variable] = {v.name: v for v in (*CLIMAX_48, *EXTRA)}
TENDENCY_HOURS = 6.0
"""Time over which tendencies are taken: the time step of most data, and of the 6 h forecasts that roll-outs chain."""
_SUFFIX = "_tendency"


def tendency_name(name: str) -> str:
    """Name of the tendency of a variable."""
    return name + _SUFFIX


TENDENCIES: dict[str, Variable] = {
    tendency_name(v.name): replace(v, name=tendency_name(v.name), cmip6=None, tendency_of=v.name)
    for v in REGISTRY.values()
    if not v.static and v.cmip6
}
"""Change of a variable over the last 6 h: an input that a network may take; packed data do not hold it."""


def _solar(name: str, kind: Literal["insolation", "cosine"], units: str, standard_name: str) -> tuple[Variable, ...]:
    """At the time of the input, and at the time that is forecast."""
    now = Variable(name=name, cmip6=None, units=units, standard_name=standard_name, solar=kind)
    return now, replace(now, name=f"{name}_at_valid_time", at_valid_time=True)


SOLAR: dict[str, Variable] = {
    v.name: v
    for v in (
        *_solar("toa_insolation", "insolation", "W m-2", "toa_incoming_shortwave_flux"),
        *_solar("cosine_of_solar_zenith_angle", "cosine", "1", ""),
    )
}
"""The sun at the cells: inputs that a network may take, computed from date, latitude and longitude."""
INDEX: dict[str, int] = {name: i for i, name in enumerate((*REGISTRY, *TENDENCIES, *SOLAR))}
VARIABLE_IDS: frozenset[str] = frozenset(v.variable_id for v in REGISTRY.values() if v.variable_id)


def lookup(name: str) -> Variable:
    """The variable with this registry name.

    Raises:
        UserError: unknown name; names those with this CMIP6 id or short name, else the nearest ones.
    """
    for computed in (TENDENCIES, SOLAR):
        if name in computed:
            return computed[name]
    if name not in REGISTRY:
        near = [v.name for v in REGISTRY.values() if name.lower() in (v.cmip6, v.short_name.lower())]
        near = near or get_close_matches(name, (*REGISTRY, *SOLAR), n=3, cutoff=0.5)
        hint = f"; did you mean {', '.join(near)}?" if near else "; `climax-hpc variables` lists them"
        raise UserError(f"unknown variable {name!r}{hint}")
    return REGISTRY[name]


def registry_name(name: str) -> str:
    """Registry name of a variable from its name in the files of ClimaX or ClimateBench; other names as they are."""
    own = next((v.name for v in REGISTRY.values() if v.climatebench == name), name)
    return CLIMAX_SPELLING.get(own, own)


def channels_of(variable_id: str) -> list[Variable]:
    """The variables that come from one input variable, in registry order; empty where its id is unknown."""
    return [v for v in REGISTRY.values() if v.variable_id == variable_id]


def in_registry_order(names: Iterable[str]) -> list[str]:
    """The names, each once, in registry order.

    Raises:
        UserError: unknown name.
    """
    return sorted({lookup(n).name for n in names}, key=INDEX.__getitem__)


def print_registry(_: object = None) -> None:
    """Print the registry and the solar inputs as a table (`climax-hpc variables`)."""
    print(f"{'name':<42} {'short':<7} {'CMIP6':<6} {'hPa':>4}  units")
    for v in (*REGISTRY.values(), *SOLAR.values()):
        print(f"{v.name:<42} {v.short_name:<7} {v.cmip6 or '-':<6} {v.level_hpa or '':>4}  {v.units}")
