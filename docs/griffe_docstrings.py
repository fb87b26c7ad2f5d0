r"""Griffe extension: docstrings in the reStructuredText that editors and ``help()`` readers know, as Markdown.

Roles become code (``:class:`~a.b.C``` -> ``C``), mathematics becomes MathML, which browsers draw without any script,
and ``::`` before an indented block becomes a plain colon.
"""

import re
import textwrap
from typing import Any

import griffe
from latex2mathml.converter import convert

ROLE = re.compile(r":(?:class|func|meth|mod|attr|data|exc|obj):`(?P<short>~?)(?P<target>[^`]+)`")
INLINE_MATH = re.compile(r":math:`(?P<latex>[^`]+)`")
MATH_BLOCK = re.compile(
    r"^(?P<indent> *)\.\. math::[ \t]*(?P<first>[^\n]*)\n(?P<body>(?:(?P=indent) +[^\n]*\n|\s*\n)*)", re.MULTILINE
)
LITERAL_BLOCK = re.compile(r"::(?= *\n *\n)")


class ReadableDocstrings(griffe.Extension):
    """Rewrites every docstring before it is parsed into sections."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Called by griffe for every object found."""
        if obj.docstring is not None:
            obj.docstring.value = to_markdown(obj.docstring.value)


def to_markdown(text: str) -> str:
    """The docstring with roles, mathematics and literal blocks in Markdown's terms."""
    text = MATH_BLOCK.sub(_block, text + "\n").rstrip("\n")
    text = INLINE_MATH.sub(lambda match: _mathml(match["latex"], "inline"), text)
    text = ROLE.sub(_role, text)
    return LITERAL_BLOCK.sub(":", text)


def _role(match: re.Match[str]) -> str:
    target = match["target"]
    return f"`{target.rpartition('.')[2] if match['short'] else target}`"


def _block(match: re.Match[str]) -> str:
    latex = textwrap.dedent(match["body"]).strip() or match["first"].strip()
    if "&" in latex or "\\\\" in latex:
        latex = f"\\begin{{align*}}{latex}\\end{{align*}}"
    # On one line between blank ones, so that Markdown takes it as a block of HTML and leaves it alone.
    return f'\n{match["indent"]}<div class="math">{_mathml(latex, "block")}</div>\n\n'


def _mathml(latex: str, display: str) -> str:
    markup = convert(" ".join(latex.split()), display=display)
    if display == "block":
        return markup
    # Between the tags of inline mathematics, Markdown would look for emphasis and escapes; and a line that begins with
    # <math> would be a block of its own.
    escaped = re.sub(r"[*_\\`]", lambda found: f"&#{ord(found.group())};", markup)
    return f"<span>{escaped}</span>"
