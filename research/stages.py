"""The stages of research, for unime's table of stages."""

from __future__ import annotations

from unime.core.stage import StageEntry

STAGES = {
    "world": StageEntry(
        "research.world.build",
        ("research.world", "build"),
        "Write the data sets of a generated world and their truth.",
        order=-3,  # unime data reads them
    ),
    "base": StageEntry(
        "research.world.base_stage",
        ("research.world", "base"),
        "Train the tiny vision-language model.",
        order=-2,
    ),
    "smolvlm": StageEntry(
        "research.world.smolvlm",
        ("research.world", "smolvlm"),
        "Put a real language model into a SmolVLM with a random vision tower.",
    ),
    "pairs": StageEntry(
        "research.world.pairs",
        ("research.world", "pairs"),
        "Write pairs of texts with a graded similarity, from WordNet or a teacher.",
    ),
}
