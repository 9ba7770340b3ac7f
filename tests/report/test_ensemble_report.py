"""The sections about ensembles: every number, real pictures, hostile labels, evaluations that lack parts."""

import base64
import io
import json
import re
import shutil
import subprocess
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

from climax_hpc.config.inference import ReportConfig
from climax_hpc.errors import UserError
from climax_hpc.evaluation.output import EVALUATION_FILE, MAPS_FILE
from climax_hpc.evaluation.scorecard import Scorecard
from climax_hpc.report.ensemble_results import EnsembleMaps, EnsembleScores
from climax_hpc.report.maps import SampleMaps
from climax_hpc.tasks.registry import report
from climax_hpc.utils.formatting import format_score

from .made_up_ensembles import MEMBERS, add_ensembles

EVALUATION = Path(__file__).parents[1] / "compatibility" / "commit_3b8de63" / "evaluation"
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
HEADINGS = ("CRPS against lead time", "comparison", "spread and skill", "rank histograms", "reliability", "all scores")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An evaluation of one model, which has members."""
    return shutil.copytree(EVALUATION, tmp_path / "evaluation")


def page(folder: Path) -> str:
    return report(ReportConfig(evaluation=str(folder), output=str(folder.parent / "page.html"))).read_text()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """Content of an evaluation with ensembles, and its page."""
    folder = shutil.copytree(EVALUATION, tmp_path_factory.mktemp("made") / "evaluation")
    return add_ensembles(folder), page(folder)


def pictures(text: str) -> list[str]:
    return re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)


def change(folder: Path, **changed: Any) -> None:
    path = folder / EVALUATION_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))


def test_caveats_of_ensembles_are_on_the_page(folder: Path) -> None:
    content = add_ensembles(folder)
    label, about = next(iter(content["ensembles"].items()))
    caveats = {"caveats": ["Made in <another> season."]}
    assert escape(caveats["caveats"][0]) not in page(folder)
    change(folder, ensembles=content["ensembles"] | {label: about | caveats})
    assert f"{escape(about['description'])}. {escape(caveats['caveats'][0])}" in page(folder)


def test_every_score_is_on_the_page(made: tuple[dict[str, Any], str]) -> None:
    content, text = made
    for heading in HEADINGS:
        assert f"<h2>Ensembles: {heading}</h2>" in text
    cells = set(re.findall(r"<td>([^<]*)</td>", text))
    for by_variable in content["ensemble_scores"].values():
        for by_lead in by_variable.values():
            for scores in by_lead.values():
                assert {format_score(value) for value in scores.values()} <= cells | {"–"}
    for label, about in content["ensembles"].items():
        assert f"{label} ({about['members']} members)" in text
    assert "Brier score, below the 5th percentile" in text
    assert "CRPS [m² s⁻²]" in text
    assert "energy score" in text


def test_comparisons_show_which_differences_are_certain(made: tuple[dict[str, Any], str]) -> None:
    """−25 % of a CRPS of 10 with an interval of ± 0.5 is lower; +1 % is not certain; +30 % is higher."""
    part = made[1].partition("<h2>Ensembles: comparison</h2>")[2].partition("</section>")[0]
    leads, variables = 2, 2
    assert part.count('<td class="win">−25.0<small>−30.0 … −20.0</small></td>') == leads * variables
    assert part.count("<td>+1.0<small>−4.0 … +6.0</small></td>") == leads * variables
    assert part.count('<td class="loss">▲ +30.0<small>+25.0 … +35.0</small></td>') == leads * variables


def test_figures_have_their_curves(folder: Path, made: tuple[dict[str, Any], str]) -> None:
    plain, text = page(folder), made[1]
    before = len(pictures(plain))
    assert "Ensembles" not in plain
    found = {heading: pictures(text.partition(f"Ensembles: {heading}</h2>")[2])[0] for heading in HEADINGS[:5]}
    assert len(pictures(text)) == before + 5  # the comparison is a table, the fans a figure of their own
    assert "fair CRPS [m² s⁻²]" in found["CRPS against lead time"]
    assert "climatological ensemble" in found["CRPS against lead time"]
    assert "dressed persistence" in found["CRPS against lead time"]
    assert "spread/skill" in found["spread and skill"]
    assert "run, spread" in found["spread and skill"]
    assert "rank of the truth" in found["rank histograms"]
    assert "above the 95th percentile" in found["reliability"]
    assert "6 h" in found["reliability"]
    fans = pictures(text.partition("Members of one forecast of run</h2>")[2])[0]
    assert "Z500 at 48° N 10° E" in fans
    assert "T2m at 33° S 80° W" in fans
    assert "truth" in fans


def test_stamps_and_fans_of_few_and_many_members(folder: Path, made: tuple[dict[str, Any], str]) -> None:
    add_ensembles(folder, members=30)
    for text, shown in ((made[1], "members"), (page(folder), "25 to 75 % of the members")):
        assert f">{shown}<" in text
        (image,) = re.findall(
            r'<img alt="Truth, mean, spread and members of [^"]*" src="data:image/png;base64,([^"]+)"', text
        )
        pixels = imread(io.BytesIO(base64.b64decode(image)))[..., :3]
        assert pixels.shape[1] > 1000
        assert len(np.unique((pixels * 255).astype(np.uint8).reshape(-1, 3), axis=0)) > 100


def test_hostile_labels_and_what_is_absent(folder: Path) -> None:
    """Without bootstrap, members and fans the other figures remain; names from files are text."""
    content = add_ensembles(folder, intervals=False, maps=False)
    hostile = "<script>$x_2$</script>"
    renamed = json.loads(json.dumps(content).replace("climatological ensemble", hostile))
    change(folder, **renamed)
    text = page(folder)
    assert "<script" not in text
    assert escape(hostile) in text
    assert "Ensembles: comparison" not in text
    assert "Members of one forecast" not in text
    assert "Ensembles: reliability" in text
    assert "intervals of the block bootstrap" not in text.partition("Ensembles: CRPS")[2]
    path = folder / EVALUATION_FILE
    kept = {
        key: value
        for key, value in json.loads(path.read_text()).items()
        if key not in ("rank_histograms", "reliability")
    }
    path.write_text(json.dumps(kept))
    text = page(folder)
    assert "Ensembles: rank histograms" not in text
    assert "Ensembles: spread and skill" in text


def test_scores_and_members_as_objects(folder: Path) -> None:
    content = add_ensembles(folder)
    scores = EnsembleScores(card=Scorecard.load(folder))
    assert scores.headline == "run"
    assert scores.learned == ["run", "all checkpoints"]
    assert scores.shown_leads() == [6, 24]
    assert (
        scores.value("run", "geopotential_500", 24, "crps")
        == content["ensemble_scores"]["run"]["geopotential_500"]["24"]["crps"]
    )
    assert np.isnan(scores.value("run", "geopotential_500", 24, "fair_brier_5"))
    colours = {label: style["color"] for label, style in scores.styles().items()}
    assert len({colours["run"], colours["all checkpoints"], colours["climatological ensemble"]}) == 3
    maps = SampleMaps.load(folder)
    members = EnsembleMaps.load(folder, maps)
    assert members.members_MVHW is not None
    assert members.fans is not None
    assert members.members_MVHW.shape == (MEMBERS, *maps.forecast_MHW.shape)
    assert members.fans.members_PVTM.shape == (2, 2, 2, MEMBERS)


def test_maps_that_lack_an_array_are_refused(folder: Path) -> None:
    path = folder / MAPS_FILE
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files if name != "truth"}
    np.savez(path, **arrays)
    with pytest.raises(UserError, match=r"maps.npz is not readable \(it lacks truth\): run"):
        page(folder)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH: apt install chromium")
def test_chromium_shows_the_ensembles(made: tuple[dict[str, Any], str], tmp_path: Path) -> None:
    text, shot = made[1], tmp_path / "shot.png"
    start = text.index("<section>\n<h2>Ensembles: CRPS")
    end = text.index("</section>", text.index("<h2>Members of one forecast")) + len("</section>")
    alone = text[: text.index("<section>")] + text[start:end] + text[text.rindex("</main>") :]
    (tmp_path / "alone.html").write_text(alone)
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    subprocess.run(
        [
            str(CHROMIUM),
            *options,
            "--window-size=1200,3600",
            f"--screenshot={shot}",
            (tmp_path / "alone.html").as_uri(),
        ],
        check=True,
        capture_output=True,
        timeout=120,
    )
    pixels = imread(shot)[..., :3]
    assert pixels.shape[:2] == (3600, 1200)
    assert all(part.std() > 0.02 for part in np.array_split(pixels, 4)), "every part of the page has content"
