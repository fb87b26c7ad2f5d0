"""``report.html``: one page with everything in it, so that it opens offline and can be sent to somebody."""

from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from .view import View

__all__ = ["render"]


def render(view: View, charts: dict[str, Any]) -> str:
    """The page. Every name is escaped; the charts' numbers lie in it as JSON that cannot end its own element."""
    environment = Environment(
        loader=PackageLoader("steepest.arena.report"),
        autoescape=select_autoescape(["html", "html.j2"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    templates = files("steepest.arena.report") / "templates"
    drawn = bool(charts["profiles"]) or any(
        t["landscape"] or t["curves"]["step"] or t["curves"]["seconds"] for t in charts["tasks"].values()
    )
    return environment.get_template("report.html.j2").render(
        view=view,
        charts=charts,
        css=Markup((templates / "report.css").read_text(encoding="utf-8")),
        js=Markup((templates / "report.js").read_text(encoding="utf-8")),
        plotly=Markup(get_plotlyjs()) if drawn else "",
    )
