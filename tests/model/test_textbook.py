"""Whole model: ClimaX against its textbook form with the same state dict, outputs and every gradient in float64."""

import pytest
import torch
from torch import Tensor

from climax_hpc.fields.variables import CLIMAX_48
from climax_hpc.kernels.testing import relative_error, scatter_missing
from climax_hpc.model import ClimaXNetwork, ModelConfig
from climax_hpc.model.reference import TextbookClimaX

NAMES = tuple(v.name for v in CLIMAX_48)
TOLERANCE = 1e-10  # issue: norm-wise agreement in float64
# vocabulary, inputs, outputs: all 48 of ClimaX; subsets out of order; one variable in, another out
CASES = {
    "all48": (NAMES, NAMES, NAMES),
    "subset": (NAMES[:13], (NAMES[9], NAMES[0], NAMES[4], NAMES[12]), (NAMES[4], NAMES[11])),
    "one": (NAMES[:5], (NAMES[3],), (NAMES[1],)),
}


def pair(variables: tuple[str, ...], patch: int) -> tuple[ClimaXNetwork, TextbookClimaX]:
    """Both models in float64 with the same random parameters: zero query and biases would hide gradients."""
    config = ModelConfig(
        variables=variables, height=3 * patch, width=5 * patch, patch=patch, embed_dim=48, depth=2, heads=2,
        dropout=0, drop_path=0,
    )  # fmt: skip
    ours, textbook = ClimaXNetwork(config).double(), TextbookClimaX(config).double()
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in ours.parameters():
            scale = 0.5 if parameter.dim() == 1 else parameter.shape[-1] ** -0.5
            parameter.copy_(torch.randn(parameter.shape, generator=draw) * scale)
        ours.aggregator.query.mul_(4)
    textbook.load_state_dict(ours.state_dict())
    return ours, textbook


def output_and_gradients(model: ClimaXNetwork, x_BVHW: Tensor, ins: tuple[str, ...], outs: tuple[str, ...]):
    x_BVHW = x_BVHW.clone().requires_grad_()
    y_BOHW = model(x_BVHW, torch.tensor([6.0, 168.0]), ins, outs)
    probe = torch.randn(y_BOHW.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (y_BOHW * probe).sum().backward()
    return y_BOHW, x_BVHW.grad, {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("missing", [False, True], ids=["complete", "missing"])
@pytest.mark.parametrize("patch", [1, 2, 4])
@pytest.mark.parametrize("case", CASES)
def test_outputs_and_gradients_agree_with_textbook(case, patch, missing):
    variables, ins, outs = CASES[case]
    ours, textbook = pair(variables, patch)
    x_BVHW = torch.randn(
        2, len(ins), 3 * patch, 5 * patch, generator=torch.Generator().manual_seed(2), dtype=torch.float64
    )
    if missing:
        x_BVHW = scatter_missing(x_BVHW, patch)
    y, dx, gradients = output_and_gradients(ours, x_BVHW, ins, outs)
    y_textbook, dx_textbook, gradients_textbook = output_and_gradients(textbook, x_BVHW, ins, outs)

    assert y.shape == (2, len(outs), 3 * patch, 5 * patch)
    assert relative_error(y, y_textbook) < TOLERANCE
    assert relative_error(dx, dx_textbook) < TOLERANCE
    # The key bias cancels in the softmax: gradient 0; the textbook form gives rounding errors there.
    key = slice(48, 96)
    assert gradients["aggregator.in_proj_bias"][key].abs().max() == 0
    for of_model in (gradients, gradients_textbook):
        assert of_model["aggregator.in_proj_bias"][key].abs().max() < 1e-12
        of_model["aggregator.in_proj_bias"][key] = 0
    assert gradients.keys() == gradients_textbook.keys()
    single = len(ins) == 1  # one variable has weight 1: nothing but rounding behind its score
    for name in gradients:
        if single and name == "aggregator.query":
            assert max(g[name].abs().max() for g in (gradients, gradients_textbook)) < 1e-12
        else:
            assert relative_error(gradients[name], gradients_textbook[name]) < TOLERANCE, name


def test_textbook_patched_output_agrees():
    variables, ins, outs = CASES["subset"]
    ours, textbook = pair(variables, 2)
    x_BVHW, lead = torch.randn(2, len(ins), 6, 10, dtype=torch.float64), torch.tensor([6.0, 24.0])
    h_BLPO = ours(x_BVHW, lead, ins, outs, patched=True)
    assert h_BLPO.shape == (2, 15, 4 * len(outs))
    assert relative_error(h_BLPO, textbook(x_BVHW, lead, ins, outs, patched=True)) < TOLERANCE
