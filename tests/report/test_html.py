"""The page as text: well-formed, escaped, offline, the same bytes, every number as the records hold it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from fairdeploy.bundle import BuildRecord, TargetBundle, load_build
from fairdeploy.errors import ConfigError, IntegrityError
from fairdeploy.gates import Rule
from fairdeploy.report import Source, load_source, render_html, words, write_html
from fairdeploy.report.view import deciding_first

Build = tuple[BuildRecord, list[TargetBundle]]
VOID = {"meta", "link", "br", "hr", "img", "input"}
HOSTILE = "<script>alert('x')</script>\"&"


class Tree(HTMLParser):
    """Refuses a tag that is not closed by its own end; gathers what the tests ask about."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.ids: list[str] = []
        self.figures: list[list[str]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id" and value]
        if tag == "figure":
            self.figures.append([])
        if "figure" in self.open:
            self.figures[-1].append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        assert "svg" in self.open, f"<{tag}/> outside of an svg"

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1:] == [tag], f"</{tag}> closes <{self.open[-1:]}> at {self.getpos()}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data


def test_is_well_formed_with_unique_ids_and_links_that_lead_somewhere(kiosk: Build) -> None:
    tree = Tree(render_html(Source(kiosk[1], kiosk[0])))
    assert len(tree.ids) == len(set(tree.ids)) > 20
    links = [attrs["href"] for tag, attrs in tree.tags if tag == "a"]
    assert links
    assert {str(link).removeprefix("#") for link in links} <= set(tree.ids)
    for _, attrs in tree.tags:
        assert set((attrs.get("aria-labelledby") or "").split()) <= set(tree.ids)


def test_needs_no_script_and_no_network(kiosk: Build) -> None:
    page = render_html(Source(kiosk[1], kiosk[0]))
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in page
    tree = Tree(page)
    assert not {"script", "link", "iframe", "img", "object"} & {tag for tag, _ in tree.tags}
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//|url\(|@import|javascript:|\son\w+=""", page)
    assert len(page.encode()) < 1_000_000


def test_every_svg_has_a_title_a_description_and_a_table(kiosk: Build) -> None:
    tree = Tree(render_html(Source(kiosk[1], kiosk[0])))
    pictures = [attrs for tag, attrs in tree.tags if tag == "svg" and attrs.get("aria-hidden") != "true"]
    assert len(pictures) == len(tree.figures) > 8
    for figure in tree.figures:
        assert [figure.count(tag) for tag in ("svg", "title", "desc", "details", "table")] == [1] * 5
    assert all(attrs.get("role") == "img" for attrs in pictures)


def test_every_verdict_has_its_word_and_its_shape(kiosk: Build) -> None:
    build, bundles = kiosk
    wanted = {"pass": "✓", "fail": "✕", "inconclusive": "?", "undefined": "∅", "waived": "⚑"}
    for status, shape in wanted.items():
        one = replace(bundles[0], verdict=bundles[0].verdict.model_copy(update={"status": status}))
        page = render_html(Source([one], build))
        card = page.split('<ol class="verdicts">')[1].split("</ol>")[0]
        assert f'aria-hidden="true">{shape}</span><span>{words.STATUS_WORD[status]}</span>' in card  # type: ignore[index]
        assert one.verdict.sentence in card


def test_what_blocks_a_release_comes_first(kiosk: Build) -> None:
    page = render_html(Source(kiosk[1], kiosk[0]))
    cards = re.findall(r'<b class="target">(.*?)</b>', page)
    assert cards == ["this-host-int8", "jetson-orin-nano", "x86-openvino-int8", "this-host", "door-cam"]
    top = page.split('<ul class="tally">')[1].split("</ul>")[0]
    assert [name for name in cards if name in top] == cards


def test_weak_evidence_is_said_loudly(kiosk: Build) -> None:
    build, bundles = kiosk
    cards = dict(zip((b.verdict.target for b in bundles), bundles, strict=True))

    def card(target: str) -> str:
        return render_html(Source([cards[target]], build)).split('<ol class="verdicts">')[1].split("</ol>")[0]

    assert "Fake device: a rehearsal" in card("door-cam")
    assert "Simulated: the graph ran in another runtime" in card("jetson-orin-nano")
    assert "The runtime failed" in card("x86-openvino-int8")
    assert not re.search("Fake|Simulated|failed", card("this-host"))
    assert "door-cam (fake device)" in render_html(Source(kiosk[1], kiosk[0]))
    assert "the process died with signal 11\n[ERROR]" in render_html(Source(kiosk[1], kiosk[0]))


