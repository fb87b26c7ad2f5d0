"""Cards for PyTorch's own optimizers, which take part in the arena unchanged."""

from types import MappingProxyType
from typing import Any

from ..core.card import Distribution, Float, MethodCard, Paper

__all__ = ["CARDS"]

_ADAPTIVE = {"lr": Float(1e-5, 3e-2, log=True), "weight_decay": Float(1e-4, 0.3, log=True)}
_COUPLED = {"lr": Float(1e-5, 3e-2, log=True), "weight_decay": Float(1e-6, 1e-2, log=True)}


def _card(
    name: str,
    summary: str,
    paper: Paper,
    *,
    search: dict[str, Distribution],
    buffers: int,
    family: str = "adaptive",
    settings: dict[str, Any] | None = None,
    needs: frozenset[str] = frozenset({"gradient"}),
) -> MethodCard:
    return MethodCard(
        name=name.lower(),
        title=name,
        room="optim",
        family=family,
        summary=summary,
        target=f"torch.optim:{name}",
        papers=(paper,),
        needs=needs,
        buffers=buffers,
        search=MappingProxyType(search),
        settings=MappingProxyType(settings or {}),
        wraps="torch.optim",
    )


_KINGMA = Paper("Kingma, Ba", 2014, "Adam: A Method for Stochastic Optimization", arxiv="1412.6980")

CARDS = (
    _card(
        "SGD",
        "Stochastic gradient descent with Nesterov momentum 0.9.",
        Paper("Robbins, Monro", 1951, "A Stochastic Approximation Method", venue="Ann. Math. Statist. 22(3)"),
        family="momentum",
        search={"lr": Float(1e-4, 1.0, log=True), "weight_decay": Float(1e-6, 1e-2, log=True)},
        settings={"momentum": 0.9, "nesterov": True},
        buffers=1,
    ),
    _card("Adam", "Adaptive moments, with coupled weight decay.", _KINGMA, search=_COUPLED, buffers=2),
    _card(
        "AdamW",
        "Adam with decoupled weight decay: the usual baseline.",
        Paper("Loshchilov, Hutter", 2017, "Decoupled Weight Decay Regularization", arxiv="1711.05101"),
        search=_ADAPTIVE,
        buffers=2,
    ),
    _card(
        "NAdam",
        "Adam with Nesterov momentum.",
        Paper("Dozat", 2016, "Incorporating Nesterov Momentum into Adam", venue="ICLR workshop"),
        search=_ADAPTIVE,
        settings={"decoupled_weight_decay": True},
        buffers=2,
    ),
    _card(
        "RAdam",
        "Adam with a rectified early variance.",
        Paper("Liu et al.", 2019, "On the Variance of the Adaptive Learning Rate and Beyond", arxiv="1908.03265"),
        search=_ADAPTIVE,
        settings={"decoupled_weight_decay": True},
        buffers=2,
    ),
    _card(
        "RMSprop",
        "Gradients divided by a running root mean square.",
        Paper("Hinton, Srivastava, Swersky", 2012, "Neural Networks for Machine Learning, lecture 6", venue="Coursera"),
        search=_COUPLED,
        buffers=1,
    ),
    _card(
        "Adagrad",
        "Gradients divided by the root of their accumulated squares.",
        Paper(
            "Duchi, Hazan, Singer",
            2011,
            "Adaptive Subgradient Methods for Online Learning and Stochastic Optimization",
            venue="JMLR 12",
        ),
        search={"lr": Float(1e-4, 1.0, log=True), "weight_decay": Float(1e-6, 1e-2, log=True)},
        buffers=1,
    ),
    _card(
        "LBFGS",
        "Limited-memory BFGS with a strong Wolfe line search; best with full batches.",
        Paper(
            "Liu, Nocedal",
            1989,
            "On the Limited Memory BFGS Method for Large Scale Optimization",
            venue="Math. Programming 45",
        ),
        family="quasi-Newton",
        search={"lr": Float(1e-3, 1.0, log=True)},
        settings={"line_search_fn": "strong_wolfe", "history_size": 10, "max_iter": 5},
        needs=frozenset({"gradient", "closure"}),
        buffers=23,
    ),
)
