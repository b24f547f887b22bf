"""One offline HTML file: no script, no request, the same bytes for the same records."""

from __future__ import annotations

from pathlib import Path

from fairdeploy.bundle import JudgedBundle, load_build
from fairdeploy.evidence.records import LEVELS
from fairdeploy.records import write_atomic
from fairdeploy.report import build_view, circumstances, comparison, glossary, groups, view, words
from fairdeploy.report.compliance import compliance_views
from fairdeploy.report.environment import environment
from fairdeploy.report.measures import measure_tables
from fairdeploy.report.source import Source
from fairdeploy.report.tables import waiver_table

FILE_NAME = "report.html"


def render_html(source: Source, *, flags: str = "") -> str:
    """Return the report as one HTML document; it shows what blocks a release first.

    Parameters
    ----------
    source : Source
    flags : str
        What names the configuration to the commands of the next steps, as in ``-c other.yaml``.
    """
    ordered, build = source.worst_first, source.build
    views = [view.across_view(source.across)] if source.across else []
    views += [view.target_view(bundle, flags=flags) for bundle in ordered]
    by_status = [(one, [_name(v) for v in views if v.status == one]) for one in words.WORST_FIRST]
    return environment().get_template("report.html.j2").render(
        title=source.title,
        build=build,
        notes=[words.full_stop(note) for note in source.notes],
        bundles=ordered,
        verdicts=views,
        statuses=[(status, names) for status, names in by_status if names],
        groups=[(bundle, groups.group_plots(bundle), groups.ungated(bundle)) for bundle in ordered],
        stages=[(bundle, view.stage_plots(bundle)) for bundle in ordered if not isinstance(bundle, JudgedBundle)],
        matrices=view.matrices(ordered),
        comparison=comparison.compare(ordered),
        contexts=[(one, circumstances.context_rows(one)) for one in ordered],
        measures=[(one, measure_tables(one.evidence)) for one in ordered],
        reversals=[(one, circumstances.reversals(one.evidence)) for one in ordered],
        cells=[(verdict, view.deciding_first(verdict.cells)) for verdict in source.reading_order],
        trade_off=build_view.trade_off(build) if build else None,
        widths=build_view.widths(build) if build else None,
        courses=build_view.courses(build) if build else [],
        service=build_view.service(build) if build else None,
        counts=build_view.count_tables(build) if build else [],
        waivers=waiver_table(source),
        compliance=compliance_views(source),
        terms=glossary.TERMS,
        sources=glossary.SOURCES,
        levels=[(level, words.level_phrase(level)) for level in reversed(LEVELS)],
    )  # fmt: skip


def _name(one: view.TargetView) -> str:
    return one.id + (" (fake device)" if one.fake else "")


def write_html(folder: Path, *, flags: str = "") -> Path:
    """Write ``report.html`` into a build's folder and return its path.

    Raises
    ------
    ConfigError
        If the folder is no build.
    IntegrityError
        If a bundle in it is not what was sealed.
    """
    build, bundles = load_build(folder)
    path = folder / FILE_NAME
    write_atomic(path, render_html(Source(tuple(bundles), build), flags=flags).encode())
    return path
