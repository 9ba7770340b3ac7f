"""What the simulator can write: CMIP6 variable -> CF metadata and the absolute quantum of packed files."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class OutputVariable:
    """One CMIP6 variable as the simulator writes it."""

    standard_name: str
    """CF standard name."""
    long_name: str
    """Title in the CMIP6 data request."""
    units: str
    """CMIP6 units."""
    quantum: float = 0.0
    """Step of the int16 packing [units]; 0 = never packed. At most a few percent of the field's weather variability."""
    offset: float = 0.0
    """`add_offset` of the packing [units]; for winds half the range of the low byte, so that weak winds share one high
    byte (files 2 % smaller)."""
    height_m: float | None = None
    """Nominal height above the surface [m]; None for variables without one."""


# On pressure levels. A quantum times 32767 must exceed the largest magnitude; the writer refuses values beyond it.
LEVEL_VARIABLES: dict[str, OutputVariable] = {
    "zg": OutputVariable(standard_name="geopotential_height", long_name="Geopotential Height", units="m", quantum=1.0),
    "ta": OutputVariable(standard_name="air_temperature", long_name="Air Temperature", units="K", quantum=0.05),
    "ua": OutputVariable(
        standard_name="eastward_wind", long_name="Eastward Wind", units="m s-1", quantum=0.05, offset=6.4
    ),
    "va": OutputVariable(
        standard_name="northward_wind", long_name="Northward Wind", units="m s-1", quantum=0.05, offset=6.4
    ),
    "hus": OutputVariable(standard_name="specific_humidity", long_name="Specific Humidity", units="1", quantum=1e-5),
}

SURFACE_VARIABLES: dict[str, OutputVariable] = {
    "tas": OutputVariable(
        standard_name="air_temperature", long_name="Near-Surface Air Temperature", units="K", quantum=0.05, height_m=2.0
    ),
    "uas": OutputVariable(
        standard_name="eastward_wind",
        long_name="Eastward Near-Surface Wind",
        units="m s-1",
        quantum=0.05,
        offset=6.4,
        height_m=10.0,
    ),
    "vas": OutputVariable(
        standard_name="northward_wind",
        long_name="Northward Near-Surface Wind",
        units="m s-1",
        quantum=0.05,
        offset=6.4,
        height_m=10.0,
    ),
    "psl": OutputVariable(
        standard_name="air_pressure_at_mean_sea_level", long_name="Sea Level Pressure", units="Pa", quantum=10.0
    ),
    "ps": OutputVariable(
        standard_name="surface_air_pressure", long_name="Surface Air Pressure", units="Pa", quantum=10.0
    ),
    "ts": OutputVariable(standard_name="surface_temperature", long_name="Surface Temperature", units="K", quantum=0.05),
    "pr": OutputVariable(
        standard_name="precipitation_flux", long_name="Precipitation", units="kg m-2 s-1", quantum=1e-7
    ),
}

# Without time; part of every simulation.
FIXED_VARIABLES: dict[str, OutputVariable] = {
    "orog": OutputVariable(standard_name="surface_altitude", long_name="Surface Altitude", units="m"),
    "sftlf": OutputVariable(
        standard_name="land_area_fraction", long_name="Percentage of the Grid Cell Occupied by Land", units="%"
    ),
}

VARIABLES: dict[str, OutputVariable] = {**LEVEL_VARIABLES, **SURFACE_VARIABLES, **FIXED_VARIABLES}
