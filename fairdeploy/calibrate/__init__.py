"""Calibration: which rows set the quantisation ranges, and the INT8 QDQ graph in a backend's own dialect.

A recipe is one YAML file under ``calibration/``. Ranges that are read from a sample without the rare groups clip
what only they show, so the shipped recipe takes the same number of rows from every group and label.
"""

from fairdeploy.calibrate.qdq import quantize
from fairdeploy.calibrate.recipe import Recipe, choose_rows, load_recipe

__all__ = ["Recipe", "choose_rows", "load_recipe", "quantize"]
