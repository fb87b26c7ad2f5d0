"""Row-wise views of tensors and the projection onto the tangent space of scale-invariant weights."""

import torch
from torch import Tensor

__all__ = ["remove_radial"]


def remove_radial(update: Tensor, x: Tensor, g: Tensor, *, delta: float, eps: float) -> tuple[Tensor, Tensor]:
    r"""Remove the part of an update that only rescales a weight, where the weight looks scale-invariant.

    A function of :math:`w / \|w\|` has gradients orthogonal to :math:`w`. So the weight passes for scale-invariant when
    :math:`\max_i |\cos(w_i, g_i)| < \delta / \sqrt{\dim w_i}` over its rows :math:`w_i`; first the rows of the
    ``(out, rest)`` view are tried, then the whole tensor as one row. Then each row of the update is projected:
    :math:`p_i - \langle \hat w_i, p_i \rangle \hat w_i` with :math:`\hat w_i = w_i / (\|w_i\| + \varepsilon)`.

    Args:
        update, x, g: update, weight and raw gradient, of one shape with at least two dimensions.
        delta: threshold of the test, in units of what a random direction gives.
        eps: added to norms.

    Returns:
        The update, projected where the test passes, and a 0-dim bool tensor: whether it passed.
    """
    by_row, row_test = _project(update, x, g, x.shape[0], delta, eps)
    whole, whole_test = _project(update, x, g, 1, delta, eps)
    projected = torch.where(row_test, by_row, torch.where(whole_test, whole, update))
    return projected, row_test | whole_test


def _project(update: Tensor, x: Tensor, g: Tensor, rows: int, delta: float, eps: float) -> tuple[Tensor, Tensor]:
    w, p, g = (t.reshape(rows, -1) for t in (x, update, g))
    norm = torch.linalg.vector_norm(w, dim=1)
    cosine = (w * g).sum(1).abs() / (norm * torch.linalg.vector_norm(g, dim=1)).clamp_min(eps)
    unit = w / (norm + eps).unsqueeze(1)
    radial = (unit * p).sum(1, keepdim=True)
    return (p - unit * radial).reshape(update.shape), cosine.max() < delta / w.shape[1] ** 0.5
