"""What the two processes of ``test_distributed.py`` do; in a module of its own because spawned processes import it."""

import os
import tempfile
import traceback
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from steepest.catalogue import card
from steepest.core.engine import compiler_is_broken
from steepest.optim import SANIA, InducedMetricLog

RANKS = 2
STEPS = 4
Case = tuple[str, dict[str, Any]]

#: Learning rates at which every method moves visibly within a few steps; without an entry: 0.01.
RATES = {
    "muon": 0.05,
    "drop-muon": 0.05,
    "sgd": 0.1,
    "sgdp": 0.1,
    "induced-metric": 0.1,
    "induced-metric-log": 0.1,
}


class Net(nn.Module):
    """Embedding, convolution, norm and linear layers, in float64.

    Over two processes its first dimensions split evenly (8), unevenly (11, 7, 5) and not at all (1: the second
    process holds an empty shard of the head's weight and bias).
    """

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.conv = nn.Conv1d(6, 8, 3, padding=1)
        self.norm = nn.LayerNorm(8)
        self.wide = nn.Linear(8, 7)
        self.narrow = nn.Linear(7, 5, bias=False)
        self.head = nn.Linear(5, 1)
        self.double()

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.conv(self.embed(tokens).transpose(1, 2)).transpose(1, 2)
        x = torch.tanh(self.wide(torch.tanh(self.norm(x))))
        out: Tensor = self.head(torch.tanh(self.narrow(x))).mean(dim=(1, 2))
        return out


def net() -> Net:
    torch.manual_seed(0)
    return Net()


def batch(step: int) -> tuple[Tensor, Tensor]:
    """The global batch of a step: 8 token sequences of length 6, and 8 targets."""
    draw = torch.Generator().manual_seed(100 + step)
    return torch.randint(11, (8, 6), generator=draw), torch.randn(8, generator=draw, dtype=torch.float64)


def optimizer(case: Case, model: nn.Module) -> Optimizer:
    name, settings = case
    ranges = getattr(card(name).load(), "ranges", {"weight_decay": None})
    decay = {"weight_decay": 0.1} if "weight_decay" in ranges or card(name).family == "transform" else {}
    built: Optimizer = card(name).build(model, **{"lr": RATES.get(name, 0.01), **decay, **settings})
    return built


def train(model: nn.Module, opt: Optimizer, steps: range, *, rank: int = 0, ranks: int = 1) -> None:
    """Steps on the rank's share of every batch, under a schedule."""
    rates = [group["lr"] for group in opt.param_groups]
    for step in steps:
        for group, rate in zip(opt.param_groups, rates, strict=True):
            group["lr"] = rate / (1 + step)
        tokens, targets = (t.chunk(ranks)[rank] for t in batch(step))

        def closure(tokens: Tensor = tokens, targets: Tensor = targets) -> Tensor:
            opt.zero_grad()
            loss = (model(tokens) - targets).square().mean()
            loss.backward()
            return loss.detach()

        if getattr(opt, "closure_required", False) or any(group.get("exact") for group in opt.param_groups):
            opt.step(closure)
        elif isinstance(opt, InducedMetricLog | SANIA):  # the loss must be that of the whole batch, as the gradient is
            loss = closure()
            if ranks > 1:
                dist.all_reduce(loss)
            opt.step(loss=loss / ranks)
        else:
            closure()
            opt.step()
    for group, rate in zip(opt.param_groups, rates, strict=True):
        group["lr"] = rate


def whole(t: Tensor) -> Tensor:
    return (t.full_tensor() if isinstance(t, DTensor) else t).detach().clone()


def parameters(model: nn.Module) -> dict[str, Tensor]:
    return {name.removeprefix("module."): whole(p) for name, p in model.named_parameters()}


def sharded() -> nn.Module:
    model = net()
    fully_shard(model.conv)
    fully_shard([model.wide, model.narrow])
    fully_shard(model)
    return model


