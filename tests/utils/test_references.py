"""Objects by name: found, or the import error of what is missing."""

import pytest

from climax_hpc.errors import UserError
from climax_hpc.utils.references import load


def test_a_reference_is_the_object_that_it_names() -> None:
    assert load("climax_hpc.errors:UserError") is UserError
    with pytest.raises(AttributeError):
        load("climax_hpc.errors:Nothing")
    with pytest.raises(ModuleNotFoundError):
        load("climax_hpc.nothing:x")
