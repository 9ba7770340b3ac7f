"""The absorbed aggregation against its textbook form: outputs and every gradient, odd sizes, missing data."""

import os
import shutil

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from climax_hpc.kernels.testing import relative_error, saved_bytes, scatter_missing
from climax_hpc.kernels.variable_aggregation import cpu
from climax_hpc.kernels.variable_aggregation.op import Maps, aggregate_variables, build_maps
from climax_hpc.kernels.variable_aggregation.reference import cross_attend, tokenise, tokenise_and_aggregate
from climax_hpc.kernels.variable_aggregation.unfused import aggregate_variables_unfused

# V, p, N, K, patch rows, patch columns: one variable, 48, hundreds; K no power of two; every patch edge; L odd and 1.
SIZES = [
    (1, 1, 2, 24, 3, 5),
    (5, 2, 3, 24, 5, 3),
    (48, 4, 2, 64, 1, 3),
    (5, 8, 1, 64, 2, 1),
    (3, 16, 2, 8, 1, 2),
    (7, 4, 4, 8, 1, 1),
    (301, 1, 2, 8, 2, 3),
]
FLOAT64_TOLERANCE = 1e-10  # sums of at most 1e4 terms of size 1 lose a few of float64's 16 digits
FLOAT32_TOLERANCE = 1e-5  # KERNELS.md: the project's bound for float32 against the float64 reference


def random_parameters(V: int, p: int, D: int) -> dict[str, Tensor]:
    """Every parameter at random: a zero query would hide the key weight's gradient, zero biases theirs."""
    draw = torch.Generator().manual_seed(V + 10 * p + D)
    shapes = {
        "weight_VDpp": (V, D, p, p), "bias_VD": (V, D), "embed_VD": (V, D), "query_D": (D,), "in_weight": (3 * D, D),
        "in_bias": (3 * D,), "out_weight": (D, D), "out_bias": (D,),
    }  # fmt: skip
    scale = {"in_weight": D**-0.5, "out_weight": D**-0.5, "weight_VDpp": 1 / p, "query_D": 2.0}
    return {
        name: torch.randn(shape, generator=draw, dtype=torch.float64) * scale.get(name, 1.0)
        for name, shape in shapes.items()
    }


