"""What one member's value counts for, in numbers and in the code that the forward pass keeps for the backward pass.

With r = number of members below minus number above a member, and t = sign(member - truth), the derivative of the CRPS
with respect to the member is t/M - pair_weight·r. Both are small integers: the code 3·r + t holds them in one byte.
"""

import torch

MOST_MEMBERS = 10_922  # 3·(M - 1) + 1 fits into 16 bits, and so does BROKEN beside it


def pair_weight(members: int, alpha: float) -> float:
    """Factor of half the sum of |x_i - x_j| over all i and j: (1 - (1 - alpha)/M) / (M (M - 1)); 0 of one member."""
    return (1 - (1 - alpha) / members) / (members * (members - 1)) if members > 1 else 0.0


def code_dtype(members: int) -> torch.dtype:
    """Type that holds 3·r + t, |r| < M, and one value more."""
    return torch.int8 if 3 * (members - 1) + 1 < 128 else torch.int16


def broken_code(dtype: torch.dtype) -> int:
    """The code of a member that is NaN where the truth is not: its derivative is NaN."""
    return torch.iinfo(dtype).min
