"""The report of forecasts: headline table, skill against lead time, comparison, spectra, regions, maps, all scores."""

from collections.abc import Callable, Sequence
from functools import partial
from html import escape

from matplotlib.figure import Figure

from climax_hpc.config.inference import ReportConfig
from climax_hpc.evaluation.metrics import RMSE
from climax_hpc.evaluation.scorecard import Scorecard
from climax_hpc.fields.variables import lookup
from climax_hpc.report import forecast_figures
from climax_hpc.report.ensemble_results import EnsembleMaps, EnsembleScores
from climax_hpc.report.ensemble_sections import ensemble_sections
from climax_hpc.report.html import details, document, figure, section
from climax_hpc.report.maps import SampleMaps
from climax_hpc.report.paper_scores import compare_forecasts
from climax_hpc.report.sections import anomaly_note, maps_section, origin_section, table_key, training_section
from climax_hpc.report.style import as_png_uri, as_svg, figure_style
from climax_hpc.report.tables import all_scores, headline_table, span, summary_sentence
from climax_hpc.report.training_curves import RunHistory, load_histories

_KEY = table_key(
    RMSE.title,
    "baseline",
    f"Small figures: difference from the best baseline. {RMSE.title} is {RMSE.description}.",
)


def forecast_report(config: ReportConfig) -> tuple[str, Callable[[], Figure]]:
    """The page of the forecasts that a config names, and a function that draws its summary figure."""
    wanted = [lookup(name).name for name in config.headline]
    card, maps = Scorecard.load(config.evaluation), SampleMaps.load(config.evaluation)
    variables = card.headline(wanted)
    note = "Anomaly output mode, an addition to ClimaX." if card.uses_anomaly_mode else ""
    members = ensemble_sections(EnsembleScores(card=card), maps, EnsembleMaps.load(config.evaluation, maps), variables)
    heading = config.title or "Forecast scorecard"
    page = forecast_page(heading, card, maps, load_histories(config.runs), variables, members)
    return page, partial(forecast_figures.summary_figure, card, maps, variables, note)


def forecast_page(
    title: str,
    card: Scorecard,
    maps: SampleMaps,
    histories: Sequence[RunHistory],
    variables: Sequence[str],
    members: str,
) -> str:
    """The page as HTML; `variables` are those of the headline table, the plots and the maps.

    `members`: the sections about ensembles.
    """
    sections = (
        section(
            f"{RMSE.title} on the held-out period",
            summary_sentence(card),
            anomaly_note(card.content),
            headline_table(card, variables),
            _KEY,
        ),
        _skill(card, variables),
        _comparison(card),
        members,
        _spectra(card, variables),
        section("Regions", *(details(name, headline_table(card.of_region(name), variables)) for name in card.regions)),
        maps_section("Example forecast", _map_caption(card), maps, variables, "forecast"),
        section("Comparison with the ClimaX paper", compare_forecasts(card, (len(maps.lat), len(maps.lon)))),
        training_section(histories),
        section("All scores", _definitions(card), all_scores(card)),
        origin_section(card.content, histories),
    )
    return document(title, _subtitle(card), sections)


def _subtitle(card: Scorecard) -> str:
    settings = card.content["settings"]
    return (
        f"Source {card.content['source']}, {card.scope}held-out period {span(*settings['period'])}, training "
        f"period {span(*settings['train_period'])}; the same {sum(card.content['pairs'].values())} forecasts for "
        f"every model and baseline; latitude weights: {settings['latitude_weights']}"
    )


def _skill(card: Scorecard, variables: Sequence[str]) -> str:
    with figure_style(for_page=True):
        svg = as_svg(forecast_figures.skill_curves(card, variables), "skill")
    caption = "Models are in colour, baselines in grey."
    if "intervals" in card.content:
        settings = card.content["settings"]
        caption += (
            f" Bands are {100 * settings['confidence']:g} % confidence intervals of a moving-block bootstrap over the "
            f"start times ({settings['resamples']} draws)."
        )
    return section("Skill against lead time", figure(svg, caption))


def _comparison(card: Scorecard) -> str:
    if card.reference is None:
        return ""
    with figure_style(for_page=False):
        pictures = [
            f'<figure><img alt="{RMSE.title} of {escape(label)} relative to {escape(card.reference)}" '
            f'src="{as_png_uri(forecast_figures.heat_map(card, label))}"></figure>'
            for label in card.models
            if label != card.reference
        ]
    text = (
        f"<p>Difference in {RMSE.title} as a percentage of the reference's; blue is lower. The bootstrap draws both "
        "models together (paired). In brackets: differences whose confidence interval includes 0.</p>"
    )
    return section(f"Comparison with {card.reference}", text, *pictures) if pictures else ""


def _spectra(card: Scorecard, variables: Sequence[str]) -> str:
    if not card.spectra:
        return ""
    with figure_style(for_page=True):
        svg = as_svg(forecast_figures.spectra(card, variables), "spectra")
    caption = (
        "Zonal power spectra between 30° and 60° north and south, averaged over the forecasts. A ratio below 1 means "
        "that the forecasts are smoother than the truth at that scale. Later lead times are paler."
    )
    return section("Power spectra", figure(svg, caption))


def _definitions(card: Scorecard) -> str:
    """What each metric is."""
    sentences = (f"{metric.title} is {metric.description}." for metric in card.metrics)
    return f"<p>{escape(' '.join(sentence[0].upper() + sentence[1:] for sentence in sentences))}</p>"


def _map_caption(card: Scorecard) -> str:
    shown = card.content["map"]
    return (
        f"{shown['model']}: {shown['lead_hours']:g} h forecast from {shown['start']} for {shown['valid']}, "
        "the middle one of the period. The error is forecast minus truth."
    )
