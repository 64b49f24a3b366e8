"""What a job will cost, how far it is, and its scores in other trainers' layouts."""

from __future__ import annotations

import itertools
import json
import math
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from research.world.fake_engine import FakeEngine
from tests.judge.test_score import folders, recipe_for
from unime.core.errors import DataError, OutputError, RecipeError
from unime.core.files import read_json, write_json
from unime.core.stage import execute
from unime.data.pair_tokens import Estimate
from unime.data.tables import read_table
from unime.judge.budget import Prices
from unime.judge.engine import EngineError
from unime.judge.export_scores import export_judged
from unime.judge.partial import compact_store, score_part
from unime.judge.plan import job_status, plan_job
from unime.judge.price import Quote
from unime.judge.serve import Service, command, options_of
from unime.judge.vllm_engine import VllmOptions

__all__ = ["folders"]


def figures(text: str) -> dict[str, str]:
    return {m[1]: m[2] for m in re.finditer(r"^(\S.*?)  +(.*)$", text, re.MULTILINE)}


def test_a_plan_counts_what_is_left_and_turns_it_into_hours_and_money(folders):
    path = recipe_for(folders, prices={"per_hour": 4.0, "per_call": 0.5})
    said = figures(plan_job(path, [], rate=None))
    assert (
        said["queries"] == "12" and said["to be asked"] == "54" and said["hours"].startswith("unk")
    )
    score_part(path, [], budget="24 calls")
    said = figures(plan_job(path, [], rate=0.01))
    assert (said["distinct pairs"], said["already scored"], said["to be asked"]) == (
        "54",
        "24",
        "30",
    )
    assert said["hours"] == "0.83 at 0.0 pairs a second"
    assert said["cost"] == f"{30 * 0.5 + 4.0 * 30 / 0.01 / 3600:.2f} EUR"
    assert plan_job(path, [], rate=None, measure=10).count("pairs a second") == 1
    assert figures(plan_job(path, [], rate=1.0))["to be asked"] == "20"


def test_the_stage_says_its_price_before_its_first_request(folders, caplog, monkeypatch):
    caplog.set_level("INFO", "unime")
    said: list[str] = []

    def score(self, requests):
        said.extend(record.getMessage() for record in caplog.records)
        return original(self, requests)

    original = FakeEngine.score
    monkeypatch.setattr(FakeEngine, "score", score)
    path = recipe_for(folders, prices={"per_call": 0.5})
    execute("unime.judge.stage", path)
    (line,) = {one for one in said if "to be asked" in one}
    assert re.fullmatch(
        r"judge: 54 pairs to be asked, about [\d,]+ tokens \([\d,]+ with the queries' prefixes cached\), 0 "
        r"images, hours unknown \(`unime judge plan RECIPE --measure 200` measures them\), 27\.00 EUR",
        line,
    )
    caplog.clear()
    execute("unime.judge.stage", path, [f"output={folders}/again"])
    assert "judge: all pairs were scored before, nothing is asked" in caplog.messages


def test_a_measured_rate_prices_the_stage(folders, caplog):
    caplog.set_level("INFO", "unime")
    path = recipe_for(folders, prices={"per_hour": 3600.0})
    assert "cost" not in figures(plan_job(path, [], rate=None))
    plan_job(path, [], rate=None, measure=10)
    noted = folders / "out.rate.json"
    values = read_json(noted)
    write_json(noted, {**values, "pairs_per_second": 2.0})
    assert figures(plan_job(path, [], rate=None))["hours"] == "0.01 at 2.0 pairs a second"
    execute("unime.judge.stage", path)
    (line,) = [one for one in caplog.messages if "to be asked" in one]
    assert line.startswith("judge: 44 pairs to be asked, ")
    assert line.endswith(", 0.01 hours at 2.0 pairs a second, 22.00 EUR")
    # Another judge's rate, a damaged one, or a file that somebody else wrote.
    fresh = [f"output={folders}/other"]
    other = folders / "other.rate.json"
    for text in ('{"judge": "another", "pairs_per_second": 2.0}', '{"judge": 3', "[]"):
        other.write_text(text)
        assert figures(plan_job(path, fresh, rate=None))["hours"].startswith("unknown")
    with pytest.raises(OutputError, match="is not as `unime judge plan --measure` writes it"):
        plan_job(path, [*fresh, f"store={folders}/empty"], rate=None, measure=10)
    assert other.read_text() == "[]"


def test_without_prices_nobody_is_told_a_cost():
    estimate = Estimate(100.0, 60.0, 1.0)
    free = Quote(estimate, Prices(), 10.0, early_stop=True)
    assert free.cost(10) is None
    assert free.sentence(36_000) == (
        "36000 pairs to be asked at most (early stop), about 3,600,000 tokens (1,500,000 with the queries' "
        "prefixes cached), 36000 images, 1.00 hours at 10.0 pairs a second, cost unknown (set prices: in the "
        "recipe)"
    )
    assert Quote(estimate, Prices(per_million_tokens=2.0), None, False).cost(50_000) == 10.0
    assert Quote(estimate, Prices(per_hour=2.0), None, False).cost(50_000) is None


