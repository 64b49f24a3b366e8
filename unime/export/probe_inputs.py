"""The fixed inputs that every way of loading a model has to agree on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

    from unime.models.embedder import Embedder
    from unime.models.inputs import ModelInput

_MANY_SCRIPTS = "\u6d77\u8fb9\u6709\u4e24\u53ea\u72d7 \u0434\u0432\u0435 \u0441\u043e\u0431\u0430\u043a\u0438 \u0643\u0644\u0628\u0627\u0646 \U0001f415"


def probes(embedder: Embedder) -> dict[str, ModelInput]:
    """Return the fixed inputs, by name."""
    from unime.models.inputs import ModelInput
    from unime.models.processor import registered_tokens

    instruction = "Find a picture that matches the description."
    sentence = "Two brown dogs run along a beach while a boat passes behind them. "
    tokens = len(embedder.tokenizer(sentence, add_special_tokens=False)["input_ids"])
    long = sentence * (embedder.config.max_length * 5 // 4 // tokens + 1)
    # Not all that is escaped: a probe's text is the same for exports of any version.
    special = registered_tokens(embedder.processor)
    # Few, so that text and image fit into a short max_length together.
    dangerous = [str(embedder.processor.image_token), str(embedder.tokenizer.eos_token)]
    return {
        "text": ModelInput(sentence, None, "target", ""),
        "text with instruction": ModelInput(sentence, None, "query", instruction),
        "image": ModelInput("", probe_image(64, 48), "target", ""),
        "wide image with instruction": ModelInput("", probe_image(120, 40), "query", instruction),
        "extremely wide image": ModelInput("", probe_image(420, 6), "target", ""),
        "extremely tall image": ModelInput("", probe_image(6, 420), "target", ""),
        "image and text": ModelInput(sentence, probe_image(48, 64), "query", instruction),
        "long text": ModelInput(long, None, "query", instruction),
        "almost empty": ModelInput(".", None, "target", ""),
        "non-Latin": ModelInput(_MANY_SCRIPTS, None, "query", ""),
        "special tokens": ModelInput(f"a {''.join(special)} b", None, "query", ""),
        "special tokens beside an image": ModelInput(
            " ".join(dangerous), probe_image(48, 48), "target", ""
        ),
    }


def probe_image(width: int, height: int) -> Image:
    """Return a colourful picture made of arithmetic, the same everywhere."""
    from PIL import Image

    rows, columns = np.mgrid[0:height, 0:width]
    channels = (rows * 5 + columns, columns * 3, (rows // 8 + columns // 8) % 2 * 200)
    return Image.fromarray((np.stack(channels, axis=-1) % 256).astype(np.uint8))


def reference_embeddings(embedder: Embedder) -> dict[str, list[float]]:
    """Return the trained model's embeddings of the probes, by name."""
    named = probes(embedder)
    vectors = embedder.encode(list(named.values()), label="probes")
    return {
        name: [round(float(value), 7) for value in vector]
        for name, vector in zip(named, vectors, strict=True)
    }
