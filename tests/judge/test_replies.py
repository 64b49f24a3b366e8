"""Whatever a server replies: a judgement, or that call's own failure; never the end of the job."""

from __future__ import annotations

import json
import logging
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.judge.misbehaving import Server
from tests.judge.test_vllm_engine import KEY, engine_for, groups, judged
from unime.judge.endpoint import (
    Endpoint,
    EndpointOptions,
    FailedError,
    RejectedError,
    UnavailableError,
)
from unime.judge.engine import EngineError
from unime.judge.protocol import AnswerTokens, ReplyError, read_masses, read_usage
from unime.models.prompts import load_judge_prompt


@pytest.fixture(autouse=True)
def secret(monkeypatch):
    monkeypatch.setenv("UNIME_JUDGE_API_KEY", KEY)


def reply(listed, **fields) -> bytes:
    """A server's reply that lists these log-probabilities."""
    choices = [{"logprobs": {"content": [{"top_logprobs": listed}]}}]
    return json.dumps({"choices": choices, **fields}).encode()


def answers(**changed) -> list[dict]:
    """The five answer tokens, the first changed."""
    tokens = [{"token": f"token_id:{number}", "logprob": -3.0} for number in range(1, 6)]
    return [tokens[0] | changed, *tokens[1:]]


NONE, NO_JSON = "the reply's log-probabilities are none", "the reply is not JSON"
MISSING = "the reply has no log-probabilities"
HOSTILE: dict[str | bytes, str] = {
    b"[" * 200_000: "the reply is nested too deep",
    b'{"a":' * 200_000: "the reply is nested too deep",
    b"\xff\xfe{}": NO_JSON,
    b"": NO_JSON,
    b"1" * 5000: NO_JSON,
    reply(answers(logprob=math.nan)): NO_JSON,
    reply(answers(logprob=-math.inf)): NO_JSON,
    reply(answers()).replace(b"{", b'{"choices": [], ', 1): NO_JSON,
    b" " * (17 << 20): "the reply is larger than 16 MB",
    "bomb": "the reply is larger than 16 MB",
    "gzip": NO_JSON,
    "redirect": "307 no message",
    "404": "404 out of order",
    b"[]": MISSING,
    b"null": MISSING,
    b'"choices"': MISSING,
    b'{"choices": "logprobs"}': MISSING,
    reply({"token": 1}): MISSING,
    reply(None): MISSING,
    reply([]): NONE,
    reply(answers(logprob="-3.0")): NONE,
    reply(answers(logprob=True)): NONE,
    reply(answers(logprob=[-3.0])): NONE,
    reply(answers(logprob=-(10**400))): NONE,
    reply(answers()).replace(b"-3.0", b"-1e999", 1): NONE,
    reply(answers(token=1)): NONE,
    reply(answers(token="token_id:7")): "the reply lacks the log-probability of token_id:1",
    reply([*answers(), answers(logprob=-2.0)[0]]): (
        "the reply gives one answer two log-probabilities"
    ),
    reply([one | {"logprob": 0.0} for one in answers()]): (
        "the answers' probabilities add up to 5"
    ),
}


def test_a_hostile_reply_costs_its_pair_and_nothing_else():
    """Whatever comes back, it is tried again and fails with the reason; the job goes on."""
    faults = list(HOSTILE)

    def misbehave(number, text):
        item = int(text.split("item ")[1].split('"')[0])
        return faults[item // 4] if item % 4 == 0 else None

    # Every fourth: a server that fails everything ends the job, and rightly.
    (wanted,) = groups(1, 4 * len(faults))
    with Server(misbehave) as server:
        server.seconds = 0.002
        scores = judged(engine_for(server, tries=2, concurrency=4), [wanted])
    for number, (fault, reason) in enumerate(HOSTILE.items()):
        score = scores[wanted[4 * number].key]
        assert math.isnan(score.value), fault[:100]
        # One try more when all others failed meanwhile.
        tries, _, said = score.reason.removeprefix("failed after ").partition(" tries: ")
        assert int(tries) >= 2 and said == reason, fault[:100]
    assert sum(math.isnan(score.value) for score in scores.values()) == len(faults)


@pytest.mark.parametrize(
    "usage",
    ["many", [1], {"prompt_tokens": "5"}, {"prompt_tokens": -5}, {"prompt_tokens": 10**400}, 7,
     {"prompt_tokens": 5, "prompt_tokens_details": "x"}, {"prompt_tokens": True}],
)  # fmt: skip
def test_a_judgement_counts_whatever_its_bill_says(usage, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("unime"), "propagate", True)
    caplog.set_level(logging.INFO)
    with Server(lambda number, text: reply(answers(), usage=usage)) as server:
        engine = engine_for(server)
        scores = judged(engine, groups(2, 3))
    assert {round(score.value, 6) for score in scores.values()} == {0.6}
    assert engine.usage.tokens == 0 and engine.usage.calls == 6
    assert caplog.text.count("the reply's usage is no count of tokens; such calls add none") == 1


names = st.sampled_from(
    ["choices", "logprobs", "content", "top_logprobs", "token", "logprob", "usage",
     "prompt_tokens", "prompt_tokens_details", "cached_tokens", "token_id:1", "error", "message"]
)  # fmt: skip
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | names | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4),
    max_leaves=15,
)


@settings(max_examples=500, deadline=None)
@given(st.data())
def test_no_reply_raises_anything_but_a_failed_call(data):
    whole = data.draw(
        st.sampled_from(
            [
                lambda: json.dumps(data.draw(values)).encode(),
                lambda: reply(data.draw(values), usage=data.draw(values)),
                lambda: reply(answers(logprob=data.draw(values)), usage=data.draw(values)),
                lambda: reply(answers()),
            ]
        )
    )()
    content = bytearray(whole)
    for _ in range(data.draw(st.integers(0, 2))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    endpoint = Endpoint(EndpointOptions(), "NO_KEY", 1.0, 1.0)
    ids = AnswerTokens(frozenset({1, 2, 3}), frozenset({4, 5}))
    prompt = load_judge_prompt("judge/yes_no.v1")
    for tokens in (ids, None):
        try:
            parsed = endpoint._decoded(bytes(content))
            masses = read_masses(parsed, prompt, tokens)
            assert masses.yes >= 0 and masses.no >= 0 and sum(masses) <= 1.05
            assert min(read_usage(parsed)) >= 0
        except (FailedError, ReplyError):
            pass
    for status in (301, 400, 404, 429, 500, data.draw(st.integers(100, 599))):
        with pytest.raises((FailedError, RejectedError, UnavailableError, EngineError)):
            endpoint._raise_for(
                status, data.draw(st.none() | st.text()), endpoint._message(bytes(content))
            )


def test_a_run_of_failing_pairs_is_not_taken_for_a_failing_server():
    """More of them in a row than calls at once: others are tried before the server is doubted."""

    def misbehave(number, text):
        return "500" if int(text.split("item ")[1].split('"')[0]) < 6 else None

    with Server(misbehave) as server:
        (wanted,) = groups(1, 20)
        scores = judged(engine_for(server, tries=2, concurrency=4, give_up_seconds=10), [wanted])
    assert sum(math.isnan(score.value) for score in scores.values()) == 6
