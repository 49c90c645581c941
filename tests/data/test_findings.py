from pathlib import Path

import numpy as np
import pytest

from frcnn_jax.data.findings import FAULTS, KEPT, Finding, Findings


def test_every_fault_has_a_policy_and_errors_a_remedy():
    assert {fault.policy for fault in FAULTS.values()} <= {"error", "warn", "fix"}
    unexplained = [k for k, f in FAULTS.items() if f.policy == "error" and not f.remedy]
    assert not unexplained


def test_all_errors_are_told_at_once_and_the_rest_is_counted():
    findings = Findings()
    findings.add("bbox", "a.json", image=3, annotation=7, detail="the bbox is 1")
    findings.add("image-id", "a.json", image=4)
    findings.add("outside", "a.json", annotation=9)
    with pytest.raises(ValueError) as error:
        findings.raise_errors()
    assert str(error.value).split("\n") == [
        "boxes that are not four finite numbers: 1 (write [x, y, width, height] in"
        " pixels)",
        "  a.json, image 3, annotation 7: the bbox is 1",
        "image ids used more than once: 1 (give each image its own id and correct the"
        " image_id of their annotations)",
        "  a.json, image 4",
    ]
    assert findings.summary() == {"boxes outside their image dropped": 1}


def test_a_place_in_one_line():
    place = Finding("bbox", "a.json", 5, 7, "bbox [1]")
    assert place.text() == "a.json, image 5, annotation 7: bbox [1]"
    named = place.text("a.json", {5: "five.jpg"})
    assert named == "image 5 (five.jpg), annotation 7: bbox [1]"
    itself = Finding("bbox", "a.json", "x/five.jpg").text("a.json", {})
    assert itself == "image 'x/five.jpg'"
    twice = {"x/five.jpg": "five.jpg"}
    assert Finding("bbox", "b", "x/five.jpg").text("b", twice) == itself
    assert Finding("corners", "a.json").text("a.json") == "a.json"
    assert Finding("bbox", "a.json", [1]).text() == "a.json, image [1]"


def test_what_is_skipped_is_no_error():
    findings = Findings(skip=("missing-image",))
    findings.add("missing-image", "a.json")
    findings.raise_errors()
    assert findings.summary() == {"image files missing": 1}


def test_a_million_findings_are_counted_and_some_kept():
    findings = Findings()
    hits = np.ones(10**6, bool)
    hits[0] = False
    findings.add_where("small", hits, lambda row: Finding("small", "f", annotation=row))
    assert findings.counts == {"small": 10**6 - 1}
    assert [f.annotation for f in findings.of("small")][:2] == [1, 2]
    assert len(findings.of("small")) == KEPT
    (head, *places, rest) = findings.report(["small"], named=2)
    assert head.endswith(": 999999") and len(places) == 2
    assert rest == "  ... and 999997 more"


def test_unknown_faults_are_refused():
    with pytest.raises(KeyError, match="smal"):
        Findings().add("smal", "f")


def test_the_page_about_the_check_lists_every_fault():
    rows = [f"| {f.text} | {f.policy} | {f.remedy} |" for f in FAULTS.values()]
    page = Path(__file__).parents[2] / "docs" / "data_check.md"
    assert "\n".join(["|---|---|---|", *rows, ""]) in page.read_text()
