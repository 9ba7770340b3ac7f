"""The region of an evaluation of forecasts: that of regional models, and the named ones scored beside the globe."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from climax_hpc.checkpoint.format import Checkpoint
from climax_hpc.checkpoint.regional import domain_of
from climax_hpc.config.inference import EvaluateConfig
from climax_hpc.data.packed_source import PackedSource
from climax_hpc.errors import UserError
from climax_hpc.evaluation.scoring import ForecastScoring
from climax_hpc.fields.averaging_window import Window
from climax_hpc.fields.regional_grid import Domain, same_domain


def common_domain(checkpoints: Mapping[str, Checkpoint]) -> Domain | None:
    """The region of the regional models; None where all are global.

    Raises:
        UserError: they are models of several regions.
    """
    domains = {label: domain for label, c in checkpoints.items() if (domain := domain_of(c))}
    if not domains:
        return None
    first = next(iter(domains.values()))
    if not same_domain(first, list(domains.values())):
        named = ", ".join(f"{label!r} of {domain.region.name}" for label, domain in domains.items())
        raise UserError(f"models: regional models of several regions ({named}): evaluate each region separately")
    return first


def check_regions(scoring: ForecastScoring) -> None:
    """Refuse regions in which regional models forecast no cell.

    Raises:
        UserError: names the region.
    """
    if scoring.cells is None:
        return
    forecast = [set(index.tolist()) for index in scoring.cells]
    for name, cells in scoring.region_cells.items():
        if not all(held & set(index.tolist()) for held, index in zip(forecast, cells, strict=True)):
            raise UserError(f"regions: the models forecast no cell of {name}; leave it out")


def patch_of_regions(config: EvaluateConfig, source: PackedSource, checkpoints: Mapping[str, Checkpoint]) -> int:
    """Patch size of the models if only whole patches of regions are scored; else 1.

    Raises:
        UserError: models without patches, of several patch sizes, or data on a part of their grid.
    """
    if config.region_cells == "all":
        return 1
    networks = [checkpoint.metadata.config for checkpoint in checkpoints.values()]
    sizes = sorted({network.patch for network in networks if network.kind == "climax"})
    if len(sizes) != 1:
        found = f"patches of {' and '.join(map(str, sizes))} cells" if sizes else "no patches"
        raise UserError(f"region_cells: the models have {found}; use all, or models of one patch size")
    if config.regions and not source.grid.is_global:
        raise UserError(f"region_cells: source {source.name} is regional, so that patches are unknown; use all")
    return sizes[0]


def scope_of(scoring: ForecastScoring, window: Window | None) -> dict[str, Any]:
    """Region and window of the scores, where they are not of states on the whole grid."""
    found: dict[str, Any] = {}
    if scoring.domain and scoring.domain_cells:
        found["domain"] = {**asdict(scoring.domain.region), "cells": [len(index) for index in scoring.domain_cells]}
    if window:
        found["window"] = asdict(window)
    return found
