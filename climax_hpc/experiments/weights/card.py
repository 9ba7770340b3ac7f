"""The model card of packaged weights, written from scores.json, training.json and the weights' own metadata."""

from collections.abc import Mapping, Sequence
from typing import Any

from climax_hpc.checkpoint.metadata import CheckpointMetadata
from climax_hpc.experiments.study.line_width import fit_width
from climax_hpc.experiments.study.text import lead, listed, table, title
from climax_hpc.fields.variables import lookup
from climax_hpc.utils.formatting import format_score, readable_size

HEADLINE = ("geopotential_500", "temperature_850", "2m_temperature", "10m_u_component_of_wind")
"""Variables whose scores are shown; the others are in scores.json."""


def card_text(
    name: str,
    scores: Mapping[str, Any],
    training: Mapping[str, Any],
    about: CheckpointMetadata,
    *,
    parameters: int,
    size: int,
) -> str:
    """The card as Markdown; `size`: bytes of the file of the weights."""
    parts = [
        f"# Model card: {name}",
        _facts(scores, training, about, parameters, size),
        _use(name),
        _limits(training, scores),
        _data(training),
        _training(training, about),
        *_scores(name, scores),
        _reproduction(training),
        "## Licence\n\nWeights and the simulations that they were trained on: MIT, as the rest of climax_hpc. The "
        "climate model, jcm, is Apache-2.0 and not part of the package.",
    ]
    return "\n\n".join(parts[:1] + [fit_width(part) for part in parts[1:]]) + "\n"


def _facts(
    scores: Mapping[str, Any], training: Mapping[str, Any], about: CheckpointMetadata, parameters: int, size: int
) -> str:
    model = about.config
    moving = [lookup(v).short_name for v in about.out_variables]
    static = [v for v in about.in_variables if lookup(v).static]
    tendencies = [v for v in about.in_variables if lookup(v).tendency_of]
    data = training["settings"]["data"]
    before = [["tendencies", f"of {len(tendencies)} variables: a state 6 h before the start is needed"]]
    rows = [
        ["network", f"{model.kind}, {model.blocks} blocks, {parameters / 1e6:.2f} M parameters"],
        ["file", f"{readable_size(size)}, float32, sha256 {scores['weights_sha256'][:16]}…"],
        ["grid", f"{model.height}×{model.width} (5.625°), patch {model.patch}"],
        ["forecasts", f"{len(moving)} variables: {', '.join(moving)}"],
        ["further input", ", ".join(static)],
        *(before if tendencies else []),
        ["lead times", f"{data['min_lead_hours']:g} to {data['max_lead_hours']:g} h"],
        ["output mode", f"{model.output_mode}" + (", an addition to ClimaX" if model.output_mode == "anomaly" else "")],
    ]
    return table(["", ""], rows)


def _use(name: str) -> str:
    return (
        "## Intended use\n\n"
        f"Start of a fine-tuning (`checkpoint: {name}`) on 5.625° data, tests of pipelines, teaching, and work on "
        "methods. Forecasts without fine-tuning need the climatology of the source in question, as `climax-hpc pack` "
        "computes it (`climatology` of `predict`)."
    )


def _limits(training: Mapping[str, Any], scores: Mapping[str, Any]) -> str:
    targets = sorted({found["source"] for found in scores["evaluations"].values()})
    assert not training["states"].keys() & set(targets)
    return (
        "## Limits\n\n"
        "- **A coarse climate model's weather, not Earth's.** No observation, reanalysis or CMIP6 simulation was used. "
        "Nothing here says how well it forecasts real weather, and its scores do not compare with those of the ClimaX "
        "paper.\n"
        "- The climate model has 64×32 points, eight levels, no diurnal cycle, a yearly repeated sea surface "
        "temperature and no trend.\n"
        f"- The scores below are of another parameter set of the same climate model ({', '.join(targets)}), which was "
        f"never trained on; {len(training['states'])} others were.\n"
        "- Not for warnings, decisions, or statements about climate change."
    )


