"""Text: contiguous blocks, coding, windows; tiny Shakespeare and the standard library's sources."""

import gzip
import hashlib
import sys
import sysconfig
import time
import tokenize
from pathlib import Path

import pytest
import torch

from steepest import data
from steepest.data.locate import CorruptData, DataNotFound
from steepest.data.text import PYTEXT_VOCABULARY

TEXT = "".join(chr(97 + i * i % 23) for i in range(1000))


@pytest.fixture
def corpus(folder: Path) -> data.TextDataset:
    (folder / "text").mkdir()
    (folder / "text" / "tinyshakespeare.txt").write_text(TEXT)
    return data.tiny_shakespeare(validation=0.1, test=0.2)


def test_blocks_are_contiguous_and_cover_the_text(corpus: data.TextDataset) -> None:
    assert [len(b) for b in (corpus.train, corpus.validation, corpus.test)] == [700, 100, 200]
    assert "".join(corpus.decode(b) for b in (corpus.train, corpus.validation, corpus.test)) == TEXT
    assert corpus.vocabulary == "".join(sorted(set(TEXT)))
    assert corpus.outputs == len(corpus.vocabulary)
    assert corpus.sha256 == hashlib.sha256(TEXT.encode()).hexdigest()
    storages = {b.untyped_storage().data_ptr() for b in (corpus.train, corpus.validation, corpus.test)}
    assert len(storages) == 3


def test_coding(corpus: data.TextDataset) -> None:
    assert corpus.encode("cab").tolist() == [corpus.vocabulary.index(c) for c in "cab"]
    assert corpus.decode(corpus.encode("cab")) == "cab"
    assert corpus.encode("").shape == (0,)
    with pytest.raises(ValueError, match="text holds '\u00e9' at position 2"):
        corpus.encode("ab\u00e9")
    with pytest.raises(ValueError, match=r"symbols must lie in 0 .. \d+, got -1 .. 0"):
        corpus.decode(torch.tensor([0, -1]))
    with pytest.raises(ValueError, match=r"1-D integer tensor, got torch.float32"):
        corpus.decode(torch.zeros(3))


def test_coding_beyond_the_basic_plane(folder: Path) -> None:
    (folder / "text").mkdir()
    text = "a\u00e9\u4e16\U0001f600" * 10
    (folder / "text" / "tinyshakespeare.txt.gz").write_bytes(gzip.compress(text.encode()))
    corpus = data.tiny_shakespeare()
    assert len(corpus.vocabulary) == 4
    assert corpus.decode(corpus.encode(text)) == text


def test_windows_lie_in_their_part_and_targets_follow_inputs(corpus: data.TextDataset) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs, targets = corpus.windows("validation", 30, 400, generator)
    assert inputs.shape == targets.shape == (400, 30)
    assert inputs.dtype == torch.int64
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    block = corpus.decode(corpus.validation)
    starts = {block.index(corpus.decode(torch.cat([x, y[-1:]]))) for x, y in zip(inputs, targets, strict=True)}
    # All 70 possible starts, the first and the last among them. (A period of 23 merges equal windows.)
    all_starts = {block.index(block[i : i + 31]) for i in range(70)}
    assert starts == all_starts


def test_the_last_window_reaches_the_end_of_the_part(folder: Path) -> None:
    (folder / "text").mkdir()
    (folder / "text" / "tinyshakespeare.txt").write_text("abcdefghij")
    corpus = data.tiny_shakespeare(validation=0.0, test=0.0)
    inputs, targets = corpus.windows("train", 3, 300, torch.Generator().manual_seed(0))
    assert set(inputs[:, 0].tolist()) == set(range(7))
    assert int(targets.max()) == 9
    inputs, targets = corpus.windows("train", 9, 2, torch.Generator().manual_seed(0))
    assert corpus.decode(inputs[0]) == "abcdefghi"


def test_windows_are_drawn_from_the_generator_alone(corpus: data.TextDataset) -> None:
    draws = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed + len(draws))
        draws.append(corpus.windows("train", 8, 16, torch.Generator().manual_seed(seed))[0])
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    state = torch.get_rng_state()
    corpus.windows("train", 8, 16, torch.Generator().manual_seed(1))
    assert torch.equal(torch.get_rng_state(), state)


def test_consecutive_windows_predict_every_character_once(corpus: data.TextDataset) -> None:
    inputs, targets = corpus.consecutive("test", 33)
    assert inputs.shape == targets.shape == (6, 33)
    assert torch.equal(inputs.flatten(), corpus.test[:198])
    assert torch.equal(targets.flatten(), corpus.test[1:199])


