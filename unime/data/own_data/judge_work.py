"""What a judge would be asked about own data, counted before a model is trained or anything mined."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import numpy as np

from unime.data.own_data.scan import FolderScan, Split
from unime.data.pair_tokens import Estimate, readable, shown_pixels, side_tokens

CANDIDATES = 20
"""That a query gets by the generated recipe."""
DEV_SHARE = 0.1
"""Of the pairs, by the generated recipe: they are neither mined nor judged."""
PICTURE_INSTRUCTION = "Find an image caption describing the given everyday image"
CAPTION_INSTRUCTION = "Find me an everyday image that matches the given caption"


class JudgeWork(NamedTuple):
    """The pairs of a judge's job, about: the dev split is drawn later, and by groups."""

    queries: int
    """Pictures that ask for captions, and captions that ask for pictures."""
    pairs: int
    estimate: Estimate

    def __str__(self) -> str:
        tokens = readable(self.estimate.tokens * self.pairs)
        computed = readable(self.estimate.computed * self.pairs)
        return (
            f"about {readable(self.pairs)} pairs of {readable(self.queries)} queries, "
            f"{tokens} tokens ({computed} with the queries' prefixes cached), "
            f"{readable(self.estimate.images * self.pairs)} images"
        )


def judge_work(scan: FolderScan, split: Split, limits: tuple[int, int]) -> JudgeWork:
    """Return what the judge of the generated recipe is asked: each query's positive and candidates.

    Args:
        scan: the data.
        split: into training and test.
        limits: the least and most pixels of an image, as the judge gets it.
    """
    train = [p for p, is_test in zip(scan.pictures, split.test, strict=True) if not is_test]
    owners = Counter(caption for picture in train for caption in dict.fromkeys(picture.captions))
    own = np.array([len(set(picture.captions)) for picture in train])
    of_captions = np.array(list(owners.values()))
    mined = 1 - DEV_SHARE
    # A candidate is any mined target but the query's own; each row has its positive besides.
    asked_by_pictures = 1 + np.clip(mined * len(owners) - own, 0, CANDIDATES)
    asked_by_captions = of_captions + np.clip(mined * len(train) - of_captions, 0, CANDIDATES)
    sides = mined * np.array([asked_by_pictures.sum(), asked_by_captions.sum()])
    picture = float(np.mean([shown_pixels(p.width * p.height, limits) for p in train]))
    caption = float(np.mean([len(text) for text in owners]))
    shared = np.array(
        [
            side_tokens(len(PICTURE_INSTRUCTION), picture),
            side_tokens(caption + len(CAPTION_INSTRUCTION), 0),
        ]
    )
    tokens = shared + np.array([side_tokens(caption, 0), side_tokens(0, picture)])
    # A pair has a picture on one side or the other.
    per_pair = Estimate(
        float(np.average(tokens, weights=sides)), float(np.average(shared, weights=sides)), 1.0
    )
    return JudgeWork(round(mined * (len(train) + len(owners))), round(sides.sum()), per_pair)
