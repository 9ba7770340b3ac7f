"""Question: does an ensemble from one network know what it does not know? CRPS, spread, the model's own ensemble."""

from collections.abc import Mapping
from functools import cache

from climax_hpc.experiments.study.commands import FIRST_DAY, MEMBERS_OF_ENSEMBLES, Study, make_words
from climax_hpc.experiments.study.ensemble_figures import crps_and_spread
from climax_hpc.experiments.study.ensemble_scores import RMSE_OF_MEAN, SPREAD_SKILL, Paired, ScoresOfEnsembles
from climax_hpc.experiments.study.ensemble_tables import against_truth, crps_table, spread_table
from climax_hpc.experiments.study.question import Question, Section
from climax_hpc.experiments.study.runner import Step
from climax_hpc.experiments.study.sizes import StudySize
from climax_hpc.experiments.study.text import lead, listed, signed_percent, table

ENSEMBLE, DETERMINISTIC, LONGER = "ClimaX ensemble", "ClimaX", "ClimaX trained longer"
CALIBRATED, CLIMATOLOGICAL = f"calibrated {ENSEMBLE}", "climatological ensemble"
DRESSED, DRESSED_LONGER = f"dressed {DETERMINISTIC}", f"dressed {LONGER}"
TWO = "ClimaX ensemble, two networks"
CALIBRATED_TWO = f"calibrated {TWO}"
_SHOWN = (ENSEMBLE, CALIBRATED, CALIBRATED_TWO, DRESSED)
_CONFIG, _WEIGHTS = "pretrained_jcm_small", "jcm-small"
_CHECKED_HOURS = (24, 120)
"""Shortest and longest lead time of the targets."""
_MEAN_FROM_HOURS = 72
"""The RMSE of the ensemble mean is compared beyond this lead time."""
_LEAST_GAIN = 0.08
"""By how much the CRPS must be below the error of the deterministic forecast."""
_SPREAD_SKILL = (0.8, 1.2)
_TARGET_WEIGHT = 4.0
"""Share of the target in the samples of training, of the other sources 1 each: three winters alone are overfitted."""
_NOISE = 32
"""Numbers of a noise vector, as in FGN (arXiv 2506.10772)."""
_SECONDS_PER_STEP = 0.11


@cache
def trainings(study: Study, seed: int) -> dict[str, Step]:
    """Label -> training: without noise from the weights in the package; from there as an ensemble, and without."""
    size = study.size
    first = _training(
        study, "deterministic", seed, {}, steps=size.deterministic_steps,
        rate=size.deterministic_rate,
    )  # fmt: skip
    second = _training(
        study, "ensemble", seed, _noise(size), steps=size.ensemble_steps, rate=size.ensemble_rate, start=first,
        slower=size.trained_members,
    )  # fmt: skip
    longer = _training(
        study, "longer", seed, {}, steps=size.ensemble_steps, rate=size.ensemble_rate, start=first,
    )  # fmt: skip
    return {ENSEMBLE: second, DETERMINISTIC: first, LONGER: longer}


@cache
def short(study: Study, seed: int) -> Step:
    """A second ensemble from the deterministic network, trained on more short lead times."""
    size, own = study.size, {"data.lead_exponent": study.size.short_lead_exponent}
    return _training(
        study, "ensemble-short", seed, _noise(size) | own, steps=size.ensemble_steps, rate=size.ensemble_rate,
        start=trainings(study, seed)[DETERMINISTIC], slower=size.trained_members,
    )  # fmt: skip


def _noise(size: StudySize) -> dict[str, object]:
    return {"model.noise_dim": _NOISE, "train.members": size.trained_members}


