r"""Attacks on the inputs of a trained model, and training against them: the baselines of the convex program.

An attack raises the loss of each sample by a perturbation in a ball around it. Attacks work on any module. What they
find is a *lower* bound on the worst case: that no attack succeeds proves nothing (see
:mod:`~steepest.train.convexnet.verify` for proofs).

Sources: I. Goodfellow, J. Shlens, C. Szegedy (2015), Explaining and Harnessing Adversarial Examples, arXiv 1412.6572
(:func:`fgsm`); A. Madry, A. Makelov, L. Schmidt, D. Tsipras, A. Vladu (2018), Towards Deep Learning Models Resistant to
Adversarial Attacks, arXiv 1706.06083 (:func:`pgd` and training against it).
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from steepest.core.losses import Loss, loss_of
from steepest.core.ranges import Integer, OneOf, Real
from steepest.train.convexnet.ball import Ball

__all__ = ["adversarial_training", "fgsm", "pgd"]

AnyLoss = Loss | str | Callable[[Tensor, Tensor], Tensor]


def _each(loss: AnyLoss, prediction: Tensor, target: Tensor) -> Tensor:
    """The loss of each sample, ``(n,)``."""
    if isinstance(loss, (Loss, str)):
        found = loss_of(loss).value(prediction, target.to(prediction).reshape(prediction.shape))
    else:
        found = loss(prediction, target)
    if found.shape[:1] != prediction.shape[:1]:
        raise ValueError(
            f"loss must give a value for each of {len(prediction)} samples (reduction='none'), got the shape "
            f"{list(found.shape)}"
        )
    return found.reshape(len(found), -1).sum(1)


def _slope(model: nn.Module, features: Tensor, target: Tensor, loss: AnyLoss) -> tuple[Tensor, Tensor]:
    """The loss of each sample, and its gradient with respect to the sample's features."""
    with torch.enable_grad():
        moved = features.detach().requires_grad_()
        each = _each(loss, model(moved), target)
        (slope,) = torch.autograd.grad(each.sum(), moved)
    return each.detach(), slope


def fgsm(
    model: nn.Module,
    features: Tensor,
    target: Tensor,
    radius: float,
    *,
    loss: AnyLoss = "logistic",
    norm: float = math.inf,
    clip: tuple[float, float] | None = None,
) -> Tensor:
    r"""One step of full length: :math:`x + r\,\mathrm{sign}(\nabla_x \ell)` (for other norms, the steepest direction).

    It finds the worst case where the model is linear in the ball and the slope of the loss keeps its sign; elsewhere it
    may even lower the loss. Where the slope is zero nothing is moved.

    Args:
        model: any module; it is called as it is (put it in evaluation mode first), and its parameters get no gradients.
            Samples must not influence each other.
        features: ``(n, ...)``, floating point.
        target: what the loss takes.
        radius: ``>= 0``, in units of the features.
        loss: a loss of the library or its name (targets -1 and 1 for margin losses), or a function of prediction and
            target that returns a loss per sample (``reduction="none"``). Default ``"logistic"``: a hinge loss has no
            slope where the margin is above 1, so that an attack on it does not even start on samples that it could
            break.
        norm: of the ball, in [1, inf]. Default inf.
        clip: the range of valid features.

    Returns:
        The perturbed features.

    Raises:
        ValueError: the radius is negative, or the features are not finite or outside ``clip``.
    """
    ball = Ball(radius, norm, clip)
    ball.check(features)
    _, slope = _slope(model, features, target, loss)
    return ball.move(features, radius * ball.steepest(slope))


