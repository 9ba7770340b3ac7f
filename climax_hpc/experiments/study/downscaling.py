"""Question: does pretraining on forecasts help downscaling? From the coarse-grained target to its own grid."""

from climax_hpc.data_prep.simulation.config import SimulateConfig
from climax_hpc.data_prep.simulation.simulate import drs_member
from climax_hpc.experiments.study.commands import Study, make_words
from climax_hpc.experiments.study.comparison import compare
from climax_hpc.experiments.study.figures import bars
from climax_hpc.experiments.study.question import Question, Section
from climax_hpc.experiments.study.runner import Step
from climax_hpc.experiments.study.scores import Scores
from climax_hpc.experiments.study.sizes import PRETRAINED, SCRATCH
from climax_hpc.experiments.study.text import table, title

_COARSE_DEG, _LEAD = 11.25, 0.0  # twice the grid spacing of the networks; downscaling has no lead time
_CORRECTED = "bilinear, bias-corrected"


def pairs(study: Study) -> Step:
    """The target on both grids, paired by time step."""
    member = drs_member(SimulateConfig(output="", parameter_set=study.size.target, days=1))
    source = "_".join(member.parts[-3:])
    folder = study.folder / "downscaling"
    settings = {
        "input": study.gcm,
        "output": folder / "coarse",
        "sources": [source],
        "grid_spacing_deg": _COARSE_DEG,
        "train_period": list(study.size.train_period),
    }
    coarse = Step(
        name="downscaling/pack", words=make_words("pack", settings), output=folder / "coarse",
        needs=tuple(study.simulations), expected_seconds=20, resumable=True,
    )  # fmt: skip
    named: dict[str, object] = {
        "coarse": folder / "coarse",
        "fine": study.dataset,
        "output": folder / "pairs.json",
        "sources": {source: source},
    }
    return Step(
        name="downscaling/pair", words=make_words("pair", named), output=folder / "pairs.json",
        needs=(coarse, study.pack), expected_seconds=8,
    )  # fmt: skip


def steps(study: Study) -> list[Step]:
    """One evaluation per seed: ClimaX from the forecasting checkpoint and from scratch, and the other networks."""
    size, data, found = study.size, pairs(study), []
    for seed in size.few_seeds:
        settings = {
            "data.dataset": data.output,
            "data.period": list(size.amounts[size.few]),
            "data.random_roll": False,
            "data.random_flip": False,
            "task": "downscaling",
            "train.steps": size.few_steps,
            "train.seed": seed,
        }
        needs = (data, study.pretrained)
        models = {
            PRETRAINED: study.training(
                "finetune", f"downscaling/ClimaX-pretrained-seed{seed}", settings, needs, start=study.pretrained
            ),
            SCRATCH: study.training("finetune", f"downscaling/ClimaX-scratch-seed{seed}", settings, (data,)),
        }
        for network in size.networks:
            name = f"downscaling/{network.label.replace(' ', '-')}-seed{seed}"
            models[network.label] = study.training("finetune", name, settings, (data,), network=network)
        found.append(
            study.evaluate(f"downscaling-seed{seed}", models, more={"task": "downscaling", "dataset": data.output})
        )
    return found


def section(study: Study) -> Section:
    """All networks against interpolation."""
    size = study.size
    scores = Scores.load([step.output for step in steps(study)])
    lines = [
        f"- against {other}: {compare(scores, other, size.variables, [_LEAD]).sentence}."
        for other in scores.labels
        if other != PRETRAINED
    ]
    rows = [[label, *(scores.cell(label, v, _LEAD) for v in size.variables)] for label in scores.labels]
    parts = [
        f"{size.target} is coarse-grained to {_COARSE_DEG:g}° and downscaled to 5.625°, each time step separately. "
        f"Trained on {size.few} of the target data for {size.few_steps} steps. The pretrained ClimaX starts from the "
        "forecasting checkpoint of the first question.",
        f"{PRETRAINED} compared with the others:\n\n" + "\n".join(lines),
        "{figure}",
        table(["RMSE", *(title(v) for v in size.variables)], rows),
    ]

    def against_interpolation(label: str, variable: str) -> tuple[float, float, float]:
        unit = scores.rmse(_CORRECTED, variable, _LEAD)
        low, high = scores.interval(label, variable, _LEAD)
        return scores.rmse(label, variable, _LEAD) / unit, low / unit, high / unit

    ylabel = f"RMSE / that of {_CORRECTED}"
    figure = bars(scores.labels, size.variables, against_interpolation, ylabel=ylabel, sharey=True)
    return Section(text="\n\n".join(parts), figure=figure, alt="RMSE of downscaled fields")


QUESTION = Question(name="downscaling", title="Does a pretrained model downscale better?", steps=steps, section=section)