def _training(
    study: Study,
    name: str,
    seed: int,
    own: Mapping[str, object],
    *,
    steps: int,
    rate: float,
    start: Step | None = None,
    slower: float = 1.0,
) -> Step:
    size, folder = study.size, study.folder / "trainings" / "uncertainty" / f"{name}-seed{seed}"
    settings: dict[str, object] = {
        "run_folder": folder,
        "checkpoint": start.output if start else _WEIGHTS,
        "data.dataset": study.dataset,
        "data.sources": [size.target, *size.sources],
        "data.weights": {size.target: _TARGET_WEIGHT} | dict.fromkeys(size.sources, 1.0),
        "data.period": [FIRST_DAY, size.train_period[1]],
        "data.micro_batches_per_step": 1,
        "data.lead_sampling": "stratified",
        "data.variable_weights": "pressure",
        "optimizer.lr": rate,
        "optimizer.warmup_steps": min(50, steps),
        "train.steps": steps,
        "train.seed": seed,
        "train.ema_decay": 0.99,
        **own,
    }
    return Step(
        name=f"uncertainty/{name}-seed{seed}", words=make_words("finetune", settings, config=_CONFIG), output=folder,
        needs=(study.pack, start) if start else (study.pack,),
        expected_seconds=6 + slower * _SECONDS_PER_STEP * steps, resumable=True,
    )  # fmt: skip


@cache
def evaluations(study: Study) -> list[Step]:
    """Two per seed on the test period: both forms of the network; and both ensembles together, as one."""
    return [step for seed in study.size.ensemble_seeds for step in (_own(study, seed), _together(study, seed))]


@cache
def _own(study: Study, seed: int) -> Step:
    return _evaluation(
        study, f"uncertainty-seed{seed}", trainings(study, seed), study.size.scored_members,
        baselines=["climatology", "dressed", "calibrated"],
        references=[DRESSED, DRESSED_LONGER, CLIMATOLOGICAL, DETERMINISTIC],
    )  # fmt: skip


@cache
def _together(study: Study, seed: int) -> Step:
    """With as many members in all as the others have."""
    made = trainings(study, seed)
    both = made[ENSEMBLE], short(study, seed)
    return _evaluation(
        study, f"uncertainty-two-seed{seed}", {label: made[label] for label in (DETERMINISTIC, LONGER)},
        study.size.scored_members // 2, baselines=["dressed", "calibrated"],
        references=[DRESSED, DRESSED_LONGER, DETERMINISTIC], networks=both,
    )  # fmt: skip


def _evaluation(
    study: Study,
    name: str,
    models: Mapping[str, Step],
    members: int,
    *,
    baselines: list[str],
    references: list[str],
    networks: tuple[Step, ...] = (),
) -> Step:
    """On the test period; with the ensemble of the climate model, if any. `networks`: those of one ensemble."""
    size, truth = study.size, study.true_ensemble
    more: dict[str, object] = {
        "members": members,
        "batch_size": 32,
        "ensembles.baselines": baselines,
        "ensembles.dressing_period": list(size.validation_period),
        "ensembles.references": references,
    }
    if networks:
        more["ensembles.checkpoints"] = {TWO: [str(step.output) for step in networks]}
    if truth:
        more |= {"truth_dataset": truth.output, "truth_members": [f"{size.target}*{MEMBERS_OF_ENSEMBLES}"]}
    return study.evaluate(
        name, models, leads=size.ensemble_lead_hours, period=size.test_period, every=size.few_start_every_hours,
        more=more, needs=(*networks, truth) if truth else networks,
    )  # fmt: skip


def _scores(study: Study) -> ScoresOfEnsembles:
    """Of all ensembles."""
    own, together = (
        ScoresOfEnsembles.load([find(study, seed).output for seed in study.size.ensemble_seeds])
        for find in (_own, _together)
    )
    return own.with_labels_of(together, (TWO, CALIBRATED_TWO))