# ------------------------------------------------------------------------------------------------ jobs


def ddp(case: Case, rank: int, folder: Path) -> Any:
    model = DistributedDataParallel(net())
    train(model, optimizer(case, model), range(STEPS), rank=rank, ranks=RANKS)
    return parameters(model)


def differentiate(model: nn.Module, opt: Optimizer, rank: int, ranks: int) -> None:
    """Steps of a method that differentiates the loss itself, on the rank's share of every batch."""
    for step in range(STEPS):
        tokens, targets = (t.chunk(ranks)[rank] for t in batch(step))

        def loss(tokens: Tensor = tokens, targets: Tensor = targets) -> Tensor:
            return (model(tokens) - targets).square().mean()

        if not hasattr(opt, "backward") or any(group.get("exact") for group in opt.param_groups):
            opt.step(loss)
            continue
        opt.zero_grad()
        opt.backward(loss())
        opt.step()


def curvature(case: Case, rank: int, folder: Path) -> Any:
    model = net()
    differentiate(model, optimizer(case, model), rank, RANKS)
    return parameters(model)


def fsdp(case: Case, rank: int, folder: Path) -> Any:
    model = sharded()
    train(model, opt := optimizer(case, model), range(STEPS), rank=rank, ranks=RANKS)
    shards = [p.to_local().shape[0] for p in (model.embed.weight, model.wide.weight, model.head.bias)]
    state = [s for entry in opt.state.values() for s in entry.values() if isinstance(s, Tensor)]
    local = sum(s.to_local().numel() if isinstance(s, DTensor) else s.numel() for s in state)
    return {
        "parameters": parameters(model),
        "shards": shards,
        "state": (local, sum(s.numel() for s in state)),
    }


def partly_sharded(case: Case, rank: int, folder: Path) -> Any:
    """Some parameters are sharded, the others are plain tensors whose gradients are averaged by hand."""

    def average(p: Tensor) -> None:
        assert p.grad is not None
        dist.all_reduce(p.grad)
        p.grad.div_(RANKS)

    model = net()
    fully_shard(model.embed)
    fully_shard(model.wide)
    for p in model.parameters():
        if not isinstance(p, DTensor):
            p.register_post_accumulate_grad_hook(average)
    train(model, optimizer(case, model), range(STEPS), rank=rank, ranks=RANKS)
    return parameters(model)


