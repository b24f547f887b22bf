"""Evidence: counts, metrics with intervals, paired changes. Arithmetic only; nothing here decides.

::

    predictions + groups ─ Tally.count ─▶ Tally ─ judge ─▶ Evidence ─ fairdeploy.gates ─▶ Verdict
"""

from fairdeploy.evidence.judge import Evidence, judge
from fairdeploy.evidence.metrics import words
from fairdeploy.evidence.tally import Schema, Tally

__all__ = ["Evidence", "Schema", "Tally", "judge", "words"]
