"""The judge in the recipe of own data: its stage, what selection and training make of its scores."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from unime.core.yaml_files import keep_run, quoted, read_yaml
from unime.data.own_data.judge_work import JudgeWork

_SMALL_JUDGE = "dtype: float32, min_pixels: 9216, max_pixels: 9216, max_length: 512"
_LARGE_JUDGE = "dtype: bfloat16, min_pixels: 3136, max_pixels: 451584, max_length: 4096"

_JUDGE = """\
# The judge: P(yes) that a candidate gives what the query asks for. A pair is scored once for ever.
{work}# Hours and cost, as soon as 3_mine is there (its 200 pairs are kept):
#   unime judge plan {file} --measure 200
# With prices: {{per_hour: 2.0, currency: EUR}} (or per_million_tokens, per_call) the stage says the cost before it asks.
stage: judge
data: ${{run}}/0_data
mined: ${{run}}/3_mine
engine: {engine}
engines:
  {engine}:
"""

_IN_PROCESS = """\
    batch_size: {batch}
    model: {{id: {judge}, {inputs}}}
"""

_SERVED = """\
    # The server: `unime judge serve {file}` starts one of just these inputs.
    model: {{id: {judge}, {inputs}}}
    endpoints: [{{url: {url}, concurrency: 32}}]
"""

_SELECT = """\
# Hard negatives as mined. What is missing is a judge: some of them are right answers, too (false negatives), and
# nothing here tells them, so they stay in. A judge is a vision-language model, or the address of a server:
#   {command}
# It would be asked {work}.
stage: select
mined: ${{run}}/3_mine
rule: none
"""

_SELECT_JUDGED = """\
# Hard negatives by the judge's scores: what scores like the positive, or above 0.5, is a false negative and dropped.
stage: select
mined: ${run}/3_mine
judged: ${run}/4_judge
"""

_SOFT_LABELS = """\
# The judge's scores are soft labels, too: see unime's loss soft_label.
losses:
  - {{name: info_nce, matryoshka_dims: {dims}, options: {{temperature: {temperature}}}}}
  - {{name: soft_label, weight: 0.5, matryoshka_dims: {dims}, options: {{temperature: {temperature}, judge_temperature: 0.1}}}}
"""


class RecipeJudge(NamedTuple):
    """Which model judges the mined candidates."""

    model: str
    """A folder or Hub id, loaded by the judge stage; or the name by which a server knows it."""
    url: str | None = None
    """The address of a server, such as http://127.0.0.1:8000/v1."""

    @property
    def inputs(self) -> str:
        """How its inputs are prepared: the keys of its section in a recipe."""
        return _SMALL_JUDGE if is_tiny(self.model) else _LARGE_JUDGE


def judge_pixels(judge: RecipeJudge | None) -> tuple[int, int]:
    """Return the least and most pixels of an image, as a judge gets it; of a large one for none."""
    inputs = yaml.safe_load(f"{{{_LARGE_JUDGE if judge is None else judge.inputs}}}")
    return inputs["min_pixels"], inputs["max_pixels"]


def is_tiny(model: str) -> bool:
    """Tell whether a model is small enough to be trained whole, in float32, on a CPU."""
    weights = list(Path(model).glob("*.safetensors"))
    return bool(weights) and sum(path.stat().st_size for path in weights) < 200_000_000


def data_command(place: str, model: str | None, language: str | None) -> str:
    """Return the command that prepares own data, but for the judge."""
    given = {"--model": model, "--language": language}
    options = [f" {name} {_word(value)}" for name, value in given.items() if value is not None]
    return f"unime data {_word(place)}{''.join(options)}"


def select_text(judge: RecipeJudge | None, command: str, folder: Path, work: JudgeWork) -> str:
    """Return `5_select.yaml`; without a judge it says what is missing, and what it would cost."""
    if judge is not None:
        return _SELECT_JUDGED
    return _SELECT.format(command=_judged(command, folder), work=work)


