"""Embeddings do not depend on padding, batch, order or the way they are asked for."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch

from tests.families import build_family
from tests.models.inputs import mixed, picture
from unime.core.errors import DataError, ModelError
from unime.models.embedder import Embedder
from unime.models.inputs import ModelInput, Renderer
from unime.models.model_config import ModelConfig


def left_padded(features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Move every row's padding to its left."""
    shape = features["input_ids"].shape
    shifts = shape[1] - features["attention_mask"].sum(dim=1)
    moved = dict(features)
    for key, value in features.items():
        if value.shape == shape:
            rows = [torch.roll(row, int(shift)) for row, shift in zip(value, shifts, strict=True)]
            moved[key] = torch.stack(rows)
    return moved


def test_left_padding_right_padding_and_batch_of_one_agree(embedder: Embedder) -> None:
    inputs = mixed()
    features = embedder.features(inputs)
    assert (features["attention_mask"].sum(dim=1) < features["input_ids"].shape[1]).any()
    with torch.inference_mode():
        right = embedder.forward(features)
        left = embedder.forward(left_padded(features))
        alone = torch.cat([embedder.forward(embedder.features([one])) for one in inputs])
    torch.testing.assert_close(left, right, atol=2e-6, rtol=0)
    torch.testing.assert_close(alone, right, atol=2e-6, rtol=0)


def test_embedding_is_the_normalised_last_hidden_state_after_the_norm(embedder: Embedder) -> None:
    features = embedder.features(mixed()[:1])
    with torch.inference_mode():
        hidden = embedder.backbone(**features).last_hidden_state
        expected = torch.nn.functional.normalize(hidden[0, -1], dim=0)
        got = embedder.forward(features)[0]
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)


def test_without_sentence_transformers_it_is_the_same(embedder: Embedder) -> None:
    inputs = mixed()
    plain = Embedder.load(embedder.config, "cpu", plain=True)
    np.testing.assert_allclose(plain.encode(inputs), embedder.encode(inputs), atol=2e-6)
    plain.network.shares_prefix = False
    np.testing.assert_allclose(plain.encode(inputs), embedder.encode(inputs), atol=2e-6)
    assert plain.fingerprint == embedder.fingerprint
    assert plain.dim == embedder.dim


def test_inputs_matter(embedder: Embedder) -> None:
    """A tiny random model that is blind to its input would pass every equality above."""
    inputs = mixed()
    vectors = embedder.encode(inputs)
    cosines = vectors @ vectors.T
    np.testing.assert_allclose(np.diag(cosines), 1, atol=1e-5)
    assert (cosines - np.eye(len(inputs))).max() < 0.9999
    other_picture = embedder.encode([inputs[4].with_image(picture(9))])[0]
    assert other_picture @ vectors[4] < 0.99999


