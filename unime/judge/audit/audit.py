"""`unime judge audit`: looks for faults in a judge, and shows them.

The audit draws some queries, looks at their positives and mined candidates, and adds pairs whose
answer is known without a truth (see `unime.judge.audit.probes`). What the store lacks is asked and
kept. A page (one HTML file) shows verdicts, measures, histograms and the worst pairs.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unime.core import files
from unime.core.config import load_recipe
from unime.core.errors import DataError, RecipeError
from unime.core.overwrite import check_replaceable, contains, has_keys
from unime.core.provenance import plan_of
from unime.judge.audit import findings, injections
from unime.judge.audit.audit_page import MARK, Page, Shown, facts_of, write_page
from unime.judge.audit.findings import Finding, Scores
from unime.judge.audit.probes import AuditProbe, Sampler
from unime.judge.engine import EngineError, KnownTruth, Request, StreamingEngine
from unime.judge.stage import ScoreRecipe, ScoringWork, inputs
from unime.judge.store import ScoreStore

KINDS = ("positive", "mined", "random", "colour", "image")
PARAPHRASE = "judge/match.v1"
"""A second wording of the judge's question."""

MARGIN = 0.01
CUT = 0.5
"""`unime select`'s defaults: relative_margin and absolute_cut."""

SHOWN = 60

INJECTED = "Injected instructions, at the end of wrong candidates"


@dataclass(frozen=True)
class Audited:
    """The probes of an audit and their scores."""

    probes: list[AuditProbe]
    values: Scores

    def of_kind(self, kind: str) -> Scores:
        """Return the scores of one kind of pairs."""
        return self.values[[probe.kind == kind for probe in self.probes]]

    def by_query(self, kind: str) -> dict[int, Scores]:
        """Return the scores of one kind of pairs for each sampled query."""
        found: defaultdict[int, list[float]] = defaultdict(list)
        for probe, value in zip(self.probes, self.values.tolist(), strict=True):
            if probe.kind == kind:
                found[probe.query].append(value)
        return {query: np.array(values) for query, values in found.items()}

    def positives_beside(self, kind: str) -> Scores:
        """Return the positives' scores of the queries that have a pair of a kind."""
        positives = self.by_query("positive")
        return np.array([positives[query][0] for query in self.by_query(kind)], dtype=float)

    def faults(self) -> list[Finding]:
        """Return the verdicts."""
        return findings.judge_faults(
            {kind: self.of_kind(kind) for kind in KINDS},
            {kind: self.positives_beside(kind) for kind in ("colour", "image")},
        )


def audit_recipe(
    recipe_path: Path | str,
    overrides: Sequence[str],
    output: Path | None = None,
    second: Path | None = None,
    sample: int = 200,
) -> str:
    """Audit a recipe's judge; return the verdicts and where the page is.

    Args:
        recipe_path: the judge's recipe.
        overrides: `dotted.key=value`.
        output: the HTML page; `audit.html` in the recipe's output unless given. Its figures go
            beside it, as `.json`.
        second: another judge's recipe, to compare with.
        sample: how many queries are looked at.
    """
    recipe = load_recipe(recipe_path, ScoreRecipe, overrides)
    path = output or Path(recipe.output) / "audit.html"
    if output is not None:
        check_replaceable(path, contains(MARK), "unime judge audit")
        check_replaceable(path.with_suffix(".json"), has_keys("findings"), "unime judge audit")
    work = ScoringWork.of(recipe)
    manifest = plan_of(recipe.model_dump(mode="json"), inputs(recipe))
    reads = _reads_what_is_asked(recipe)
    probes = Sampler(work.job, made_up=reads).draw(sample)
    if not probes:
        raise RecipeError(f"{recipe.mined} has no pairs to look at")
    with ScoreStore(recipe.store) as store:
        audited = Audited(probes, ask(work, store, probes))
        if np.isnan(audited.values).all():
            reasons = store.reasons([probe.request.key for probe in probes])
            raise EngineError(
                f"nothing to audit: not one of {len(probes)} pairs has a score, such as: "
                f"{next(iter(reasons.values()), 'no reason known')}"
            )
        tables = {"Soft labels": _soft_labels(audited), **_truth_tables(work, audited)}
        others = _other_judges(recipe_path, overrides, recipe, second)
        for name, other in others.items():
            tables[name] = [_compare(other, store, audited)]
        if reads:
            tables[INJECTED] = injections.effects(
                probes, lambda made: ask(work, store, _keyed_for(work, made))
            )
    page = _page(recipe, work, audited, tables)
    write_page(path, page)
    facts = {
        "manifest": manifest,
        "judge": work.job.fingerprint,
        "sample": sample,
        **facts_of(page),
    }
    files.write_json(path.with_suffix(".json"), facts)
    lines = [f"{finding.fault}: {finding.sentence}" for finding in page.findings]
    lines = lines or ["no fault found"]
    return "\n".join([*lines, *injections.described(tables.get(INJECTED, [])), f"page: {path}"])


def ask(work: ScoringWork, store: ScoreStore, probes: Sequence[AuditProbe]) -> Scores:
    """Return the probes' scores; what the store lacks is asked and kept."""
    requests = {probe.request.key: probe.request for probe in probes}
    keys = list(requests)
    missing = [requests[keys[i]] for i in np.flatnonzero(~store.find(keys).known).tolist()]
    with contextlib.closing(_batches(work, missing)) as parts:
        for part in parts:
            store.add(work.job.fingerprint, part)
    values = store.find([probe.request.key for probe in probes]).values
    return values.astype(np.float64)


