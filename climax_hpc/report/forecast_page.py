"""The page of an evaluation of forecasts: headline, skill against lead time, comparison, spectra, regions, maps."""

from collections.abc import Callable, Sequence
from functools import partial
from html import escape

from matplotlib.figure import Figure

from climax_hpc.config.inference import ReportConfig
from climax_hpc.evaluation.scorecard import Scorecard
from climax_hpc.fields.variables import lookup
from climax_hpc.report import comparison, figures
from climax_hpc.report.html import (
    anomaly_note,
    details,
    document,
    figure,
    key,
    maps_section,
    origin_section,
    section,
    training_section,
)
from climax_hpc.report.paper_scores import beside_forecasts
from climax_hpc.report.style import as_png_uri, as_svg, figure_style
from climax_hpc.report.tables import all_scores, headline_table, verdict
from climax_hpc.report.training_curves import RunHistory, load_histories

_KEY = key(
    "RMSE",
    "baseline",
    "Small figures: against the best baseline. RMSE is the square root of the mean over forecasts of the area-weighted "
    "mean square error.",
)
_ACC = (
    "<p>ACC is the uncentred anomaly correlation of each forecast with the climatology of the training period, "
    "averaged over forecasts; it is undefined (–) for climatology itself.</p>"
)


def forecast_report(config: ReportConfig) -> tuple[str, Callable[[], Figure]]:
    """The page of the forecasts that a config names, and what draws its summary figure."""
    wanted = [lookup(name).name for name in config.headline]
    card, maps = Scorecard.load(config.evaluation), figures.SampleMaps.load(config.evaluation)
    variables = card.headline(wanted)
    note = "Anomaly output mode, an addition to ClimaX." if card.uses_anomaly_mode else ""
    page = forecast_page(config.title, card, maps, load_histories(config.runs), variables)
    return page, partial(figures.summary, card, maps, variables, note)


def forecast_page(
    title: str,
    card: Scorecard,
    maps: figures.SampleMaps,
    histories: Sequence[RunHistory],
    variables: Sequence[str],
) -> str:
    """The page as HTML; `variables` are those of the headline table, the plots and the maps."""
    sections = (
        section(
            "Headline: RMSE on the held-out period",
            verdict(card),
            anomaly_note(card.content),
            headline_table(card, variables),
            _KEY,
        ),
        _skill(card, variables),
        _comparison(card),
        _spectra(card, variables),
        section("Regions", *(details(name, headline_table(card.of_region(name), variables)) for name in card.regions)),
        maps_section("A forecast, the truth, and the error", _map_caption(card), maps, variables, "forecast"),
        section("Beside the ClimaX paper", beside_forecasts(card, (len(maps.lat), len(maps.lon)))),
        training_section(histories),
        section("All scores", _ACC, all_scores(card)),
        origin_section(card.content, histories),
    )
    return document(title, _subtitle(card), sections)


def _subtitle(card: Scorecard) -> str:
    settings = card.content["settings"]
    return (
        f"Source {card.content['source']}, {card.scope}held out {' … '.join(settings['period'])}, trained on "
        f"{' … '.join(settings['train_period'])}; {sum(card.content['pairs'].values())} forecasts per model, "
        f"the same for all; weights of rows: {settings['latitude_weights']}"
    )


def _skill(card: Scorecard, variables: Sequence[str]) -> str:
    with figure_style(for_page=True):
        svg = as_svg(figures.skill_curves(card, variables), "skill")
    caption = "Models in colour, baselines in grey."
    if "intervals" in card.content:
        settings = card.content["settings"]
        caption += (
            f" Bands: {100 * settings['confidence']:g} % confidence intervals of a moving-block bootstrap over the "
            f"starts ({settings['resamples']} draws)."
        )
    return section("Skill against lead time", figure(svg, caption))


def _comparison(card: Scorecard) -> str:
    if card.reference is None:
        return ""
    with figure_style(for_page=False):
        pictures = [
            f'<figure><img alt="RMSE of {escape(label)} against {escape(card.reference)}" '
            f'src="{as_png_uri(comparison.heat_map(card, label))}"></figure>'
            for label in card.models
            if label != card.reference
        ]
    text = (
        "<p>Difference of RMSE in percent of the reference's, blue where lower. Both models are drawn together in the "
        "bootstrap (paired); numbers in brackets are differences whose interval holds 0.</p>"
    )
    return section(f"Against {card.reference}", text, *pictures) if pictures else ""


def _spectra(card: Scorecard, variables: Sequence[str]) -> str:
    if not card.spectra:
        return ""
    with figure_style(for_page=True):
        svg = as_svg(comparison.spectra(card, variables), "spectra")
    caption = (
        "Zonal power spectra between 30 and 60 degrees north and south, mean over the forecasts; a ratio below 1 means "
        "that the forecast is smoother than the truth at that scale. Later lead times are paler."
    )
    return section("Spectra", figure(svg, caption))


def _map_caption(card: Scorecard) -> str:
    shown = card.content["map"]
    return (
        f"{shown['model']}: {shown['lead_hours']:g} h forecast from {shown['start']} for {shown['valid']}, "
        "the middle one of the period. Error is forecast minus truth."
    )
