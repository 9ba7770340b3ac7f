"""Variable aggregation: from pixels to one token per patch, tokenisation and attention applied as one operation.

Dimensions: B batch · V input variables · A model variables · H, W grid · p patch edge · L patches · D embedding.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from climax_hpc.kernels.variable_aggregation.op import aggregate_variables, build_maps
from climax_hpc.model.config import Init
from climax_hpc.model.indices import index_tensor
from climax_hpc.model.positions import EMBEDDING_SCALE, sincos_1d


class VariableAggregator(nn.Module):
    """One learned query attends over the variables of every patch (ClimaX, §3.2), for any subset of variables.

    All parameters belong to this module and are used in its forward, so that ZeRO-3 gathers them here.
    """

    def __init__(self, num_variables: int, patch: int, embed_dim: int, heads: int, init: Init = "scaled") -> None:
        super().__init__()
        A, p, D = num_variables, patch, embed_dim
        self.patch, self.heads, self.init = patch, heads, init
        self.patch_weight = nn.Parameter(torch.empty(A, D, p, p))
        self.patch_bias = nn.Parameter(torch.empty(A, D))
        self.var_embed = nn.Parameter(torch.empty(A, D))
        self.query = nn.Parameter(torch.empty(D))
        self.in_proj_weight = nn.Parameter(torch.empty(3 * D, D))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * D))
        self.out_proj_weight = nn.Parameter(torch.empty(D, D))
        self.out_proj_bias = nn.Parameter(torch.empty(D))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initial values: query 0, variable embedding sin-cos over its index, biases 0, weights by `model.init`.

        ClimaX's weights have 0.02. With `scaled`, pixels of variance 1 give tokens of variance 1, and the mean over A
        variables is made up for (docs/concepts/initial-values.md).
        """
        A, D = self.var_embed.shape
        with torch.no_grad():
            self.var_embed.copy_(sincos_1d(torch.arange(A), D) * EMBEDDING_SCALE[self.init])
        if self.init == "scaled":
            nn.init.normal_(self.patch_weight, std=1 / self.patch)
            nn.init.normal_(self.out_proj_weight, std=math.sqrt(A / D))
        else:
            nn.init.trunc_normal_(self.patch_weight, std=0.02)
            nn.init.trunc_normal_(self.out_proj_weight, std=0.02)
        nn.init.xavier_uniform_(self.in_proj_weight)  # as in nn.MultiheadAttention, which ClimaX uses
        for parameter in (self.patch_bias, self.query, self.in_proj_bias, self.out_proj_bias):
            nn.init.zeros_(parameter)

    def forward(self, x_BVHW: Tensor, variable_ids: Sequence[int]) -> Tensor:
        """Tokens z_BLD of an image whose channel v is variable `variable_ids[v]`; NaN pixels are missing.

        Raises:
            ValueError: H or W is not a multiple of the patch, or the numbers of ids and channels differ.
        """
        weight_VDpp, bias_VD, embed_VD = self.variable_rows(variable_ids)
        maps = build_maps(
            weight_VDpp, bias_VD, embed_VD, self.query, self.in_proj_weight, self.in_proj_bias, self.heads
        )
        x_BVHW = x_BVHW.to(product_dtype(x_BVHW, maps.bias_D.dtype, self.out_proj_weight.dtype))
        o_BLD = aggregate_variables(x_BVHW, *maps, self.patch)
        return F.linear(o_BLD.to(self.out_proj_weight.dtype), self.out_proj_weight, self.out_proj_bias)

    def variable_rows(self, variable_ids: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Patch weight, patch bias and embedding of these variables."""
        if list(variable_ids) == list(range(self.var_embed.shape[0])):
            return self.patch_weight, self.patch_bias, self.var_embed
        ids_V = index_tensor(variable_ids, self.var_embed.device)
        rows = (t.index_select(0, ids_V) for t in (self.patch_weight, self.patch_bias, self.var_embed))
        weight_VDpp, bias_VD, embed_VD = rows
        return weight_VDpp, bias_VD, embed_VD


def product_dtype(x_BVHW: Tensor, map_dtype: torch.dtype, weight_dtype: torch.dtype) -> torch.dtype:
    """dtype of the image, and so of the matrix products of the aggregation: the network's on a GPU, else float32.

    Matrix units run bfloat16 and float16 many times faster than float32, which takes three products there. The cost is
    one rounding of each pixel, as in the textbook form; scores, softmax and sums stay in float32, and the error is
    below that of the textbook form (kernels/variable_aggregation/README.md). On a CPU all arithmetic is float32, so
    rounding the image would gain nothing.
    """
    wide = torch.promote_types(x_BVHW.dtype, map_dtype)
    if x_BVHW.device.type == "cpu" or wide == torch.float64:
        return wide
    kind = x_BVHW.device.type
    network = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight_dtype
    return network if network in (torch.bfloat16, torch.float16) else wide
