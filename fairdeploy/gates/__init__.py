"""Gates: what must hold, and the verdict on each cell.

`parse_gates` reads the ``gates:`` of a file into rules, `gate` holds evidence against them.
"""

from fairdeploy.gates.parse import gates_of, parse_gates
from fairdeploy.gates.records import CellVerdict, Condition, Gates, Rule, Status, Verdict
from fairdeploy.gates.verdict import gate, nearness, worst_exit

__all__ = [
    "CellVerdict",
    "Condition",
    "Gates",
    "Rule",
    "Status",
    "Verdict",
    "gate",
    "gates_of",
    "nearness",
    "parse_gates",
    "worst_exit",
]