def random_image(V: int, p: int, rows: int, columns: int, missing: bool) -> Tensor:
    x_BVHW = torch.randn(2, V, rows * p, columns * p, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return scatter_missing(x_BVHW, p) if missing else x_BVHW


def absorbed(x_BVHW: Tensor, par: dict[str, Tensor], heads: int) -> Tensor:
    maps = build_maps(*(par[k] for k in list(par)[:6]), heads)
    o_BLD = aggregate_variables(x_BVHW, *maps, par["weight_VDpp"].shape[-1])
    return nn.functional.linear(o_BLD, par["out_weight"], par["out_bias"])


def textbook(x_BVHW: Tensor, par: dict[str, Tensor], heads: int) -> Tensor:
    return tokenise_and_aggregate(x_BVHW, *par.values(), heads)


def output_and_gradients(form, x_BVHW: Tensor, par: dict[str, Tensor], heads: int) -> dict[str, Tensor]:
    x_BVHW = x_BVHW.clone().requires_grad_()
    par = {name: t.clone().requires_grad_() for name, t in par.items()}
    z_BLD = form(x_BVHW, par, heads)
    probe = torch.randn(z_BLD.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(z_BLD.dtype)
    gradients = torch.autograd.grad(z_BLD, [x_BVHW, *par.values()], probe)
    results = {"z": z_BLD, **dict(zip(["x", *par], gradients, strict=True))}
    query, key, value = results.pop("in_bias").chunk(3)
    return {**results, "bias_q": query, "bias_k": key, "bias_v": value}


@pytest.mark.parametrize("missing", [False, True], ids=["complete", "missing"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_matches_textbook_in_float64(size, missing):
    V, p, N, K, rows, columns = size
    par, x_BVHW = random_parameters(V, p, N * K), random_image(V, p, rows, columns, missing)
    ours = output_and_gradients(absorbed, x_BVHW, par, N)
    theirs = output_and_gradients(textbook, x_BVHW, par, N)
    # The key bias shifts all scores alike: its gradient is 0, of which the textbook form gives rounding errors.
    assert ours.pop("bias_k").abs().max() == 0
    assert theirs.pop("bias_k").abs().max() < 1e-12
    if V == 1:  # one variable has weight 1 whatever its score: no gradient behind the scores
        for name in ("query_D", "bias_q"):
            assert ours.pop(name).abs().max() < 1e-12
            assert theirs.pop(name).abs().max() < 1e-12
    for name in theirs:
        assert relative_error(ours[name], theirs[name]) < FLOAT64_TOLERANCE, name


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_float32_is_near_the_float64_textbook(size):
    V, p, N, K, rows, columns = size
    par, x_BVHW = random_parameters(V, p, N * K), random_image(V, p, rows, columns, True)
    theirs = output_and_gradients(textbook, x_BVHW, par, N)
    ours = output_and_gradients(absorbed, x_BVHW.float(), {k: t.float() for k, t in par.items()}, N)
    assert ours["z"].dtype == torch.float32
    behind_scores = ("bias_k", "bias_q", "query_D") if V == 1 else ("bias_k",)
    for name in theirs:
        if name not in behind_scores:
            assert relative_error(ours[name], theirs[name]) < FLOAT32_TOLERANCE, name


def test_reference_is_multi_head_attention():
    """Where nothing is missing the textbook form is torch's own attention over ClimaX's tokens."""
    V, p, N, K = 5, 2, 3, 8
    par, x_BVHW = random_parameters(V, p, N * K), random_image(V, p, 3, 2, False)
    t_BVLD, avail_BVL = tokenise(x_BVHW, par["weight_VDpp"], par["bias_VD"], par["embed_VD"])
    assert avail_BVL.all()
    attention = nn.MultiheadAttention(N * K, N, batch_first=True, dtype=torch.float64)
    names = ("in_weight", "in_bias", "out_weight", "out_bias")
    with torch.no_grad():
        for parameter, name in zip(attention.parameters(), names, strict=True):
            parameter.copy_(par[name])
        t_RVD = t_BVLD.transpose(1, 2).flatten(0, 1)
        z_R1D, _ = attention(par["query_D"].expand(len(t_RVD), 1, -1), t_RVD, t_RVD)
    ours = tokenise_and_aggregate(x_BVHW, *par.values(), N)
    assert relative_error(ours.flatten(0, 1), z_R1D.squeeze(1)) < FLOAT64_TOLERANCE


def test_tokens_are_patch_embeddings():
    """One hand-made token: weights pick pixels in row-major order within the patch, patches run along rows first."""
    x_BVHW = torch.arange(16.0).view(1, 1, 4, 4)
    weight_VDpp = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]], [[0.0, 1.0], [0.0, 0.0]], [[0.0, 0.0], [1.0, 0.0]]]])
    t_BVLD, _ = tokenise(x_BVHW, weight_VDpp, torch.zeros(1, 3), torch.tensor([[0.5, 0.0, 0.0]]))
    expected = torch.tensor([[0.5, 1, 4], [2.5, 3, 6], [8.5, 9, 12], [10.5, 11, 14]])
    assert torch.equal(t_BVLD[0, 0], expected)


@pytest.mark.parametrize("form", [absorbed, textbook])
def test_location_with_nothing_is_the_value_bias(form):
    V, p, N, K = 5, 2, 3, 8
    par = random_parameters(V, p, N * K)
    z_BLD = form(torch.full((1, V, p, p), torch.nan, dtype=torch.float64), par, N)
    expected = par["out_weight"] @ par["in_bias"].chunk(3)[2] + par["out_bias"]
    assert relative_error(z_BLD[0, 0], expected) < 1e-14


@pytest.mark.parametrize("form", [absorbed, textbook])
def test_missing_variable_is_as_if_not_given(form):
    V, p, N, K = 5, 2, 3, 8
    par, x_BVHW = random_parameters(V, p, N * K), random_image(V, p, 3, 2, False)
    x_BVHW[:, 3] = torch.nan
    kept = [0, 1, 2, 4]
    fewer = {name: t[kept] if t.shape[0] == V else t for name, t in par.items()}
    assert relative_error(form(x_BVHW, par, N), form(x_BVHW[:, kept], fewer, N)) < 1e-14


