"""Configs: shipped ones parse, a printed one can be read back, a mistake becomes one line with the nearest key."""

import ast
import contextlib
import inspect
import io
import re
import textwrap
from dataclasses import fields, is_dataclass
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from climax_hpc.cli import SUBCOMMANDS, main, run, usage
from climax_hpc.config.inference import EvaluateConfig, ReportConfig
from climax_hpc.config.parser import _with_place, nearest, read_config, shipped_configs, to_dict
from climax_hpc.config.training import FinetuneConfig, PretrainConfig
from climax_hpc.errors import UserError
from climax_hpc.fields.variables import lookup
from climax_hpc.model.config import ModelConfig
from climax_hpc.utils.references import load

# The names of most configs end in their verb (demo_pack); of the others, the whole name or its first word decides.
VERB_OF_CONFIG = {
    "sample": "simulate", "cmip6": "pack", "cmip7": "pack", "era5": "pack", "climatebench": "pack",
    "climax": "pretrain", "pretrained": "pretrain", "downscaling_eobs": "pack", "downscaling_ncep": "pack",
    "demo_regional": "finetune", "demo_rollout": "finetune", "demo_weights": "finetune", "s2s": "finetune",
    "study": "finetune",
}  # fmt: skip
# Configs of sources and recipes leave the folders to the user.
PATHS = {"pack": ["--input=in", "--output=out"], "pretrain": ["--run_folder=run", "--data.dataset=packed"]}
PATHS["finetune"] = PATHS["pretrain"]


@pytest.mark.parametrize("name", shipped_configs())
def test_shipped_configs_parse(name: str) -> None:
    words = name.split("_")
    verb = VERB_OF_CONFIG.get(name) or VERB_OF_CONFIG.get(words[0]) or words[-1]
    read_config(load(SUBCOMMANDS[verb].config), verb, ["--config", name, *PATHS.get(verb, [])])


def test_printed_config_reads_back(tmp_path: Path) -> None:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), pytest.raises(SystemExit) as stop:
        run(["pretrain", "--config", "demo_pretrain", "--train.steps", "7", "--print_config"])
    assert not stop.value.code
    file = tmp_path / "again.yaml"
    file.write_text(printed.getvalue())
    again = read_config(PretrainConfig, "x", ["--config", str(file)])
    assert again.train.steps == 7
    assert to_dict(again) == yaml.safe_load(printed.getvalue())


def test_defaults_are_the_papers_model() -> None:
    config = read_config(PretrainConfig, "x", ["--run_folder", "a", "--data.dataset", "b"])
    assert config.model == ModelConfig()
    assert (config.optimizer.lr, config.optimizer.betas, config.train.steps) == (5e-4, (0.9, 0.95), 200_000)
    assert (config.data.min_lead_hours, config.data.max_lead_hours) == (6, 168)


@pytest.mark.parametrize("verb", SUBCOMMANDS)
def test_help_explains_every_key(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert verb in usage()
    with pytest.raises(SystemExit) as stop:
        run([*verb.split(), "--help"])
    assert not stop.value.code
    text = " ".join(capsys.readouterr().out.split())
    assert SUBCOMMANDS[verb].help[1:] in text  # what it does, as in the overview
    assert "Raises" not in text
    assert all(f"--{key}" in text.partition("options:")[0] for key in SUBCOMMANDS[verb].positional)

    def check(config_class: type, prefix: str) -> None:
        for key in fields(config_class):
            assert f"--{prefix}{key.name}" in text
            if is_dataclass(key.type):
                check(key.type, f"{prefix}{key.name}.")

    config_class = load(SUBCOMMANDS[verb].config)
    check(config_class, "")
    lines = set(attribute_docstrings(config_class))
    assert {key.name for key in fields(config_class)} <= lines


def attribute_docstrings(config_class: type) -> list[str]:
    """Names of the fields with a help text under them, in the class and its parents."""
    names = []
    for cls in config_class.__mro__[:-1]:
        body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, line in pairwise(body.body):
            if isinstance(field, ast.AnnAssign) and isinstance(line, ast.Expr) and isinstance(field.target, ast.Name):
                names.append(field.target.id)
    return names


def test_help_of_a_family_lists_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    main(["bench", "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == ["kernels", "data", "step", "command", "record", "compare"]


def test_overview_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    main([])
    main(["--version"])
    text = capsys.readouterr().out
    assert all(verb in text for verb in SUBCOMMANDS)
    assert text.rstrip().splitlines()[-1].count(".") == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("train: {steps: 3", "config"),
        ("[1, 2]", "config"),
        ("model: {patch: {a: 1}}", "patch"),
    ],
)
def test_files_that_hold_no_config(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(content)
    with pytest.raises(UserError, match=message):
        read_config(PretrainConfig, "x", ["--config", str(file)])


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--train.steps=abc", "train.steps: 'abc' is not valid, expected int; "),
        ("--data.period=5", """'5' is not valid, expected tuple[str, str], null; a list is written ["5", …]; """),
        ("--data.period=[2001, 2003]", """expected tuple[str, str], null; a list is written ["2001", …]; """),
        ("--optimizer.betas=0.9", "optimizer.betas: '0.9' is not valid, expected tuple; a list is written [0.9, …]; "),
        ("--data.weights=1", "it is written {name: value}; --help explains the key"),
    ],
)
def test_a_value_of_another_type_says_what_is_expected(argument: str, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        read_config(FinetuneConfig, "x", ["--run_folder=a", "--data.dataset=b", argument])


def test_a_year_without_quotes_is_no_text() -> None:
    words = ["--run_folder=a", "--dataset=b", "--source=c", "--models={a: b}", "--train_period=['2001', '2003']"]
    message = """period: '2004' is not valid, expected str; put it in quotes: "2004"; """
    with pytest.raises(UserError, match=f"^{message}"):
        read_config(EvaluateConfig, "x", [*words, "--period=[2004, 2004]"])


@pytest.mark.parametrize("words", [[""], ["extra"], ["--print_config", ""]])
def test_words_that_are_no_setting_are_shown(words: list[str]) -> None:
    with pytest.raises(UserError, match=f"nrecognized arguments: '{words[-1]}'; settings are given as --key VALUE$"):
        read_config(FinetuneConfig, "x", ["--run_folder=a", "--data.dataset=b", *words])


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("tas", "did you mean 2m_temperature\\?"),
        ("Z500", "did you mean geopotential_500\\?"),
        ("zg", "did you mean geopotential_50, geopotential_250, "),
        ("foo", "`climax-hpc variables` lists them"),
    ],
)
def test_other_names_of_a_variable_lead_to_that_of_the_registry(given: str, hint: str) -> None:
    with pytest.raises(UserError, match=f"^unknown variable '{given}'; {hint}"):
        lookup(given)


