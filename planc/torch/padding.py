"""Attention under an additive mask of keys that is computed in a step, the same for all queries, as of padded batches.

Softmax does not see what is added to all keys alike, and numbers in float32 do: minus 1e9 and below swallow the scores, so
that a sequence whose keys are all hidden weighs them by the mask alone, while gradients reach queries and keys as ever.
"""

import torch

from planc.kernels.attention import HIDDEN
from planc.torch.attention import attended

_SWALLOWS = -1e9
"""Scores below 32 are less than half of what float32 tells apart here."""


def attended_with_padding(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor, scale: float
) -> torch.Tensor:
    """The operator over [B, H, S, D], k and v [B, G, T, D], a bias [B or 1, 1, 1, T]; where it hides all keys, as float32
    has it.

    Weights p that scores do not change give y = p V, but to the first order in the scores s = scale Q K' y changes by
    Q C with C = scale sum_t p_t k_t (v_t - y)', which is where the gradients of queries and keys come from.
    """
    with torch.no_grad():
        top = bias.amax(-1, keepdim=True)
        swallowed = top <= _SWALLOWS
        shared = torch.where(top <= HIDDEN, top, 0.0)
        weights = torch.softmax(bias.float(), -1).to(q.dtype).transpose(-2, -1)
        bias = (bias - shared).masked_fill(swallowed, 0.0).to(q.dtype)
    alone = (weights * v).sum(-2, keepdim=True)
    slopes = torch.matmul((weights * k).transpose(-2, -1), (v - alone).detach()) * scale
    alone, slopes = (t.repeat_interleave(q.shape[1] // k.shape[1], 1) for t in (alone, slopes))
    change = torch.matmul(q, slopes)
    return torch.where(swallowed, alone + (change - change.detach()), attended(q, k, v, bias, scale))
