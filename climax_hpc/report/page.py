"""`climax-hpc report`: one self-contained HTML page from an evaluation, and a PNG of its figures where asked for."""

from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

from climax_hpc.errors import UserError
from climax_hpc.evaluation.scorecard import ANOMALY_NOTE, Scorecard, pretty_units
from climax_hpc.files import write_text
from climax_hpc.inference_config import ReportConfig
from climax_hpc.report import comparison, figures
from climax_hpc.report.runs import RunHistory
from climax_hpc.report.style import as_png_uri, as_svg, figure_style, write_png
from climax_hpc.report.tables import all_scores, details, facts, headline_table, json_block, models_table, verdict
from climax_hpc.variables import lookup


def report(config: ReportConfig) -> Path:
    """Write the page (and the PNG) and return the page's path.

    Raises:
        UserError: no evaluation, a run without metrics, an unknown headline variable, or an output that cannot be.
    """
    card = Scorecard.load(config.evaluation)
    maps = figures.SampleMaps.load(config.evaluation)
    histories = [RunHistory.load(label, folder) for label, folder in config.runs.items()]
    variables = card.headline([lookup(name).name for name in config.headline])
    output, picture = Path(config.output), Path(config.figure) if config.figure else None
    for key, path in (("output", output), ("figure", picture)):
        _check_target(key, path)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_text(output, page(config.title, card, maps, histories, variables))
    if picture:
        picture.parent.mkdir(parents=True, exist_ok=True)
        with figure_style(for_page=False):
            write_png(figures.summary(card, maps, variables, _short_note(card)), picture)
    print(f"report: {output}", flush=True)
    return output


def page(
    title: str,
    card: Scorecard,
    maps: figures.SampleMaps,
    histories: Sequence[RunHistory],
    variables: Sequence[str],
) -> str:
    """The page as HTML; every text from configs and data is escaped."""
    template = Template(files("climax_hpc.report").joinpath("page.html").read_text(encoding="utf-8"))
    with figure_style(for_page=True):
        skill = as_svg(figures.skill_curves(card, variables), "skill")
    return template.substitute(
        title=escape(title),
        subtitle=_subtitle(card),
        verdict=verdict(card),
        note=f'<p class="note">{escape(ANOMALY_NOTE)}</p>' if card.uses_anomaly_mode else "",
        headline=headline_table(card, variables),
        skill=_figure(skill, _skill_caption(card)),
        comparison=_comparison(card),
        spectra=_spectra(card, variables),
        regions=_regions(card, variables),
        map_caption=_map_caption(card),
        maps=_maps(maps, variables),
        training=_training(histories),
        all_scores=all_scores(card),
        models=models_table(card),
        provenance=_provenance(card, histories),
    )


def _subtitle(card: Scorecard) -> str:
    settings = card.content["settings"]
    return escape(
        f"Source {card.content['source']}, held out {' … '.join(settings['period'])}, trained on "
        f"{' … '.join(settings['train_period'])}; {sum(card.content['pairs'].values())} forecasts per model, "
        f"the same for all; weights of rows: {settings['latitude_weights']}"
    )


def _skill_caption(card: Scorecard) -> str:
    text = "Models in colour, baselines in grey."
    if "intervals" not in card.content:
        return text
    settings = card.content["settings"]
    return (
        f"{text} Bands: {100 * settings['confidence']:g} % confidence intervals of a moving-block bootstrap over the "
        f"starts ({settings['resamples']} draws)."
    )


def _comparison(card: Scorecard) -> str:
    if card.reference is None:
        return ""
    with figure_style(for_page=False):
        figures_ = [
            f'<figure><img alt="RMSE of {escape(label)} against {escape(card.reference)}" '
            f'src="{as_png_uri(comparison.heat_map(card, label))}"></figure>'
            for label in card.models
            if label != card.reference
        ]
    text = (
        "Difference of RMSE in percent of the reference's, blue where lower. Both models are drawn together in the "
        "bootstrap (paired); numbers in brackets are differences whose interval holds 0."
    )
    return (
        f"<section><h2>Against {escape(card.reference)}</h2><p>{text}</p>{''.join(figures_)}</section>"
        if figures_
        else ""
    )


def _spectra(card: Scorecard, variables: Sequence[str]) -> str:
    if not card.spectra:
        return ""
    with figure_style(for_page=True):
        svg = as_svg(comparison.spectra(card, variables), "spectra")
    caption = (
        "Zonal power spectra between 30 and 60 degrees north and south, mean over the forecasts; a ratio below 1 means "
        "that the forecast is smoother than the truth at that scale. Later lead times are paler."
    )
    return f"<section><h2>Spectra</h2>{_figure(svg, caption)}</section>"


def _regions(card: Scorecard, variables: Sequence[str]) -> str:
    if not card.regions:
        return ""
    tables = [details(name, headline_table(card.of_region(name), variables)) for name in card.regions]
    return f"<section><h2>Regions</h2>{''.join(tables)}</section>"


def _map_caption(card: Scorecard) -> str:
    shown = card.content["map"]
    return escape(
        f"{shown['model']}: {shown['lead_hours']:g} h forecast from {shown['start']} for {shown['valid']}, "
        "the middle one of the period. Error is forecast minus truth."
    )


def _maps(maps: figures.SampleMaps, variables: Sequence[str]) -> str:
    parts = []
    with figure_style(for_page=False):
        for variable in (v for v in variables if v in maps.variables):
            uri = as_png_uri(figures.map_triple(maps, variable))
            text = f"Forecast, truth and error of {lookup(variable).name} [{pretty_units(lookup(variable).units)}]"
            parts.append(f'<figure><img alt="{escape(text)}" src="{uri}"></figure>')
    return "\n".join(parts) or "<p>The headline model forecasts none of the headline variables.</p>"


def _training(histories: Sequence[RunHistory]) -> str:
    if not histories:
        return ""
    with figure_style(for_page=True):
        svg = as_svg(figures.loss_curves(histories), "loss")
    caption = "Loss of the training batches, in the network's own units: lower is better only between runs alike."
    return f"<section><h2>Training</h2>{_figure(svg, caption)}</section>"


def _figure(svg: str, caption: str) -> str:
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def _provenance(card: Scorecard, histories: Sequence[RunHistory]) -> str:
    provenance = dict(card.content["provenance"])
    packages = ", ".join(f"{name} {version}" for name, version in provenance.pop("packages").items())
    parts = [
        facts(provenance | {"packages": packages}),
        details("Evaluation settings", json_block(card.content["settings"])),
    ]
    parts += [
        details(f"Training settings: {history.label}", f"<pre>{escape(history.config)}</pre>")
        for history in histories
        if history.config
    ]
    return "\n".join(parts)


def _short_note(card: Scorecard) -> str:
    return "Anomaly output mode, an addition to ClimaX." if card.uses_anomaly_mode else ""


def _check_target(key: str, path: Path | None) -> None:
    if path and (path.is_dir() or any(p.exists() and not p.is_dir() for p in path.parents)):
        raise UserError(f"{key}: {path} is a folder or lies in a file; give the path of a file to write")
