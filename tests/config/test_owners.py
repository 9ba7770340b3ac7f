"""A config that is given to another command: the message says whose it is."""

import re
from importlib.resources import as_file, files
from pathlib import Path

import pytest
import yaml

from climax_hpc.cli import SUBCOMMANDS, owners_of, run
from climax_hpc.config import parser
from climax_hpc.config.parser import keys_of, read_config, shipped_configs
from climax_hpc.config.training import FinetuneConfig
from climax_hpc.config.yaml_checks import read_settings
from climax_hpc.errors import UserError
from climax_hpc.launch.sweep import plan_sweep
from climax_hpc.utils.references import load

from .test_parser import VERB_OF_CONFIG


@pytest.mark.parametrize("name", shipped_configs())
def test_the_commands_of_a_shipped_config(name: str) -> None:
    words = name.split("_")
    verb = VERB_OF_CONFIG.get(name) or VERB_OF_CONFIG.get(words[0]) or words[-1]
    with as_file(files("climax_hpc.configs") / f"{name}.yaml") as path:
        keys = list(read_settings(path))
    assert set(keys) <= keys_of(load(SUBCOMMANDS[verb].config))
    assert owners_of(keys) == [] or verb in owners_of(keys)
    if verb in ("pack", "finetune", "evaluate", "report"):
        assert owners_of(keys)


@pytest.mark.parametrize(
    ("verb", "config", "owner", "key"),
    [
        ("plan", "demo_evaluate", "climax-hpc evaluate", "models"),  # one of whose keys contains a blank
        ("pretrain", "demo_finetune", "climax-hpc finetune", "checkpoint"),
        ("evaluate", "demo_pack", "climax-hpc pack", "input"),
        ("report", "demo_pretrain", "climax-hpc plan or climax-hpc pretrain or climax-hpc finetune", "run_folder"),
        ("bench data", "demo_report", "climax-hpc report", "evaluation"),
    ],
)
def test_another_command_names_the_owner(verb: str, config: str, owner: str, key: str) -> None:
    message = f"{config}: is a config of {owner}, not of climax-hpc {verb}, which has no key '{key}'"
    for words in (["--config", config], [f"--config={config}"]):
        with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
            run([*verb.split(), *words])


def test_jobs_name_the_owner_too(tmp_path: Path) -> None:
    words = ["--folder", str(tmp_path), "--settings", "demo_evaluate", "--dry_run", "true"]
    with pytest.raises(UserError, match=r"demo_evaluate: is a config of climax-hpc evaluate, not of climax-hpc finetu"):
        run(["submit", "finetune", *words])


@pytest.mark.parametrize("content", [{"outptu": "x"}, {"output": "x"}, {"train": {"stesp": 1}}, {}])
def test_a_mistake_in_its_own_config_is_explained_as_before(tmp_path: Path, content: dict[str, object]) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(UserError) as refused:
        run(["pretrain", "--config", str(file), "--run_folder=a"])
    assert "is a config of" not in str(refused.value)


def test_members_of_a_sweep_share_a_parser(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = []
    make = parser._make_parser
    monkeypatch.setattr(parser, "_PARSERS", {})
    monkeypatch.setattr(parser, "_make_parser", lambda *kind: made.append(kind) or make(*kind))
    table, jobs = plan_sweep("demo_finetune", {}, tmp_path, seeds=range(20), lead_hours=[24, "6-72"])
    assert len(jobs) == 40
    assert [kind[0] for kind in made] == [FinetuneConfig]
    assert {job.folder for job in jobs} == {member.run_folder for member in table.members}


def test_a_parser_that_has_failed_leaves_nothing_behind() -> None:
    words = ["--run_folder=a", "--data.dataset=b"]
    before = read_config(FinetuneConfig, "x", words)
    for wrong in (["--train.steps=x"], ["--train.steps=7", "--print_config", ""], ["--data.groups=1"]):
        with pytest.raises(UserError):
            read_config(FinetuneConfig, "x", [*words, *wrong])
    assert read_config(FinetuneConfig, "x", [*words, "--train.steps=7"]).train.steps == 7
    assert read_config(FinetuneConfig, "x", words) == before
