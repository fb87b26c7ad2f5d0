"""Two processes under DDP and FSDP2 (gloo) end with the same parameters as one process on the whole batch."""

import shutil
from typing import Any

import pytest
import torch

pytest.importorskip("torch.distributed.fsdp", reason="this torch is built without torch.distributed")
if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
    pytest.skip("needs torch.distributed with the gloo backend", allow_module_level=True)

import two_processes as two
from torch.distributed.checkpoint.state_dict import set_model_state_dict, set_optimizer_state_dict

from steepest.catalogue import cards
from steepest.core.optimizer import RuleOptimizer

pytestmark = pytest.mark.integration

#: Two processes average two half-batch gradients: float64 sums in another order, nothing else.
TOLERANCE = 1e-12

#: Those that differentiate the loss themselves take no DDP; they average over processes on their own.
OURS = sorted(
    name for name, card in cards("optim").items() if not (card.wraps or card.differentiates or "batch" in card.needs)
)
TRANSFORMED = {name for name in OURS if cards("optim")[name].family == "transform"}
#: Where the defaults do not serve many processes: Drop-Muon may drop nothing there, and what FRUGAL's blocks keep has
#: other sizes in other periods, which checkpoints made by a template do not know.
SETTINGS: dict[str, dict[str, Any]] = {
    "drop-muon": {"probabilities": 1.0},
    "frugal": {"projection": "columns", "gap": 3},
}
#: Every method as its card builds it, torch's AdamW as a control of the harness, and the settings under which a rule
#: must see a whole tensor or matrix, not a shard.
CASES: dict[str, two.Case] = {
    **{name: (name, SETTINGS.get(name, {})) for name in OURS},
    "frugal blocks": ("frugal", {"gap": 2}),
    "frugal svd": ("frugal", {"projection": "svd", "gap": 3}),
    "torch adamw": ("adamw", {}),
    **{f"lion-k {kappa}": ("lion-k", {"kappa": kappa}) for kappa in ("l2", "rows", "nuclear")},
    "lion-k top-k": ("lion-k", {"kappa": "top-k", "k": 5}),
    "adamp all projected": ("adamp", {"delta": 1e3}),
    "sgdp all projected": ("sgdp", {"delta": 1e3}),
    "muon exact": ("muon", {"orthogonalization": "exact", "scale": "rms"}),
    "muon skip": ("muon", {"nonfinite": "skip"}),
    "muon maximize": ("muon", {"maximize": True}),
    "marsadamw exact": ("marsadamw", {"exact": True, "gamma": 0.5}),
    "marsshampoo exact": ("marsshampoo", {"exact": True, "gamma": 0.5, "orthogonalization": "exact"}),
}
#: One method per granularity (elementwise, whole tensor, matrix), checking non-finite gradients on the way.
PARTLY = ("diffgrad", "adamp", "muon skip")
#: State of another shape than the parameter's (torch's step counts, too) is held whole by every process.
WHOLE_STATE = (
    "frugal",
    "frugal svd",
    "asgo",
    "dasgo",
    "psgd",
    "psgd-lra",
    "psgd-xmat",
    "mfac",
    "shampoo",
    "cautious-adamw",
)
#: Methods whose second derivatives are averaged over processes.
CURVATURE: dict[str, two.Case] = {
    "adahessian": ("adahessian", {}),
    "oasis": ("oasis", {"lr": 1.0}),
    "sania-newton": ("sania-newton", {"lr": 1.0, "max_products": 3}),
    "smb": ("smb", {"lr": 3.0}),
    "sophia hutchinson": ("sophia", {"estimator": "hutchinson", "update_every": 2}),
}


@pytest.fixture(scope="module")
def runs() -> list[dict[str, Any]]:
    """The results of both processes: one start serves all tests of this module."""
    jobs = [(f"{job.__name__} {key}", job, case) for key, case in CASES.items() for job in (two.ddp, two.fsdp)]
    jobs += [(f"checkpoint {name}", two.checkpoint, CASES[name]) for name in [*OURS, "torch adamw", "lion-k nuclear"]]
    jobs += [(f"partly {key}", two.partly_sharded, CASES[key]) for key in PARTLY]
    jobs += [(f"nonfinite {name}", two.nonfinite, CASES[name]) for name in ("lion", "muon")]
    jobs += [(f"curvature {key}", two.curvature, case) for key, case in CURVATURE.items()]
    jobs += [("nonfinite_ddp", two.nonfinite_ddp, ("adamp", {"nonfinite": "skip"}))]
    return two.run(jobs)


def result(runs: list[dict[str, Any]], key: str) -> list[Any]:
    for rank, found in enumerate(runs):
        assert not isinstance(found.get(key), str), f"process {rank}, {key}:\n{found[key]}"
    return [found[key] for found in runs]


@pytest.fixture(scope="module")
def alone() -> dict[str, dict[str, torch.Tensor]]:
    """Final parameters of one process on the whole batches."""
    found = {}
    for key, case in CASES.items():
        model = two.net()
        two.train(model, two.optimizer(case, model), range(two.STEPS))
        found[key] = two.parameters(model)
    return found


