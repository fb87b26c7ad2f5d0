"""Tasks: the built-in ones, a user's own, and every way to get one wrong."""

import os

import pytest
import torch
from arena_helpers import tiny_task

from steepest.arena import BadInput, Data, Examples
from steepest.arena.task import check, load_task, names
from steepest.arena.train import evaluate
from steepest.core.errors import UnknownName

GOOD = """
from arena_helpers import tiny_task

def make_task():
    return tiny_task(name="mine")

def number():
    return 42

def fails():
    raise OSError("no such data")
"""


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(UnknownName, match="did you mean 'digits-mlp'"):
        load_task("digit-mlp")


def test_user_file(tmp_path):
    path = tmp_path / "task.py"
    path.write_text(GOOD)
    assert load_task(f"{path}:make_task").name == "mine"


def test_user_file_may_import_its_neighbours(tmp_path):
    (tmp_path / "neighbour_of_task.py").write_text("NAME = 'near'")
    path = tmp_path / "task.py"
    path.write_text(
        "from neighbour_of_task import NAME\nfrom arena_helpers import tiny_task\n"
        "def make_task():\n    return tiny_task(name=NAME)"
    )
    assert load_task(f"{path}:make_task").name == "near"


@pytest.mark.parametrize(
    ("text", "function", "words"),
    [
        (None, "make_task", ["task.py", "does not exist"]),
        ("import nothing_like_this", "make_task", ["task.py", "fails to import", "nothing_like_this"]),
        ("def broken(:", "make_task", ["task.py", "fails to import", "SyntaxError"]),
        ("raise SystemExit(3)", "make_task", ["task.py", "fails to import"]),
        (GOOD, "missing", ["task.py", "no function 'missing'", "make_task"]),
        (GOOD, "number", ["task.py:number", "42", "steepest.arena.Task is expected"]),
        (GOOD, "fails", ["task.py:fails", "OSError: no such data"]),
        (GOOD, "", ["needs the function's name"]),
    ],
)
def test_bad_files_are_named(tmp_path, text, function, words):
    path = tmp_path / "task.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(BadInput) as caught:
        load_task(f"{path}:{function}")
    for word in words:
        assert word in str(caught.value)


def split(rows=8, targets=None):
    return Examples(torch.zeros(rows, 5), torch.zeros(rows if targets is None else targets))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": ""}, "name must be"),
        ({"name": "a/b"}, "must not contain"),
        ({"batch_size": 0}, "batch_size must be a positive integer, got 0"),
        ({"evaluations": 2.5}, "evaluations must be a positive integer"),
        ({"data": lambda: 3}, "must return Data"),
        ({"data": lambda: Data(split(), split(targets=3), split())}, "validation split has 8 inputs and 3 targets"),
        ({"data": lambda: Data(split(), split(), split(rows=0))}, "test split has 0 inputs"),
        ({"data": lambda: 1 / 0}, r"data\(\) fails: ZeroDivisionError"),
        ({"model": lambda: 3}, "must return a torch.nn.Module, got int"),
        ({"model": lambda: torch.nn.Flatten(0)}, "no parameters to train"),
        ({"model": lambda: torch.nn.Linear(7, 1)}, "the model on two validation examples fails"),
        ({"loss": lambda o, t: o}, "loss must return one number"),
        ({"loss": lambda o, t: torch.zeros(())}, "does not depend on the model"),
        ({"loss": lambda o, t: o.sum() * float("nan")}, "the loss of the untrained model is nan"),
        ({"metric": lambda o, t: None}, r"metric\(outputs, targets\) fails"),
    ],
)
def test_nonsense_is_refused_before_any_work(changes, words):
    with pytest.raises(BadInput, match=words):
        check(tiny_task(**changes), "task 'x'")


def test_signature_sees_data_model_and_loss():
    plain = tiny_task().signature()
    assert plain == tiny_task().signature()
    other = tiny_task().splits()
    moved = Data(other.train, Examples(other.validation.inputs + 1e-3, other.validation.targets), other.test)
    assert tiny_task(data=lambda: moved).signature()["data"] != plain["data"]
    assert tiny_task(batch_size=8).signature() != plain
    doubled = tiny_task(loss=lambda o, t: 2 * torch.nn.functional.mse_loss(o, t)).signature()
    assert doubled["initial_loss"] == pytest.approx(2 * plain["initial_loss"], rel=1e-5)


@pytest.mark.parametrize("name", ["digits-mlp", "mnist10k-cnn", "pytext-gpt", "w8a-logistic"])
def test_built_in_tasks_hold_together(name):
    assert name in names()
    if name in ("mnist10k-cnn", "w8a-logistic") and not os.environ.get("STEEPEST_DATA"):
        pytest.skip("STEEPEST_DATA does not say where the data are")
    task = check(load_task(name), name)
    data = task.splits()
    # The untrained model does not know the answers: chance level, or the entropy of the alphabet.
    metric, _ = evaluate(task, task.build(0), data.validation)
    if task.metric_name == "accuracy":
        assert 0.02 < metric < 0.3
    elif name == "pytext-gpt":
        assert 6.4 < metric < 6.8  # log2(96) = 6.58 bits
        inputs, targets = task.draw(data.train, 4, torch.Generator().manual_seed(0))
        assert inputs.shape == targets.shape == (4, 64)
        assert torch.equal(inputs[:, 1:], targets[:, :-1])
    else:
        assert metric == pytest.approx(0.6931, abs=1e-3)  # log 2, as the weights start at zero


def test_transformer_is_causal():
    from steepest.arena.tasks.pytext_gpt import GPT

    torch.manual_seed(0)
    model = GPT(vocabulary=11, context=8, width=16, layers=2, heads=2).eval()
    tokens = torch.randint(11, (1, 8))
    changed = tokens.clone()
    changed[0, 5] = (changed[0, 5] + 1) % 11
    before, after = model(tokens), model(changed)
    assert torch.allclose(before[0, :5], after[0, :5], atol=1e-6)
    assert not torch.allclose(before[0, 5:], after[0, 5:], atol=1e-4)


def test_methods_that_sample_targets_need_a_task_that_can() -> None:
    from dataclasses import replace

    from steepest.arena.plan import Options, make_plan

    task = load_task("digits-mlp")
    assert [c.name for c in make_plan([task], ["sophia", "adahessian"], Options()).cards] == [
        "adamw",
        "sophia",
        "adahessian",
    ]
    bare = replace(task, sample=None)
    with pytest.raises(BadInput, match="method 'sophia' needs sampled targets, which the task does not offer"):
        make_plan([bare], ["sophia"], Options())
    assert "sophia" not in {c.name for c in make_plan([bare], "all", Options()).cards}