def pgd(
    model: nn.Module,
    features: Tensor,
    target: Tensor,
    radius: float,
    *,
    loss: AnyLoss = "logistic",
    steps: int = 40,
    step_size: float | None = None,
    restarts: int = 5,
    norm: float = math.inf,
    clip: tuple[float, float] | None = None,
    generator: torch.Generator | None = None,
    keep: str = "best",
) -> Tensor:
    r"""Projected gradient ascent, :math:`\delta \leftarrow \Pi(\delta + \alpha\,\mathrm{sign}(\nabla_x \ell))`.

    Args:
        model, features, target, radius, loss, norm, clip: as for :func:`fgsm`.
        steps: of each restart, ``>= 1``. Default 40.
        step_size: in units of the features, ``> 0``; default ``2.5 radius / steps``, with which the edge of the ball
            can be reached from anywhere in it.
        restarts: ``>= 1``. The first starts at the features themselves, the others at random points of the ball.
        generator: of the random starts; default one with seed 0, so that an evaluation can be repeated.
        keep: ``"best"``: of all points visited, the one with the largest loss for each sample (the unperturbed ones and
            that of :func:`fgsm` are among them); ``"last"``: the last point of the last restart, started at random even
            if it is the only one, as is usual in training.

    Returns:
        The perturbed features.
    """
    ball = Ball(radius, norm, clip)
    ball.check(features)
    Integer(low=1).check("steps", steps)
    Integer(low=1).check("restarts", restarts)
    Real(low=0.0, low_open=True, optional=True).check("step_size", step_size)
    OneOf(("best", "last")).check("keep", keep)
    if radius == 0:
        return features.detach().clone()
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    step = 2.5 * radius / steps if step_size is None else step_size
    features = features.detach()
    best_loss = torch.full((len(features),), -math.inf, dtype=features.dtype, device=features.device)
    best = features.clone()

    def note(each: Tensor, moved: Tensor) -> None:
        nonlocal best, best_loss
        better = each.to(best_loss) > best_loss
        best_loss = torch.where(better, each.to(best_loss), best_loss)
        best = torch.where(better.reshape(-1, *[1] * (features.dim() - 1)), moved, best)

    moved = features
    for restart in range(restarts):
        still = keep == "best" and restart == 0
        moved = features if still else ball.move(features, ball.sample(features, generator))
        for number in range(steps):
            each, slope = _slope(model, moved, target, loss)
            if keep == "best":
                note(each, moved)
                if still and number == 0:
                    jump = ball.move(features, radius * ball.steepest(slope))
                    with torch.no_grad():
                        note(_each(loss, model(jump), target), jump)
            moved = ball.move(features, moved - features + step * ball.steepest(slope))
        if keep == "best":
            with torch.no_grad():
                note(_each(loss, model(moved), target), moved)
    return best if keep == "best" else moved


def adversarial_training(
    model: nn.Module,
    features: Tensor,
    target: Tensor,
    radius: float,
    *,
    attack: str = "pgd",
    loss: AnyLoss = "hinge",
    epochs: int = 100,
    batch_size: int = 64,
    lr: float = 1e-3,
    penalty: float = 0.0,
    attack_steps: int = 10,
    norm: float = math.inf,
    clip: tuple[float, float] | None = None,
    generator: torch.Generator | None = None,
) -> list[float]:
    r"""Train a model in place by Adam on perturbed batches: the usual way, without a guarantee.

    The objective is that of the room, :math:`\sum_k \max_\delta \ell(f(x_k + \delta), y_k) +
    \tfrac{\beta}{2}\|\theta\|^2`, divided by ``n`` for the steps.

    Args:
        model, features, target, radius, loss, norm, clip: as for :func:`fgsm`.
        attack: ``"pgd"``, ``"fgsm"``, or ``"none"`` for training on clean data. Default ``"pgd"``.
        epochs, batch_size: ``>= 1``.
        lr: of Adam, ``> 0``. Default 1e-3.
        penalty: :math:`\beta \ge 0`. Default 0.
        attack_steps: of PGD, from one random start, with steps of ``2.5 radius / attack_steps``. Default 10.
        generator: of batches and random starts; default one with seed 0.

    Returns:
        The mean loss on the perturbed batches of each epoch, without the penalty.
    """
    ball = Ball(radius, norm, clip)
    ball.check(features)
    OneOf(("pgd", "fgsm", "none")).check("attack", attack)
    Integer(low=1).check("epochs", epochs)
    Integer(low=1).check("batch_size", batch_size)
    Real(low=0.0, low_open=True).check("lr", lr)
    Real(low=0.0).check("penalty", penalty)
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=lr)
    count = len(features)
    history = []
    for _ in range(epochs):
        order = torch.randperm(count, generator=generator, device=generator.device).to(features.device)
        total = 0.0
        for part in order.split(batch_size):
            x, y = features[part], target[part]
            if attack == "fgsm":
                x = fgsm(model, x, y, radius, loss=loss, norm=norm, clip=clip)
            elif attack == "pgd":
                x = pgd(
                    model, x, y, radius, loss=loss, steps=attack_steps, restarts=1, norm=norm, clip=clip,
                    generator=generator, keep="last",
                )  # fmt: skip
            each = _each(loss, model(x), y)
            objective = each.mean()
            if penalty:
                objective = objective + 0.5 * penalty / count * sum(p.square().sum() for p in parameters)
            optimizer.zero_grad(set_to_none=True)
            objective.backward()
            optimizer.step()
            total += float(each.detach().sum())
        history.append(total / count)
    return history