@pytest.mark.parametrize("form", [absorbed, textbook])
def test_partly_missing_patch_enters_with_the_mean(form):
    V, p, N, K = 3, 2, 2, 8
    par, x_BVHW = random_parameters(V, p, N * K), random_image(V, p, 2, 2, False)
    filled = x_BVHW.clone()
    x_BVHW[:, 1, ::2, ::2], filled[:, 1, ::2, ::2] = torch.nan, 0
    assert torch.equal(form(x_BVHW, par, N), form(filled, par, N))


@pytest.mark.parametrize("form", [absorbed, textbook])
def test_no_nan_reaches_output_or_gradients(form):
    V, p, N, K = 5, 2, 3, 8
    x_BVHW = random_image(V, p, 3, 2, True)
    results = output_and_gradients(form, x_BVHW, random_parameters(V, p, N * K), N)
    assert all(t.isfinite().all() for t in results.values())
    assert (results["x"][x_BVHW.isnan()] == 0).all()


def random_maps(V: int, p: int, N: int, K: int) -> Maps:
    shapes = ((N, V, p * p), (N, V), (N, V, K, p * p), (N, V, K), (N * K,))
    draw = torch.Generator().manual_seed(3)
    return Maps(*(torch.randn(shape, generator=draw, dtype=torch.float64, requires_grad=True) for shape in shapes))


@pytest.mark.parametrize("missing", [False, True], ids=["complete", "missing"])
def test_gradcheck(missing):
    x_BVHW = random_image(3, 2, 2, 1, False)
    keep = torch.ones_like(x_BVHW)
    if missing:  # numerical differences of a NaN are NaN: the gap is cut inside the function instead
        keep = torch.where(scatter_missing(x_BVHW, 2).isnan(), torch.nan, 1.0)
    inputs = (x_BVHW.requires_grad_(), *random_maps(3, 2, 2, 3))
    assert torch.autograd.gradcheck(
        lambda x, *maps: aggregate_variables(torch.where(keep.isnan(), torch.nan, x), *maps, 2), inputs
    )


@pytest.mark.parametrize("most", [1, 2, 4, 7, 1000], ids=lambda n: f"{n}_patches")
def test_no_cut_into_chunks_changes_the_result(most, monkeypatch):
    """Part of a patch row, one row, several rows, several samples at once; gaps in some chunks only."""
    V, p, N, K, rows, columns = 5, 2, 3, 8, 5, 3
    monkeypatch.setattr(cpu, "PATCHES", most)
    monkeypatch.setattr(cpu, "OPERAND_BYTES", 2 * (p * p + 1) * most * 8)  # blocks of two variables, and one
    par, x_BVHW = random_parameters(V, p, N * K), random_image(V, p, rows, columns, True)
    x_BVHW = torch.cat([x_BVHW, x_BVHW.nan_to_num(0.5)])
    ours = output_and_gradients(absorbed, x_BVHW, par, N)
    theirs = output_and_gradients(textbook, x_BVHW, par, N)
    for name in theirs.keys() - {"bias_k"}:
        assert relative_error(ours[name], theirs[name]) < FLOAT64_TOLERANCE, name


def test_chunks_are_consecutive_patches():
    work = cpu._Work(torch.zeros(3, 2, 8, 12), torch.zeros(1, 2, 4, 4), 2)
    runs = [run for run, _ in work.chunks()]
    assert [run.start for run in runs] == [0, *(run.stop for run in runs[:-1])]
    assert runs[-1].stop == 3 * 4 * 6


def test_image_may_be_a_view():
    V, p, N, K = 5, 2, 3, 8
    maps, x_BVHW = random_maps(V, p, N, K), random_image(V, p, 6, 4, True)
    view = x_BVHW.transpose(2, 3)[:, ::2, ::2][..., 2:]
    maps = Maps(*(t[:, ::2] for t in maps[:4]), maps.bias_D)
    gradients = []
    for image in (view, view.contiguous()):
        image = image.detach().requires_grad_()
        gradients.append(torch.autograd.grad(aggregate_variables(image, *maps, p).sum(), image)[0])
    assert torch.equal(*gradients)


def test_unfused_form_is_the_same():
    maps, x_BVHW = random_maps(5, 2, 3, 8), random_image(5, 2, 5, 3, True)
    ours, theirs = (f(x_BVHW, *maps, 2) for f in (aggregate_variables, aggregate_variables_unfused))
    assert relative_error(ours, theirs) < FLOAT64_TOLERANCE


