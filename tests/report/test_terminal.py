"""The report in the terminal: at 80 columns, without colour where nobody watches, user text as text."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace

import pytest
from rich.console import Console

from fairdeploy.bundle import BuildRecord, TargetBundle
from fairdeploy.report import Source, comparison_json, print_comparison, print_verdicts
from fairdeploy.report.terminal import print_verdict

Build = tuple[BuildRecord, list[TargetBundle]]


def printed(show: Callable[[Console], None], *, width: int = 80, terminal: bool = False) -> str:
    stream = io.StringIO()
    show(Console(file=stream, width=width, force_terminal=terminal, color_system="auto"))
    return stream.getvalue()


def flat(text: str) -> str:
    return " ".join(text.split())


def test_says_every_verdict_worst_first_with_word_and_shape(kiosk: Build) -> None:
    lines = printed(lambda console: print_verdicts(Source(kiosk[1], kiosk[0]), console)).splitlines()
    heads = [line for line in lines if line[:1] in "✕?✓" and line]
    assert heads == [
        "✕ Fail  this-host-int8",
        "? Not enough evidence  jetson-orin-nano",
        "? Not enough evidence  x86-openvino-int8",
        "✓ Pass  this-host",
        "✓ Pass  door-cam",
    ]


def test_gives_the_sentence_the_deciding_cells_and_what_to_do(kiosk: Build) -> None:
    text = flat(printed(lambda console: print_verdicts(Source(kiosk[1], kiosk[0]), console)))
    for bundle in kiosk[1]:
        assert flat(bundle.verdict.sentence) in text
    assert "fairdeploy build -t jetson-orin-nano" in text
    assert "Simulated: the graph ran in another runtime" in text
    assert "fake device: a rehearsal" in text
    assert "last words: openvino: the process died with signal 11" in text
    assert "and 16 that pass" in text
    assert "and 18 that would pass on evidence of the level" in text


def test_shows_at_most_ten_cells_and_counts_the_rest(make_bundle: Callable[..., TargetBundle]) -> None:
    verdict = make_bundle().verdict
    fails = [cell.model_copy(update={"status": "fail"}) for cell in verdict.cells[:6]] * 2
    text = printed(
        lambda console: print_verdict(
            verdict.model_copy(update={"status": "fail", "cells": (*verdict.cells, *fails, *fails[:1])}), console
        )
    )
    rows = [line for line in text.splitlines() if line.strip().startswith("✕") and "Fail" not in line]
    assert len(rows) == 10
    assert "and 3 more that do not pass" in text
    assert f"and {len(verdict.cells)} that pass" in text


def test_cells_that_decide_stand_before_those_that_are_only_reported(make_bundle: Callable[..., TargetBundle]) -> None:
    verdict = make_bundle().verdict
    reported = verdict.cells[1].model_copy(update={"status": "fail", "required": False, "n": 111})
    decides = verdict.cells[2].model_copy(update={"status": "fail", "n": 222})
    one = verdict.model_copy(update={"cells": (reported, decides)})
    text = printed(lambda console: print_verdict(one, console))
    assert 0 < text.index("222") < text.index("111")


@pytest.mark.parametrize("width", [60, 80, 120])
def test_fits_the_width_but_for_commands_which_can_be_copied_whole(kiosk: Build, width: int) -> None:
    for show in (
        lambda console: print_verdicts(Source(kiosk[1], kiosk[0]), console),
        lambda console: print_comparison(kiosk[1], console),
    ):
        lines = printed(show, width=width).splitlines()
        assert lines
        assert max(len(line) for line in lines if not line.startswith("    fairdeploy ")) <= width
        assert not any(line.startswith("    fairdeploy ") and line.endswith("-t") for line in lines)


def test_markup_in_user_text_is_text(make_bundle: Callable[..., TargetBundle], kiosk: Build) -> None:
    hostile = "[/etc] [bold red]x[/bold red] [link=http://e]"
    tones = ("[/I]", "[b]", "IV", "V", "VI")
    bundle = make_bundle(end="harsh", tones=tones, level_reason=hostile, failure=None)
    bundle = replace(bundle, verdict=bundle.verdict.model_copy(update={"sentence": hostile, "target": "[/t]"}))
    crashed = make_bundle(id="crashed", failure=hostile, p50_ms=None)
    build = kiosk[0].model_copy(update={"project": hostile})
    text = printed(lambda console: print_verdicts(Source([bundle, crashed], build), console), width=100)
    assert text.count(hostile) >= 3
    assert "[/t]" in text
    assert "[/I]" in printed(lambda console: print_comparison([bundle], console))


def test_no_colour_without_a_terminal_or_with_no_color(kiosk: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    def show(console: Console) -> None:
        print_verdicts(Source(kiosk[1], kiosk[0]), console)

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    assert "\x1b" not in printed(show)
    assert "\x1b[1;38" in printed(show, terminal=True)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "38;5" not in printed(show, terminal=True)


def test_comparison_has_every_target_group_and_measure(kiosk: Build) -> None:
    text = printed(lambda console: print_comparison(kiosk[1], console), width=140)
    for bundle in kiosk[1]:
        assert bundle.verdict.target in text
    wanted = ("accuracy, %", "worst group", "true positive rate", "false positive rate", "equalized odds",
              "skin tone VI", "lost", "gained", "p50", "p90", "size", "layers by precision", "evidence level",
              "simulated", "fake device", "not measured")  # fmt: skip
    for word in wanted:
        assert word in text, word


def test_comparison_shows_the_counts_of_rows_that_changed(make_bundle: Callable[..., TargetBundle]) -> None:
    bundle = make_bundle(end="harsh")
    lost = next(
        c
        for c in bundle.evidence.changes
        if (c.metric, c.against, c.group, c.context) == ("accuracy", "compact", {}, {})
    )
    text = printed(lambda console: print_comparison([bundle], console))
    assert f"−{lost.lost}, +{lost.gained}" in text


def test_comparing_nothing_says_so() -> None:
    assert "nothing to compare" in printed(lambda console: print_comparison([], console))
    assert comparison_json([]) == {"schema_version": 1, "targets": []}


def test_comparison_json_holds_the_numbers_of_the_records(kiosk: Build) -> None:
    plain = json.loads(json.dumps(comparison_json(kiosk[1]), allow_nan=False))
    assert [one["target"] for one in plain["targets"]] == [b.verdict.target for b in kiosk[1]]
    for one, bundle in zip(plain["targets"], kiosk[1], strict=True):
        assert one["status"] == bundle.verdict.status
        assert one["size_bytes"] == bundle.evidence.size_bytes
        assert one["fake_device"] == bundle.evidence.fake_device
        known = [c.model_dump(mode="json") for c in bundle.evidence.changes if not c.context]
        assert one["changes"] == known
    assert plain["targets"][3]["failure"]
    assert plain["targets"][2]["latency"] is None


def test_comparison_names_the_reference_that_each_bundle_has(make_bundle: Callable[..., TargetBundle]) -> None:
    built = make_bundle(end="harsh")
    changes = [
        one.model_copy(update={"against": "reference"}) for one in built.evidence.changes if one.against == "dense"
    ]
    judged = replace(built, evidence=built.evidence.model_copy(update={"changes": tuple(changes)}))
    lost = next(one for one in changes if (one.metric, one.group, one.context) == ("accuracy", {}, {}))
    alone = printed(lambda console: print_comparison([judged], console))
    assert "gained against reference" in alone
    assert "compact" not in alone
    assert f"−{lost.lost}, +{lost.gained}" in alone
    both = printed(lambda console: print_comparison([built, judged], console), width=140)
    assert both.index("gained against compact") < both.index("gained against reference")
