"""Pixels are made RGB by one function: one picture is one tensor and one identity on every path."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.families import build_family
from unime.data.images import check, load_file, load_rgb, locate, read_bytes, shown_size
from unime.data.pixels import ImageError, pixels_hash, to_rgb
from unime.eval.pool import PoolImage
from unime.judge.engine import ImageBytes as SentPicture
from unime.judge.job import as_sent
from unime.models.embedder import Embedder, _identity
from unime.models.inputs import ModelInput
from unime.models.model_config import ModelConfig
from unime.rerank.reranker import as_side
from unime.search.index import picture_of

WIDTH, HEIGHT = 20, 12
MODES = (
    "1", "L", "P", "LA", "PA", "La", "RGB", "RGBX", "RGBA", "RGBa", "CMYK", "YCbCr", "LAB", "HSV", "I", "F",
    "I;16", "I;16L", "I;16B",
)  # fmt: skip
TURNED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90,
}
"""What each EXIF orientation does with the stored pixels."""


def read_picture(root: Path, location: str) -> SentPicture:
    """Return a picture of a data root as the judge's server gets it."""
    return as_sent(read_bytes(locate(root, location), location), location)


def base() -> Image.Image:
    """Return a picture without any symmetry: no turn of it is another one."""
    noise = np.random.default_rng(3).integers(0, 256, (3, 5, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((WIDTH, HEIGHT), Image.Resampling.NEAREST)


def with_alpha(image: Image.Image) -> Image.Image:
    mask = Image.new("L", image.size, 255)
    mask.paste(0, (2, 2, 9, 8))
    mask.paste(100, (10, 0, 20, 4))
    image = image.copy()
    image.putalpha(mask)
    return image


def files() -> Iterator[tuple[str, str, Image.Image, dict[str, Any]]]:
    """Yield (name, format, stored image, options of saving) of every mode that a format can hold."""
    rgb, grey = base(), base().convert("L")
    deep = np.asarray(grey).astype(np.uint16) * 257
    palette = rgb.quantize(12)
    for kind, image, options in (
        ("1", rgb.convert("1"), {}),
        ("l", grey, {}),
        ("l_trns", grey, {"transparency": grey.getpixel((0, 0))}),
        ("la", with_alpha(grey), {}),
        ("p", palette, {}),
        ("p4", palette, {"bits": 4}),
        ("p_trns", palette, {"transparency": 3}),
        ("p_alphas", palette, {"transparency": bytes(range(0, 240, 20))}),
        ("rgb", rgb, {}),
        ("rgb_trns", rgb, {"transparency": rgb.getpixel((0, 0))}),
        ("rgba", with_alpha(rgb), {}),
        ("i16", Image.fromarray(deep), {}),
    ):
        yield f"{kind}.png", "PNG", image, options
    for kind, image in (("l", grey), ("rgb", rgb), ("cmyk", rgb.convert("CMYK"))):
        yield f"{kind}.jpg", "JPEG", image, {"quality": 95}
    for kind, image in (("rgb", rgb), ("rgba", with_alpha(rgb))):
        yield f"{kind}.webp", "WEBP", image, {"lossless": True, "exact": True}
    big = Image.frombytes("I;16B", rgb.size, deep.astype(">u2").tobytes())
    # Pillow before 13 takes its own TIFF in YCbCr for a truncated one; so do we then.
    ycbcr = [("ycbcr", rgb.convert("YCbCr"))] if int(PIL.__version__.split(".")[0]) >= 13 else []
    for kind, image in (
        ("1", rgb.convert("1")), ("l", grey), ("p", palette), ("rgb", rgb), ("rgba", with_alpha(rgb)),
        ("la", with_alpha(grey)), ("cmyk", rgb.convert("CMYK")), *ycbcr,
        ("lab", Image.frombytes("LAB", rgb.size, rgb.tobytes())),
        ("i16", Image.fromarray(deep)), ("i16b", big), ("i32", Image.fromarray(deep.astype(np.int32))),
        ("float01", Image.fromarray((deep / 65535).astype(np.float32))),
        ("float255", Image.fromarray((deep / 257).astype(np.float32))),
    ):  # fmt: skip
        yield f"{kind}.tif", "TIFF", image, {}
    yield "moving.gif", "GIF", palette, {"save_all": True, "append_images": [palette.rotate(180)]}


FILES = {name: (kind, image, options) for name, kind, image, options in files()}
CASES = [
    (name, turn)
    for name, (kind, *_) in FILES.items()
    for turn in (TURNED if kind != "GIF" else [1])
]


def content(given: Any) -> Any:
    return as_side(given).picture


def saved(folder: Path, name: str, turn: int) -> Path:
    kind, image, options = FILES[name]
    exif = Image.Exif()
    exif[0x0112] = turn
    image.save(folder / name, kind, **options, **({"exif": exif} if turn > 1 else {}))
    return folder / name


@pytest.mark.parametrize(("name", "turn"), CASES)
def test_every_path_sees_the_same_pixels(tmp_path: Path, name: str, turn: int):
    path = saved(tmp_path, name, turn)
    data = path.read_bytes()
    trained = load_rgb(tmp_path, name)
    # Loaded from bytes: a turned TIFF that Pillow has mapped into memory is no picture any more.
    opened = Image.open(io.BytesIO(data))
    opened.load()
    before = (opened.mode, opened.size, opened.tobytes(), dict(opened.info))
    seen = {
        "caller": to_rgb(opened),
        "caller, not loaded yet": to_rgb(Image.open(path)),
        "twice": to_rgb(trained),
        "search": picture_of(data),
        "own path": load_file(path),
        "eval": PoolImage(tmp_path, name).load(),
        "reranker, path": content(path).open(),
        "reranker, PIL": content({"image": Image.open(path)}).open(),
        # A server decodes what it is sent and knows nothing of EXIF.
        "judge": Image.open(io.BytesIO(read_picture(tmp_path, name).data)).convert("RGB"),
    }
    expected = np.asarray(trained)
    assert trained.mode == "RGB"
    for how, image in seen.items():
        assert image.size == trained.size, how
        np.testing.assert_array_equal(np.asarray(image), expected, err_msg=how)
    assert check(tmp_path, name)[1:] == shown_size(data, name) == trained.size
    assert (opened.mode, opened.size, opened.tobytes(), dict(opened.info)) == before
    keys = {content(path).key, content(opened).key, pixels_hash(trained)}
    assert len(keys) == 1
    if turn > 1:
        upright = np.asarray(load_rgb(saved(tmp_path, name, 1).parent, name))
        np.testing.assert_array_equal(expected, TURNED[turn](upright))


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Embedder:
    folder = build_family("qwen2_vl", tmp_path_factory.mktemp("qwen2_vl"))
    return Embedder.load(ModelConfig(id=str(folder), max_length=256, max_pixels=4096), "cpu")


@pytest.mark.parametrize("name", FILES)
def test_one_tensor_and_one_identity(embedder: Embedder, tmp_path: Path, name: str):
    path = saved(tmp_path, name, 6 if FILES[name][0] != "GIF" else 1)
    trained, given = (
        ModelInput("", image, "target", "")
        for image in (load_rgb(tmp_path, name), Image.open(path))
    )
    assert _identity(trained) == _identity(given)
    for one, other in zip(
        embedder.features([trained]).items(), embedder.features([given]).items(), strict=True
    ):
        assert one[0] == other[0]
        assert torch.equal(one[1], other[1])


@pytest.mark.parametrize(
    ("name", "mean"),
    # The same scene in every depth: as bright as in 8 bits, within rounding.
    [("i16.png", 1), ("i16.tif", 1), ("i16b.tif", 1), ("i32.tif", 1), ("float01.tif", 1), ("float255.tif", 1)],
)  # fmt: skip
def test_deep_grey_is_scaled_and_not_clipped(tmp_path: Path, name: str, mean: int):
    saved(tmp_path, name, 1)
    expected = np.asarray(base().convert("L").convert("RGB")).astype(int)
    assert np.abs(np.asarray(load_rgb(tmp_path, name)).astype(int) - expected).max() <= mean


def test_greys_without_a_known_white_are_stretched():
    values = np.array([[-5.0, 0.0], [np.nan, 100000.0]], dtype=np.float32)
    made = np.asarray(to_rgb(Image.fromarray(values)))[..., 0]
    assert made.tolist() == [[0, 0], [0, 255]]


@pytest.mark.parametrize("name", ["l_trns.png", "rgb_trns.png", "rgba.png", "la.png", "rgba.webp"])
def test_transparent_parts_are_white(tmp_path: Path, name: str):
    saved(tmp_path, name, 1)
    corner = (0, 0) if "trns" in name else (3, 3)
    assert load_rgb(tmp_path, name).getpixel(corner) == (255, 255, 255)


@given(
    st.sampled_from(MODES),
    st.tuples(st.integers(1, 6), st.integers(1, 6)),
    st.integers(0, 8),
    st.randoms(use_true_random=False),
)
def test_any_picture_becomes_rgb_once(mode: str, size: tuple[int, int], turn: int, random: Any):
    probe = Image.new(mode, size)
    image = Image.frombytes(mode, size, random.randbytes(len(probe.tobytes())))
    if turn:
        image.getexif()[0x0112] = turn
    before = image.tobytes(), image.mode, image.size
    made = to_rgb(image)
    assert (image.tobytes(), image.mode, image.size) == before
    assert made.mode == "RGB"
    assert made.size == (size[::-1] if turn >= 5 else size)
    again = to_rgb(made)
    assert again.tobytes() == made.tobytes() and again.size == made.size
    assert pixels_hash(image) == pixels_hash(made)


def test_equal_indices_of_two_palettes_are_two_pictures(embedder: Embedder):
    one, other = Image.new("P", (8, 8), 1), Image.new("P", (8, 8), 1)
    one.putpalette([0, 0, 0, 255, 0, 0])
    other.putpalette([0, 0, 0, 0, 0, 255])
    clear = one.copy()
    clear.info["transparency"] = 1
    keys = {content(image).key for image in (one, other, clear)}
    assert len(keys) == 3
    vectors = embedder.encode([ModelInput("", image) for image in (one, other, clear)])
    assert len(np.unique(vectors.round(4), axis=0)) == 3


def test_two_turns_of_one_picture_are_two_pictures(embedder: Embedder):
    images = []
    for turn in (1, 3):
        image = base()
        image.getexif()[0x0112] = turn
        images.append(image)
    assert content(images[0]).key != content(images[1]).key
    vectors = embedder.encode([ModelInput("", image) for image in images])
    assert len(np.unique(vectors.round(4), axis=0)) == 2


def damaged_exif(*entries: tuple[int, int, int, bytes]) -> bytes:
    block = b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">H", len(entries))
    return block + b"".join(struct.pack(">HHI", *e[:3]) + e[3] for e in entries) + b"\0" * 4


@pytest.mark.parametrize(
    ("exif", "size"),
    [
        # ASCII where a rational number is announced; the orientation before it is good.
        (damaged_exif((0x0112, 3, 1, b"\0\6\0\0"), (0x829A, 2, 4, b"1/6\0")), (HEIGHT, WIDTH)),
        (damaged_exif((0x0112, 2, 4, b"six\0")), (WIDTH, HEIGHT)),
        (damaged_exif((0x0112, 3, 1, b"\0\6\0\0"))[:20], (WIDTH, HEIGHT)),
        (b"Exif\0\0no block at all", (WIDTH, HEIGHT)),
    ],
)
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_a_damaged_exif_block_takes_nothing_from_the_picture(
    tmp_path: Path, exif: bytes, size: tuple[int, int]
):
    base().save(tmp_path / "a.jpg", exif=exif)
    assert check(tmp_path, "a.jpg")[1:] == size


def test_orientation_in_xmp_counts(tmp_path: Path):
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><d tiff:Orientation="6"/></x:xmpmeta>'
    base().save(tmp_path / "a.jpg", xmp=xmp)
    assert load_rgb(tmp_path, "a.jpg").size == (HEIGHT, WIDTH)


@pytest.mark.parametrize("image", ["a.png", b"bytes", None, np.zeros((2, 2, 3), np.uint8)])
def test_what_is_no_picture_is_one_sentence(image: Any):
    with pytest.raises(ImageError, match="not an image: expected a PIL image, got "):
        to_rgb(image)


def test_a_phone_jpeg_of_several_pictures_is_sent_as_its_first(tmp_path: Path):
    base().save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[base().rotate(180)])
    sent = read_picture(tmp_path, "a.jpg")
    np.testing.assert_array_equal(
        np.asarray(Image.open(io.BytesIO(sent.data))), np.asarray(load_rgb(tmp_path, "a.jpg"))
    )
