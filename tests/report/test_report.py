"""The report: self-contained, with every number and loss, real pictures, and hostile labels escaped."""

import base64
import io
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from climax_hpc.config.inference import HEADLINE, EvaluateConfig, ReportConfig
from climax_hpc.errors import UserError
from climax_hpc.evaluation.evaluate import evaluate
from climax_hpc.evaluation.scorecard import Scorecard
from climax_hpc.model.output_modes import ANOMALY_NOTE
from climax_hpc.report.paper_scores import compare_forecasts
from climax_hpc.report.sweep_results import SweepResults
from climax_hpc.report.training_curves import RunHistory
from climax_hpc.tasks.registry import report
from climax_hpc.utils.formatting import format_score

HOSTILE = "<script>alert(1)</script> & \"$title\" $x_2$ 'q'"
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@dataclass
class Page(HTMLParser):
    """Tags, sources and cells of a page."""

    cells: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    losses: int = 0

    def __post_init__(self) -> None:
        super().__init__()
        self._in_cell = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for key, value in attrs if key in ("src", "href", "xlink:href", "data")]
        self.losses += ("class", "loss") in attrs
        if tag == "td":
            self._in_cell = True
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        self._in_cell = self._in_cell and tag != "td"

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self.cells[-1] += data


@pytest.fixture(scope="module")
def evaluation(
    make_dataset: Callable[..., Path],
    make_evaluation: Callable[..., EvaluateConfig],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    folder = str(tmp_path_factory.mktemp("evaluated") / "evaluation")
    config = make_evaluation(make_dataset(), labels=(HOSTILE, "_full"), run_folder=folder, map_lead_hours=48)
    return evaluate(config).parent


def make_config(evaluation: Path, folder: Path) -> ReportConfig:
    run = folder / "run"
    run.mkdir()
    lines = [
        json.dumps({"step": s, "loss": 1 / s, "learning_rate": 1e-3, "samples_per_second": 9.0}) for s in range(1, 40)
    ]
    (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    (run / "config.yaml").write_text("run: <b>bold</b>\n")
    return ReportConfig(
        evaluation=str(shutil.copytree(evaluation, folder / "evaluation")),
        runs={HOSTILE: str(run)},
        output=str(folder / "page" / "report.html"),
        title=HOSTILE,
    )


@pytest.fixture
def config(evaluation: Path, tmp_path: Path) -> ReportConfig:
    return make_config(evaluation, tmp_path)


@pytest.fixture(scope="module")
def text(evaluation: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page."""
    return report(make_config(evaluation, tmp_path_factory.mktemp("reported"))).read_text()


def parse(text: str) -> Page:
    page = Page()
    page.feed(text)
    return page


def test_every_number_and_every_loss_is_on_the_page(evaluation: Path, text: str) -> None:
    card, page = Scorecard.load(evaluation), parse(text)
    cells = {re.sub(r"[+−]\d[\d.]* %$", "", cell.removeprefix("▲ ")) for cell in page.cells}
    for label in (*card.models, *card.baselines):
        for variable in card.variables:
            for lead in card.lead_hours:
                for metric in ("rmse", "mae", "bias", "acc"):
                    assert format_score(card.value(label, variable, lead, metric)) in cells
    lost = sum(
        bool(card.unbeaten_baselines(model, variable, lead))
        for model in card.models
        for variable in card.headline(HEADLINE)
        for lead in card.lead_hours
    )
    assert lost >= 12  # the untrained full-field model beats nothing
    assert page.losses == lost
    assert escape(ANOMALY_NOTE) in text
    assert 'title="not better than damped persistence' in text


def test_self_contained_and_small(text: str) -> None:
    page = parse(text)
    assert all(source.startswith(("data:", "#")) for source in page.sources)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    assert len(text.encode()) < 5e6


def test_pictures_are_real(text: str) -> None:
    images = re.findall(r'<img alt="Forecast, truth and error of [^"]*" src="data:image/png;base64,([^"]+)"', text)
    assert len(images) == 4
    for image in images:
        pixels = imread(io.BytesIO(base64.b64decode(image)))[..., :3]
        assert pixels.shape[1] > 1000
        assert len(np.unique((pixels * 255).astype(np.uint8).reshape(-1, 3), axis=0)) > 100
    skill, spectra, loss = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
    assert "Z500" in skill
    assert "RMSE [m² s⁻²]" in skill
    assert "damped persistence" in skill
    assert "zonal wavenumber" in spectra
    assert "optimiser step" in loss
    assert max(len(re.findall(r"[ML] ", path)) for path in re.findall(r'd="([^"]*)"', loss)) >= 20


def test_hostile_labels_are_text(text: str) -> None:
    assert "<script" not in text
    assert "<b>bold</b>" not in text
    assert escape(HOSTILE) in text
    legend = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)[0]
    assert "_full" in legend


def test_heading_names_the_task_unless_given(config: ReportConfig) -> None:
    assert "<h1>Forecast scorecard</h1>" in report(replace(config, title=None)).read_text()


def test_evaluations_of_earlier_versions(config: ReportConfig) -> None:
    """Early files name no task of forecasts; a metric that is not in the file has no row."""
    path = Path(config.evaluation) / "evaluation.json"
    content = json.loads(path.read_text())
    del content["task"]
    for table in (content["scores"], content["intervals"]):
        for leads in (leads for by_variable in table.values() for leads in by_variable.values()):
            for values in leads.values():
                del values["mae"]
    path.write_text(json.dumps(content))
    text = report(config).read_text()
    assert ">RMSE [m² s⁻²]<" in text
    assert ">MAE [m² s⁻²]<" not in text


def test_same_input_same_page(config: ReportConfig, text: str) -> None:
    assert report(config).read_text() == text


def test_figure_for_a_readme(config: ReportConfig, tmp_path: Path) -> None:
    picture = tmp_path / "docs" / "skill.png"
    report(replace(config, figure=str(picture)))
    pixels = imread(picture)
    assert pixels.shape[1] > 1000
    assert pixels[0, 0].tolist() == [1, 1, 1, 1]
    assert pixels[..., :3].std() > 0.05


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"evaluation": "nowhere"}, "nowhere/evaluation.json does not exist"),
        ({"headline": ["geopotental_500"]}, "did you mean geopotential_500"),
        ({"runs": {"a": "nowhere"}}, "runs: cannot read nowhere/metrics.jsonl of 'a'"),
        ({"output": "."}, "output: . is a folder"),
        ({"figure": "/dev/null/x.png"}, "figure: /dev/null/x.png is a folder or lies inside a file"),
    ],
)
def test_bad_input(
    config: ReportConfig, change: dict[str, object], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        report(replace(config, **change))  # type: ignore[arg-type]
    assert not Path(config.output).exists()


def test_damaged_files(config: ReportConfig, tmp_path: Path) -> None:
    (tmp_path / "run" / "metrics.jsonl").write_text('{"step": 1}\n')
    with pytest.raises(UserError, match=r"metrics.jsonl of .* has a bad line"):
        report(config)
    (tmp_path / "run" / "metrics.jsonl").write_text("")
    with pytest.raises(UserError, match=r"is empty: train first"):
        report(config)
    (Path(config.evaluation) / "maps.npz").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"maps.npz is not readable"):
        report(config)
    (Path(config.evaluation) / "evaluation.json").write_text("{}")
    with pytest.raises(UserError, match=r"is None version None, not climax_hpc/evaluation version 1; run"):
        report(config)


def test_the_papers_scores_are_shown_only_where_comparable(evaluation: Path, text: str) -> None:
    assert "Not comparable with the paper" in text
    assert "62.73" not in text
    card = Scorecard.load(evaluation)
    era5 = json.loads(json.dumps(card.content))
    era5 |= {"source": "ERA5_reanalysis"}
    era5["settings"]["period"] = ["2017-01-01", "2018-12-31"]
    beside = compare_forecasts(Scorecard(content=era5), (32, 64))
    assert "96.19" in beside  # ClimaX, Z500 at 24 h
    assert format_score(era5["other_scores"]["_full"]["geopotential_500"]["24"]["rmse_climax"]) in beside
    assert "this evaluation by cell" in beside
    for change, shape, why in (
        ({"source": "JCM-C_x"}, (32, 64), "our truth is JCM-C_x, theirs ERA5"),
        ({}, (128, 256), "our grid has 128 × 256 cells, theirs 32 × 64"),
        ({"settings": {"period": ["2015", "2016"]}}, (32, 64), "our period is 2015 … 2016, theirs 2017 … 2018"),
        ({"domain": {"name": "Europe"}}, (32, 64), "ours are for Europe, theirs for the globe"),
        ({"window": {"hours": 72}}, (32, 64), "ours are means over 72 h"),
    ):
        assert why in compare_forecasts(Scorecard(content=era5 | change), shape)
    weeks = era5 | {"window": {"hours": 336}, "lead_hours": [336.0]}
    assert "none of their variables and lead times" in compare_forecasts(
        Scorecard(content=weeks | {"lead_hours": [24.0]}), (32, 64)
    )
    for by_variable in weeks["other_scores"].values():
        for by_lead in by_variable.values():
            by_lead["336"] = by_lead["24"]
    assert "1.890" in compare_forecasts(Scorecard(content=weeks), (32, 64))  # T850 of weeks 3 and 4


def write_sweep(folder: Path, evaluation: Path) -> None:
    """Four members: two seeds at each of two lead times; the last one has failed."""
    header = [
        "index",
        "task",
        "variable",
        "lead_hours",
        "seed",
        "run_folder",
        "optimizer.lr",
        "state",
        "step",
        "loss",
        "restarts",
        "rmse",
        "acc",
    ]
    rows = [[*header, "best_baseline_rmse", "message"]]
    for i, (lead, seed) in enumerate((lead, seed) for lead in ("24", "48") for seed in ("1", "2")):
        state, message = ("failed", HOSTILE) if i == 3 else ("finished", "")
        run = folder / "members" / f"{i:03d}"
        rows.append(
            [str(i), "forecast", "temperature_850", lead, seed, str(run), "", state, "4", "", "0", "", "", "", message]
        )
        if i < 3:
            shutil.copytree(evaluation, folder / "evaluations" / run.name)
    (folder / "results.tsv").write_text("".join("\t".join(row) + "\n" for row in rows))


def test_tables_that_are_pipes_or_not_text_are_refused(tmp_path: Path) -> None:
    for name, read in (("metrics.jsonl", lambda: RunHistory.load("a", tmp_path)),
                       ("results.tsv", lambda: SweepResults.load(tmp_path))):  # fmt: skip
        os.mkfifo(tmp_path / name)
        with pytest.raises(UserError, match=rf"{name} is a pipe, not a file"):
            read()
        (tmp_path / name).unlink()
        (tmp_path / name).write_bytes(b"\xff\xfe\n")
        with pytest.raises(UserError, match=rf"{name}( of 'a' has a bad line| is not a table)"):
            read()


@pytest.mark.parametrize(("key", "name"), [("output", "evaluation.json"), ("output", "r.png"), ("figure", "r.html")])
def test_no_file_of_another_kind_is_replaced(key: str, name: str, evaluation: Path) -> None:
    before = (evaluation / "evaluation.json").read_bytes()
    with pytest.raises(UserError, match=rf"{key}: .*{name} must end in"):
        report(ReportConfig(evaluation=str(evaluation), **{key: str(evaluation / name)}))
    assert (evaluation / "evaluation.json").read_bytes() == before


def test_a_page_of_a_sweep(evaluation: Path, tmp_path: Path) -> None:
    write_sweep(tmp_path, evaluation)
    config = ReportConfig(evaluation=str(tmp_path), output=str(tmp_path / "r.html"), figure=str(tmp_path / "r.png"))
    text = report(config).read_text()
    page = parse(text)
    assert "3 finished, 1 failed; 3 evaluated" in text
    assert HOSTILE in page.cells
    assert "<script" not in text
    sweep, card = SweepResults.load(tmp_path), Scorecard.load(evaluation)
    assert [sweep.group(member) for member in sweep.members] == ["24 h", "24 h", "48 h", "48 h"]
    found = sweep.evaluated[0].rmse_by_lead
    model = card.models[0]
    assert sweep.evaluated[0].variable == "temperature_850"
    for lead in card.lead_hours:
        assert found[lead] == (card.value(model, "temperature_850", lead), card.best_baseline("temperature_850", lead))
    against, skill = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
    assert "48 h" in against
    assert "T850" in skill
    assert imread(tmp_path / "r.png").shape[1] > 400


def test_a_sweep_without_evaluations_has_a_page_and_no_figure(evaluation: Path, tmp_path: Path) -> None:
    write_sweep(tmp_path, evaluation)
    shutil.rmtree(tmp_path / "evaluations")
    (tmp_path / "members" / "003").mkdir(parents=True)
    (tmp_path / "members" / "003" / "metrics.jsonl").touch()  # ended before its first step
    config = ReportConfig(evaluation=str(tmp_path), output=str(tmp_path / "r.html"))
    assert "No member has been evaluated" in report(config).read_text()
    other = replace(config, output=str(tmp_path / "s.html"), figure=str(tmp_path / "s.png"))
    with pytest.raises(UserError, match=r"figure: no member in .* has been evaluated"):
        report(other)
    assert not (tmp_path / "s.html").exists()


def test_a_damaged_table_of_a_sweep(tmp_path: Path) -> None:
    (tmp_path / "results.tsv").write_text("index\ttask\n0\n")
    with pytest.raises(UserError, match=r"results.tsv is not a table of results \(variable, seed, run_folder"):
        report(ReportConfig(evaluation=str(tmp_path), output=str(tmp_path / "r.html")))
    assert not (tmp_path / "r.html").exists()


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH: apt install chromium")
def test_chromium_shows_the_page(config: ReportConfig, tmp_path: Path) -> None:
    page, shot = report(config), tmp_path / "shot.png"
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    subprocess.run(
        [*command, "--window-size=1200,2600", f"--screenshot={shot}", page.as_uri()],
        check=True,
        capture_output=True,
        timeout=120,
    )
    pixels = imread(shot)[..., :3]
    assert pixels.shape[:2] == (2600, 1200)
    # Every quarter of the page has content: no picture or table is missing.
    assert all(part.std() > 0.02 for part in np.array_split(pixels, 4))
