"""The judge in the recipe of own data: priced before it runs, refused where it cannot judge."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import yaml

from tests.conftest import ROOT
from tests.data.own_data.test_own_data import own_folder
from unime.core import files
from unime.core.config import load_recipe
from unime.core.errors import DataError, ModelError, OutputError, RecipeError
from unime.core.stage import execute, stage_of, stages
from unime.data import images
from unime.data.own_data.judge_recipe import RecipeJudge
from unime.data.own_data.judge_work import CAPTION_INSTRUCTION, DEV_SHARE, PICTURE_INSTRUCTION
from unime.data.own_data.prepare import prepare
from unime.judge.engine import EngineError
from unime.judge.own_judge import judge_named
from unime.judge.stage import ScoreRecipe, ScoringWork
from unime.stages import check_recipes, recipes_in

STUDENT = str(ROOT / "assets/student")


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    images._real.cache_clear()
    monkeypatch.chdir(tmp_path)
    return str(own_folder(tmp_path / "own pics", "jsonl"))


def prepared(own: str, **options) -> tuple[Path, str]:
    said: list[str] = []
    recipe = prepare(own, model=STUDENT, echo=said.append, **options)
    return recipe, "\n".join(said)


def texts_of(recipe: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted(recipe.glob("*.yaml"))}


def figures(text: str) -> list[int]:
    """The pairs, queries, tokens, tokens with prefixes cached, and images that a text names."""
    (found,) = re.findall(
        r"about ([\d,]+) pairs of ([\d,]+) queries, ([\d,]+) tokens \(([\d,]+) with[^)]*\), ([\d,]+) images",
        text,
    )
    return [int(number.replace(",", "")) for number in found]


def test_with_a_judge_the_recipe_has_its_stage_and_uses_its_scores(own: str):
    recipe, said = prepared(own, judge=judge_named(STUDENT))
    assert [path.stem for path in recipes_in(recipe)] == [
        "0_data", "2_warmup", "3_mine", "4_judge", "5_select", "6_contrast", "8_export", "9_eval",
    ]  # fmt: skip
    modules = {name: entry.module for name, entry in stages().items()}
    for path in recipes_in(recipe):
        execute(modules[stage_of(path)], path, dry_run=True, echo=lambda _: None)
    judge = load_recipe(recipe / "4_judge.yaml", ScoreRecipe)
    assert judge.engine == "transformers" and judge.engines.transformers is not None
    assert judge.engines.transformers.model.id == STUDENT
    select = yaml.safe_load((recipe / "5_select.yaml").read_text())
    assert select["judged"] == "${run}/4_judge" and "rule" not in select
    losses = yaml.safe_load((recipe / "6_contrast.yaml").read_text())["losses"]
    assert [loss["name"] for loss in losses] == ["info_nce", "soft_label"]
    warmup = yaml.safe_load((recipe / "2_warmup.yaml").read_text())["losses"]
    assert losses[0] == warmup[0]
    # What the report and the recipe say is the same.
    assert figures(said) == figures((recipe / "4_judge.yaml").read_text())
    assert f"unime judge plan {recipe}/4_judge.yaml --measure 200" in said


def test_what_is_counted_is_what_the_recipe_makes(own: str):
    recipe, _ = prepared(own)
    data = yaml.safe_load((recipe / "0_data.yaml").read_text())
    assert data["dev_share"] == DEV_SHARE
    assert [source["query_instruction"] for source in data["sources"]] == [
        PICTURE_INSTRUCTION,
        CAPTION_INSTRUCTION,
    ]


def test_without_a_judge_the_recipe_says_what_is_missing_and_what_it_would_cost(own: str):
    recipe, said = prepared(own)
    assert not (recipe / "4_judge.yaml").exists()
    assert "soft_label" not in (recipe / "6_contrast.yaml").read_text()
    select = (recipe / "5_select.yaml").read_text()
    assert yaml.safe_load(select)["rule"] == "none" and "false negatives" in select
    assert figures(select) == figures(said)
    (command,) = re.findall(r"^#   (unime data .*)$", select, re.MULTILINE)
    assert command in said
    # It is a command: it prepares the same data, with the judge that is put in.
    words = shlex.split(command)[2:]
    assert words[0] == own and words[1:3] == ["--model", STUDENT] and words[3:5] == ["--judge", "MODEL"]  # fmt: skip
    again, _ = prepared(words[0], into=Path(words[6]), judge=judge_named(STUDENT))
    assert (again / "4_judge.yaml").is_file()


def test_a_judge_that_comes_later_leaves_what_is_there_and_says_what_to_write(own: str):
    recipe, _ = prepared(own)
    before = texts_of(recipe)
    with pytest.raises(DataError, match="without a judge, and stays as it is") as caught:
        prepared(own, judge=judge_named(STUDENT))
    assert texts_of(recipe) == before
    sentence, *parts = re.split(r"^--- (.*):\n", str(caught.value), flags=re.MULTILINE)
    (command,) = re.findall("`(unime data .*?)`", sentence)
    assert shlex.split(command)[2:] == [
        own, "--model", STUDENT, "--judge", STUDENT, "--into", f"{recipe}_judged",
    ]  # fmt: skip
    # What it says to write makes the recipe that `--judge` makes at once.
    judge, select, added = parts[1::2]
    (recipe / "4_judge.yaml").write_text(judge)
    (recipe / "5_select.yaml").write_text(select)
    with (recipe / "6_contrast.yaml").open("a") as file:
        file.write(added + "\n")
    check_recipes(recipes_in(recipe), {path.stem: [] for path in recipes_in(recipe)})
    other, _ = prepared(own, judge=judge_named(STUDENT), into=Path("recipes/other"))
    for name in texts_of(other):
        written, expected = (yaml.safe_load((f / name).read_text()) for f in (recipe, other))
        assert written == expected or name == "8_export.yaml"  # its title is the folder's name
    with pytest.raises(DataError, match="are there already; run it with"):
        prepared(own, judge=judge_named(STUDENT))


def test_a_killed_run_is_not_done_again_with_another_judge(own: str):
    recipe, _ = prepared(own, judge=judge_named(STUDENT))
    report = Path("runs/own_pics/raw/report.json")
    files.write_json(report, {**files.read_json(report), "unfinished": True})
    (recipe / "5_select.yaml").unlink()
    for judge in (None, RecipeJudge("another/model")):
        with pytest.raises(OutputError, match=r"4_judge\.yaml is there already"):
            prepared(own, judge=judge)
    assert not (recipe / "5_select.yaml").exists()
    again, _ = prepared(own, judge=judge_named(STUDENT))
    assert "judged" in (again / "5_select.yaml").read_text()


def model_folder(folder: Path, **written: object) -> str:
    """A model folder by what its files say."""
    folder.mkdir(exist_ok=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    for name, values in written.items():
        files.write_json(folder / f"{name}.json", values)
    return str(folder)


VISION = {"model_type": "qwen3_vl", "architectures": ["Qwen3VLForConditionalGeneration"]}
POOLING = [
    {"idx": 0, "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
]


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ({"config": VISION, "modules": POOLING}, "an embedder for sentence-transformers"),
        ({"config": VISION, "unime": {"model": {}}}, "trained by unime to embed"),
        ({"config": {**VISION, "architectures": ["Qwen3VLModel"]}}, "without the head that answers"),
        (
            {"config": {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}},
            "a model of the type qwen3 does not answer questions about pictures",
        ),
        ({}, r"holds no model: no config\.json"),
    ],
)  # fmt: skip
def test_a_model_that_cannot_judge_is_one_sentence(written: dict, reason: str, tmp_path: Path):
    folder = model_folder(tmp_path / "model", **written)
    with pytest.raises(ModelError, match=rf"cannot judge: .*{reason}.*; a judge is a") as caught:
        judge_named(folder)
    assert "\n" not in str(caught.value)


def test_weights_and_answers_are_looked_for(tmp_path: Path):
    shutil.copytree(STUDENT, tmp_path / "model")
    assert judge_named(str(tmp_path / "model")) == RecipeJudge((tmp_path / "model").as_posix())
    tokenizer = tmp_path / "model/tokenizer.json"
    values = files.read_json(tokenizer)
    assert values["model"]["type"] == "BPE"
    values["model"]["merges"] = []  # every word is spelt letter by letter
    files.write_json(tokenizer, values)
    with pytest.raises(ModelError, match="no single token for any of the answers"):
        judge_named(str(tmp_path / "model"))
    (tmp_path / "model/model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"has no weights: no \*\.safetensors"):
        judge_named(str(tmp_path / "model"))


@pytest.mark.parametrize("name", ["nowhere", "/no/such/folder", "../none", "a/b/c", "file.txt"])
def test_no_such_folder_is_said_at_once(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("file.txt").write_text("text")
    with pytest.raises(ModelError, match="there is no such folder, and it is no Hub id"):
        judge_named(name)


def test_a_folder_spelt_wrong_is_not_taken_for_a_hub_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    Path("assets/student").mkdir(parents=True)
    with pytest.raises(ModelError, match=r"no such folder \(assets/ holds student\).*hf download"):
        judge_named("assets/studnet")
    # Never loaded here: the stage finds out.
    assert judge_named("owner/model") == RecipeJudge("owner/model")


def test_a_hub_id_in_the_cache_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    cache = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    for name, config in (("judge", VISION), ("text", {"model_type": "qwen3"})):
        snapshot = cache / f"models--owner--{name}/snapshots/abc"
        snapshot.mkdir(parents=True)
        files.write_json(snapshot / "config.json", config)
        (snapshot.parents[1] / "refs").mkdir()
        (snapshot.parents[1] / "refs/main").write_text("abc")
    assert judge_named("owner/judge") == RecipeJudge("owner/judge")
    with pytest.raises(ModelError, match=r"owner/text cannot judge: a model of the type qwen3"):
        judge_named("owner/text")


def test_a_trained_reranker_judges_and_the_stage_refuses_an_embedder(own: str, tmp_path: Path):
    folder = tmp_path / "7_rerank"
    folder.mkdir()
    model_folder(folder / "model", unime={"kind": "reranker"}, config=VISION)
    assert judge_named(str(folder)) == RecipeJudge((folder / "model").as_posix())

    embedder = model_folder(tmp_path / "embedder", config=VISION, modules=POOLING)
    recipe, _ = prepared(own, judge=RecipeJudge(embedder))
    with pytest.raises(ModelError, match="an embedder for sentence-transformers, and gives"):
        ScoringWork.of(load_recipe(recipe / "4_judge.yaml", ScoreRecipe))


class Listing(BaseHTTPRequestHandler):
    """A server that lists its models, and does nothing else."""

    models = ("served/judge",)

    def do_GET(self) -> None:
        body = json.dumps({"data": [{"id": name} for name in self.models]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its base's name
        del format, args


@pytest.fixture
def server() -> Iterator[str]:
    listening = ThreadingHTTPServer(("127.0.0.1", 0), Listing)
    Thread(target=listening.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{listening.server_port}/v1"
    listening.shutdown()
    listening.server_close()


def test_a_server_is_asked_what_it_serves(server: str, own: str, monkeypatch: pytest.MonkeyPatch):
    judge = judge_named(server)
    assert judge == RecipeJudge("served/judge", server)
    recipe, said = prepared(own, judge=judge)
    assert f"judge: served/judge at {server}, to be asked about" in said
    loaded = load_recipe(recipe / "4_judge.yaml", ScoreRecipe)
    assert loaded.engine == "vllm" and loaded.engines.vllm is not None
    assert loaded.engines.vllm.model.id == "served/judge"
    assert [endpoint.url for endpoint in loaded.engines.vllm.endpoints] == [server]
    with pytest.raises(EngineError, match="serves served/judge: name one of them.*got other/judge"):
        judge_named(server, "other/judge")
    monkeypatch.setattr(Listing, "models", ("one", "two"))
    with pytest.raises(EngineError, match="serves one, two: name one of them by --judge-model"):
        judge_named(server)
    assert judge_named(server, "two") == RecipeJudge("two", server)


def test_a_server_that_is_not_there_needs_its_models_name():
    with pytest.raises(EngineError, match="no judge at http.*or say by --judge-model NAME"):
        judge_named("http://127.0.0.1:9/v1")
    assert judge_named("http://127.0.0.1:9/v1", "its/model") == RecipeJudge(
        "its/model", "http://127.0.0.1:9/v1"
    )
    with pytest.raises(RecipeError, match="expected an address"):
        judge_named("http://")
    for named in (None, STUDENT):
        with pytest.raises(RecipeError, match="--judge-model x names the model of a server"):
            judge_named(named, "x")


@pytest.mark.parametrize("place", ["a 'b'\n- c.jsonl", "${run} #1.jsonl"])
def test_any_name_leaves_the_recipe_readable(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    images._real.cache_clear()
    monkeypatch.chdir(tmp_path)
    folder = own_folder(tmp_path / "own", "jsonl")
    (folder / "my_list.jsonl").rename(folder / place)
    for judge in (None, RecipeJudge("a ${run}\n b", "http://h:1/v1")):
        recipe, _ = prepared(
            str(folder / place), judge=judge, into=Path(f"recipes/{'x' if judge else 'y'}")
        )
        check_recipes(recipes_in(recipe), {path.stem: [] for path in recipes_in(recipe)})
    loaded = load_recipe(Path("recipes/x/4_judge.yaml"), ScoreRecipe)
    assert loaded.engines.vllm is not None and loaded.engines.vllm.model.id == "a ${run}\n b"


def test_the_command_takes_a_judge_for_own_data_only(own: str, tmp_path: Path):
    def said(*words: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "unime", "data", *words],
            cwd=tmp_path, capture_output=True, text=True, check=False, env=ENVIRONMENT,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    code, text = said(own, "--judge", "runs/nothing/here")
    assert code == 2 and "there is no such folder" in text and "Traceback" not in text
    assert not (tmp_path / "runs").exists() and not (tmp_path / "recipes").exists()
    code, text = said(str(ROOT / "recipes/mini/0_data.yaml"), "--judge", STUDENT)
    assert code == 2 and "--judge is for own data" in text


ENVIRONMENT = {"PYTHONPATH": str(ROOT), "PATH": "", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
def test_two_commands_with_a_judge_give_a_model_and_the_price_was_right(tmp_path: Path):
    folder = own_folder(tmp_path / "own", "csv")
    rows = (folder / "captions.csv").read_text().splitlines(keepends=True)
    (folder / "captions.csv").write_text("".join(rows[:28]))  # 27 drawings are judged fast
    said = []
    for words in (
        ["data", str(folder), "--model", STUDENT, "--judge", STUDENT],
        ["run", "recipes/own", "2_warmup.training.max_steps=4", "6_contrast.training.max_steps=4"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "unime", *words],
            cwd=tmp_path, capture_output=True, text=True, check=False, env=ENVIRONMENT,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        said.append(done.stdout + done.stderr)
    pairs, _, tokens, _, pictures = figures(said[0])
    # Said before the first request, and close to what was foretold from the folder alone.
    (line,) = re.findall(r"judge: (\d+) pairs to be asked, about ([\d,]+) tokens .*? (\d+) images", said[1])  # fmt: skip
    assert said[1].index("pairs to be asked") < said[1].index("pairs scored, 0 failed")
    asked = [int(number.replace(",", "")) for number in line]
    assert asked == pytest.approx([pairs, tokens, pictures], rel=0.15)
    facts = files.read_json(tmp_path / "runs/own/4_judge/manifest.json")["facts"]
    assert facts["distinct_pairs"] == asked[0] and facts["unscored_pairs"] == 0
    rows = files.read_json(tmp_path / "runs/own/results.json")["rows"]
    assert [row["name"] for row in rows] == ["base", "after warm-up", "stage 2"]
    inputs = files.read_json(tmp_path / "runs/own/6_contrast/manifest.json")
    assert [loss["name"] for loss in inputs["recipe"]["losses"]] == ["info_nce", "soft_label"]
