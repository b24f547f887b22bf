"""One offline HTML file: no script, no request, the same bytes for the same records."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from fairdeploy.bundle import BuildRecord, Bundle, load_build
from fairdeploy.evidence.records import LEVELS
from fairdeploy.records import write_atomic
from fairdeploy.report import build_view, comparison, glossary, groups, view, words

FILE_NAME = "report.html"


def render_html(build: BuildRecord, bundles: Sequence[Bundle]) -> str:
    """Return the report of a build as one HTML document.

    Parameters
    ----------
    build : BuildRecord
    bundles : sequence of Bundle
        One per target; the page shows what blocks a release first.
    """
    ordered = view.worst_first(bundles)
    by_status = [(one, [_name(b) for b in ordered if b.verdict.status == one]) for one in words.WORST_FIRST]
    return _environment().get_template("report.html.j2").render(
        build=build,
        bundles=ordered,
        verdicts=[view.target_view(bundle) for bundle in ordered],
        statuses=[(status, names) for status, names in by_status if names],
        groups=[(bundle, groups.group_plots(bundle), groups.ungated(bundle)) for bundle in ordered],
        stages=[(bundle, view.stage_plots(bundle)) for bundle in ordered],
        matrices=view.matrices(ordered),
        comparison=comparison.compare(ordered),
        contexts=[(bundle, view.context_rows(bundle)) for bundle in ordered],
        cells=[(bundle, view.deciding_first(bundle.verdict.cells)) for bundle in ordered],
        trade_off=build_view.trade_off(build),
        widths=build_view.widths(build),
        counts=build_view.count_tables(build),
        terms=glossary.TERMS,
        sources=glossary.SOURCES,
        levels=[(level, words.level_phrase(level)) for level in reversed(LEVELS)],
    )  # fmt: skip


def _name(bundle: Bundle) -> str:
    return bundle.verdict.target + (" (fake device)" if bundle.evidence.fake_device else "")


def write_html(folder: Path) -> Path:
    """Write ``report.html`` into a build folder and return its path.

    Raises
    ------
    ConfigError
        If the folder is no build.
    IntegrityError
        If a bundle in it is not what was sealed.
    """
    build, bundles = load_build(folder)
    path = folder / FILE_NAME
    write_atomic(path, render_html(build, bundles).encode())
    return path


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("fairdeploy.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["w"] = words
    return environment
