"""What every page and picture is rendered with."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined

from fairdeploy.report import words


def environment() -> Environment:
    """Return what every page is rendered with: all text escaped, a missing name an error, `words` as ``w``."""
    made = Environment(
        loader=PackageLoader("fairdeploy.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals["w"] = words
    return made