#: A first factor of low rank has eigenvalues at the rounding error, whose inverse roots enlarge it.
LOOSE = {"asgo": 1e-6}


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], atol: float = TOLERANCE) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=atol, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("key", CASES)
def test_every_parameter_moves(alone: dict[str, Any], key: str) -> None:
    """Guards the comparisons below: a method that does nothing would pass them."""
    start = two.parameters(two.net())
    assert all(not torch.allclose(start[name], value, rtol=0, atol=1e-6) for name, value in alone[key].items())


@pytest.mark.parametrize("key", CASES)
def test_ddp_equals_one_process(runs: list[dict[str, Any]], alone: dict[str, Any], key: str) -> None:
    first, second = result(runs, f"ddp {key}")
    assert_same(first, alone[key], LOOSE.get(key, TOLERANCE))
    assert_same(second, first, atol=0)


@pytest.mark.parametrize("key", CASES)
def test_fsdp_equals_one_process(runs: list[dict[str, Any]], alone: dict[str, Any], key: str) -> None:
    first, second = result(runs, f"fsdp {key}")
    assert_same(first["parameters"], alone[key], LOOSE.get(key, TOLERANCE))
    assert_same(second["parameters"], first["parameters"], atol=0)
    assert [first["shards"], second["shards"]] == [[6, 4, 1], [5, 3, 0]], "shards are uneven, one is empty"


@pytest.mark.parametrize("key", [key for key in CASES if key not in ("torch adamw", *WHOLE_STATE)])
def test_fsdp_shards_the_state(runs: list[dict[str, Any]], key: str) -> None:
    """Each process keeps its own part of the state and nothing else, also for rules that see whole matrices."""
    (first, total), (second, total_again) = (found["state"] for found in result(runs, f"fsdp {key}"))
    assert first + second == total == total_again
    assert min(first, second) > 0.3 * total


@pytest.mark.parametrize("key", CURVATURE)
def test_curvature_is_averaged_over_processes(runs: list[dict[str, Any]], key: str) -> None:
    """The same probes on every process: the mean of the halves' estimates is the estimate of the whole batch."""
    model = two.net()
    two.differentiate(model, two.optimizer(CURVATURE[key], model), 0, 1)
    for found in result(runs, f"curvature {key}"):
        assert_same(found, two.parameters(model))


@pytest.mark.parametrize("key", PARTLY)
def test_sharded_beside_plain_parameters(runs: list[dict[str, Any]], alone: dict[str, Any], key: str) -> None:
    for found in result(runs, f"partly {key}"):
        assert_same(found, alone[key], LOOSE.get(key, TOLERANCE))


@pytest.mark.parametrize("name", [*OURS, "torch adamw", "lion-k nuclear"])
def test_fsdp_resumes_from_a_distributed_checkpoint(
    runs: list[dict[str, Any]], alone: dict[str, Any], name: str
) -> None:
    for found in result(runs, f"checkpoint {name}"):
        assert_same(found["straight"], alone[name], LOOSE.get(name, TOLERANCE))
        assert_same(found["resumed"], found["straight"], atol=0)
        assert_same(found["scattered"], found["straight"], atol=0)


@pytest.mark.parametrize("name", [*OURS, "lion-k nuclear"])
def test_one_process_continues_a_sharded_run(runs: list[dict[str, Any]], alone: dict[str, Any], name: str) -> None:
    """A gathered checkpoint of two processes holds nothing of their sharding."""
    weights, state = result(runs, f"checkpoint {name}")[0]["gathered"]
    model = two.net()
    opt = two.optimizer(CASES[name], model)
    set_model_state_dict(model, weights)
    set_optimizer_state_dict(model, opt, state)
    two.train(model, opt, range(two.STEPS // 2, two.STEPS))
    assert_same(two.parameters(model), alone[name], LOOSE.get(name, TOLERANCE))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", two.BAD)
@pytest.mark.parametrize("name", ["lion", "muon"])
def test_fsdp_processes_agree_on_a_non_finite_gradient(
    runs: list[dict[str, Any]], name: str, place: str, bad: float
) -> None:
    both = result(runs, f"nonfinite {name}")
    _, owner = two.BAD[place]
    for rank, found in enumerate(both):
        skip, refuse = found[str(("skip", place, bad))], found[str(("raise", place, bad))]
        assert skip == {"changed": [], "message": "", "skipped": 1, "moved": True}
        assert refuse["changed"] == []
        assert refuse["moved"]
        assert ("1 non-finite" if rank == owner else "another process") in refuse["message"]


def test_ddp_processes_skip_together(runs: list[dict[str, Any]]) -> None:
    assert result(runs, "nonfinite_ddp") == [{"same": True, "skipped": 1}] * 2


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_compiled_engine(alone: dict[str, Any]) -> None:
    runs = two.run([("compiled", two.compiled, ("ademamix", {"engine": "compiled"}))])
    for found in result(runs, "compiled"):
        assert not found["broken"], "the compiler failed, so the eager engine ran"
        assert_same(found["ddp"], alone["ademamix"])
        assert_same(found["fsdp"], alone["ademamix"])


def test_cases_cover_the_catalogue() -> None:
    assert {case[0] for case in CASES.values()} == {*OURS, "adamw"}
    assert all(issubclass(cards("optim")[name].load(), RuleOptimizer) for name in OURS if name not in TRANSFORMED)
