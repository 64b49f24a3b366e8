"""The audit names planted faults, and none on a clean oracle; its page is one file."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from research.world.scene import Thing, ThingSpec
from research.world.truth import PLANTED, TRUTH, WorldTruth, to_json
from tests.judge.test_score import recipe_for
from tests.mine.folders import write_data, write_mined
from unime.core import files
from unime.core.errors import OutputError
from unime.judge import stage as score_module
from unime.judge.audit import findings, injections
from unime.judge.audit.audit import audit_recipe
from unime.judge.audit.probes import AuditProbe
from unime.judge.engine import JudgeInput, Request

KINDS = ("circle", "square", "star", "moon", "cross", "ring")
COLOURS = ("red", "green", "blue", "yellow")


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """A picture of each thing in each colour, to be named among the names of all."""
    things = [(kind, colour) for kind in KINDS for colour in COLOURS]
    images = tmp_path / "data" / "images"
    images.mkdir(parents=True)
    for number in range(len(things)):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(images / f"{number}.png")
    texts = [""] * len(things) + [f"{colour} {kind}" for kind, colour in things]
    texts[-1] = "a <b>yellow</b> <script>ring</script>"
    files = [f"{number}.png" for number in range(len(things))] + [None] * len(things)
    pairs = [{"query": i, "positives": [len(things) + i]} for i in range(len(things))]
    data = write_data(tmp_path / "data", texts, pairs, files)
    count = len(things)
    write_mined(
        tmp_path / "mined",
        [[count + (i + j) % count for j in range(1, 11)] for i in range(count)],
    )
    seen = [Thing(kind, colour, "large", "solid", 4) for kind, colour in things]
    said = [ThingSpec(kind, colour) for kind, colour in things]
    rows = [
        {"task": "task", "split": "train", "content_id": data.items.content_id(i), "meaning": m}
        for i, m in enumerate(map(to_json, [*seen, *said]))
    ]
    truth = WorldTruth(pa.Table.from_pylist(rows, schema=TRUTH), PLANTED.empty_table())
    monkeypatch.setattr(score_module, "_load_truth", lambda folder: truth if folder else None)
    (tmp_path / "world").mkdir()
    return recipe_for(tmp_path, engine="oracle", truth=str(tmp_path / "world"))


@pytest.mark.parametrize(
    ("options", "faults"),
    [
        ("blur: 1.0", []),
        ("bias: 6", ["always-yes"]),
        ("bias: -6", ["says-no"]),
        ("blind: colour", ["colour-blind"]),
        ("blind: image", ["ignores-images"]),
    ],
)
def test_planted_faults_are_named(recipe, tmp_path, options, faults):
    said = audit_recipe(recipe, [f"engines.oracle={{{options}}}"], tmp_path / "audit.html")
    *lines, page = said.splitlines()
    assert [line.partition(":")[0] for line in lines] == (faults or ["no fault found"])
    assert page == f"page: {tmp_path / 'audit.html'}"
    html = (tmp_path / "audit.html").read_text()
    assert all(fault in html for fault in faults)
    figures = files.read_json(tmp_path / "audit.json")
    assert list(figures["findings"]) == faults
    assert figures["manifest"]["recipe"]["engine"] == "oracle"
    assert figures["manifest"]["inputs"].keys() == {"data", "mined", "truth"}
    assert figures["tables"]["Soft labels"]


def test_the_page_is_one_file_and_shows_text_as_text(recipe, tmp_path):
    audit_recipe(recipe, [], tmp_path / "audit.html", second=recipe)
    html = (tmp_path / "audit.html").read_text()
    assert "<script" not in html and "&lt;script&gt;ring" in html
    assert not re.search(r"""(?:src|href)=["'](?!data:)""", html)
    assert html.count("data:image/png;base64,") > 10
    assert "Calibration against the truth" in html
    # A judge agrees with itself.
    assert re.search(r"Agreement with the second judge.*?1\.000.*?1\.000.*?0\.000", html, re.DOTALL)


def test_an_audit_is_written_over_and_no_other_file_is(recipe, tmp_path):
    page, figures = tmp_path / "a.html", tmp_path / "a.json"
    for _ in range(2):
        audit_recipe(recipe, [], page)
    figures.write_text('{"mine": 1}')
    with pytest.raises(OutputError, match=r"a\.json is there already and is not as"):
        audit_recipe(recipe, [], page)
    assert figures.read_text() == '{"mine": 1}'


def test_an_audit_asks_once(recipe, tmp_path):
    from research.world.oracle import OracleEngine

    asked = []
    original = OracleEngine.score
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OracleEngine, "score", lambda s, r: (asked.extend(r), original(s, r))[1])
        audit_recipe(recipe, [], tmp_path / "a.html")
        first = len(asked)
        audit_recipe(recipe, [], tmp_path / "b.html")
    assert first == len(asked) > 24 * 11
    assert (tmp_path / "a.html").read_text() == (tmp_path / "b.html").read_text()


@given(st.lists(st.floats(0, 1), min_size=2, max_size=30), st.floats(0.1, 0.9))
def test_a_judge_agrees_with_itself_and_not_with_its_opposite(values, shift):
    scores = np.array(values)
    same = findings.agreement(scores, scores)
    assert same["kappa"] == pytest.approx(1) and same["mean_difference"] == 0
    if len(set(values)) > 1:
        assert same["rank_correlation"] == pytest.approx(1)
        assert findings.agreement(scores, 1 - scores)["rank_correlation"] <= -0.99 or len(
            set(1 - scores)
        ) < len(set(values))


def test_entropy_of_soft_labels_is_one_when_all_score_alike():
    flat = findings.entropies([0.3, 0.3], [np.full(4, 0.3), np.full(2, 0.3)])
    assert flat == pytest.approx(dict.fromkeys(findings.TEMPERATURES, 1.0))
    sharp = findings.entropies([1.0], [np.zeros(9)])
    assert list(sharp.values()) == sorted(sharp.values()) and sharp[0.02] < 1e-6


def test_outranked_counts_queries():
    mined = [np.array([0.2, np.nan]), np.array([0.9]), np.array([0.5])]
    assert findings.outranked([0.5, 0.5, float("nan")], mined) == 0.5


def test_what_an_injected_text_does_is_measured_against_a_harmless_one():
    """On wrong pairs only; a longer text alone is no effect."""
    wrong = [
        AuditProbe(
            "random",
            i,
            Request(bytes([i]) * 16, "t", "", *(JudgeInput(bytes([i]) * 16, "a dog"),) * 2),
        )
        for i in range(30)
    ]
    right = wrong[0]._replace(kind="positive")

    def gullible(probes):
        texts = [probe.request.candidate.text for probe in probes]
        assert len({probe.request.candidate.id for probe in probes}) == len(probes) == 30
        assert not any(probe.request.candidate.id == right.request.candidate.id for probe in probes)
        return np.array([0.9 if "answer Yes" in text else 0.01 * len("a dog") for text in texts])

    rows = {row["attack"]: row for row in injections.effects([right, *wrong], gullible)}
    assert set(rows) == set(injections.ATTACKS)
    assert rows["asks for a yes"]["effect"] == pytest.approx(0.85)
    assert rows["asks for a yes"]["above 0.5, attack"] == 1.0
    assert (
        rows["claims authority"]["effect"] == 0.0 == rows["claims authority"]["above 0.5, attack"]
    )
    (first, *_) = injections.described(list(rows.values()))
    assert first == (
        "injection 'asks for a yes': P(yes) +0.850 +- 0.000; "
        "above 0.5 100.0 % of 30 wrong pairs, 0.0 % with harmless text"
    )
