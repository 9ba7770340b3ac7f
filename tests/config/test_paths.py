"""`~` in keys that hold paths, of every command: alone, in lists, maps and sections; in files, on the command line."""

import re
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from jsonargparse import ArgumentParser

from climax_hpc.cli import SUBCOMMANDS
from climax_hpc.config.inference import PredictConfig, ReportConfig
from climax_hpc.config.parser import read_config
from climax_hpc.config.paths import ConfigPath
from climax_hpc.config.training import PretrainConfig
from climax_hpc.data_prep.config import PackConfig
from climax_hpc.data_prep.pairs import PairConfig
from climax_hpc.errors import UserError
from climax_hpc.launch.config import SubmitConfig
from climax_hpc.utils.references import load

A_PATH = re.compile(r"^(Label -> )?(Run folder|Folder|File |Packed data set|packed data set|Path|(JSON|HTML|PNG) file)")
OTHER = {"resume_from"}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def is_path(hint: Any) -> bool:
    return hint == ConfigPath or any(is_path(one) for one in get_args(hint))


def keys(config_class: type, prefix: str = "") -> dict[str, Any]:
    """Dotted key -> type, sections opened."""
    found = {}
    for entry in fields(config_class):
        hint = get_type_hints(config_class, include_extras=True)[entry.name]
        if is_dataclass(hint):
            found |= keys(hint, f"{prefix}{entry.name}.")
        else:
            found[prefix + entry.name] = hint
    return found


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_every_key_that_is_a_path_has_the_type(name: str) -> None:
    config_class = load(SUBCOMMANDS[name].config)
    parser = ArgumentParser()
    parser.add_class_arguments(config_class)
    texts = {action.dest: action.help or "" for action in parser._actions}
    paths = {key for key, text in texts.items() if A_PATH.match(text) and "configuration file" not in text} - OTHER
    assert paths <= {key for key, hint in keys(config_class).items() if is_path(hint)}
    assert name in ("variables", "tasks", "weights", "bench command") or any(
        is_path(hint) for hint in keys(config_class).values()
    )


def test_paths_in_lists_maps_and_sections(home: Path) -> None:
    predict = read_config(
        PredictConfig,
        "predict",
        ["--models", "{a: ~/a, b: b}", "--input", "[~/x.nc, y.nc]", "--output", "~/out", "--climatology", "~/"],
    )
    assert predict.models == {"a": f"{home}/a", "b": "b"}
    assert (predict.input, predict.output, predict.climatology) == ([f"{home}/x.nc", "y.nc"], f"{home}/out", f"{home}/")
    train = read_config(
        PretrainConfig, "pretrain", ["--run_folder", "~/r", "--data.dataset", "~/d", "--data.stage_to", "~/s"]
    )
    assert (train.run_folder, train.data.dataset, train.data.stage_to) == tuple(f"{home}/{x}" for x in "rds")
    submit = read_config(SubmitConfig, "submit", ["--what", "pipeline", "--folder", "~/f", "--stages.pack", "~/p.yaml"])
    assert (submit.folder, submit.stages.pack) == (f"{home}/f", f"{home}/p.yaml")


def test_paths_in_a_file_and_the_path_of_the_file(home: Path) -> None:
    (home / "pack.yaml").write_text("input: ~/in\noutput: ~/out\nsources: ['~x']\n")
    config = read_config(PackConfig, "pack", ["--config=~/pack.yaml"])
    assert (config.input, config.output, config.sources) == (f"{home}/in", f"{home}/out", ["~x"])


def test_other_text_stays(home: Path) -> None:
    config = read_config(ReportConfig, "report", ["--evaluation", "a~b", "--title", "~ 5 K"])
    assert (config.evaluation, config.title) == ("a~b", "~ 5 K")


def test_an_unknown_user_is_refused() -> None:
    with pytest.raises(UserError, match=r"^models\.a: ~nobody_here/x: there is no user 'nobody_here'; write the path"):
        read_config(PredictConfig, "predict", ["--models", "{a: ~nobody_here/x}", "--input", "x", "--output", "y"])


def test_help_calls_paths_by_their_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read_config(PredictConfig, "predict", ["--help"])
    text = capsys.readouterr().out
    assert "type: dict[str, path]" in " ".join(text.split())
    assert "Annotated" not in text


@pytest.mark.parametrize("output", ["in/new.nc", "in", "in/../in/old.nc", "link/new.nc", "~/in/x.nc"])
def test_an_output_is_no_input_and_lies_in_none(output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    Path("link").symlink_to("in")
    reason = rf"output: {re.escape(output)} is, or lies in, the input in; choose another output"
    with pytest.raises(UserError, match=reason):
        PredictConfig(models={"m": "run"}, input="in", output=output)
    with pytest.raises(UserError, match=reason):
        PairConfig(coarse="a", fine="in", output=output)
    assert PredictConfig(models={"m": "run"}, input=["in/old.nc"], output="in/new.nc")
