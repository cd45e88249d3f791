"""Connectionist temporal classification in core operators, both ways."""

from typing import Any

import torch


def ctc_loss(
    log_probs: torch.Tensor, targets: torch.Tensor, input_lengths: torch.Tensor | list[int],
    target_lengths: torch.Tensor | list[int], blank: int = 0, reduction: int = 1, zero_infinity: bool = False,
) -> torch.Tensor:  # fmt: skip
    """The loss of log-probabilities [T, N, C] or [T, C] against labels [N, S], by the forward variables of every step
    (Graves et al., Connectionist temporal classification, 2006); impossible alignments cost infinity, or 0 if asked.

    Labels in one row for all samples need lengths that are plain numbers.
    """
    batched = log_probs.dim() == 3
    scores = log_probs if batched else log_probs.unsqueeze(1)
    long, short = (_lengths(v, scores) for v in (input_lengths, target_lengths))
    labels = _rows(targets, target_lengths, scores.shape[1]).to(torch.int64)
    if not labels.shape[1]:
        labels = torch.full((scores.shape[1], 1), blank, dtype=torch.int64, device=labels.device)
    beyond = torch.arange(labels.shape[1], device=labels.device) >= short.unsqueeze(1)
    cost: torch.Tensor = _Alignments.apply(scores, labels.masked_fill(beyond, blank), long, short, blank)
    if zero_infinity:
        cost = torch.where(cost == torch.inf, 0.0, cost)
    if reduction == 1:
        return (cost / short.clamp(min=1).to(cost.dtype)).mean()
    if reduction == 2:
        return cost.sum()
    return cost if batched else cost[0]


def _lengths(given: torch.Tensor | list[int], like: torch.Tensor) -> torch.Tensor:
    if isinstance(given, torch.Tensor):
        return given.reshape(-1).to(torch.int64)
    return torch.tensor(list(given), dtype=torch.int64, device=like.device)


def _rows(targets: torch.Tensor, lengths: torch.Tensor | list[int], count: int) -> torch.Tensor:
    """Labels [N, S], a row a sample."""
    if targets.dim() == 2:
        return targets
    if isinstance(lengths, torch.Tensor):
        if count == 1:
            return targets.unsqueeze(0)
        raise ValueError("CTC labels in one row need target lengths that are a list of numbers; give [N, S] labels")
    longest, rows, start = max([1, *lengths]), [], 0
    for length in lengths:
        rows.append(torch.nn.functional.pad(targets[start : start + length], (0, longest - length)))
        start += length
    return torch.stack(rows)


class _Alignments(torch.autograd.Function):  # type: ignore[misc]
    """[N]: minus the logarithm of the sum over all alignments; states are the labels [N, S] with blanks around them.

    The gradient is torch's, exp(score) minus the share of all alignments that emit a label then. Its first term is 0
    behind a softmax, and only there. Where no alignment is possible the loss is infinite and its gradient not a number.
    """

    @staticmethod
    def forward(
        ctx: Any, scores: torch.Tensor, labels: torch.Tensor, long: torch.Tensor, short: torch.Tensor, blank: int
    ) -> torch.Tensor:
        path = _path(labels, blank)
        emitted = scores.gather(2, path.unsqueeze(0).expand(scores.shape[0], *path.shape))
        before = _forward_variables(emitted, _leaps(path))
        last = before.gather(0, (long - 1).clamp(min=0).reshape(1, -1, 1).expand(1, *path.shape))[0]
        cost = -torch.logsumexp(last + _ends(path, short), 1)
        cost = torch.where(long == 0, torch.where(short == 0, 0.0, torch.inf), cost)
        ctx.save_for_backward(scores, path, before, long, short, cost)
        return cost

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        scores, path, before, long, short, cost = ctx.saved_tensors
        index = path.unsqueeze(0).expand(scores.shape[0], *path.shape)
        emitted = scores.gather(2, index)
        after = _backward_variables(emitted, _leaps(path), _ends(path, short), long)
        share = (before + after - emitted + cost.unsqueeze(1)).exp()
        found = scores.exp() - torch.zeros_like(scores).scatter_add(2, index, share)
        found = torch.where((cost == torch.inf).unsqueeze(1), torch.nan, found) * grad.unsqueeze(1)
        silent = (grad == 0) & (cost == torch.inf)
        within = (torch.arange(scores.shape[0], device=scores.device).unsqueeze(1) < long) & ~silent
        return torch.where(within.unsqueeze(2), found, 0.0), None, None, None, None


def _path(labels: torch.Tensor, blank: int) -> torch.Tensor:
    """[N, 2 S + 1]: blank, label, blank, label, ..., blank."""
    blanks = torch.full_like(labels, blank)
    return torch.cat([torch.stack([blanks, labels], 2).flatten(1), blanks[:, :1]], 1)


def _leaps(path: torch.Tensor) -> torch.Tensor:
    """Where the blank before a state may be left out: in front of a label that is not the one before it."""
    numbers = torch.arange(path.shape[1], device=path.device)
    return (numbers % 2 == 1) & (numbers > 1) & (path != torch.cat([path[:, :2], path[:, :-2]], 1))


def _ends(path: torch.Tensor, short: torch.Tensor) -> torch.Tensor:
    """0 for the states that an alignment may end in, the last blank and the last label; minus infinity for others."""
    behind = (2 * short).unsqueeze(1) - torch.arange(path.shape[1], device=path.device)
    return torch.where((behind == 0) | (behind == 1), 0.0, -torch.inf)


def _moved(variables: torch.Tensor, leaps: torch.Tensor, towards: int) -> torch.Tensor:
    """One step of the recurrence: a state, its neighbour, and where `leaps` allow the one behind that."""
    none = torch.full_like(variables[:, :2], -torch.inf)
    if towards > 0:
        one = torch.cat([none[:, :1], variables[:, :-1]], 1)
        two = torch.cat([none, variables[:, :-2]], 1).masked_fill(~leaps, -torch.inf)
    else:
        one = torch.cat([variables[:, 1:], none[:, :1]], 1)
        two = torch.cat([variables.masked_fill(~leaps, -torch.inf)[:, 2:], none], 1)
    return torch.logsumexp(torch.stack([variables, one, two]), 0)


def _forward_variables(emitted: torch.Tensor, leaps: torch.Tensor) -> torch.Tensor:
    """[T, N, states]: the logarithm of all beginnings that are in a state at a step."""
    first = torch.arange(emitted.shape[2], device=emitted.device) < 2
    found = [torch.where(first, emitted[0], -torch.inf)]
    for step in range(1, emitted.shape[0]):
        found.append(_moved(found[-1], leaps, 1) + emitted[step])
    return torch.stack(found)


def _backward_variables(
    emitted: torch.Tensor, leaps: torch.Tensor, ends: torch.Tensor, long: torch.Tensor
) -> torch.Tensor:
    """[T, N, states]: the logarithm of all endings that begin in a state at a step, its own emission among them."""
    now = torch.full_like(emitted[0], -torch.inf)
    found: list[torch.Tensor] = []
    for step in reversed(range(emitted.shape[0])):
        is_last = (long == step + 1).unsqueeze(1)
        now = torch.where(is_last, ends.to(emitted.dtype), _moved(now, leaps, -1)) + emitted[step]
        found.append(now)
    return torch.stack(found[::-1])