def test_not_enough_evidence_names_the_lines_that_get_it(kiosk: Build) -> None:
    page = render_html(Source(kiosk[1], kiosk[0]))
    todo = page.split('<section id="next">')[1].split("</section>")[0]
    assert "fairdeploy doctor -t jetson-orin-nano\nfairdeploy build -t jetson-orin-nano\n" in todo
    assert re.search(r"unknown skin tone: n = 14, needs \d+", todo)
    assert (
        "<h3>" not in render_html(Source(kiosk[1][:1], kiosk[0])).split('<section id="next">')[1].split("</section>")[0]
    )


def test_shows_the_numbers_of_the_records(kiosk: Build) -> None:
    build, bundles = kiosk
    tree = Tree(render_html(Source(kiosk[1], kiosk[0])))
    for bundle in bundles:
        for cell in bundle.verdict.cells:
            assert cell.reason in tree.text
        for change in bundle.evidence.changes:
            if change.metric == "true_positive_rate" and change.interval:
                assert words.span(change.interval, signed=True) in tree.text
                assert words.change(change.change) in tree.text
        for known in (bundle.verdict.gates_digest, bundle.verdict.evidence_digest, bundle.evidence.data_fingerprint):
            assert known in tree.text
    assert build.data_note in tree.text
    assert tree.text.lower().count(words.looks(build.attempts, build.gate_sets)) == 2 + len(bundles)
    for one in build.decisions:
        assert one.reason in tree.text


def test_the_first_of_the_cells_is_the_one_that_the_sentence_calls_closest(
    make_bundle: Callable[..., TargetBundle],
) -> None:
    near = Rule(metric="worst_group_accuracy", condition="min", bound=0.85)
    far = Rule(metric="true_positive_rate", condition="max_drop", bound=0.5, against="dense")
    for rules in ((near, far), (far, near)):
        verdict = make_bundle(rules=rules).verdict
        assert verdict.status == "pass"
        first = deciding_first(verdict.cells)[0]
        assert first.condition == "min"
        assert verdict.sentence.endswith(f"closest: {first.reason[0].lower()}{first.reason[1:]}")


def test_groups_are_sorted_by_harm_and_none_is_left_out(make_bundle: Callable[..., TargetBundle], kiosk: Build) -> None:
    page = render_html(Source([make_bundle(id="t", end="harsh", unknown=True)], kiosk[0]))
    chart = page.split('id="who-1-1-t"')[1].split("</svg>")[0]
    rows = re.findall(r'<text class="name halo"[^>]*>(.*?)<tspan', chart)
    assert rows[0] == "skin tone VI"
    assert rows[-1] == "everyone"
    assert set(rows) == {*(f"skin tone {tone}" for tone in ("I-II", "III", "IV", "V", "VI")), "unknown skin tone",
                         "everyone"}  # fmt: skip
    changes = [words.change(c.change) for c in make_bundle(id="t", end="harsh", unknown=True).evidence.changes
               if (c.metric, c.against, c.group) == ("true_positive_rate", "compact", {"skin_tone": "VI"})
               and not c.context]  # fmt: skip
    assert re.findall(r'<text class="value halo"[^>]*>(.*?)</text>', chart)[0] == changes[0]
    assert re.search(r"n = 14, needs \d+", chart)


@pytest.mark.parametrize(("condition", "bound"), [("max_drop", 0.02), ("max_increase", 0.02), ("max_drop", 0.005)])
def test_the_band_reaches_from_the_reference_as_far_as_the_gate_allows_and_no_further(
    make_bundle: Callable[..., TargetBundle], kiosk: Build, condition: str, bound: float
) -> None:
    metric = "true_positive_rate" if condition == "max_drop" else "false_positive_rate"
    rule = Rule(metric=metric, condition=condition, bound=bound, against="dense")  # type: ignore[arg-type]
    page = render_html(Source([make_bundle(end="harsh", alarms=66, rules=(rule,))], kiosk[0]))
    chart = page.split('id="who-1-1-t"')[1].split("</svg>")[0]
    ticks = [(float(x), float(label)) for x, label in re.findall(r'class="tick" x="([\d.]+)" y[^>]*>([\d.]+)<', chart)]
    point = (ticks[-1][0] - ticks[0][0]) / (ticks[-1][1] - ticks[0][1])
    rows = chart.split('<g class="row')[1:]
    assert len(rows) == 6
    inside = []
    for row in rows:
        band = re.findall(r'<rect class="band" x="([\d.]+)" y="[\d.]+" width="([\d.]+)"', row)[0]
        left, right = float(band[0]), float(band[0]) + float(band[1])
        before, after = (float(re.findall(rf'class="{dot}" cx="([\d.]+)"', row)[0]) for dot in ("hollow", "full"))
        limit = float(re.findall(r'class="limit" d="M([\d.]+) ', row)[0])
        margin = (before - limit) if condition == "max_drop" else (limit - before)
        assert margin == pytest.approx(100 * bound * point, abs=0.1)
        assert (left, right) == pytest.approx((limit, 350) if condition == "max_drop" else (10, limit), abs=0.02)
        inside.append(left <= after <= right)
    assert inside[0] is False
    assert any(inside)


