"""Pictures of fair pruning: which channels serve whom, and how a training went."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from pydantic import ValidationError

from fairdeploy.report import charts, words
from fairdeploy.report.environment import environment
from fairdeploy.report.service import CELL_MOST, MOST_CHANNELS, service_svg, service_view
from fairdeploy.report.training import course_svg, course_view
from tests.report.trainings import DENSE, PRUNED, channel, course, record

SVG = "{http://www.w3.org/2000/svg}"


def page(**context: object) -> str:
    source = '{% include "style.css" %}{% include "training.css" %}{% include "training.html.j2" %}'
    return environment().from_string(source).render(**({"service": None, "courses": []} | context))


def test_columns_are_dense_channels_with_the_largest_contribution_first() -> None:
    first, second = service_view(DENSE, PRUNED).blocks
    assert [row[0] for row in first.table.rows] == ["1", "3", "0", "2"]
    assert (first.count, second.count) == ("4 → 2", "1 → 1")
    dense, pruned = first.strips
    starts = {float(x) for shade in pruned.shades for x in re.findall(r"M([\d.]+)", shade.path)}
    assert [x - CELL_MOST / 2 for x in first.kept] == sorted(starts)
    assert starts <= {float(x) for shade in dense.shades for x in re.findall(r"M([\d.]+)", shade.path)}


def test_shades_share_one_scale_and_losses_that_fall_look_otherwise() -> None:
    view = service_view(DENSE, PRUNED)
    assert view.legend == ("0.3", "0.1", "0.03", "0.01")  # of the largest rise, which the pruned network has
    cells = {shade.strength: shade.path.count("M") for shade in view.blocks[0].strips[1].shades}
    assert cells == {0: 3, 1: 1}  # exactly 0.3 is not above it
    falls = [shade for shade in view.blocks[0].strips[0].shades if shade.falls]
    assert [shade.strength for shade in falls] == [1]
    (height,) = re.findall(r"v([\d.]+)", falls[0].path)
    others = re.findall(r"v([\d.]+)", view.blocks[1].strips[0].shades[0].path)
    assert all(float(height) == float(other) / 2 for other in others)
    alone = service_view(DENSE)
    assert alone.legend[0] == "0.15"
    assert alone.blocks[0].kept == ()
    assert len(alone.blocks[0].strips) == 1


def test_the_table_has_every_number_that_is_drawn() -> None:
    table = service_view(DENSE, PRUNED).blocks[0].table
    assert table.columns == ("Channel", "Kept", "Skin tone I-II", "Skin tone VI", "Most needed by (skin tone)")
    by_channel = {row[0]: row[1:] for row in table.rows}
    assert by_channel["1"] == ("yes", "0.5000 → 0.8000", "0.1000 → 0.4000", f"I-II (83.3{words.THIN}% of what rises)")
    assert by_channel["2"] == ("no", "0.0000", "0.0000", words.NONE)
    assert by_channel["3"] == ("yes", f"{words.MINUS}0.2000 → 0.3000", f"{words.NONE} → 1.0000", words.NONE)
    assert service_view(DENSE).blocks[0].table.columns[:2] == ("Channel", "Skin tone I-II")


def test_wide_groups_show_the_largest_and_say_so() -> None:
    many = record(wide=[channel(number, (0.001 * number, 0.0)) for number in range(500)])
    (block,) = service_view(many).blocks
    assert block.count == f"500 ({MOST_CHANNELS} shown)"
    assert len(block.table.rows) == MOST_CHANNELS
    assert block.table.rows[0][0] == "499"
    drawn = "".join(shade.path for shade in block.strips[0].shades)
    assert max(float(x) + float(width) for x, width in re.findall(r"M([\d.]+) .*?h([\d.]+)", drawn)) <= charts.RIGHT


def test_networks_without_effects_or_a_lost_group_are_drawn() -> None:
    nothing = record(conv=[channel(0, (0.0, None)), channel(1, (None, None))])
    assert service_view(nothing).blocks[0].strips[0].shades == ()
    assert "most needed by each skin tone: none" in service_view(nothing).blocks[0].said
    gone = service_view(DENSE, record(conv1=PRUNED.groups[0].channels, conv2=[]))
    assert gone.blocks[1].count == "1 → 0"
    unknown = service_view(DENSE, record(conv1=PRUNED.groups[0].channels))
    assert [len(one.strips) for one in unknown.blocks] == [2, 1]
    assert unknown.blocks[1].count == "1"
    assert service_view(record()).blocks == ()
    for one in (service_svg(nothing), service_svg(DENSE, record()), service_svg(record())):
        ElementTree.fromstring(one)


def test_lines_end_at_the_last_look_and_limits_decide_the_mark() -> None:
    view = course_view(course())
    odds, odds_multiplier, drop, _, loss = view.panels
    assert (odds.title, odds.value, odds.limit_label, odds.status) == (
        "Equalized odds difference", "4.0 points", "at most 5.0", "pass",
    )  # fmt: skip
    assert (drop.value, drop.status) == ("3.0 points", "fail")
    assert (loss.status, loss.limit, loss.value) == ("none", None, "0.400")
    assert odds_multiplier.value == "0.750 multiplier"
    assert odds.limit is not None
    assert odds.points[-1][1] > odds.limit > odds.points[0][1]  # y grows downwards
    assert [x for x, _ in odds.points] == sorted(x for x, _ in odds.points)
    assert all(panel.top <= y <= panel.bottom for panel in view.panels for _, y in panel.points)
    assert (view.first, view.last) == ("step 10", "step 30")


def test_a_value_at_its_limit_holds() -> None:
    one = course().constraints[0].model_copy(update={"values": (0.2, 0.1, 0.05)})
    assert course_view(course(constraints=(one,))).panels[0].status == "pass"


def test_the_table_of_a_training_has_a_row_for_each_look() -> None:
    table = course_view(course(kept=(1.0, 0.5, 0.1))).table
    assert table.columns[:3] == ("Step", "Training loss", "Cost kept, %")
    assert table.rows[-1] == ("30", "0.400", "10.0", "4.0", "0.75", "3.0", "1.00")
    assert len(course_view(course()).table.rows[0]) == len(course_view(course()).table.columns) == 6


def test_one_look_and_no_constraints_are_drawn() -> None:
    one = course(steps=(0,), losses=(0.0,), constraints=())
    assert len(course_view(one).panels) == 1
    ElementTree.fromstring(course_svg(one))


@pytest.mark.parametrize(
    "changes",
    [{"steps": ()}, {"steps": (1, 2)}, {"losses": (0.7, 0.5)}, {"losses": (0.7, 0.5, float("nan"))}, {"kept": (1.0,)}],
)
def test_columns_of_other_lengths_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        course(**changes)


@pytest.mark.parametrize("picture", [service_svg(DENSE, PRUNED), course_svg(course(kept=(1.0, 0.5, 0.1)))])
def test_a_picture_is_one_offline_file_with_title_and_description_for_light_and_dark(picture: str) -> None:
    root = ElementTree.fromstring(picture)
    named = [root.get("aria-labelledby", "").split(), *(part.get("aria-labelledby", "").split() for part in root)]
    ids = {part.get("id"): part for part in root.iter() if part.get("id")}
    assert len(ids) == len([part for part in root.iter() if part.get("id")])
    assert [ids[name].tag for name in named[0]] == [f"{SVG}title", f"{SVG}desc"]
    assert all((ids[name].text or "").strip() for name in named[0])
    assert "prefers-color-scheme: dark" in picture
    assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)|<script|url\(|@import|<image", picture)


def test_the_page_has_each_picture_with_its_table_and_escapes_names() -> None:
    spiteful = record(**{"<b>conv</b>": DENSE.groups[0].channels})
    shown = page(service=service_view(spiteful), courses=[course_view(course(station="<i>recover"))])
    assert "<b>conv" not in shown
    assert "<i>recover" not in shown
    assert shown.count('role="img"') == shown.count("<table") == 2
    for section in ('id="service"', 'id="training"'):
        assert section in shown
    assert 'class="heat' not in page()
    assert "<section" not in page()


def test_the_same_records_give_the_same_bytes() -> None:
    assert service_svg(DENSE, PRUNED) == service_svg(DENSE.model_copy(), PRUNED)
    assert course_svg(course()) == course_svg(course())