def test_null_is_refused_where_the_key_has_no_such_value(tmp_path: Path) -> None:
    file = tmp_path / "report.yaml"
    file.write_text("evaluation: here\nruns: null\n")
    with pytest.raises(UserError, match="runs: null is not valid"):
        run(["report", "--config", str(file)])


def test_a_refusal_that_names_no_key_names_the_file() -> None:
    arguments = ["--output", "there", "--config", "pack.yaml"]
    assert _with_place("'' is not a date", ["train_period"], arguments) == "pack.yaml: '' is not a date"
    for known in ("train_period: '' is not a date", "pack.yaml is empty"):
        assert _with_place(known, ["train_period"], arguments) == known
    assert _with_place("'' is not a date", ["train_period"], arguments[:2]) == "'' is not a date"


def test_dates_and_variables_are_checked_when_a_config_is_read() -> None:
    with pytest.raises(UserError, match=r"data\.validation_period: 'soon' is not a date"):
        read_config(
            PretrainConfig, "x", ["--run_folder=a", "--data.dataset=b", "--data.validation_period=[soon, late]"]
        )
    with pytest.raises(UserError, match="unknown variable 'x'"):
        read_config(ReportConfig, "x", ["--evaluation=a", "--headline=[x]"])


def test_abbreviated_keys_are_refused() -> None:
    with pytest.raises(UserError, match=r"unknown config key 'run_fold'; did you mean run_folder\?"):
        read_config(PretrainConfig, "x", ["--run_fold", "a"])


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("modle: {}", r"'modle'; did you mean model\?"),
        ("train: {stepz: {}}", r"'train\.stepz'; did you mean train\.steps\?"),
        ("train.stepz: {}", r"'train\.stepz'; did you mean train\.steps\?"),
        ("zzzz: {yyyy: {}}", r"'zzzz\.yyyy'; --help lists the keys"),
    ],
)
def test_unknown_sections_without_settings_are_refused(tmp_path: Path, line: str, reason: str) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(f"run_folder: a\ndata: {{dataset: b}}\n{line}\n")
    for more in ([], ["--print_config"]):
        with pytest.raises(UserError, match=f"unknown config key {reason}"):
            read_config(PretrainConfig, "x", ["--config", str(file), *more])


def test_known_sections_may_be_empty(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("run_folder: a\ndata: {dataset: b, weights: {}}\nmodel: {}\ntrain: {}\n")
    assert read_config(PretrainConfig, "x", ["--config", str(tmp_path / "a.yaml")]).model == ModelConfig()


def test_a_file_of_one_section_has_no_unknown_ones(tmp_path: Path) -> None:
    (tmp_path / "model.yaml").write_text("depth: 3\nwide: {}\n")
    with pytest.raises(UserError, match=r"unknown config key 'model\.wide'"):
        read_config(PretrainConfig, "x", ["--run_folder=a", "--data.dataset=b", f"--model={tmp_path / 'model.yaml'}"])


def test_nearest() -> None:
    assert nearest("stepz", ["steps", "seed"]) == "; did you mean steps?"
    assert nearest("zzz", ["steps"]) == ""


@pytest.mark.parametrize(
    ("text", "reason"), [("a\udcff", "is not UTF-8"), ("a\nb", "holds control"), ("a\x1b[2J", "holds control")]
)
def test_text_that_is_no_path_is_refused(text: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason) as refused:
        read_config(PretrainConfig, "x", ["--run_folder", text, "--data.dataset", "b"])
    assert str(refused.value).isprintable()


def test_a_null_character_in_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text('run_folder: "a\\0b"\ndata: {dataset: b}\n')
    with pytest.raises(UserError, match=r"config, run_folder: 'a\\x00b' holds control characters"):
        read_config(PretrainConfig, "x", ["--config", str(tmp_path / "a.yaml")])
