"""Sections that the pages of several tasks share: maps, training curves, models and settings, keys to tables."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from climax_hpc.evaluation.output import uses_anomaly_mode
from climax_hpc.fields.variables import lookup
from climax_hpc.model.output_modes import ANOMALY_NOTE
from climax_hpc.report.figures import loss_curves
from climax_hpc.report.html import details, facts, figure, section
from climax_hpc.report.maps import SampleMaps, map_triple
from climax_hpc.report.style import as_png_uri, as_svg, figure_style
from climax_hpc.report.training_curves import RunHistory
from climax_hpc.utils.formatting import pretty_units


def maps_section(heading: str, caption: str, maps: SampleMaps, variables: Sequence[str], ours: str) -> str:
    """Maps of the variables that have them: the field that `ours` names, the truth and the error."""
    parts = []
    with figure_style(for_page=False):
        for variable in (v for v in variables if v in maps.variables):
            known = lookup(variable)
            uri = as_png_uri(map_triple(maps, variable, ours))
            text = f"{ours.capitalize()}, truth and error of {known.name} [{pretty_units(known.units)}]"
            parts.append(f'<figure><img alt="{escape(text)}" src="{uri}"></figure>')
    none = "<p>The headline model has none of the headline variables.</p>"
    return section(heading, f"<p>{escape(caption)}</p>", "\n".join(parts) or none)


def training_section(histories: Sequence[RunHistory]) -> str:
    """Loss curves of the runs named in the config."""
    if not histories:
        return ""
    with figure_style(for_page=True):
        svg = as_svg(loss_curves(histories), "loss")
    caption = (
        "Loss of the training batches, in the normalised units of the network. Compare only runs with the same data, "
        "variables and output mode."
    )
    return section("Training", figure(svg, caption))


def origin_section(content: Mapping[str, Any], histories: Sequence[RunHistory]) -> str:
    """Models, baselines, provenance and settings of an evaluation and of its training runs."""
    models = {
        label: f"{m['checkpoint']}, step {m['step']}, {m['parameters'] / 1e6:.2f} M parameters, output mode "
        f"{m['output_mode']}, weights sha256 {m['weights_sha256'][:16]}…"
        for label, m in content["models"].items()
    }
    provenance = dict(content["provenance"])
    packages = ", ".join(f"{name} {version}" for name, version in provenance.pop("packages").items())
    settings = json.dumps(content["settings"], indent=1, ensure_ascii=False)
    return section(
        "Models, data and settings",
        facts(models | content["baselines"]),
        facts(provenance | {"packages": packages}),
        details("Evaluation settings", f"<pre>{escape(settings)}</pre>"),
        *(
            details(f"Training settings: {history.label}", f"<pre>{escape(history.config)}</pre>")
            for history in histories
            if history.config
        ),
    )


def anomaly_note(content: Mapping[str, Any]) -> str:
    """A note where a model is not ClimaX as published."""
    return f'<p class="note">{escape(ANOMALY_NOTE)}</p>' if uses_anomaly_mode(content) else ""


def table_key(score: str, baseline: str, rest: str) -> str:
    """The meaning of bold, green and red cells: `score` is compared with that of every `baseline`."""
    green = f'<span style="background:var(--win)">Green</span>: lower {escape(score)} than every {escape(baseline)}'
    red = '<span style="background:var(--loss);color:var(--lossink)">▲ red</span>: not lower'
    return f'<p class="key"><b>Bold</b>: best of all. {green}; {red}. {escape(rest)}</p>'
