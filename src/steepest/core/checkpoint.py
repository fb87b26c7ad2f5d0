"""Checkpoints of a run: written atomically, read without executing anything, refused where they do not belong.

A checkpoint is a file of ``torch.save`` with tensors, numbers, strings and containers only, so that
``torch.load(path, weights_only=True)`` reads it. It is written to a temporary file in the same folder, flushed to the
disk and renamed over the old one: whenever the process dies, either the old or the new checkpoint is there, whole.
"""

import contextlib
import dataclasses
import glob
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from steepest.core.files import replacing
from steepest.core.fingerprint import fingerprint

__all__ = ["CheckpointError", "decode", "encode", "load", "save"]

_FORMAT = "steepest run, version 1"
_PLAIN = (bool, int, float, complex, str, bytes)
_STALE = 3600.0  # seconds after which the temporary file of a killed process is removed


class CheckpointError(ValueError):
    """A checkpoint that is corrupt, foreign, or of another run; the message says which."""


def encode(value: Any, generators: list[torch.Generator], where: str = "state") -> Any:
    """A state as nested tuples of tensors, numbers and strings.

    Args:
        value: tensors, ``torch.Generator``, ``None``, numbers, strings, bytes, dtypes and devices, in nested
            dataclasses, named tuples, dicts, lists and tuples. Dataclasses must be defined at the top of a module.
        generators: those met so far; new ones are added, and the encoding refers to them by index, so that one shared
            generator is still shared after :func:`decode`.
        where: the path of ``value``, for messages.

    Raises:
        TypeError: something else is found; the message says where.
    """
    if value is None or isinstance(value, (torch.dtype, torch.device)):
        return value
    if isinstance(value, torch.Tensor):
        plain = value.detach()
        if plain.layout is torch.strided and plain.untyped_storage().nbytes() > plain.nbytes:
            plain = plain.clone()  # torch.save would write the whole storage that a view looks at
        return plain
    if isinstance(value, torch.Generator):
        known = [index for index, generator in enumerate(generators) if generator is value]
        if not known:
            generators.append(value)
        return ("generator", known[0] if known else len(generators) - 1)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        items = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return _record(value, items, generators, where)
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return _record(value, value._asdict(), generators, where)
    if isinstance(value, (list, tuple)):
        kind = "list" if isinstance(value, list) else "tuple"
        return (kind, [encode(item, generators, f"{where}[{i}]") for i, item in enumerate(value)])
    if isinstance(value, dict):
        pairs = [(encode(key, generators, f"a key of {where}"), key, item) for key, item in value.items()]
        return ("dict", [(coded, encode(item, generators, f"{where}[{key!r}]")) for coded, key, item in pairs])
    for plain_type in _PLAIN:
        if isinstance(value, plain_type):
            number: Any = value
            return plain_type(number)  # numpy's float64 is a float, but torch.load would refuse it
    raise TypeError(
        f"{where} cannot be saved in a checkpoint: {value!r} of type {type(value).__name__}; a state is made of "
        "tensors, generators, numbers, strings and None in nested dataclasses, dicts, lists and tuples"
    )


def _record(value: Any, items: Mapping[str, Any], generators: list[torch.Generator], where: str) -> Any:
    name = f"{type(value).__module__}:{type(value).__qualname__}"
    if _find(name) is not type(value):
        raise TypeError(f"{where} cannot be saved in a checkpoint: {name} is not defined at the top of a module")
    fields = {key: encode(item, generators, f"{where}.{key}") for key, item in items.items()}
    return ("record", name, fields)


def _find(name: str) -> type[Any] | None:
    # Only modules that are loaded already, and only dataclasses and named tuples: a file cannot make us run code.
    module, _, path = name.partition(":")
    found: Any = sys.modules.get(module)
    for part in path.split("."):
        found = getattr(found, part, None)
    is_record = isinstance(found, type) and (dataclasses.is_dataclass(found) or hasattr(found, "_asdict"))
    return found if is_record else None


def decode(coded: Any, generators: list[torch.Generator]) -> Any:
    """The inverse of :func:`encode`; ``generators`` are those that the encoding refers to, in its order.

    Raises:
        CheckpointError: a dataclass is not known to this process, or its fields have changed.
    """
    if not isinstance(coded, tuple):
        return coded
    kind, content = coded[0], coded[1]
    if kind == "generator":
        return generators[content]
    if kind in ("list", "tuple"):
        items = [decode(item, generators) for item in content]
        return items if kind == "list" else tuple(items)
    if kind == "dict":
        return {decode(key, generators): decode(item, generators) for key, item in content}
    if kind != "record":
        raise CheckpointError(f"the checkpoint holds an unknown kind of entry {kind!r}")
    found = _find(content)
    fields = {name: decode(item, generators) for name, item in coded[2].items()}
    if found is None:
        raise CheckpointError(f"the checkpoint holds a {content}, which this program has not loaded")
    is_tuple = not dataclasses.is_dataclass(found)
    known = set(getattr(found, "_fields", ())) if is_tuple else {field.name for field in dataclasses.fields(found)}
    if known != set(fields):
        raise CheckpointError(f"the checkpoint holds a {content} with {sorted(fields)}; here it has {sorted(known)}")
    if is_tuple:
        return found(**fields)
    made: Any = object.__new__(found)  # as it was, without running __init__ again
    for name, item in fields.items():
        object.__setattr__(made, name, item)
    return made


def save(path: Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint atomically; an old one at ``path`` stays whole until the new one is on the disk.

    Args:
        path: the file; its folder is made if it does not exist.
        content: what :func:`load` will return: tensors, numbers, strings and containers.

    Raises:
        OSError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > _STALE:
                left.unlink()
    whole = {"format": _FORMAT, "digest": fingerprint(dict(content)), **content}
    with replacing(path) as part, open(part, "wb") as file:
        torch.save(whole, file)


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint and check that it is whole.

    Raises:
        FileNotFoundError: there is none.
        CheckpointError: the file is corrupt or was not written by :func:`save`.
    """
    try:
        whole = torch.load(path, weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # a damaged file makes torch raise errors of many kinds
        first = "".join(str(error).splitlines()[:1])[:200]
        raise CheckpointError(
            f"checkpoint {str(path)!r} cannot be read ({type(error).__name__}: {first}); "
            "it is corrupt or no checkpoint at all: delete it, or name another file"
        ) from error
    if not isinstance(whole, dict) or whole.get("format") != _FORMAT:
        raise CheckpointError(f"checkpoint {str(path)!r} was not written by a steepest run ({_FORMAT})")
    content = {key: item for key, item in whole.items() if key not in ("format", "digest")}
    if fingerprint(content) != whole.get("digest"):
        raise CheckpointError(f"checkpoint {str(path)!r} is corrupt (its digest does not match): delete it")
    return content