def section(study: Study) -> Section:
    """What the ensemble's distribution is worth, target by target, with all scores."""
    scores, size = _scores(study), study.size
    parts = [
        _setup(study),
        _outcome(study, scores),
        _control(study, scores),
        "{figure}",
        "Fair CRPS, mean of the seeds, with the interval over test weather and seeds in brackets; of the deterministic "
        "forecast its mean absolute error, which is its CRPS.",
        *(crps_table(scores, v, size.ensemble_lead_hours, DETERMINISTIC) for v in size.variables),
        "Spread / skill on the test period; 1 is perfect:",
        spread_table(scores, size.variables, size.ensemble_lead_hours, _SHOWN),
        against_truth(scores, size.variables, _checked(study), _SHOWN) if study.true_ensemble else "",
    ]
    figure = crps_and_spread(
        scores, size.variables, size.ensemble_lead_hours,
        labels=(ENSEMBLE, CALIBRATED, CALIBRATED_TWO, DRESSED_LONGER), reference=DRESSED,
        range_of_spread=_SPREAD_SKILL,
    )  # fmt: skip
    return Section(
        text="\n\n".join(part for part in parts if part),
        figure=figure,
        alt="CRPS against dressed ClimaX, and spread/skill, by lead time",
    )


def _setup(study: Study) -> str:
    size = study.size
    return (
        f"A network starts from the [weights in the package](../guides/weights.md), `{_WEIGHTS}`, and is trained for "
        f"{size.deterministic_steps} steps with the mean square error. Half of the samples come from the target's "
        "training period and half from the other sources, since three winters alone are overfitted. This is the "
        f"deterministic forecast. From there it is trained for {size.ensemble_steps} steps on the same data as an "
        f"ensemble [with noise](../guides/ensembles.md), `model.noise_dim: {_NOISE}`, `train.members: "
        f"{size.trained_members}`, with the almost fair CRPS. The ensemble has {size.scored_members} members in the "
        "test. The dressed forecast adds to the deterministic one errors that the same network made in the validation "
        "period, which it was not trained on: whole fields, as many as the ensemble has members. So it has no bias and "
        "a fitting spread by construction. [Calibrated](../guides/ensemble_scores.md#calibration), the ensemble has "
        "the same chance: from its forecasts of the same period, the bias of each cell and calendar day is subtracted "
        "and its spread scaled by one number per variable and lead time. *Two networks* are this ensemble and one that "
        "was trained likewise, but with more short lead times (`data.lead_exponent: "
        f"{size.short_lead_exponent:g}`), with {size.scored_members // 2} members each, as FGN has several networks "
        "(arXiv 2506.10772). They cost two trainings. The climatological ensemble has states of the training period "
        f"near the calendar day. Seeds: {listed([str(seed) for seed in size.ensemble_seeds])}. "
        "[What else was tried](method.md#ensembles)."
    )


def _control(study: Study, scores: ScoresOfEnsembles) -> str:
    """What the ensemble's further steps are worth without members."""
    pairs = ((DRESSED_LONGER, DRESSED), (CALIBRATED, DRESSED_LONGER), (CALIBRATED_TWO, DRESSED_LONGER))
    rows = [[label, other, _compared(study, scores, label, other)[1]] for label, other in pairs]
    return (
        f"**What the further steps alone give.** *{LONGER}* is the deterministic network after the ensemble's "
        f"{study.size.ensemble_steps} further steps, on the same data at the same learning rate, but with the mean "
        f"square error. A step costs less there, since it has one member in place of {study.size.trained_members}."
        "\n\n" + table(["CRPS of", "against that of", ""], rows)
    )


def _checked(study: Study) -> list[int]:
    return [h for h in study.size.ensemble_lead_hours if _CHECKED_HOURS[0] <= h <= _CHECKED_HOURS[1]]


