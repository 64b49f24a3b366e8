"""The score store: every judged pair once, for ever, over runs, data sets and recipes.

    STORE/shards/<hash>.parquet   immutable rows (key, score, reason, judge); any fsspec path
    STORE/judges/<hash>.json      what a judge's hash stands for
    local/log-<writer>.jsonl      a writer's write-ahead log; becomes a shard
    local/index-<hash>/           sorted keys, memory-mapped; can be rebuilt from the shards

A row's key names the judge and the pair (see `unime.data.items.pair_key`), so rows never change and
equal keys are the same judgement: duplicates are harmless, merging is a union.
"""

from unime.judge.store.score_store import ScoreStore, StoredScores

__all__ = ["ScoreStore", "StoredScores"]
