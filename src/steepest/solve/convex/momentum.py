"""Nesterov's momentum, for any sequence of step sizes and any modulus of strong convexity."""

import math

__all__ = ["momentum"]


def momentum(before: float, used: float, size: float, modulus: float) -> tuple[float, float]:
    """The next ``s``, and the factor before ``x_k - x_{k-1}`` in the extrapolation.

    With the energy ``E_k = t_{k-1} s_k^2 (F(x_k) - F*) + |z_k - x*|^2 / 2``, ``z_k = x_k + (s_k - 1) (x_k - x_{k-1})``,
    they are the largest ``s`` and the one ``y`` for which a step of size ``t_k`` that satisfies the quadratic upper
    model proves ``E_{k+1} <= (1 - m t_k s_{k+1}) E_k``. Hence, from ``s_0 = 0``, all rates of this room's accelerated
    methods.

    Args:
        before: ``s_k``; 0 at a start or restart.
        used: the step size before, ``t_{k-1}``.
        size: the step size to come, ``t_k``, less than ``1 / modulus``.
        modulus: of strong convexity, ``m >= 0``.
    """
    linear = 1 - modulus * used * before**2
    following = 0.5 * (linear + math.sqrt(linear**2 + 4 * before**2 * used / size))
    part = (1 - following * size * modulus) / (1 - size * modulus)
    return following, (before - 1) / following * min(max(part, 0.0), 1.0)
