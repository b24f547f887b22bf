"""What people look at: one offline page, and the terminal. Shows what evidence says and computes nothing."""

from fairdeploy.report.html import render_html, write_html
from fairdeploy.report.terminal import comparison_json, print_comparison, print_verdicts

__all__ = ["comparison_json", "print_comparison", "print_verdicts", "render_html", "write_html"]
