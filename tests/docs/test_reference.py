"""The reference lists every verb and every key, as the command line has them."""

import re

import pytest

from climax_hpc.cli import SUBCOMMANDS
from climax_hpc.config.parser import shipped_configs
from climax_hpc.evaluation.baselines import all_baselines
from climax_hpc.evaluation.metrics import METRICS
from climax_hpc.fields.regions import REGIONS
from climax_hpc.fields.variables import REGISTRY, SOLAR
from climax_hpc.kernels.devices import DEVICES
from climax_hpc.tasks.registry import TASKS
from climax_hpc.utils.references import load

from .pages import DOCS, generated_pages, reference

_NO_KEYS = ("config", "print_config", "help")


def _keys_of_help(verb: str, capsys: pytest.CaptureFixture[str]) -> set[str]:
    """Dotted keys in what `climax-hpc VERB --help` prints."""
    from climax_hpc.cli import run

    with pytest.raises(SystemExit) as end:
        run([*verb.split(), "--help"])
    assert end.value.code in (0, None)
    printed = capsys.readouterr().out
    keys = re.findall(r"^  --([a-z][\w.]*)", printed, re.MULTILINE)
    return {key for key in keys if key.split(".")[-1] not in _NO_KEYS}


@pytest.mark.parametrize("verb", sorted(SUBCOMMANDS))
def test_the_page_of_a_verb_has_the_keys_of_its_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    page = generated_pages()[DOCS / "reference" / "cli" / f"{reference().page_name(verb)}.md"]
    listed = set(re.findall(r"^\| `([\w.]+)`<br>", page, re.MULTILINE))
    helped = {key for key in _keys_of_help(verb, capsys) if not any(other.startswith(f"{key}.") for other in listed)}
    assert listed == helped


@pytest.mark.parametrize("verb", sorted(SUBCOMMANDS))
def test_every_key_is_explained(verb: str) -> None:
    assert not [key.name for key in reference().config_keys(load(SUBCOMMANDS[verb].config)) if not key.text.strip()]


def test_the_overview_lists_every_verb() -> None:
    page = generated_pages()[DOCS / "reference" / "cli" / "index.md"]
    assert re.findall(r"^\| \[`([^`]+)`\]", page, re.MULTILINE) == list(SUBCOMMANDS)


def test_configs_and_variables_are_complete() -> None:
    configs = generated_pages()[DOCS / "reference" / "configs.md"]
    assert re.findall(r"^## (\S+)$", configs, re.MULTILINE) == shipped_configs()
    variables = generated_pages()[DOCS / "reference" / "variables.md"]
    assert re.findall(r"^\| `([^`]+)`", variables, re.MULTILINE) == [*REGISTRY, *SOLAR]


def test_the_tables_hold_every_entry() -> None:
    page = generated_pages()[DOCS / "reference" / "tables.md"]
    listed = set(re.findall(r"^\| `?([^`|]+?)`? \|", page, re.MULTILINE))
    entries = [*TASKS, *METRICS, *REGIONS, *DEVICES, *(one.label for one in all_baselines())]
    assert not set(entries) - listed