def _outcome(study: Study, scores: ScoresOfEnsembles) -> str:
    """The targets, each with what was found for the ensemble as it was trained, for it calibrated, and for two."""
    leads = _checked(study)
    span = f"{lead(leads[0])} to {lead(leads[-1])}"
    low, high = _SPREAD_SKILL
    whose = "the climate model's own ensemble" if study.true_ensemble else "the test period"
    gain = f"{_LEAST_GAIN:.0%}".replace("%", " %")
    texts = (
        f"CRPS below that of the dressed deterministic forecast at {span}",
        f"CRPS {gain} or more below the deterministic forecast's error at {span}",
        f"spread / skill between {low:g} and {high:g} against {whose}",
        "RMSE of the mean, without bias for the number of members, not above the deterministic forecast's beyond "
        f"{lead(_MEAN_FROM_HOURS)}",
    )
    columns = [
        [target(study, scores, label) for target in (_dressed_target, _error_target, _spread_target, _mean_target)]
        for label in (ENSEMBLE, CALIBRATED, CALIBRATED_TWO)
    ]
    rows = [
        [text, *(f"{'**met**' if met else 'not met'}: {words}" for met, words in found)]
        for text, *found in zip(texts, *columns, strict=True)
    ]
    return table(["target", ENSEMBLE, "calibrated", "two networks, calibrated"], rows)


def _cases(study: Study) -> list[tuple[str, int]]:
    return [(v, h) for v in study.size.variables for h in _checked(study)]


def _dressed_target(study: Study, scores: ScoresOfEnsembles, label: str) -> tuple[bool, str]:
    return _compared(study, scores, label, DRESSED)


def _compared(study: Study, scores: ScoresOfEnsembles, label: str, other: str) -> tuple[bool, str]:
    """Whether the CRPS of an ensemble is below another's in every case, and by how much."""
    pairs = {case: scores.paired(label, other, *case) for case in _cases(study)}
    return all(one.is_better for one in pairs.values()), (
        f"better in {sum(one.is_better for one in pairs.values())} of {len(pairs)} cases by paired intervals, worse in "
        f"{sum(one.is_worse for one in pairs.values())}; {_by_lead(study, pairs)}"
    )


def _error_target(study: Study, scores: ScoresOfEnsembles, label: str) -> tuple[bool, str]:
    pairs = {case: scores.paired(label, DETERMINISTIC, *case) for case in _cases(study)}
    gained = [one for one in pairs.values() if one.is_better and one.relative <= -_LEAST_GAIN]
    return len(gained) == len(pairs), f"so in {len(gained)} of {len(pairs)} cases; {_by_lead(study, pairs)}"


def _by_lead(study: Study, pairs: Mapping[tuple[str, int], Paired]) -> str:
    """Relative change, mean over the variables, by lead time."""
    variables = study.size.variables
    means = {h: sum(pairs[v, h].relative for v in variables) / len(variables) for h in _checked(study)}
    changes = [f"{signed_percent(1 + value)} at {lead(h)}" for h, value in means.items()]
    return f"mean over the variables {listed(changes)}"


def _spread_target(study: Study, scores: ScoresOfEnsembles, label: str) -> tuple[bool, str]:
    low, high = _SPREAD_SKILL
    values = [
        scores.divergence(label, *case, SPREAD_SKILL)[0]
        if study.true_ensemble
        else scores.value(label, *case, SPREAD_SKILL)
        for case in _cases(study)
    ]
    inside = sum(low <= value <= high for value in values)
    return inside == len(values), f"so in {inside} of {len(values)} cases; {min(values):.2f} to {max(values):.2f}"


def _mean_target(study: Study, scores: ScoresOfEnsembles, label: str) -> tuple[bool, str]:
    """By the estimate for endless members: the mean of 8 holds an eighth of their variance."""
    late = [h for h in study.size.ensemble_lead_hours if h > _MEAN_FROM_HOURS]
    found = [scores.paired(label, DETERMINISTIC, v, h, RMSE_OF_MEAN) for v in study.size.variables for h in late]
    changes = [one.relative for one in found]
    return all(change <= 0 for change in changes), (
        f"so in {sum(change <= 0 for change in changes)} of {len(found)} cases, better by paired intervals in "
        f"{sum(one.is_better for one in found)}, worse in {sum(one.is_worse for one in found)}; "
        f"{signed_percent(1 + min(changes, default=0.0))} to {signed_percent(1 + max(changes, default=0.0))}"
    )


QUESTION = Question(
    name="uncertainty", title="Does it know what it does not know?", steps=evaluations, section=section,
    compares_networks=False,
)  # fmt: skip
