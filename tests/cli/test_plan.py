import pytest

from fairdeploy.cli import main
from fairdeploy.planning import plan


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--icc", "5", "icc is 5: give a correlation between 0 and 1"),
        ("--power", "0.2", "power is 0.2: give a probability of at least 0.5"),
        ("--rate", "90", "rate is 90: give a fraction"),
        ("--gap", "-0.1", "gap is -0.1: give a fraction"),
        ("--loss", "0.06", "no more rows can be lost than flip"),
        ("--flips-dense", "0", "flip_rate is 0: give a fraction"),
    ],
)
def test_an_option_out_of_range_is_refused_before_anything_is_read(option, value, says, tmp_path, capsys):
    assert main(["plan", "-C", str(tmp_path / "nowhere"), option, value]) == 2
    assert says in capsys.readouterr().err


def test_without_a_build_there_is_nothing_to_list(tmp_path, capsys):
    assert main(["plan", "--build", str(tmp_path)]) == 2
    assert "fairdeploy build" in capsys.readouterr().err


def test_the_kiosk_is_planned_with_a_simulation_beside_the_formula(kiosk):
    bare = plan(kiosk.folder, ("this-host",))
    rows = plan(kiosk.folder, ("this-host",), gap=0.02, simulate=True).rows
    assert all(row.simulated_power is None for row in bare.rows)
    assert all(0 <= row.simulated_power <= 1 for row in rows if row.rows_needed is not None)
    (equal,) = [row for row in bare.rows if row.metric == "equal_opportunity_difference"]
    (unequal,) = [row for row in rows if row.metric == "equal_opportunity_difference"]
    assert unequal.rows_needed > equal.rows_needed
    assert unequal.simulated_power is not None
