"""The report: self-contained, every headline number and loss in it, real pictures, hostile labels harmless."""

import base64
import io
import json
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

from climax_hpc.errors import UserError
from climax_hpc.evaluation.evaluate import evaluate
from climax_hpc.evaluation.scorecard import ANOMALY_NOTE, Scorecard, format_score, pretty_units
from climax_hpc.inference_config import HEADLINE, EvaluateConfig, ReportConfig
from climax_hpc.report.page import report

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


def test_every_number_and_every_loss_stands_in_the_page(evaluation: Path, text: str) -> None:
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
        ({"evaluation": "/nowhere"}, "/nowhere/evaluation.json does not exist"),
        ({"headline": ["geopotental_500"]}, "did you mean geopotential_500"),
        ({"runs": {"a": "/nowhere"}}, "runs: cannot read /nowhere/metrics.jsonl of 'a'"),
        ({"output": "/tmp"}, "output: /tmp is a folder"),
        ({"figure": "/dev/null/x.png"}, "figure: /dev/null/x.png is a folder or lies in a file"),
    ],
)
def test_bad_input(config: ReportConfig, change: dict[str, object], message: str) -> None:
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
    with pytest.raises(UserError, match=r"is not an evaluation of climax_hpc"):
        report(config)


@pytest.mark.parametrize(
    ("value", "text"), [(None, "–"), (0.0, "0.000"), (4.5, "4.500"), (-12345.6, "-12346"), (1.23456e-5, "1.235e-05")]
)
def test_numbers(value: float | None, text: str) -> None:
    assert format_score(value) == text


def test_units_are_raised() -> None:
    assert [pretty_units(u) for u in ("m2 s-2", "kg m-2 s-1", "K", "1", "%")] == ["m² s⁻²", "kg m⁻² s⁻¹", "K", "1", "%"]


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
    # Every quarter of the page shows something: no picture or table is missing from the flow.
    assert all(part.std() > 0.02 for part in np.array_split(pixels, 4))
