"""The formats of a report, by name: each is a function of the same records."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from fairdeploy.errors import ConfigError
from fairdeploy.report.document import render_json
from fairdeploy.report.html import render_html
from fairdeploy.report.junit import render_junit
from fairdeploy.report.markdown import render_markdown
from fairdeploy.report.model_card import render_model_card
from fairdeploy.report.sarif import render_sarif
from fairdeploy.report.source import Source

FORMATS: Mapping[str, Callable[[Source], str]] = {
    "html": render_html,
    "markdown": render_markdown,
    "junit": render_junit,
    "sarif": render_sarif,
    "model-card": render_model_card,
    "json": render_json,
}
STEP_SUMMARY = "GITHUB_STEP_SUMMARY"
SUMMARY_BYTES = 1024 * 1024  # GitHub drops a step's summary beyond this


def write_summary(source: Source) -> Path:
    """Append the report as Markdown to the summary of the GitHub Actions step that runs, and return its file.

    What stands beneath folds is left out where GitHub would otherwise drop the whole summary.

    Raises
    ------
    ConfigError
        If no such step runs, or its file cannot be written.
    """
    name = os.environ.get(STEP_SUMMARY)
    if not name:
        raise ConfigError(f"{STEP_SUMMARY} is not set, so no GitHub step runs here: use --format markdown")
    path = Path(name)
    try:
        there = path.stat().st_size if path.exists() else 0
        text = render_markdown(source)
        if there + len(text.encode()) > SUMMARY_BYTES:
            text = render_markdown(source, folds=False)
        with path.open("a", encoding="utf-8") as stream:
            stream.write(text)
    except OSError as error:
        raise ConfigError(f"{STEP_SUMMARY} cannot be written: {error.strerror}", file=path) from error
    return path
