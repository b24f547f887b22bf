"""What people and machines look at: the page, the terminal, and the formats of CI and auditors.

Everything here shows what evidence says and computes nothing.
"""

from fairdeploy.report.formats import FORMATS, write_summary
from fairdeploy.report.html import render_html, write_html
from fairdeploy.report.source import Source, load_source
from fairdeploy.report.terminal import comparison_json, print_comparison, print_verdicts

__all__ = [
    "FORMATS",
    "Source",
    "comparison_json",
    "load_source",
    "print_comparison",
    "print_verdicts",
    "render_html",
    "write_html",
    "write_summary",
]
