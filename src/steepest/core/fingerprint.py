"""Digests that tell whether two runs are about the same thing."""

import dataclasses
import functools
import hashlib
import types
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch

__all__ = ["fingerprint"]

#: The objects whose own ``fingerprint()`` is under way.
_inside: ContextVar[tuple[int, ...]] = ContextVar("steepest_fingerprints_under_way", default=())


def fingerprint(value: Any) -> str:
    """A digest of a value, as far as it can be seen: 32 hexadecimal digits.

    Seen are numbers, strings, tensors and arrays (dtype, shape and every byte), containers, dataclasses, modules (their
    ``state_dict``), functions (name, bytecode, constants, defaults and what they close over), and objects with a
    ``fingerprint()`` of their own. Of other objects only the type is seen, and global variables that a function reads
    are not. Bytecode differs between Python versions.
    """
    digest = hashlib.sha256()
    _feed(digest, value, ())
    return digest.hexdigest()[:32]


def _feed(digest: Any, value: Any, above: tuple[int, ...]) -> None:
    def tag(text: str) -> None:
        digest.update(f"<{text}>".encode())

    def feed(*items: Any) -> None:
        for item in items:
            _feed(digest, item, (*above, id(value)))

    if id(value) in above:  # an object that contains itself
        tag("cycle")
    elif value is None or isinstance(value, (bool, int, float, complex, str, bytes, torch.dtype, torch.device)):
        tag(f"{type(value).__name__} {value!r}")
    elif isinstance(value, torch.Tensor):
        tag(f"tensor {value.dtype} {list(value.shape)} {value.layout}")
        if value.layout is torch.strided:
            flat = value.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().data)
        elif value.layout is torch.sparse_coo:
            whole = value.detach().coalesce()
            feed(whole.indices(), whole.values())
        elif value.layout is torch.sparse_csr:
            feed(value.crow_indices(), value.col_indices(), value.values())
    elif isinstance(value, torch.Generator):
        tag("generator")
        feed(value.get_state())
    elif isinstance(value, dict):
        tag(f"dict {len(value)}")
        for key, item in value.items():
            feed(key, item)
    elif isinstance(value, (list, tuple)):
        tag(f"{type(value).__name__} {len(value)}")
        feed(*value)
    elif isinstance(value, (set, frozenset)):
        tag(f"set {len(value)}")
        feed(*sorted(fingerprint(item) for item in value))
    elif isinstance(value, types.CodeType):
        tag(f"code {value.co_name}")
        feed(value.co_code, value.co_names, value.co_consts)
    elif isinstance(value, functools.partial):
        tag("partial")
        feed(value.func, value.args, value.keywords)
    elif isinstance(value, types.MethodType):
        tag("method")
        feed(value.__func__, value.__self__)
    elif isinstance(value, types.FunctionType):
        tag(f"function {value.__module__} {value.__qualname__}")
        feed(value.__code__, value.__defaults__, value.__kwdefaults__, [_content(c) for c in value.__closure__ or ()])
    elif isinstance(value, torch.nn.Module):
        tag(f"module {type(value).__qualname__}")
        feed(dict(value.state_dict()))
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        tag(f"dataclass {type(value).__qualname__}")
        feed({field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
    elif not isinstance(value, type) and callable(getattr(value, "fingerprint", None)):  # a problem inside a problem
        if id(value) in (inside := _inside.get()):  # a problem that holds a method of its own
            tag("cycle")
        else:
            token = _inside.set((*inside, id(value)))
            try:
                feed(value.fingerprint())
            finally:
                _inside.reset(token)
    elif isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        tag(f"array {value.dtype} {value.shape}")
        digest.update(np.ascontiguousarray(value).tobytes())
    else:
        kind = type(value)
        tag(f"object {kind.__module__}.{kind.__qualname__} {getattr(value, '__qualname__', '')}")


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not yet filled
        return None