def _batches(work: ScoringWork, requests: list[Request]):  # noqa: ANN202
    if isinstance(work.engine, StreamingEngine):
        yield from work.engine.stream(iter([requests]))
        return
    for start in range(0, len(requests), 512):
        yield work.engine.score(requests[start : start + 512])


def _soft_labels(audited: Audited) -> list[dict[str, float]]:
    positives, mined = audited.by_query("positive"), audited.by_query("mined")
    queries = list(mined)
    entropies = findings.entropies(
        [float(positives[q][0]) for q in queries], [mined[q] for q in queries]
    )
    return [{"temperature": t, "entropy (1 is uniform)": value} for t, value in entropies.items()]


def _truth_tables(work: ScoringWork, audited: Audited) -> dict[str, list[dict[str, float]]]:
    relevant = _relevance(work, audited)
    known = np.array([answer is not None for answer in relevant], dtype=bool)
    if not known.any():
        return {}
    answers = np.array([bool(answer) for answer in relevant], dtype=bool)
    rows = findings.calibration(audited.values[known], answers[known])
    return {"Calibration against the truth": rows}


def _relevance(work: ScoringWork, audited: Audited) -> list[bool | None]:
    """Return what is true of every probe; None where nobody knows."""
    return [_true_of(work.truth, probe.request) for probe in audited.probes]


def _true_of(truth: KnownTruth | None, request: Request) -> bool | None:
    if truth is None:
        return None
    try:
        return bool(truth.relevant(request.task, request.query.id, [request.candidate.id])[0])
    except DataError:  # a text the audit made up
        return None


def _reads_what_is_asked(recipe: ScoreRecipe) -> bool:
    """Tell a model, which may be asked about made-up texts, from an engine that is told the answers."""
    return not getattr(getattr(recipe.engines, recipe.engine), "KNOWS_TABLE_ONLY", False)


def _other_judges(
    recipe_path: Path | str, overrides: Sequence[str], recipe: ScoreRecipe, second: Path | None
) -> dict[str, ScoringWork]:
    """Return the judges to compare with: another wording of this one, and a second one."""
    found: dict[str, ScoringWork] = {}
    if _reads_what_is_asked(recipe):
        words = [*overrides, f"engines.{recipe.engine}.model.prompt={PARAPHRASE}"]
        reworded = load_recipe(recipe_path, ScoreRecipe, words)
        found["Consistency under a paraphrased prompt"] = ScoringWork.of(reworded)
    if second is not None:
        found["Agreement with the second judge"] = ScoringWork.of(load_recipe(second, ScoreRecipe))
    return found


def _compare(other: ScoringWork, store: ScoreStore, audited: Audited) -> dict[str, float]:
    scores = ask(other, store, _keyed_for(other, audited.probes))
    return findings.agreement(audited.values, scores)


def _keyed_for(work: ScoringWork, probes: Sequence[AuditProbe]) -> list[AuditProbe]:
    keyed = Sampler(work.job, made_up=False).keyed
    return [AuditProbe(probe.kind, probe.query, keyed(probe.request)) for probe in probes]


def _page(recipe: ScoreRecipe, work: ScoringWork, audited: Audited, tables: dict) -> Page:
    positives, mined = audited.by_query("positive"), audited.by_query("mined")
    queries = list(positives)
    first = [float(positives[q][0]) for q in queries]
    candidates = [mined.get(q, np.empty(0)) for q in queries]
    measures = {
        "judge": f"{recipe.engine}, {work.job.fingerprint}",
        "queries looked at": str(len(queries)),
        "pairs without a score": str(int(np.isnan(audited.values).sum())),
        "positives above 0.5": _percent(findings.share_above(audited.of_kind("positive"))),
        "random pairs above 0.5 (yes-bias)": _percent(
            findings.share_above(audited.of_kind("random"))
        ),
        "queries in which a candidate outranks the positive": _percent(
            findings.outranked(first, candidates)
        ),
        **{
            f"AUC of positives over {name}": _number(
                findings.separation(audited.positives_beside(kind), audited.of_kind(kind))
            )
            for kind, name in (
                ("random", "random pairs"),
                ("colour", "pairs of another colour"),
                ("image", "pairs with another image"),
            )
        },
    }
    known = [value for value in first if not np.isnan(value)]
    cuts = {"absolute": CUT} | (
        {"relative, of the mean positive": max(0.0, float(np.mean(known)) - MARGIN)}
        if known
        else {}
    )
    histograms = {kind: audited.of_kind(kind) for kind in KINDS}
    title = f"Audit of the judge in {recipe.output}"
    pairs = _worst(work, audited)
    return Page(title, audited.faults(), measures, histograms, cuts, tables, pairs)


def _worst(work: ScoringWork, audited: Audited) -> list[Shown]:
    """Return pairs by how far the score is from what is known, or supposed, of them."""
    relevant = _relevance(work, audited)
    shown = []
    for number, (probe, value) in enumerate(
        zip(audited.probes, audited.values.tolist(), strict=True)
    ):
        if np.isnan(value):
            continue
        answer = relevant[number]
        right = probe.kind == "positive" if answer is None else answer
        if answer is None and probe.kind == "mined":
            distance, note = value - 1, "not known"  # may be a false negative
        else:
            distance, note = abs(value - right), "right" if right else "wrong"
        shown.append((distance, probe, value, note))
    shown.sort(key=lambda row: -row[0])
    return [
        Shown(p.kind, v, note, p.request.instruction, p.request.query, p.request.candidate)
        for _, p, v, note in shown[:SHOWN]
    ]


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _number(value: float | None) -> str:
    return "too few pairs" if value is None else f"{value:.3f}"
