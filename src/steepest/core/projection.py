"""The projection onto the tangent space of scale-invariant weights."""

import torch
from torch import Tensor

from .settled import settled

__all__ = ["remove_radial"]


def remove_radial(update: Tensor, x: Tensor, g: Tensor, *, delta: float, eps: float) -> tuple[Tensor, Tensor]:
    r"""Remove the part of an update that only rescales a weight, where the weight looks scale-invariant.

    A function of :math:`w / \|w\|` has gradients orthogonal to :math:`w`. So the weight passes for scale-invariant when
    :math:`\max_i |\cos(w_i, g_i)| < \delta / \sqrt{\dim w_i}` over its rows :math:`w_i`; first the rows of the
    ``(out, rest)`` view are tried, then the whole tensor as one row. Then each row of the update is projected:
    :math:`p_i - \langle \hat w_i, p_i \rangle \hat w_i` with :math:`\hat w_i = w_i / (\|w_i\| + \varepsilon)`.

    Four sums per row are all that is needed of the tensors, and the whole tensor's are their sums: compiled, that is
    one pass that reads and one that writes.

    Args:
        update, x, g: update, weight and raw gradient, of one shape with at least two dimensions.
        delta: threshold of the test, in units of what a random direction gives.
        eps: added to norms.

    Returns:
        The update, projected where the test passes, and a 0-dim bool tensor: whether it passed.
    """
    w, p, d = (t.reshape(x.shape[0], -1) for t in (x, update, g))
    sums = [(a * b).sum(1, keepdim=True) for a, b in ((w, w), (w, d), (d, d), (w, p))]
    by_row, row_test = _radial(sums, delta / w.shape[1] ** 0.5, eps)
    totals = [s.sum(0, keepdim=True) for s in sums]
    whole, whole_test = _radial(totals, delta / (w.shape[0] * w.shape[1]) ** 0.5, eps)
    factor = settled(torch.where(row_test, by_row, torch.where(whole_test, whole, torch.zeros_like(whole))))
    return (p - factor * w).reshape(update.shape), row_test | whole_test


def _radial(sums: list[Tensor], threshold: float, eps: float) -> tuple[Tensor, Tensor]:
    """What multiplies the weight in the radial part; and whether the test passes.

    ``sums`` are the inner products of each row: of the weight with itself, with the gradient, of the gradient with
    itself, and of the weight with the update.
    """
    ww, wg, gg, wp = sums
    norm = torch.sqrt(ww)
    cosine = wg.abs() / (norm * torch.sqrt(gg)).clamp_min(eps)
    return wp / (norm + eps).square(), cosine.max() < threshold