def soft_labels(dims: list[int], temperature: float) -> str:
    """Return the losses of `6_contrast.yaml` that the judge's scores go into."""
    return _SOFT_LABELS.format(dims=dims, temperature=temperature)


def judge_text(judge: RecipeJudge, folder: Path, work: JudgeWork | None = None) -> str:
    """Return `4_judge.yaml`."""
    values = {
        "work": "" if work is None else f"# To be asked: {work}.\n",
        "file": _word(str(folder / "4_judge.yaml")),
        "engine": "transformers" if judge.url is None else "vllm",
        "judge": quoted(keep_run(judge.model)),
        "inputs": judge.inputs,
        "batch": 64 if is_tiny(judge.model) else 16,
        "url": quoted(keep_run(judge.url or "")),
    }
    return (_JUDGE + (_IN_PROCESS if judge.url is None else _SERVED)).format(**values)


def judging_line(judge: RecipeJudge | None, command: str, folder: Path, work: JudgeWork) -> str:
    """Return what a judge has to do, or would have to, as lines of the report.

    Args:
        judge: of the recipe.
        command: that wrote it (see `data_command`).
        folder: the recipe.
        work: what it is asked.
    """
    if judge is None:
        return (
            "  judge: none, so what is right among the mined negatives stays in; one would be asked "
            f"{work}:\n    {_judged(command, folder)}"
        )
    plan = f"unime judge plan {_word(str(folder / '4_judge.yaml'))} --measure 200"
    return (
        f"  judge: {judge.model}{f' at {judge.url}' if judge.url else ''}, to be asked {work}; hours "
        f"and cost, as soon as 3_mine is there:\n    {plan}"
    )


def _judged(command: str, folder: Path, judge: str = "MODEL") -> str:
    """Return the command that writes a recipe once more, with a judge, beside its folder."""
    judged = folder.with_name(f"{folder.resolve().name}_judged")
    return f"{command} --judge {_word(judge)} --into {_word(str(judged))}"


def is_without_judge(folder: Path) -> bool:
    """Tell whether a recipe folder selects negatives, and nothing judges them."""
    return (folder / "5_select.yaml").is_file() and not (folder / "4_judge.yaml").exists()


def without_judge(folder: Path, place: str, language: str | None, judge: RecipeJudge) -> str:
    """Return how a recipe that was made without a judge gets one, for an error."""
    warmup = read_yaml(folder / "2_warmup.yaml") if (folder / "2_warmup.yaml").is_file() else {}
    model = _at(warmup, "model", "id")
    command = data_command(place, model if isinstance(model, str) else None, language)
    # What a user made of the warm-up's loss goes for the second stage, too.
    soft = soft_labels(
        _at(warmup, "losses", 0, "matryoshka_dims") or [],
        _at(warmup, "losses", 0, "options", "temperature") or 0.02,
    )
    options = [judge.model] if judge.url is None else [judge.url, "--judge-model", judge.model]
    named = _judged(command, folder, options[0]) + "".join(f" {_word(o)}" for o in options[1:])
    return (
        f"{folder} is there already, without a judge, and stays as it is. A new one beside it: "
        f"`{named}`. Or keep what is trained and mined, put these texts into it, and "
        f"`unime run {_word(str(folder))}` again (a stage that was finished without the judge says "
        f"how it begins anew):\n"
        f"--- {folder / '4_judge.yaml'}, a new file:\n{judge_text(judge, folder)}"
        f"--- {folder / '5_select.yaml'}, in place of what is there:\n{_SELECT_JUDGED}"
        f"--- {folder / '6_contrast.yaml'}, besides what is there:\n{soft.rstrip()}"
    )


def _at(values: Any, *keys: str | int) -> Any:
    """Return a value of what a user may have changed; None where it is not."""
    for key in keys:
        try:
            values = values[key]
        except (KeyError, IndexError, TypeError):
            return None
    return values


def _word(text: str) -> str:
    """Return a text as one word of a shell's command line, on one line whatever stands in it."""
    return shlex.quote(text) if text.isprintable() else quoted(text)
