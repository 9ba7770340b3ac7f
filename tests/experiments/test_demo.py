"""The whole chain on the shipped sample, with the demo's own configs cut to a few steps."""

import json
from pathlib import Path

import pytest

from climax_hpc.cli import run
from climax_hpc.evaluation.scorecard import Scorecard
from climax_hpc.experiments.demo import STAGES

SHORT = ("--train.steps", "8", "--optim.warmup_steps", "2", "--train.checkpoint_every", "8")


@pytest.mark.slow
def test_sample_to_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run(["pack", "--config", "demo_pack"])
    run(["verify", "--dataset", "runs/demo/data"])
    run(["pretrain", "--config", "demo_pretrain", *SHORT])
    run(["finetune", "--config", "demo_finetune", *SHORT])
    scratch = ("--checkpoint", "null", "--run_folder", "runs/demo/scratch")
    run(["finetune", "--config", "demo_finetune", *SHORT, *scratch])
    run(["evaluate", "--config", "demo_evaluate", "--lead_hours", "[24, 72]"])
    run(["report", "--config", "demo_report"])

    manifest = json.loads(Path("runs/demo/data/manifest.json").read_text())
    steps = {name.split("_")[0]: sum(s["steps"] for s in e["shards"]) for name, e in manifest["sources"].items()}
    assert steps == {"JCM-A": 360, "JCM-B": 360, "JCM-C": 480}
    card = Scorecard.load(Path("runs/demo/evaluation"))
    # Untrained, the anomaly output is damped persistence plus little; a wrong unit or a wrong time would show here.
    for label in card.models:
        for name in ("geopotential_500", "2m_temperature"):
            damped = card.value("damped persistence", name, 24, "rmse")
            assert card.value(label, name, 24, "rmse") == pytest.approx(damped, rel=0.15)
    page = Path("runs/demo/report.html").read_text()
    assert page.count("<svg") + page.count("data:image/png;base64,") >= 4


def test_demo_runs_every_stage_of_the_chain() -> None:
    verbs = [words[words.index("climax_hpc") + 1] for words in STAGES.values()]
    assert verbs == ["pack", "verify", "pretrain", "finetune", "finetune", "evaluate", "report"]
