"""The compliance view holds every field that an auditor asks for, as the records have it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from fairdeploy.bundle import BuildRecord, JudgedBundle, TargetBundle
from fairdeploy.evidence.compliance import compliance
from fairdeploy.evidence.records import Gap, Interval, Rate, Reversal, Shift
from fairdeploy.report import Source, render_html, words
from fairdeploy.report.circumstances import reversals
from fairdeploy.report.compliance import compliance_views
from fairdeploy.report.markdown import render_markdown
from fairdeploy.report.measures import measure_tables

Build = tuple[BuildRecord, list[TargetBundle]]


def test_every_field_is_there(kiosk: Build) -> None:
    build, bundles = kiosk
    views = {view.target: view for view in compliance_views(Source(bundles, build))}
    for bundle in bundles:
        view, verdict, evidence = views[bundle.verdict.target], bundle.verdict, bundle.evidence
        facts = dict(view.facts)
        for value in (evidence.data_fingerprint, verdict.gates_digest, verdict.evidence_digest, str(evidence.seed)):
            assert value in facts.values()
        assert facts["Artifact digest"] == evidence.artifact_digest
        if evidence.failure:
            continue
        assert facts["Rows judged"] == words.count(next(r.n for r in evidence.rates if not r.group and not r.context))
        assert "I-II 4\u202f000" in facts["Groups by skin tone"]
        assert facts["Groups by skin tone"].endswith(
            "unknown 14" if verdict.target == "this-host-int8" else "unknown 0"
        )
        rows = view.tables[0].rows
        assert len(rows) == len(verdict.cells)
        for row, cell in zip(rows, verdict.cells, strict=True):
            assert row[0] == words.cell_name(cell)
            assert cell.reason in row[-1]
            assert words.STATUS_WORD[cell.status] in row[-1]
            assert cell.where in row[5]
            assert row[7] == f"0.05, {cell.method}"
            change = [c for c in evidence.changes if (c.metric, c.against, c.group, c.context)
                      == (cell.metric, cell.against, cell.group, cell.context)]  # fmt: skip
            if change:
                assert row[1:3] == (words.rate(change[0].reference), words.rate(change[0].deployed))


def test_ratios_are_those_of_evidence(kiosk: Build) -> None:
    bundle = kiosk[1][1]
    (view,) = compliance_views(Source((bundle,), kiosk[0]))
    (impact,) = compliance(bundle.evidence).impacts
    (table,) = [one for one in view.tables if "impact ratios" in one.title]
    assert "14 of 20\u202f014 rows are of unknown category" in table.note
    assert [row[4] for row in table.rows] == [f"{one.impact_ratio:.3f}" for one in impact.categories]
    assert [row[5] for row in table.rows] == ["below" if one.below_four_fifths else "met" for one in impact.categories]


def test_a_waiver_stands_with_its_cell_and_in_the_page(waived: TargetBundle) -> None:
    (view,) = compliance_views(Source((waived,)))
    (row,) = [row for row in view.tables[0].rows if "Waived by" in row[-1]]
    assert "Waived by R. Officer until 2026-12-31: Replaced in the next release." in row[-1]
    page = render_html(Source((waived,)))
    for text in ("Waivers: 1 of 3 in effect", "Expired: no effect", "Not needed", "An old acceptance | of &lt;V&gt;"):
        assert text in page


def test_predictions_made_elsewhere_say_how_they_were_decided(judged: JudgedBundle) -> None:
    (view,) = compliance_views(Source((judged,)))
    facts = dict(view.facts)
    assert facts["Decision"] == "column 'p'"
    assert facts["Evidence level"] == "none"
    assert "Gates digest" in facts


def test_what_judge_read_undeclared_and_how_it_decided_stand_on_the_page(judged: JudgedBundle) -> None:
    told = judged.predictions.model_copy(update={"notes": ("classes <b> were read from the data",)})
    page = render_html(Source((replace(judged, predictions=told),)))
    assert "Predictions were decided by column &#39;p&#39;." in page
    assert "classes &lt;b&gt; were read from the data." in page
    assert "Predictions were decided by" in render_markdown(Source((judged,)))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"metric": "positive_predictive_value"},
         "The positive predictive value of skin tone VI rose over everything (+1.2 points against dense), yet fell"),
        ({"metric": "accuracy_excess_drop"},
         "The accuracy of skin tone VI fell more than everyone's over everything (+1.2 points against dense), yet l"),
        ({"metric": "accuracy_excess_drop", "change": -0.012},
         "The accuracy of skin tone VI fell less than everyone's over everything (−1.2 points against dense), yet m"),
        ({"metric": "accuracy", "against": None, "than": {"skin_tone": "I"}},
         "The accuracy of skin tone VI is above that of skin tone I over everything (+1.2 points), yet below it"),
    ],
)  # fmt: skip
def test_every_kind_of_reversal_is_said_in_its_own_words(kiosk: Build, change: dict[str, Any], said: str) -> None:
    known = {"metric": "accuracy", "against": "dense", "group": {"skin_tone": "VI"}, "context": "light",
             "change": 0.012, "within": {"bright": -0.01, "dim": -0.02}}  # fmt: skip
    one = Reversal(**{**known, **change})
    (sentence,) = reversals(kiosk[1][0].evidence.model_copy(update={"reversals": (one,)}))
    assert sentence.startswith(said)
    assert "within every light (bright −1.0, dim −2.0)" in sentence


def test_of_many_reversals_the_largest_are_said_and_the_others_counted(kiosk: Build) -> None:
    many = tuple(
        Reversal(metric="accuracy", against=None, group={"g": f"a{at}"}, than={"g": "b"}, context="light",
                 change=at / 100, within={"bright": -0.1, "dim": -0.2})
        for at in range(1, 14)
    )  # fmt: skip
    said = reversals(kiosk[1][0].evidence.model_copy(update={"reversals": many}))
    assert [text.split(" is ")[0] for text in said[:2]] == ["The accuracy of g a13", "The accuracy of g a12"]
    assert said[10:] == ["3 smaller ones stand in the evidence."]


def test_scores_say_how_far_they_may_be_from_unbinned_ones(kiosk: Build) -> None:
    interval = Interval(lower=0.9, upper=0.92, confidence=0.95, method="m")
    rate = Rate(metric="area_under_curve", group={"a": "x"}, n=9, clusters=None, value=0.911, interval=interval,
                quantisation=0.004)  # fmt: skip
    shift = Shift(metric="area_under_curve", against="dense", group={"a": "x"}, n=9, reference=0.92, deployed=0.911,
                  change=-0.009, paired=False, interval=None, quantisation=0.004)  # fmt: skip
    gap = Gap(metric="accuracy_ratio", attribute="a", value=0.9, interval=interval, highest="x", lowest="y")
    update = {"rates": (rate,), "shifts": (shift,), "gaps": (gap,)}
    gaps, rates, shifts = measure_tables(kiosk[1][0].evidence.model_copy(update=update))
    assert rates.rows == (("a x", "91.1 ± 0.400 (90.0 to 92.0)"),)
    assert shifts.rows == (("a x", "−0.9 ± 0.400"),)
    assert "unpaired" in shifts.note
    assert gaps.rows == (("accuracy ratio", "a", "0.900", "0.900 to 0.920", "x", "y"),)
    assert all("unbinned" in table.note for table in (rates, shifts))
    assert "unbinned" not in gaps.note
