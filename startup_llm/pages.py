"""The frame of every HTML page that the package writes: one look, no other file, readable without JavaScript."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import jinja2

THEME: Mapping[str, tuple[str, str]] = {
    "paper": ("#fcfcfa", "#14171c"),
    "panel": ("#f2f3f1", "#1d2128"),
    "ink": ("#1a1e24", "#e7e9ec"),
    "muted": ("#5b6471", "#a0a9b6"),
    "line": ("#d9dde1", "#343b45"),
    "accent": ("#1d5fa8", "#79b4f2"),
    "baseline": ("#a3abb6", "#697482"),
    "second": ("#b1501c", "#eda06c"),
}
"""Each colour's name and its value on light and on dark paper. Figures are drawn in the light values, which become
CSS variables in the page."""


def load_page(package: str, name: str, filters: Mapping[str, Callable[..., Any]] | None = None) -> jinja2.Template:
    """Load a template that extends `page.html.jinja`.

    Args:
        package: The package whose folder holds it.
        name: Its file name.
        filters: What its expressions may call, by name.

    Returns:
        A template that escapes every value.
    """
    from jinja2 import ChoiceLoader, Environment, PackageLoader

    loader = ChoiceLoader([PackageLoader(package, ""), PackageLoader("startup_llm", "")])
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= dict(filters or {})
    environment.globals["theme"] = THEME
    return environment.get_template(name)
