"""One look per method, the same in every chart of a page.

The baseline is ink (grey); the seven hues are Okabe and Ito's for colour-blind readers, darkened on white and lightened
on black where the original would fade. From the ninth method on hues come again with another dash and a hollow dot.
"""

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Style", "styles"]

_INK = ("#3d444d", "#d5dae0")
_HUES = (
    ("#0072b2", "#58aeea"),  # blue
    ("#d55e00", "#f98b3f"),  # vermilion
    ("#009e73", "#2fc79b"),  # green
    ("#b8508f", "#e79bc7"),  # purple
    ("#c08a00", "#efc44f"),  # gold
    ("#41a5dd", "#a5dcff"),  # sky
    ("#4b3a9e", "#9a8cf0"),  # indigo
)
_DASHES = ("solid", "dash", "dot", "dashdot")


@dataclass(frozen=True)
class Style:
    """Colours (hex) in light and dark mode, and a Plotly dash."""

    light: str
    dark: str
    dash: str


def styles(names: Sequence[str], baseline: str) -> dict[str, Style]:
    """A style for each method, in the order given."""
    found: dict[str, Style] = {}
    others = [name for name in names if name != baseline]
    for i, name in enumerate(others):
        light, dark = _HUES[i % len(_HUES)]
        found[name] = Style(light, dark, _DASHES[(i // len(_HUES)) % len(_DASHES)])
    if baseline in names:
        found[baseline] = Style(*_INK, "solid")
    return {name: found[name] for name in names}