def test_encode_sorts_batches_and_encodes_duplicates_once(
    embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = mixed()
    again = [inputs[2].with_image(picture(0)), inputs[0]]
    expected = np.concatenate([embedder.encode([one]) for one in inputs])
    seen: list[int] = []
    features = Renderer.features

    def counting(self, encodes, **options):
        seen.append(len(encodes))
        return features(self, encodes, **options)

    monkeypatch.setattr(Renderer, "features", counting)
    vectors = embedder.encode([*inputs, *again], batch_size=4)
    assert sum(seen) == len(inputs)
    np.testing.assert_allclose(vectors[: len(inputs)], expected, atol=2e-6)
    np.testing.assert_array_equal(vectors[len(inputs) :], vectors[[2, 0]])


def test_the_same_content_under_another_instruction_is_another_input(embedder: Embedder) -> None:
    ring = picture(0)
    vectors = embedder.encode(
        [
            ModelInput("ring", ring, "query", "Find it."),
            ModelInput("ring", ring, "query", "Name it."),
            ModelInput("ring", ring, "target", "Find it."),
        ]
    )
    assert len(np.unique(vectors.round(5), axis=0)) == 3


def test_truncation_keeps_image_block_and_header(load, family: str) -> None:
    short = load(family)
    image = picture(1)
    long_text = "two dogs run along the beach " * 200
    for encode in (
        ModelInput(long_text, None, "query", "do"),
        ModelInput(long_text, image, "query", "do"),
    ):
        full = load(family, max_length=20000).features([encode])
        cut = short.features([encode])
        ids, whole = cut["input_ids"][0].tolist(), full["input_ids"][0].tolist()
        assert len(ids) == 256 < len(whole)
        header = short.tokenizer(
            short.render(encode).rpartition("beach ")[2], add_special_tokens=False
        )["input_ids"]
        assert ids[: 256 - len(header)] == whole[: 256 - len(header)]
        assert ids[-len(header) :] == whole[-len(header) :]
        assert torch.isfinite(short.forward(cut)).all()


def test_too_short_a_length_is_an_error_that_says_what_to_do(load, family: str) -> None:
    tight = load(family, max_length=40)
    with pytest.raises(ModelError, match="prompt and image alone take [0-9]+ tokens; raise"):
        tight.features([ModelInput("text " * 50, picture(1), "query", "")])


def test_an_empty_input_is_an_error(embedder: Embedder) -> None:
    with pytest.raises(DataError, match="neither text nor image"):
        embedder.encode([ModelInput("", None, "target", "")])


def test_pixel_limits_are_followed(load, family: str) -> None:
    wide = ModelInput("", picture(0, 224, 224), "target", "")
    small, large = (
        load(family, max_pixels=pixels, min_pixels=784).features([wide]) for pixels in (900, 60000)
    )
    assert small["input_ids"].shape[1] < large["input_ids"].shape[1]
    with torch.inference_mode():
        assert torch.isfinite(load(family, max_pixels=900, min_pixels=784).forward(small)).all()


def test_fingerprint_follows_what_decides_an_embedding(load, family: str) -> None:
    base = load(family).fingerprint
    assert load(family).fingerprint == base
    changes = [{"max_length": 128}, {"prompt": "embed/plain.v1"}, {"dtype": "bfloat16"}]
    changes.append({"max_pixels": 900, "min_pixels": 784})
    assert len({base, *(load(family, **change).fingerprint for change in changes)}) == 5


def test_gradient_reaches_the_backbone(load, family: str) -> None:
    trainable = load(family)
    inputs = mixed()
    vectors = trainable.forward(trainable.features(inputs))
    (vectors[0] @ vectors[2]).backward()
    norms = [p.grad.norm() for p in trainable.backbone.parameters() if p.grad is not None]
    assert len(norms) > 20
    assert all(torch.isfinite(norm) for norm in norms)


def test_a_folder_without_model_is_an_error(tmp_path) -> None:
    with pytest.raises(ModelError, match="cannot load the model"):
        Embedder.load(ModelConfig(id=str(tmp_path)), "cpu")
    missing = str(tmp_path / "none")
    with pytest.raises(
        ModelError, match=f"cannot load the model {missing}: there is no such folder"
    ):
        Embedder.load(ModelConfig(id=missing), "cpu")


def test_four_bit_weights_without_their_library_are_a_sentence(tmp_path):
    if importlib.util.find_spec("bitsandbytes") is not None:
        pytest.skip("bitsandbytes is installed here")
    config = ModelConfig(id=str(build_family("qwen2_vl", tmp_path)), dtype="nf4")
    with pytest.raises(ModelError, match=r"dtype nf4 \(QLoRA\) needs bitsandbytes"):
        Embedder.load(config, "cpu")


def test_parts_that_models_are_not_shown_are_refused(load) -> None:
    image = picture(0)
    assert ModelInput(parts=[image, "ring"], side="target") == ModelInput("ring", image, "target")
    assert ModelInput("", image).parts == (image,) and ModelInput("a").parts == ("a",)
    embedder = load("qwen2_vl")
    for parts in ([image, image], ["a", image], ["a", "b"], [image, "a", "b"]):
        with pytest.raises(DataError, match=r"an input has the parts (text|image), .*at most one"):
            embedder.encode([ModelInput(parts=parts)])
    with pytest.raises(DataError, match="beside parts"):
        ModelInput("a", parts=["b"])