def checkpoint(case: Case, rank: int, folder: Path) -> Any:
    """Half the run, saved; the other half from the file, on other initial values; against an uninterrupted run."""
    half = STEPS // 2
    model = sharded()
    opt = optimizer(case, model)
    train(model, opt, range(half), rank=rank, ranks=RANKS)
    where = str(folder / f"checkpoint-{case[0]}")
    dcp.save(
        {"model": get_model_state_dict(model), "optimizer": get_optimizer_state_dict(model, opt)}, checkpoint_id=where
    )
    gathered = get_optimizer_state_dict(model, opt, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    gathered_model = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    # On a CPU the gathered dicts may share memory with the run, and loading replaces their entries.
    gathered, gathered_model = deepcopy((gathered, gathered_model))
    train(model, opt, range(half, STEPS), rank=rank, ranks=RANKS)

    again = sharded()
    with torch.no_grad():
        for p in again.parameters():
            p.add_(1.0)
    resumed = optimizer(case, again)
    state = {"model": get_model_state_dict(again), "optimizer": get_optimizer_state_dict(again, resumed)}
    dcp.load(state, checkpoint_id=where)
    set_model_state_dict(again, state["model"])
    set_optimizer_state_dict(again, resumed, state["optimizer"])
    train(again, resumed, range(half, STEPS), rank=rank, ranks=RANKS)

    scattered = sharded()
    third = optimizer(case, scattered)
    spread = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    set_model_state_dict(scattered, deepcopy(gathered_model), options=spread)
    set_optimizer_state_dict(scattered, third, deepcopy(gathered), options=spread)
    train(scattered, third, range(half, STEPS), rank=rank, ranks=RANKS)
    return {
        "straight": parameters(model),
        "resumed": parameters(again),
        "scattered": parameters(scattered),
        "gathered": (gathered_model, gathered),
    }


#: Where the bad value is put: the whole parameter's name, and the process that holds it.
BAD = {"even": ("conv.weight", 1), "uneven": ("embed.weight", 1), "empty elsewhere": ("head.bias", 0)}


def nonfinite(case: Case, rank: int, folder: Path) -> Any:
    """One bad entry in one process's shard of one gradient: what each process does about it."""
    found: dict[tuple[str, str, float], Any] = {}
    for policy in ("skip", "raise"):
        for place, (name, owner) in BAD.items():
            for bad in (float("nan"), float("inf")):
                model = sharded()
                opt = optimizer((case[0], {**case[1], "nonfinite": policy}), model)
                train(model, opt, range(1), rank=rank, ranks=RANKS)
                before = parameters(model)
                (model(batch(1)[0].chunk(RANKS)[rank])).square().mean().backward()
                if rank == owner:
                    dict(model.named_parameters())[name].grad.to_local().view(-1)[0] = bad
                message = ""
                try:
                    opt.step()
                except FloatingPointError as error:
                    message = str(error)
                after = parameters(model)
                changed = [k for k in before if not torch.equal(before[k], after[k])]
                opt.zero_grad()
                train(model, opt, range(1, 2), rank=rank, ranks=RANKS)  # and it goes on afterwards
                moved = not torch.equal(parameters(model)["wide.weight"], before["wide.weight"])
                found[policy, place, bad] = {
                    "changed": changed,
                    "message": message,
                    "skipped": opt.skipped_steps,
                    "moved": moved,
                }
    return {str(key): value for key, value in found.items()}


def nonfinite_ddp(case: Case, rank: int, folder: Path) -> Any:
    """A bad sample in one process's share of the batch under DDP."""
    model = DistributedDataParallel(net())
    opt = optimizer(case, model)
    train(model, opt, range(1), rank=rank, ranks=RANKS)
    before = parameters(model)
    tokens, targets = (t.chunk(RANKS)[rank] for t in batch(1))
    ((model(tokens) - targets).square().mean() * (float("nan") if rank == 1 else 1.0)).backward()
    opt.step()
    same = all(torch.equal(before[k], v) for k, v in parameters(model).items())
    return {"same": same, "skipped": opt.skipped_steps}


def compiled(case: Case, rank: int, folder: Path) -> Any:
    found = {"ddp": ddp(case, rank, folder), "fsdp": fsdp(case, rank, folder)["parameters"]}
    return {**found, "broken": compiler_is_broken()}


# ------------------------------------------------------------------------------------------------ harness


def _process(rank: int, jobs: list[tuple[str, Callable[..., Any], Case]], folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'rendezvous'}",
        rank=rank,
        world_size=RANKS,
        timeout=timedelta(seconds=120),
    )
    results: dict[str, Any] = {}
    for key, job, case in jobs:
        try:
            results[key] = job(case, rank, folder)
        except Exception:
            results[key] = traceback.format_exc()
        torch.save(results, folder / f"results-{rank}.pt")
    with suppress(RuntimeError):  # the other process may have failed; its results tell
        dist.barrier()
    dist.destroy_process_group()


def run(jobs: list[tuple[str, Callable[..., Any], Case]]) -> list[dict[str, Any]]:
    """Run jobs one after another in two processes.

    Args:
        jobs: key, function, and its case.

    Returns:
        For each process, the results by key; a failed job's is its traceback, a string.
    """
    # Loopback is the only interface that every machine has.
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        mp.spawn(_process, args=(jobs, folder), nprocs=RANKS)
        return [torch.load(folder / f"results-{rank}.pt", weights_only=True) for rank in range(RANKS)]
