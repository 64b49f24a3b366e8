"""Contestants take turns, a ratio is taken within a round, the last line is JSON."""

from __future__ import annotations

import json

from benchmarks.common import interleaved_rounds, median_ratio, report


def test_contestants_take_turns_and_the_warm_up_does_not_count():
    calls: list[str] = []
    seconds = interleaved_rounds(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=3
    )
    assert calls == ["a", "b", "b", "a", "a", "b", "b", "a"]
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3}


def test_a_round_that_stalls_as_a_whole_does_not_move_the_ratio():
    assert median_ratio({"slow": [2.0, 200.0, 2.0], "fast": [1.0, 100.0, 1.0]}, "slow", "fast") == 2


def test_the_last_line_has_the_agreed_keys(capsys):
    report("train_step", {"speedup_unique": 1.2}, batch=256)
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(line) == {"benchmark", "ratios", "settings"}
    assert line["settings"]["batch"] == 256