def _data(training: Mapping[str, Any]) -> str:
    rows = [[name, str(states)] for name, states in training["states"].items()]
    data = training["settings"]["data"]
    held = data["validation_period"]
    return (
        "## Data\n\n"
        + table(["source", "six-hourly states"], rows)
        + f"\n\nSimulated by `climax-hpc simulate` (jcm, SPEEDY physics). Trained on {_period(data['period'])}; "
        f"the loss was followed on {_period(held)}. Samples were turned about the axis and mirrored about "
        "the equator at random."
    )


def _training(training: Mapping[str, Any], about: CheckpointMetadata) -> str:
    settings, log, validation = training["settings"], training["log"], training["validation"]
    optimizer, train = settings["optimizer"], settings["train"]
    device, ranks = training["provenance"]["device"], training["provenance"]["ranks"]
    lines = [
        f"{about.step} steps of {training['samples'] // about.step} samples in {_duration(training['hours'])} of "
        f"computing on {ranks} process{'es' if ranks > 1 else ''} ({device}); {optimizer.get('kind', 'adamw')}, "
        f"learning rate {optimizer['lr']:g}, seed {train['seed']}, moving average of the weights with decay "
        f"{train['ema_decay']:g}.",
        f"Training loss: {log[0]['loss']:.4f} up to step {log[0]['step']}, {log[-1]['loss']:.4f} at the end "
        f"(step {log[-1]['step']}).",
    ]
    if validation:
        best = min(validation, key=lambda row: float(row["validation_loss"]))
        lines.append(
            f"Validation loss: {validation[0]['validation_loss']:.4f} after step {validation[0]['step']}, "
            f"{validation[-1]['validation_loss']:.4f} after step {validation[-1]['step']}; lowest "
            f"{best['validation_loss']:.4f} after step {best['step']}."
        )
    lines.append("training.json has all settings and losses.")
    return "## Training\n\n" + " ".join(lines)


def _scores(name: str, scores: Mapping[str, Any]) -> list[str]:
    parts = [
        "## Scores\n\nRMSE without any fine-tuning; bold: no other is lower. scores.json has all variables, with 95 % "
        "intervals."
    ]
    for heading, found in scores["evaluations"].items():
        parts.append(
            f"### On {heading}\n\n{found['source']}, {_period(found['period'])}, {found['forecasts']} forecasts; "
            f"climatology and baselines from {_period(found['train_period'])}. {_verdict(name, found)}"
        )
        parts += [_score_table(found, v) for v in HEADLINE if v in found["rmse"]]
    return parts


def _verdict(name: str, found: Mapping[str, Any]) -> str:
    """In how many cases the weights are better than every baseline, and where not."""
    cases = len(found["rmse"]) * len(found["lead_hours"])
    lost = {v: leads for v, leads in found["not_better"].items() if leads}
    good = cases - sum(map(len, lost.values()))
    sizes = f"{len(found['lead_hours'])} lead times of {len(found['rmse'])} variables"
    text = f"{name} is better than every baseline in {good} of {cases} cases ({sizes})"
    if not lost:
        return text + "."
    where = [f"{lookup(v).short_name} at {listed([lead(h) for h in leads])}" for v, leads in lost.items()]
    return f"{text}; not for {', '.join(where)}."


def _score_table(found: Mapping[str, Any], variable: str) -> str:
    scores = found["rmse"][variable]
    columns = range(len(found["lead_hours"]))
    lowest = [min(values[i] for values in scores.values() if values[i] is not None) for i in columns]
    rows = [[label, *(_cell(scores[label][i], lowest[i]) for i in columns)] for label in scores]
    return table([title(variable), *(lead(h) for h in found["lead_hours"])], rows)


def _reproduction(training: Mapping[str, Any]) -> str:
    commit, versions = training["provenance"]["git_commit"], training["provenance"]["packages"]
    return (
        f"## How to reproduce\n\n`make pretrained`; training.json has every command. Trained at commit "
        f"{commit[:12]}{'+changes' * commit.endswith('+changes')} with torch {versions['torch']}. The same seeds give "
        "the same simulations and the same order of samples on the same kind of machine."
    )


def _cell(value: float | None, lowest: float) -> str:
    return f"**{format_score(value)}**" if value == lowest else format_score(value)


def _duration(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.1f} min"


def _period(dates: Sequence[str]) -> str:
    return " to ".join(dict.fromkeys(dates))