def test_changes_that_no_gate_looks_at_are_shown_and_a_rise_of_false_alarms_without_a_fold(
    make_bundle: Callable[..., TargetBundle], kiosk: Build
) -> None:
    def shown(bundle: TargetBundle) -> tuple[str, str]:
        part = render_html(Source([bundle], kiosk[0])).split('<div class="ungated">')[1].split("</article>")[0]
        openly, _, folded = part.partition("<details>")
        return openly, folded

    bundle = make_bundle(alarms=66)
    openly, folded = shown(bundle)
    assert "they inform, they cannot block a release" in openly
    assert "False alarms became more frequent" in openly
    assert "skin tone VI +3.3 points" in openly
    assert "skin tone V +" not in openly
    known = [c for c in bundle.evidence.changes if c.against == "dense" and not c.context and len(c.group) < 2]
    wanted = [c for c in known if c.metric in ("false_positive_rate", "selection_rate", "accuracy")]
    assert len(wanted) == 3 * 6
    for change in wanted:
        clear = change.interval and not change.interval.lower <= 0 <= change.interval.upper
        number = f"<b>{words.change(change.change)}</b>" if clear else words.change(change.change)
        assert f"<td>{number} <small>{words.span(change.interval, signed=True)}</small>" in folded
    assert "True positive rate" not in folded
    assert "more frequent" not in shown(make_bundle())[0]


def test_a_change_that_is_gated_is_not_shown_as_ungated(make_bundle: Callable[..., TargetBundle], kiosk: Build) -> None:
    metrics = ("true_positive_rate", "selection_rate", "accuracy", "false_positive_rate")
    rules = [Rule(metric=one, condition="max_drop", bound=0.1, against="dense") for one in metrics[:3]]
    rules.append(Rule(metric=metrics[3], condition="max_increase", bound=0.1, against="dense"))
    assert 'class="ungated"' not in render_html(Source([make_bundle(rules=tuple(rules))], kiosk[0]))


def test_lossless_removal_is_said_only_when_every_group_is_equal(
    make_bundle: Callable[..., TargetBundle], kiosk: Build
) -> None:
    good, bad = "removing the channels lost nothing", "removal was not lossless"
    assert good in render_html(Source([make_bundle()], kiosk[0]))
    bundle = make_bundle()
    stages = list(bundle.evidence.stages)
    rates = [r.model_copy(update={"value": 0.5}) if r.group.get("skin_tone") == "VI" else r for r in stages[2].rates]
    stages[2] = stages[2].model_copy(update={"rates": tuple(rates)})
    changed = replace(bundle, evidence=bundle.evidence.model_copy(update={"stages": tuple(stages)}))
    page = render_html(Source([changed], kiosk[0]))
    assert bad in page
    assert good not in page


def test_user_text_is_escaped_everywhere(make_bundle: Callable[..., TargetBundle], kiosk: Build) -> None:
    tones = (HOSTILE, "III", "IV", "V", "VI")
    bundle = make_bundle(attribute="<b>tone</b>", tones=tones, failure=None, level_reason=HOSTILE, level="simulated")
    verdict = bundle.verdict.model_copy(update={"target": HOSTILE, "sentence": HOSTILE})
    evidence = bundle.evidence.model_copy(update={"runtime": {HOSTILE: HOSTILE}})
    crashed = make_bundle(id="crashed", failure=HOSTILE, p50_ms=None)
    build = kiosk[0].model_copy(
        update={
            "project": HOSTILE, "data_note": HOSTILE, "attributes": {HOSTILE: tones},
            "decisions": tuple(one.model_copy(update={"reason": HOSTILE}) for one in kiosk[0].decisions),
            "candidates": tuple(one.model_copy(update={"name": HOSTILE}) for one in kiosk[0].candidates),
            "machine": {HOSTILE: HOSTILE},
        }
    )  # fmt: skip
    page = render_html(Source([replace(bundle, verdict=verdict, evidence=evidence), crashed], build))
    tree = Tree(page)
    assert "<script" not in page
    assert "<b>tone" not in page
    assert "alert(" in tree.text
    assert not {"script"} & {tag for tag, _ in tree.tags}
    assert all(not name.startswith("on") for _, attrs in tree.tags for name in attrs)