def test_operator_registrations():
    """Schema, fake tensors, autograd registration and tracing, with and without the gradient of the image."""
    maps = random_maps(5, 2, 3, 8)
    for dtype in (torch.float64, torch.bfloat16):
        x_BVHW = random_image(5, 2, 3, 2, True).to(dtype)
        arguments = [t.detach().to(torch.promote_types(dtype, torch.float32)).requires_grad_() for t in maps]
        operator = torch.ops.climax_hpc.aggregate_variables.default
        torch.library.opcheck(operator, (x_BVHW, *arguments, 2))
        torch.library.opcheck(operator, (x_BVHW.requires_grad_(), *arguments, 2))
        with torch.no_grad():
            o_BLD, lse_BLN = operator(x_BVHW, *arguments, 2)
        plain = [t.detach() for t in (o_BLD, x_BVHW, *arguments, o_BLD, lse_BLN)]
        for wants_dx in (False, True):
            torch.library.opcheck(torch.ops.climax_hpc.aggregate_variables_backward.default, (*plain, 2, wants_dx))


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiles_without_graph_breaks(backend):
    """`inductor` also compiles the maps and the output projection around the operator to C++."""
    if backend == "inductor" and not shutil.which(os.environ.get("CXX", "g++")):
        pytest.skip("inductor needs a C++ compiler (apt install g++)")
    x_BVHW, par = random_image(5, 2, 5, 3, True), random_parameters(5, 2, 24)
    whole = torch.compile(absorbed, fullgraph=True, backend=backend)
    ours, theirs = (output_and_gradients(form, x_BVHW, par, 3) for form in (whole, absorbed))
    for name in theirs.keys() - {"bias_k"}:
        assert relative_error(ours[name], theirs[name]) < FLOAT64_TOLERANCE, name


