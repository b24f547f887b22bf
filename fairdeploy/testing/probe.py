"""What the backend contract does to sessions; it runs in a child process, since native code may crash."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np


def probe_sessions(session: str, artifact: str, input_name: str, rows: str) -> dict[str, Any]:
    """Open two sessions, feed them right and wrong inputs, close them twice; return what was found.

    Parameters
    ----------
    session : str
        As in ``"module:Class"``.
    artifact : str
        Main file of the artifact.
    input_name : str
        Name of its one input.
    rows : str
        Preprocessed inputs, an ``.npy`` file [n, ...].
    """
    module, name = session.split(":")
    open_session = getattr(importlib.import_module(module), name)
    values = np.load(rows, allow_pickle=False)
    good = {input_name: values}
    wrong = {
        "unknown name": {**good, "another": values},
        "missing input": {},
        "wrong shape": {input_name: values[:, :, 1:]},
    }
    raised = {}
    with open_session(artifact, 1, "fp32") as first:
        expected = np.array(first.infer(good))
        second = open_session(artifact, 1, "fp32")
        side_by_side = np.array_equal(expected, second.infer(good)) and np.array_equal(expected, first.infer(good))
        for case, feed in wrong.items():
            try:
                first.infer(feed)
            except Exception as error:
                raised[case] = f"{type(error).__name__}: {error}"
        after_errors = np.array_equal(expected, first.infer(good))
        second.close()
        second.close()
        after_close = np.array_equal(expected, first.infer(good))
    first.close()
    return {
        "equal_side_by_side": bool(side_by_side),
        "equal_after_errors": bool(after_errors),
        "equal_after_the_other_closed": bool(after_close),
        "raised": raised,
    }
