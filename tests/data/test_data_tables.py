"""The tables of scikit-learn, standardisation, and the registry."""

import os
import subprocess
import sys

import numpy as np
import pytest
import sklearn.datasets
import torch

from steepest import data
from steepest.core.errors import UnknownName

ROWS = {"digits": 1797, "breast_cancer": 569, "wine": 178, "diabetes": 442}
PARTS = ("train", "validation", "test")


@pytest.mark.parametrize("name", ROWS)
def test_parts_hold_every_row_of_the_source_once(name: str) -> None:
    table = data.load(name, standardize=False, dtype=torch.float64)
    loader = getattr(sklearn.datasets, f"load_{name}")
    raw = loader(scaled=False) if name == "diabetes" else loader()
    indices = torch.cat([getattr(table, part).indices for part in PARTS])
    assert sorted(indices.tolist()) == list(range(ROWS[name]))
    for part in PARTS:
        split = getattr(table, part)
        np.testing.assert_array_equal(split.inputs.numpy(), raw.data[split.indices])
        np.testing.assert_array_equal(split.targets.numpy(), raw.target[split.indices])


@pytest.mark.parametrize("name", ["digits", "breast_cancer", "wine"])
def test_classes_keep_their_shares(name: str) -> None:
    table = data.load(name, validation=0.15, test=0.25, seed=7)
    whole = torch.cat([getattr(table, part).targets for part in PARTS]).bincount()
    for part, fraction in (("validation", 0.15), ("test", 0.25)):
        counts = getattr(table, part).targets.bincount(minlength=table.outputs)
        assert (counts - fraction * whole).abs().max() <= 1
    assert table.train.targets.dtype == torch.int64
    assert table.outputs == len(whole)


@pytest.mark.parametrize("name", ["breast_cancer", "wine", "diabetes"])
def test_statistics_come_from_the_training_part_alone(name: str) -> None:
    table = data.load(name, dtype=torch.float64)
    raw = data.load(name, dtype=torch.float64, standardize=False)
    mean, scale = raw.train.inputs.mean(0), raw.train.inputs.std(0, correction=0)
    for part in PARTS:
        expected = (getattr(raw, part).inputs - mean) / scale
        torch.testing.assert_close(getattr(table, part).inputs, expected)
    torch.testing.assert_close(table.transform.invert(table.test.inputs), raw.test.inputs)


def test_digits_share_one_mean_and_scale() -> None:
    table = data.digits()
    assert table.transform.mean.ndim == 0
    assert table.train.inputs.dtype == torch.float32
    assert table.input_shape == (64,)
    assert abs(table.train.inputs.double().mean()) < 1e-6
    assert abs(table.train.inputs.double().std(correction=0) - 1) < 1e-6


def test_diabetes_targets_are_standardised_and_invertible() -> None:
    table = data.diabetes(dtype=torch.float64)
    assert table.classes is None
    assert table.outputs == 1
    assert table.train.targets.square().mean() == pytest.approx(1.0)
    original = table.target_transform.invert(table.test.targets)
    raw = sklearn.datasets.load_diabetes(scaled=False).target
    np.testing.assert_allclose(original.numpy(), raw[table.test.indices])


def test_a_constant_column_becomes_zero() -> None:
    rows = np.stack([np.full(6, 0.1), np.arange(6.0)], axis=1)
    out = data.Standardize.fit(rows)(torch.from_numpy(rows))
    torch.testing.assert_close(out[:, 0], torch.zeros(6, dtype=torch.float64), atol=1e-12, rtol=0)
    assert out[:, 1].std(correction=0) == pytest.approx(1.0)


def test_seeds() -> None:
    one, same, other = data.wine(seed=1), data.wine(seed=1), data.wine(seed=2)
    assert torch.equal(one.test.indices, same.test.indices)
    assert torch.equal(one.train.inputs, same.train.inputs)
    assert not torch.equal(one.test.indices, other.test.indices)
    assert (one.seed, other.seed) == (1, 2)


def test_empty_parts_on_request() -> None:
    table = data.wine(validation=0.0, test=0.0)
    assert (len(table.train), len(table.validation), len(table.test)) == (178, 0, 0)
    assert table.validation.inputs.shape == (0, 13)


def test_moving_keeps_class_numbers_integral() -> None:
    table = data.wine().to(torch.float64)
    assert table.test.inputs.dtype == torch.float64
    assert table.test.targets.dtype == torch.int64
    assert data.diabetes().to(torch.float64).test.targets.dtype == torch.float64


def test_bad_dtype() -> None:
    with pytest.raises(ValueError, match=r"dtype must be torch.float32 or torch.float64, got torch.int64"):
        data.digits(dtype=torch.int64)


def test_unknown_name_and_option() -> None:
    with pytest.raises(UnknownName, match="unknown data set 'digit'; did you mean 'digits'"):
        data.load("digit")
    with pytest.raises(TypeError, match="sed"):
        data.load("wine", sed=3)


def test_every_available_name_has_a_line_of_description() -> None:
    for name, about in data.available().items():
        assert about, name
        assert "\n" not in about
        assert len(about) < 100
    assert {"digits", "mnist10k", "w8a", "pytext", "cora"} <= set(data.available())


def test_importing_the_room_loads_no_other_package() -> None:
    code = (
        "import sys, torch; before = set(sys.modules); import steepest.data; "
        "print(sorted({'sklearn', 'scipy', 'pandas', 'torchvision', 'datasets'} & (set(sys.modules) - before)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert out.stdout.strip() == "[]"


def test_missing_scikit_learn_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ImportError, match=r"data.wine\(\) .* pip install"):
        data.wine()
