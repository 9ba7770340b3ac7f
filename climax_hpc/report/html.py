"""A report as one self-contained HTML document: its frame, sections, figures, facts and folded parts.

Texts from configs and data are escaped here or by whoever makes the HTML that is passed in.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from climax_hpc.evaluation.output import uses_anomaly_mode
from climax_hpc.fields.variables import lookup
from climax_hpc.model.output_modes import ANOMALY_NOTE
from climax_hpc.report import figures
from climax_hpc.report.style import as_png_uri, as_svg, figure_style
from climax_hpc.report.training_curves import RunHistory
from climax_hpc.utils.formatting import pretty_units


def document(title: str, subtitle: str, sections: Iterable[str]) -> str:
    """The page; `title` and `subtitle` are plain text, sections HTML, empty ones are left out."""
    template = Template(files("climax_hpc.report").joinpath("page.html").read_text(encoding="utf-8"))
    body = "\n".join(section for section in sections if section)
    return template.substitute(title=escape(title), subtitle=escape(subtitle), sections=body)


def section(heading: str, *parts: str) -> str:
    """A section of the page, of HTML parts; nothing where all parts are empty."""
    body = "\n".join(part for part in parts if part)
    return f"<section>\n<h2>{escape(heading)}</h2>\n{body}\n</section>" if body else ""


def figure(svg: str, caption: str) -> str:
    """An inline SVG with its caption."""
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def details(title: str, body: str) -> str:
    """A collapsed section."""
    return f"<details><summary>{escape(title)}</summary>{body}</details>"


def facts(rows: Mapping[str, Any]) -> str:
    """Names and values as a two-column table."""
    body = "".join(f'<tr><th scope="row">{escape(k)}</th><td>{escape(str(v))}</td></tr>' for k, v in rows.items())
    return f'<div class="scroll"><table class="facts"><tbody>{body}</tbody></table></div>'


def table(header: Sequence[str], bodies: Iterable[str]) -> str:
    """A table of scores; `bodies` are the <tr> elements of each <tbody>."""
    heads = "".join(f'<th scope="col">{escape(text)}</th>' for text in header)
    body = "".join(f"<tbody>{rows}</tbody>" for rows in bodies)
    return f'<div class="scroll"><table class="scores"><thead><tr>{heads}</tr></thead>{body}</table></div>'


def maps_section(heading: str, caption: str, maps: figures.SampleMaps, variables: Sequence[str], ours: str) -> str:
    """`ours`, truth and error of the variables that there are maps of."""
    parts = []
    with figure_style(for_page=False):
        for variable in (v for v in variables if v in maps.variables):
            known = lookup(variable)
            uri = as_png_uri(figures.map_triple(maps, variable, ours))
            text = f"{ours.capitalize()}, truth and error of {known.name} [{pretty_units(known.units)}]"
            parts.append(f'<figure><img alt="{escape(text)}" src="{uri}"></figure>')
    none = "<p>The headline model gives none of the headline variables.</p>"
    return section(heading, f"<p>{escape(caption)}</p>", "\n".join(parts) or none)


def training_section(histories: Sequence[RunHistory]) -> str:
    """Loss curves of the runs named in the config."""
    if not histories:
        return ""
    with figure_style(for_page=True):
        svg = as_svg(figures.loss_curves(histories), "loss")
    caption = "Loss of the training batches, in the network's own units: lower is better only between runs alike."
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
        "Where this comes from",
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
    """A word on models that are not ClimaX as published."""
    return f'<p class="note">{escape(ANOMALY_NOTE)}</p>' if uses_anomaly_mode(content) else ""


def key(score: str, baseline: str, rest: str) -> str:
    """What bold, green and red cells mean: `score` lower than every `baseline`, or not."""
    green = f'<span style="background:var(--win)">Green</span>: {escape(score)} lower than every {escape(baseline)}'
    red = '<span style="background:var(--loss);color:var(--lossink)">▲ red</span>: not'
    return f'<p class="key"><b>Bold</b>: best of all. {green}; {red}. {escape(rest)}</p>'