def test_bad_windows(corpus: data.TextDataset) -> None:
    generator = torch.Generator()
    with pytest.raises(ValueError, match=r"length must be less than the 100 characters .* validation part, got 100"):
        corpus.windows("validation", 100, 1, generator)
    with pytest.raises(ValueError, match="count must be an integer >= 1, got 0"):
        corpus.windows("train", 5, 0, generator)
    with pytest.raises(ValueError, match="length must be an integer >= 1, got 0"):
        corpus.consecutive("train", 0)
    with pytest.raises(ValueError, match="part must be 'train', 'validation' or 'test', got 'valid'"):
        corpus.windows("valid", 5, 1, generator)
    with pytest.raises(TypeError, match=r"generator must be a torch.Generator, got 3"):
        corpus.windows("train", 5, 1, 3)


def test_bad_text_files(folder: Path) -> None:
    (folder / "text").mkdir()
    path = folder / "text" / "tinyshakespeare.txt.gz"
    path.write_bytes(gzip.compress(TEXT.encode())[:-9])
    with pytest.raises(CorruptData, match=r"tinyshakespeare.txt.gz is a damaged gzip file"):
        data.tiny_shakespeare()
    path.write_bytes(b"\xff\xfe\xfd")
    with pytest.raises(CorruptData, match="is not UTF-8 text"):
        data.tiny_shakespeare()
    path.write_bytes(b"")
    with pytest.raises(CorruptData, match="is empty"):
        data.tiny_shakespeare()
    path.unlink()
    with pytest.raises(DataNotFound, match="char-rnn"):
        data.tiny_shakespeare()


def test_pytext_is_the_library_in_order_of_names() -> None:
    corpus = data.pytext(size=50_000)
    text = "".join(corpus.decode(b) for b in (corpus.train, corpus.validation, corpus.test))
    assert [len(b) for b in (corpus.train, corpus.validation, corpus.test)] == [40_000, 5_000, 5_000]
    folder = Path(sysconfig.get_path("stdlib"))
    expected = ""
    for module in sorted(m for m in sys.stdlib_module_names if m[0] != "_" and (folder / f"{m}.py").is_file()):
        with tokenize.open(folder / f"{module}.py") as source:  # another way to decode and to translate line ends
            expected += "".join(c for c in source.read().expandtabs() if c == "\n" or (c.isascii() and c.isprintable()))
        if len(expected) >= 50_000:
            break
    assert text == expected[:50_000]
    assert data.pytext(size=100_000).decode(data.pytext(size=100_000).train).startswith(text)


def test_pytext_vocabulary_is_fixed() -> None:
    corpus = data.pytext(size=2_000)
    assert corpus.vocabulary == PYTEXT_VOCABULARY == "".join(sorted(PYTEXT_VOCABULARY))
    assert len(PYTEXT_VOCABULARY) == 96
    assert set(PYTEXT_VOCABULARY) == {c for c in map(chr, range(128)) if c.isprintable()} | {"\n"}


def test_pytext_filters_and_normalises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "abc.py").write_bytes("a\tb\r\nc\rd\x0c\u00e9e\n".encode() + b"x" * 1000)
    (tmp_path / "ast.py").write_bytes(b"second")
    (tmp_path / "_private.py").write_bytes(b"private")
    (tmp_path / "site_local_thing.py").write_bytes(b"foreign")
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(tmp_path))
    corpus = data.pytext(size=5_000, validation=0, test=0)
    assert corpus.decode(corpus.train) == "a       b\nc\nde\n" + "x" * 1000 + "second"


def test_pytext_bad_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="size must be an integer >= 1000, got 10"):
        data.pytext(size=10)
    with pytest.raises(ValueError, match=r"validation \+ test must be below 1"):
        data.pytext(validation=0.6, test=0.6)
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(tmp_path))
    with pytest.raises(DataNotFound, match=str(tmp_path)):
        data.pytext()


def test_pytext_is_quick_and_as_large_as_it_says() -> None:
    start = time.process_time()
    corpus = data.load("pytext")
    assert time.process_time() - start < 2.0  # 0.15 s on a laptop core
    assert sum(len(b) for b in (corpus.train, corpus.validation, corpus.test)) == 2_000_000


def test_real_tiny_shakespeare(real_data: Path) -> None:
    corpus = data.tiny_shakespeare()
    assert [len(b) for b in (corpus.train, corpus.validation, corpus.test)] == [892_316, 111_539, 111_539]
    assert len(corpus.vocabulary) == 65
    assert corpus.decode(corpus.train[:14]) == "First Citizen:"
    assert corpus.sha256 == "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