def test_status_names_reasons_and_the_store(folders):
    path = recipe_for(folders, engines={"fake": {"unscored": 0.3}})
    score_part(path, [], budget="30 calls")
    said = figures(job_status(path, []))
    assert int(said["scored"]) + int(said["failed"]) == 30 and said["missing"] == "24"
    assert f"{said['failed']}: the fake engine has no answer" in job_status(path, [])
    score_part(path, [], budget="10 calls")
    assert "40 scores, 2 shards became 1" in compact_store(path, [])


def test_exports_are_what_was_judged(folders):
    path = recipe_for(folders, engines={"fake": {"unscored": 0.1}})
    execute("unime.judge.stage", path)
    judged = read_table(folders / "out/judged.parquet").to_pylist()
    said = export_judged(path, [], folders / "rows.json", "unime_v2")
    rows = json.loads((folders / "rows.json").read_text())
    kept = [row for row in judged if not math.isnan(row["positive_score"])]
    assert len(rows) == len(kept) and f"{len(kept)} queries" in said
    for row, source in zip(rows, kept, strict=True):
        scores = [float(value) for value in source["scores"] if not math.isnan(value)]
        assert row["query_pos_scores"] == [source["positive_score"]]
        assert row["hard_negatives_scores"] == scores
        assert len(row["hard_negatives"]) == len(scores)
        assert row["query_text"] == f"find it: text {source['pair'] % 9}"

    export_judged(path, [], folders / "rows.parquet", "sentence_transformers")
    table = pq.read_table(folders / "rows.parquet").to_pylist()
    assert list(table[0])[:3] == ["anchor", "positive", "negative_1"]
    assert table[0]["scores"][0] == kept[0]["positive_score"]
    assert len(table[0]["scores"]) == len(table[0]) - 2
    with pytest.raises(RecipeError, match="unknown format 'unime_v3'; did you mean 'unime_v2'"):
        export_judged(path, [], folders / "rows.json", "unime_v3")


def test_a_server_gets_the_recipe_s_limits_and_no_key(folders, monkeypatch):
    monkeypatch.setenv("UNIME_JUDGE_API_KEY", "a-secret-key")
    model = {"id": "some/model", "min_pixels": 100, "max_pixels": 900, "max_length": 777}
    options = VllmOptions.model_validate({"model": model})
    words = command(options, Service(port=81, data_parallel=2), folders / "t.jinja", {"size": 1})
    said = dict(itertools.pairwise(words))
    assert said["--max-model-len"] == "777" and said["--data-parallel-size"] == "2"
    assert said["--host"] == "127.0.0.1" and said["--port"] == "81"
    assert said["--served-model-name"] == "some/model"
    assert json.loads(said["--limit-mm-per-prompt"])["image"] == 2
    assert said["--allowed-media-domains"] == "none.invalid"
    assert "--enable-prefix-caching" in words and "a-secret-key" not in " ".join(words)

    from unime.core.config import load_recipe
    from unime.judge.stage import ScoreRecipe

    with pytest.raises(RecipeError, match="no engines.vllm.model"):
        options_of(load_recipe(recipe_for(folders), ScoreRecipe))


def test_damaged_or_other_inputs_are_one_sentence(folders, monkeypatch):
    path = recipe_for(folders)
    with pytest.raises(RecipeError, match="--rate 0.0: expected pairs a second"):
        plan_job(path, [], rate=0.0)
    execute("unime.judge.stage", path)
    (folders / "out/run.json").write_text('{"judging": [')
    assert "hours           unknown" in plan_job(path, [], rate=None)
    judged = pq.read_table(folders / "out/judged.parquet")
    wrong = judged.set_column(
        1, judged.schema.field(1), [pa.array([7.5] * judged.num_rows, pa.float32())]
    )
    pq.write_table(wrong, folders / "out/judged.parquet")
    with pytest.raises(DataError, match="the score 7.5 of pair 0 is outside 0..1|damaged"):
        export_judged(path, [], folders / "rows.json", "unime_v2")
    pq.write_table(judged.slice(0, 5), folders / "out/judged.parquet")
    with pytest.raises(DataError, match="holds scores of other candidates than|damaged"):
        export_judged(path, [], folders / "rows.json", "unime_v2")
    assert not (folders / "rows.json").exists()


def test_an_audit_of_nothing_is_no_praise(folders):
    from unime.judge.audit.audit import audit_recipe

    path = recipe_for(folders, engines={"fake": {"unscored": 1.0}})
    with pytest.raises(EngineError, match="nothing to audit: not one of .* the fake engine has no"):
        audit_recipe(path, [])