@pytest.mark.parametrize("missing", [False, True], ids=["complete", "missing"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [(5, 2, 3, 24, 5, 3), (48, 4, 4, 64, 3, 5)], ids=str)
def test_half_precision_is_nearer_than_the_textbook_form(size, dtype, missing):
    """Output and every gradient in half precision, parameters too: at most the error the textbook form makes in it."""
    V, p, N, K, rows, columns = size
    par, x_BVHW = random_parameters(V, p, N * K), random_image(V, p, rows, columns, missing)
    par, x_BVHW = {name: t.to(dtype).double() for name, t in par.items()}, x_BVHW.to(dtype).double()
    truth = output_and_gradients(textbook, x_BVHW, par, N)
    narrow = {name: t.to(dtype) for name, t in par.items()}
    ours, theirs = (output_and_gradients(form, x_BVHW.to(dtype), narrow, N) for form in (absorbed, textbook))
    assert ours["z"].dtype == dtype
    for name in truth.keys() - {"bias_k"}:
        assert relative_error(ours[name], truth[name]) <= relative_error(theirs[name], truth[name]), name


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_gives_the_same_bits(reentrant):
    def checkpointed(x_BVHW: Tensor, par: dict[str, Tensor], heads: int) -> Tensor:
        return checkpoint(lambda x: absorbed(x, par, heads), x_BVHW, use_reentrant=reentrant)

    x_BVHW, par = random_image(5, 2, 5, 3, True), random_parameters(5, 2, 24)
    results = []
    for form in (checkpointed, absorbed):
        x, leaves = x_BVHW.clone().requires_grad_(), {k: t.clone().requires_grad_() for k, t in par.items()}
        form(x, leaves, 3).square().sum().backward()
        results.append([x.grad, *(t.grad for t in leaves.values())])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_saves_at_most_twice_the_input():
    """Beside o and the maps: the image and the log-sum-exp, whatever the number of variables and heads."""
    x_BVHW, maps = random_image(48, 2, 16, 32, False).float(), [t.float() for t in random_maps(48, 2, 2, 64)]
    maps = [t.detach().requires_grad_() for t in maps]
    o_BLD, saved = saved_bytes(lambda: aggregate_variables(x_BVHW, *maps, 2), besides=maps)
    assert saved - o_BLD.nbytes <= 2 * x_BVHW.nbytes


def test_gradients_only_where_asked():
    x_BVHW, maps = random_image(5, 2, 3, 2, False), random_maps(5, 2, 3, 8)
    o_BLD = aggregate_variables(x_BVHW, *maps, 2)
    assert o_BLD.grad_fn is not None
    assert o_BLD.grad_fn.next_functions[0][0] is None
    maps = Maps(*(t.detach() for t in maps))
    assert not aggregate_variables(x_BVHW, *maps, 2).requires_grad
    frozen_maps = aggregate_variables(x_BVHW.requires_grad_(), *maps, 2)
    assert torch.autograd.grad(frozen_maps.sum(), x_BVHW)[0].isfinite().all()


def test_same_bits_twice():
    x_BVHW, par = random_image(5, 2, 5, 3, True).float(), random_parameters(5, 2, 24)
    par = {name: t.float() for name, t in par.items()}
    first, second = (output_and_gradients(absorbed, x_BVHW, par, 3) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_maps_stay_in_float32_under_autocast_and_for_bfloat16_parameters():
    x_BVHW, par = random_image(5, 2, 5, 3, True).float(), random_parameters(5, 2, 24)
    arguments = [t.float() for t in list(par.values())[:6]]
    expected = aggregate_variables(x_BVHW, *build_maps(*arguments, 3), 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        maps = build_maps(*arguments, 3)
        assert torch.equal(aggregate_variables(x_BVHW, *maps, 2), expected)
    assert all(t.dtype == torch.float32 for t in build_maps(*(t.bfloat16() for t in arguments), 3))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_image_costs_one_rounding(dtype):
    x_BVHW, maps = random_image(5, 2, 5, 3, True).to(dtype), random_maps(5, 2, 3, 8)
    maps32 = [t.float() for t in maps]
    o_BLD = aggregate_variables(x_BVHW, *maps32, 2)
    assert o_BLD.dtype == dtype
    assert torch.equal(o_BLD, aggregate_variables(x_BVHW.float(), *maps32, 2).to(dtype))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gradients(dtype):
    """Rounded: the image, the incoming gradient and o, each by half a unit in the last place; sums are in float32."""
    x_BVHW, maps = random_image(5, 2, 5, 3, True).to(dtype), random_maps(5, 2, 3, 8)
    probe = torch.randn(2, 15, 24, generator=torch.Generator().manual_seed(2)).to(dtype)
    results = []
    for upcast in (lambda t: t.float(), lambda t: t.double()):
        x, leaves = x_BVHW.clone(), [upcast(t.detach().to(dtype)).requires_grad_() for t in maps]
        x = (x if upcast(x).dtype == torch.float32 else x.double()).requires_grad_()
        o_BLD = aggregate_variables(x, *leaves, 2)
        results.append(torch.autograd.grad(o_BLD, [x, *leaves], probe.to(o_BLD.dtype)))
    assert results[0][0].dtype == dtype
    for ours, truth in zip(*results, strict=True):
        assert relative_error(ours, truth) < 4 * torch.finfo(dtype).eps


def test_cross_attention_of_zero_query_is_the_mean():
    D, N = 8, 2
    t_BVLD = torch.randn(1, 4, 3, D, dtype=torch.float64)
    weight = torch.cat([torch.randn(2 * D, D, dtype=torch.float64), torch.eye(D, dtype=torch.float64)])
    zero = torch.zeros(3 * D, dtype=torch.float64)
    o_BLD = cross_attend(t_BVLD, torch.ones(1, 4, 3, dtype=torch.bool), zero[:D], weight, zero, N)
    assert relative_error(o_BLD, t_BVLD.mean(dim=1)) < 1e-14


@pytest.mark.parametrize("shape", [(6, 4), (4, 6)])
def test_refuses_an_image_of_no_whole_patches(shape):
    with pytest.raises(ValueError, match="not made of whole 4×4 patches"):
        aggregate_variables(torch.zeros(1, 3, *shape), *random_maps(3, 4, 2, 3), 4)


def test_refuses_maps_of_another_size():
    with pytest.raises(ValueError, match="maps of 3 variables and 4 pixels do not fit 2 variables"):
        aggregate_variables(torch.zeros(1, 2, 4, 4), *random_maps(3, 2, 2, 3), 2)
    with pytest.raises(ValueError, match="do not fit 3 variables of 4×4 patches"):
        aggregate_variables(torch.zeros(1, 3, 4, 4), *random_maps(3, 2, 2, 3), 4)
