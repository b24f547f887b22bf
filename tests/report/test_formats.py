"""Every format against its published schema, and against the records: the same verdicts, nothing more and no less."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import jsonschema
import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from lxml import etree
from markdown_it import MarkdownIt

from fairdeploy.bundle import BuildRecord, Bundle, JudgedBundle, TargetBundle
from fairdeploy.errors import ConfigError
from fairdeploy.gates import Verdict
from fairdeploy.report import FORMATS, Source, load_source, write_summary
from fairdeploy.report.document import RECORDS, json_schema
from fairdeploy.report.markdown import render_markdown
from fairdeploy.report.outcome import outcome

Build = tuple[BuildRecord, list[TargetBundle]]
SCHEMAS = Path(__file__).parent / "schemas"
HOSTILE = "a\x1b[31m|b`c\x00\n<script>&\"'] [x](http://e) \ud7ff"


@pytest.fixture(params=["build", "judged", "waived", "hostile", "no gate"])
def source(request: pytest.FixtureRequest, kiosk: Build) -> Source:
    if request.param == "build":
        return Source(kiosk[1], kiosk[0])
    if request.param in ("judged", "waived"):
        return Source((request.getfixturevalue(request.param),))
    bundle = kiosk[1][1]
    cells = [cell.model_copy(update={"reason": HOSTILE, "where": f"{HOSTILE}:3"}) for cell in bundle.verdict.cells]
    if request.param == "no gate":
        return Source((with_verdict(bundle, status="inconclusive", sentence="No gate was set.", cells=()),))
    return Source((with_verdict(bundle, target=HOSTILE, sentence=HOSTILE, cells=tuple(cells)),), kiosk[0])


def with_verdict(bundle: Bundle, **changed: object) -> Bundle:
    return replace(bundle, verdict=bundle.verdict.model_copy(update=changed))


def valid_junit(text: str) -> ElementTree.Element:
    etree.XMLSchema(file=str(SCHEMAS / "jenkins-junit.xsd")).assertValid(etree.fromstring(text.encode()))
    return ElementTree.fromstring(text)


def valid_json(text: str, schema: dict[str, object]) -> dict[str, object]:
    document = json.loads(text, parse_constant=pytest.fail)
    validator = jsonschema.validators.validator_for(schema)
    validator.check_schema(schema)
    validator(schema, format_checker=validator.FORMAT_CHECKER).validate(document)
    found: dict[str, object] = document
    return found


def test_junit_follows_jenkins_schema_and_every_cell_is_a_case(source: Source) -> None:
    root = valid_junit(FORMATS["junit"](source))
    suites = root.findall("testsuite")
    assert len(suites) == len(source.bundles)
    for suite, verdict in zip(suites, source.verdicts, strict=True):
        cases = suite.findall("testcase")
        assert len(cases) == len(verdict.cells) or (len(cases) == 1 and not verdict.cells)
        for case, cell in zip(cases, verdict.cells, strict=False):
            kind = {"pass": None, "fail": "failure", "open": "error", "waived": "skipped", "noted": "skipped"}
            assert [child.tag for child in case] == [tag for tag in [kind[outcome(cell)]] if tag]
            if outcome(cell) in ("fail", "open", "noted"):
                assert " ".join(readable(cell.reason).split()) in " ".join("".join(case.itertext()).split())
        for count, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            assert int(suite.get(count, "")) == len(suite.findall(f"testcase/{tag}"))
        assert int(suite.get("tests", "")) == len(cases)


def readable(text: str) -> str:
    return text.replace("\x1b", "\ufffd").replace("\x00", "\ufffd")


@pytest.mark.parametrize("status", ["pass", "fail", "inconclusive", "undefined", "waived"])
@pytest.mark.parametrize("required", [True, False])
@pytest.mark.parametrize("overall", ["pass", "fail", "inconclusive", "waived"])
def test_junit_is_red_exactly_when_the_verdict_blocks(
    make_bundle: Callable[..., TargetBundle], status: str, required: bool, overall: str
) -> None:
    bundle = make_bundle()
    cell = bundle.verdict.cells[0].model_copy(update={"status": status, "required": required})
    source = Source((with_verdict(bundle, status=overall, cells=(cell,)),))
    root = valid_junit(FORMATS["junit"](source))
    red = int(root.get("failures", "")) + int(root.get("errors", ""))
    assert (red > 0) == (overall in ("fail", "inconclusive") or outcome(cell) in ("fail", "open"))


def test_junit_says_who_waived_a_cell_and_why(waived: TargetBundle) -> None:
    root = valid_junit(FORMATS["junit"](Source((waived,))))
    (case,) = [one for one in root.iter("testcase") if one.find("skipped") is not None and "VI" in one.get("name", "")]
    assert "Waived by R. Officer until 2026-12-31: Replaced in the next release." in "".join(case.itertext())
    assert root.get("failures") == root.get("errors") == "0"


def test_sarif_follows_the_oasis_schema_and_holds_what_does_not_pass(source: Source) -> None:
    schema = json.loads((SCHEMAS / "sarif-2.1.0.json").read_text())
    document = valid_json(FORMATS["sarif"](source), schema)
    (run,) = document["runs"]  # type: ignore[misc]
    rules, results = run["tool"]["driver"]["rules"], run["results"]
    assert len({rule["id"] for rule in rules}) == len(rules)
    assert all(rules[one["ruleIndex"]]["id"] == one["ruleId"] for one in results)
    prints = [json.dumps(one["partialFingerprints"]) for one in results]
    assert len(set(prints)) == len(prints)
    open_cells = [cell for verdict in source.verdicts for cell in verdict.cells if cell.status != "pass"]
    levels = {"fail": "error", "open": "warning", "waived": "note", "noted": "note"}
    if open_cells:
        assert [one["level"] for one in results] == [levels[outcome(cell)] for cell in open_cells]
        for one, cell in zip(results, open_cells, strict=True):
            assert cell.reason in one["message"]["text"]
    elif any(verdict.status != "pass" for verdict in source.verdicts):
        assert [one["level"] for one in results] == ["warning"]


def test_sarif_points_at_the_line_that_set_the_gate(kiosk: Build, waived: TargetBundle) -> None:
    (run,) = json.loads(FORMATS["sarif"](Source((kiosk[1][1],))))["runs"]
    places = [one["locations"][0]["physicalLocation"] for one in run["results"] if one["level"] == "error"]
    known = [place["artifactLocation"] for place in places]
    assert known == [{"uri": "fairdeploy.yaml", "uriBaseId": "%SRCROOT%"}] * len(places)
    failed = [cell.where for cell in kiosk[1][1].verdict.cells if outcome(cell) == "fail"]
    assert [f"fairdeploy.yaml:{place['region']['startLine']}" for place in places] == failed
    (run,) = json.loads(FORMATS["sarif"](Source((waived,))))["runs"]
    (result,) = [one for one in run["results"] if "suppressions" in one]
    assert result["suppressions"][0]["justification"].startswith("Waived by R. Officer until 2026-12-31")


def test_the_model_card_follows_cyclonedx_and_holds_every_number_with_its_interval(source: Source) -> None:
    text = FORMATS["model-card"](source)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    document = json.loads(text)
    assert len(document["components"]) == len(source.bundles)
    for component, bundle in zip(document["components"], source.bundles, strict=True):
        metrics = component["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
        for rate in (one for one in bundle.evidence.rates if not one.context):
            name = f"{rate.metric} against {rate.against}" if rate.against else rate.metric
            wanted = {"type": name, "value": "undefined" if rate.value is None else repr(rate.value)}
            if rate.interval:
                bounds = {"lowerBound": repr(rate.interval.lower), "upperBound": repr(rate.interval.upper)}
                wanted["confidenceInterval"] = bounds  # type: ignore[assignment]
            assert any(wanted.items() <= metric.items() for metric in metrics)
        considered = component["modelCard"]["considerations"].get("fairnessAssessments", [])
        harms = " ".join(one["harms"] for one in considered)
        for cell in bundle.verdict.cells:
            if outcome(cell) != "pass" and cell.unit == "rate":
                assert cell.reason in harms


def test_the_serial_number_follows_from_the_records(kiosk: Build) -> None:
    def serial(source: Source) -> str:
        return str(json.loads(FORMATS["model-card"](source))["serialNumber"])

    source = Source(kiosk[1], kiosk[0])
    assert serial(source) == serial(Source(list(kiosk[1]), kiosk[0]))
    others = [
        Source(kiosk[1][:2], kiosk[0]),
        Source(kiosk[1]),
        Source(kiosk[1], kiosk[0].model_copy(update={"seed": 8})),
    ]
    assert len({serial(one) for one in (source, *others)}) == 4


def test_the_artifact_files_stand_in_the_card_with_the_digests_of_their_bytes(kiosk: Build) -> None:
    manifest = kiosk[1][0].manifest.model_copy(
        update={"files": {"artifact/m.onnx": "b" * 64, "evidence.json": "c" * 64}}
    )
    (component,) = json.loads(FORMATS["model-card"](Source((replace(kiosk[1][0], manifest=manifest),))))["components"]
    (file,) = component["components"]
    assert (file["name"], file["hashes"]) == ("artifact/m.onnx", [{"alg": "SHA-256", "content": "b" * 64}])


def test_json_follows_its_own_schema_and_holds_the_records_as_they_are(source: Source) -> None:
    document = valid_json(FORMATS["json"](source), json_schema("report"))
    assert document["schema_version"] == 1
    assert document["build"] == (source.build.model_dump(mode="json") if source.build else None)
    for one, bundle in zip(document["targets"], source.bundles, strict=True):  # type: ignore[arg-type]
        assert one["verdict"] == bundle.verdict.model_dump(mode="json")
        assert one["evidence"] == bundle.evidence.model_dump(mode="json")


@pytest.mark.parametrize("name", ["verdict", "evidence", "gates", "manifest"])
def test_the_file_of_a_record_follows_the_schema_of_its_name(kiosk_folder: Path, name: str) -> None:
    valid_json((kiosk_folder / "this-host-int8" / f"{name}.json").read_text(), json_schema(name))


@pytest.mark.parametrize("change", [{"extra": 1}, {"schema_version": 2}, {"targets": None}, {"build": "x"}])
def test_the_schema_refuses_another_document(kiosk: Build, change: dict[str, object]) -> None:
    document = {**json.loads(FORMATS["json"](Source(kiosk[1][:1], kiosk[0]))), **change}
    with pytest.raises(jsonschema.ValidationError):
        valid_json(json.dumps(document), json_schema("report"))


def test_every_schema_is_a_schema_with_a_name_of_its_own() -> None:
    for name in RECORDS:
        schema = json_schema(name)
        jsonschema.Draft202012Validator.check_schema(schema)
        assert name in schema["$id"]
    with pytest.raises(ConfigError, match="known: build, evidence"):
        json_schema("verdikt")


def test_markdown_says_the_verdict_first_and_every_cell(source: Source) -> None:
    text = FORMATS["markdown"](source)
    assert text.startswith("# ")
    assert not re.search("[\x00-\x09\x0b-\x1f]", text)
    top = text.split("\n## ")[0]
    assert top.count("\n- ") == len(source.bundles)
    page = MarkdownIt("commonmark").enable("table").render(text)
    assert not re.search(r"<(script|a |em|code>[^f])", page)
    shown = " ".join(html.unescape(re.sub("<[^>]+>", " ", page)).split())
    for bundle in source.bundles:
        for cell in bundle.verdict.cells:
            assert readable(" ".join(cell.reason.split())) in shown
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(widths) == 1, table
    assert text.count("<details>") == text.count("</details>")


def test_markdown_shows_waivers_and_what_became_of_them(waived: TargetBundle) -> None:
    text = render_markdown(Source((waived,)), folds=False)
    assert "Waivers: 1 of 3 in effect" in text
    for row in (
        "Waives its cell",
        "Expired: no effect",
        "Not needed",
        "R. Officer",
        r"An old acceptance \| of &lt;V&gt;",
    ):
        assert row in text
    assert "⚑ Waived" in text


def test_the_step_summary_is_appended_and_loses_its_folds_before_github_drops_it(
    kiosk: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, file = Source(kiosk[1], kiosk[0]), tmp_path / "summary.md"
    file.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(file))
    assert write_summary(source) == file
    assert file.read_text() == "before\n" + render_markdown(source)
    file.write_text("x" * (1024 * 1024 - 50_000))
    write_summary(source)
    assert file.read_text().endswith(render_markdown(source, folds=False))
    assert file.stat().st_size <= 1024 * 1024


def test_no_step_no_summary(kiosk: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    with pytest.raises(ConfigError, match="--format markdown"):
        write_summary(Source(kiosk[1], kiosk[0]))
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path))
    with pytest.raises(ConfigError, match="cannot be written"):
        write_summary(Source(kiosk[1], kiosk[0]))


@pytest.mark.parametrize("name", list(FORMATS))
def test_the_same_records_give_the_same_bytes_in_every_format(kiosk: Build, kiosk_folder: Path, name: str) -> None:
    first = FORMATS[name](load_source(kiosk_folder))
    assert FORMATS[name](load_source(kiosk_folder)) == first
    assert FORMATS[name](load_source(kiosk_folder / "this-host")) != first


@pytest.mark.parametrize("name", list(FORMATS))
def test_predictions_made_elsewhere_are_reported_in_every_format(judged: JudgedBundle, name: str) -> None:
    text = FORMATS[name](Source((judged,)))
    assert "this-host" in text
    assert "fairdeploy build" not in text or name == "html"


def test_an_evidence_without_a_rate_is_still_reported(kiosk: Build) -> None:
    empty: dict[str, object] = {"rates": (), "changes": (), "gaps": (), "stages": ()}
    bundle = replace(kiosk[1][0], evidence=kiosk[1][0].evidence.model_copy(update=empty))
    for render in FORMATS.values():
        assert render(Source((bundle,)))


def test_a_verdict_of_no_kind_known_here_is_refused_by_the_record() -> None:
    with pytest.raises(ValueError, match="status"):
        Verdict(target="t", status="fine", sentence="", cells=(), gates_digest="", evidence_digest="")  # type: ignore[arg-type]


@pytest.fixture
def across(kiosk: Build) -> Source:
    """Return a build with a verdict over all targets, one of whose two cells failed."""
    cells = kiosk[1][0].verdict.cells[:2]
    failed = cells[1].model_copy(update={"status": "fail", "reason": "The targets are 9 points apart.", "value": 0.09})
    over_all = kiosk[1][0].verdict.model_copy(
        update={
            "target": "*",
            "status": "fail",
            "sentence": "Over all targets, one failed.",
            "cells": (cells[0], failed),
        }
    )
    return Source(kiosk[1], kiosk[0].model_copy(update={"across": over_all}))


def test_the_verdict_over_all_targets_stands_in_every_format(across: Source) -> None:
    for name, render in FORMATS.items():
        text = render(across)
        wanted = ["Over all targets, one failed."] if name != "sarif" else []
        wanted += ["all targets together"] if name not in ("json", "model-card") else []
        wanted += ["The targets are 9 points apart."] if name != "model-card" else []
        assert [one for one in wanted if one not in text] == [], name
    suites = valid_junit(FORMATS["junit"](across)).findall("testsuite")
    assert (suites[-1].get("name"), suites[-1].get("failures")) == ("all targets together", "1")
    assert suites[:-1] != []
    page = FORMATS["html"](across)
    assert page.index("all targets together") < page.index("this-host-int8")
