"""What users import from `climax_hpc`; `make typecheck` checks its types on tests/typing/user_script.py."""

import subprocess
import sys

import pytest

import climax_hpc


def test_every_public_name_is_there() -> None:
    for name in climax_hpc.__all__:
        assert getattr(climax_hpc, name) is not None
    assert dir(climax_hpc) == sorted(climax_hpc.__all__)
    assert climax_hpc.launch.__all__


def test_other_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="module 'climax_hpc' has no attribute 'forecast'"):
        _ = climax_hpc.forecast  # type: ignore[attr-defined]


def test_import_does_not_wait_for_torch() -> None:
    code = "import sys, climax_hpc; print(sorted({'torch', 'xarray', 'h5py'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
