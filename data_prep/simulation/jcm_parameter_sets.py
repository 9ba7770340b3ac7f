"""Named sets of physics parameters of the GCM (jcm, SPEEDY physics): each one acts as a model with its own climate."""

# Per set: group -> parameter -> value; other parameters keep jcm's default (jcm.physics.speedy.params.Parameters).
ParameterSet = dict[str, dict[str, float]]

PARAMETER_SETS: dict[str, ParameterSet] = {
    # SPEEDY as released.
    "JCM-A": {},
    # Slow convection that needs less moisture to start, drier condensation, darker clouds, more drag.
    "JCM-B": {
        "convection": {"trcnv": 9.0, "rhbl": 0.80, "entmax": 0.3},
        "condensation": {"rhlsc": 0.85, "trlsc": 6.0},
        "shortwave_radiation": {"albcl": 0.36, "ablwv1": 0.55, "rhcl1": 0.35},
        "surface_flux": {"cdl": 3.2e-3, "cds": 1.3e-3, "chs": 1.05e-3},
        "vertical_diffusion": {"trshc": 4.0, "trvdi": 12.0},
    },
    # Fast convection that needs a moist boundary layer, brighter clouds, less drag.
    "JCM-C": {
        "convection": {"trcnv": 4.0, "rhbl": 0.95, "entmax": 0.7},
        "shortwave_radiation": {"albcl": 0.48, "ablwv1": 0.85, "clsmax": 0.5},
        "surface_flux": {"cdl": 1.8e-3, "cds": 0.8e-3},
    },
    # Slow, deep convection with much entrainment, moist condensation, dark clouds, little drag.
    "JCM-D": {
        "convection": {"trcnv": 8.0, "rhbl": 0.92, "entmax": 0.6},
        "condensation": {"rhlsc": 0.93, "trlsc": 3.0},
        "shortwave_radiation": {"albcl": 0.39, "ablwv1": 0.75},
        "surface_flux": {"cdl": 1.9e-3, "chs": 0.8e-3},
    },
    # Convection that starts early, bright clouds that need moist air, much drag, strong diffusion of heat.
    "JCM-E": {
        "convection": {"trcnv": 5.0, "rhbl": 0.85, "entmax": 0.4},
        "shortwave_radiation": {"albcl": 0.46, "rhcl1": 0.25, "clsmax": 0.65},
        "surface_flux": {"cdl": 2.9e-3, "cds": 1.1e-3},
        "vertical_diffusion": {"trshc": 9.0, "trvdi": 30.0},
    },
}

DESCRIPTIONS: dict[str, str] = {
    "JCM-A": "SPEEDY physics, default parameters",
    "JCM-B": "SPEEDY physics, slower convection, drier condensation, darker clouds, more surface drag",
    "JCM-C": "SPEEDY physics, faster convection, brighter clouds, less surface drag",
    "JCM-D": "SPEEDY physics, slower convection, moister condensation, darker clouds, less surface drag",
    "JCM-E": "SPEEDY physics, earlier convection, brighter clouds, more surface drag and vertical diffusion",
}