def test_the_same_records_give_the_same_bytes(kiosk: Build, kiosk_folder: Path) -> None:
    assert render_html(Source(kiosk[1], kiosk[0])) == render_html(Source(kiosk[1], kiosk[0]))
    first = write_html(kiosk_folder).read_bytes()
    assert write_html(kiosk_folder).read_bytes() == first
    assert first.decode() == render_html(load_source(kiosk_folder))


def test_trainings_and_whom_channels_serve_come_back_from_a_sealed_build_and_are_shown(
    kiosk: Build, kiosk_folder: Path
) -> None:
    build, bundles = load_build(kiosk_folder)
    assert (build.courses, build.serves) == (kiosk[0].courses, kiosk[0].serves)
    page = render_html(Source(bundles, build))
    training = page.split('<section id="training">')[1].split("</section>")[0]
    assert all(f"<b>{name}</b>" in training for name in ("Prune[keep 50 %]", "Recover, 10 % of the MACs"))
    assert training.count('role="img"') == training.count("<table") == len(build.courses) == 2
    assert training.count("Cost kept") > 0
    service = page.split('<section id="service">')[1].split("</section>")[0]
    assert "on 200 rows of the prune split" in service
    assert "4 → 2 channels" in service
    assert build.serves is not None
    alone = build.model_copy(update={"serves": build.serves.model_copy(update={"after": None}), "courses": ()})
    page = render_html(Source(bundles, alone))
    assert "How the training went" not in page
    assert "4 → 2 channels" not in page
    assert 'class="heat' in page


def test_a_build_without_pruning_or_candidates_or_targets_still_reads(kiosk: Build) -> None:
    bare = kiosk[0].model_copy(
        update={"compaction": None, "candidates": (), "export_max_difference": None, "data_note": "", "decisions": (),
                "group_counts": (), "times": (), "machine": {}, "versions": {}, "courses": (), "serves": None}
    )  # fmt: skip
    page = render_html(Source(kiosk[1], bare))
    Tree(page)
    assert "No channels were removed" in page
    assert 'href="#trade-off"' not in page
    assert "How the training went" not in page
    assert "serve whom" not in page
    assert "heat" not in page
    Tree(render_html(Source([], bare)))


def test_rules_without_changes_still_show_who_is_affected(
    make_bundle: Callable[..., TargetBundle], kiosk: Build
) -> None:
    bundle = make_bundle()
    absolute = tuple(cell for cell in bundle.verdict.cells if cell.condition in ("min", "max"))
    page = render_html(
        Source([replace(bundle, verdict=bundle.verdict.model_copy(update={"cells": absolute}))], kiosk[0])
    )
    Tree(page)
    assert 'id="who-1-1-t"' in page


def test_a_folder_that_is_no_build_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="fairdeploy build"):
        write_html(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_changed_bundle_is_refused_and_nothing_is_written(kiosk_folder: Path) -> None:
    file = kiosk_folder / "this-host" / "evidence.json"
    file.write_text(file.read_text().replace("0.95", "0.96"))
    with pytest.raises(IntegrityError, match="changed evidence.json"):
        write_html(kiosk_folder)
    assert not (kiosk_folder / "report.html").exists()


def _luminance(colour: str) -> float:
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", [0, 1, 2], ids=["light", "dark", "print"])
def test_text_has_enough_contrast(theme: int, kiosk: Build) -> None:
    css = render_html(Source(kiosk[1], kiosk[0])).split("<style>")[1].split("</style>")[0]
    blocks = [dict(re.findall(r"--([\w-]+): (#\w{6})", block)) for block in re.findall(r":root \{(.*?)\}", css, re.S)]
    colours = blocks[theme]
    pairs = [("ink", "paper"), ("soft", "paper"), ("ink", "panel"), ("soft", "unsure-tint"), ("ink", "band")]
    pairs += [(tone, ground) for tone in ("pass", "fail", "unsure") for ground in ("paper", f"{tone}-tint")]
    pairs += [("paper", "pass"), ("paper", "fail"), ("soft", "fail-tint"), ("soft", "pass-tint")]
    for text, ground in pairs:
        light, dark = sorted((_luminance(colours[text]), _luminance(colours[ground])), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (text, ground)
