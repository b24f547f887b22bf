"""Gates: what must hold, and the verdict on each cell.

`parse_gates` reads the ``gates:`` of a file into rules, `gate` holds evidence against them.
"""

from fairdeploy.gates.across import gate_across
from fairdeploy.gates.files import GatesFile, parse_across, parse_waivers, read_gates
from fairdeploy.gates.parse import gates_of, parse_gates
from fairdeploy.gates.records import CellVerdict, Condition, Gates, Rule, Status, Verdict, Waiver, WaiverUse
from fairdeploy.gates.summary import nearness
from fairdeploy.gates.verdict import gate, worst_exit

__all__ = [
    "gate_across",
    "GatesFile",
    "parse_across",
    "parse_waivers",
    "read_gates",
    "CellVerdict",
    "Condition",
    "Gates",
    "Rule",
    "Status",
    "Verdict",
    "Waiver",
    "WaiverUse",
    "gate",
    "gates_of",
    "nearness",
    "parse_gates",
    "worst_exit",
]
