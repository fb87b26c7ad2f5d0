"""Numbers as a reader wants them: as many digits as the data support, a dash where there is none."""

import math
from collections.abc import Iterable
from statistics import median_low
from typing import Any

__all__ = ["DASH", "count", "decimals", "duration", "fixed", "interval", "memory", "setting", "signed", "significant"]

DASH = "–"  # an en dash: no such number
MINUS = "\u2212"  # the true minus sign: as wide as a digit


def decimals(widths: Iterable[float | None], values: Iterable[float | None] = ()) -> int:
    """Decimals for a column: the usual uncertainty (median half width of an interval) keeps two significant digits.

    Without any uncertainty the largest of ``values`` keeps four. Never fewer than 0 or more than 6.
    """
    known = [abs(w) for w in widths if w is not None and math.isfinite(w) and w != 0]
    if known:
        return min(6, max(0, 1 - math.floor(math.log10(median_low(known)))))
    sizes = [abs(v) for v in values if v is not None and math.isfinite(v) and v != 0]
    return min(6, max(0, 3 - math.floor(math.log10(max(sizes))))) if sizes else 2


def fixed(value: float | None, places: int) -> str:
    """``0.97312, 3`` -> ``0.973``; a dash for ``None``; infinities and NaN by name."""
    if value is None:
        return DASH
    if not math.isfinite(value):
        return str(float(value)).replace("-", MINUS)
    if abs(value) >= 1e7:
        return f"{value:.3e}".replace("-", MINUS)
    return f"{value:,.{places}f}".replace("-", MINUS)


def signed(value: float | None, places: int) -> str:
    """Like :func:`fixed`, with a sign: ``+0.012``; an exact zero at this precision has none."""
    text = fixed(value, places)
    if value is None or not math.isfinite(value) or text.startswith(MINUS):
        return text if text.strip(f"{MINUS}0.") else text.lstrip(MINUS)
    return f"+{text}" if text.strip("0.") else text


def interval(low: float | None, high: float | None, places: int, *, sign: bool = False) -> str:
    """``[0.961, 0.982]``, or nothing where there is no interval."""
    if low is None or high is None:
        return ""
    show = signed if sign else fixed
    return f"[{show(low, places)}, {show(high, places)}]"


def significant(value: float | None, digits: int = 3) -> str:
    """``digits`` significant digits, in scientific notation only outside 1e-4 .. 1e6: ``0.00123``, ``3.2e-05``."""
    if value is None:
        return DASH
    if not math.isfinite(value):
        return str(float(value)).replace("-", MINUS)
    if value == 0:
        return "0"
    if not 1e-4 <= abs(value) < 1e6:
        return f"{value:.{digits - 1}e}".replace("-", MINUS, 1 if value < 0 else 0)
    return fixed(value, max(0, digits - 1 - math.floor(math.log10(abs(value)))))


def count(value: float | None) -> str:
    """A whole number with thousands separated: ``12,345``."""
    return DASH if value is None or not math.isfinite(value) else f"{value:,.0f}"


def duration(seconds: float | None) -> str:
    """``0.123 s``, ``12.3 s``, ``4 min 05 s``, ``2 h 07 min``."""
    if seconds is None or not math.isfinite(seconds):
        return DASH
    if seconds < 99.95:
        return f"{significant(seconds)} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def memory(size: float | None) -> str:
    """Bytes in binary units: ``512 KiB``, ``12.4 MiB``."""
    if size is None or not math.isfinite(size):
        return DASH
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 999.5:
            return f"{significant(size)} {unit}" if unit != "B" else f"{size:.0f} B"
        size /= 1024
    return f"{significant(size)} TiB"


def setting(value: Any) -> str:
    """A hyper-parameter as short as it stays honest: floats with four significant digits."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return "(" + ", ".join(setting(v) for v in value) + ")"
    return str(value)
