"""Kinds of picture files that people have, and what stock sentence-transformers sees of them.

This package makes pixels by one function (`unime.data.pixels`). Other libraries decode a file in their own
ways: alpha is dropped or laid over white, 16-bit grey is cut off, EXIF is followed for a path and not
for a PIL image. What an exported folder can say about that, it says; the rest is measured here, and
stands in the card and in the report of `unime verify`. It fails no export.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw

from unime.export.probe_inputs import probe_image

if TYPE_CHECKING:
    from unime.models.embedder import Embedder

WAYS = ("path", "PIL")
"""How stock sentence-transformers is given a picture: {"image": path}, {"image": Image.open(path)}."""
Measured = Mapping[str, Mapping[str, float | str]]
"""By kind and way: a cosine, or why there is none."""
SAME = 0.999
"""Cosine from which on two ways are taken for one, as in `unime verify`."""


def write_kinds(folder: Path) -> dict[str, Path]:
    """Write one small picture file of every kind; return them by kind."""
    base = probe_image(64, 48)
    mask = Image.new("L", base.size, 0)
    ImageDraw.Draw(mask).ellipse((8, 4, 56, 44), fill=255)
    clear = base.copy()
    clear.putalpha(mask)
    exif = Image.Exif()
    exif[0x0112] = 6
    deep = np.asarray(base.convert("L")).astype(np.uint16) * 257
    grey_clear = base.convert("L")
    grey_clear.putalpha(mask)
    palette = base.quantize(16)
    made: dict[str, tuple[str, Image.Image, dict[str, Any]]] = {
        "RGB": ("png", base, {}),
        "grey": ("png", base.convert("L"), {}),
        "black and white (1 bit)": ("png", base.convert("1"), {}),
        "16-bit grey": ("png", Image.fromarray(deep), {}),
        "palette": ("png", palette, {}),
        "palette with a transparent colour": (
            "png",
            palette,
            {"transparency": int(np.argmax(palette.histogram()))},
        ),
        "transparent (alpha)": ("png", clear, {}),
        "grey with alpha": ("png", grey_clear, {}),
        "turned by EXIF": ("jpg", base, {"exif": exif, "quality": 95}),
        "CMYK": ("jpg", base.convert("CMYK"), {"quality": 95}),
        "animated GIF": ("gif", base, {"save_all": True, "append_images": [base.rotate(180)]}),
        "TIFF": ("tif", base, {}),
        "float TIFF": ("tif", Image.fromarray((deep / 65535).astype(np.float32)), {}),
    }
    found = {}
    for number, (kind, (suffix, image, options)) in enumerate(made.items()):
        found[kind] = folder / f"kind{number}.{suffix}"
        image.save(found[kind], **options)
    return found


def ours(embedder: Embedder, files: Mapping[str, Path]) -> dict[str, np.ndarray]:
    """Return this package's embeddings of picture files, by kind."""
    from unime.data.images import load_file
    from unime.models.inputs import ModelInput

    inputs = [ModelInput("", load_file(path), "target", "") for path in files.values()]
    return dict(zip(files, embedder.encode(inputs, label="kinds of pictures"), strict=True))


def compared(
    expected: Mapping[str, np.ndarray], stock: Mapping[str, Mapping[str, Sequence[float] | str]]
) -> Measured:
    """Return the cosine between our and stock embeddings of each kind, or why there is none.

    Args:
        expected: our embeddings by kind.
        stock: theirs by kind and way; a text where the library refuses the file.
    """
    return {
        kind: {way: _cosine(expected[kind], value) for way, value in ways.items()}
        for kind, ways in stock.items()
    }


def measure_here(embedder: Embedder, folder: Path) -> Measured:
    """Return `compared` for an embedder's own sentence-transformers modules.

    Args:
        embedder: its modules have the prompts of an export.
        folder: for the picture files.
    """
    files = write_kinds(folder)
    module = embedder.module
    side = "document" if "document" in (module.prompts or {}) else None

    stock: dict[str, dict[str, Sequence[float] | str]] = {}
    for kind, path in files.items():
        inputs = {"path": str(path), "PIL": Image.open(io.BytesIO(path.read_bytes()))}
        stock[kind] = {}
        for way, image in inputs.items():
            try:
                vector = module.encode([{"image": image}], prompt_name=side)[0]
                stock[kind][way] = np.asarray(vector).tolist()
            # Stock libraries refuse some kinds, each in its own words: that is a result.
            except Exception as error:
                stock[kind][way] = f"refused: {' '.join(str(error).split())[:80]}"
    return compared(ours(embedder, files), stock)


def differing(found: Measured) -> dict[str, dict[str, str]]:
    """Return the kinds that stock sentence-transformers sees in another way, as text by way."""
    kinds = [
        kind
        for kind, ways in found.items()
        if any(isinstance(value, str) or value < SAME for value in ways.values())
    ]
    shown = {kind: {way: _shown(found[kind][way]) for way in WAYS} for kind in kinds}
    return dict(sorted(shown.items(), key=lambda pair: min(pair[1].values())))


def report(found: Measured) -> str:
    """Return the kinds and their cosines as lines of text."""
    lines = ["pictures of other kinds: cosine of stock sentence-transformers with unime"]
    lines += [f"{'by path':>10}{'as PIL':>10}  kind"]
    for kind, ways in found.items():
        lines.append(f"{''.join(f'{_shown(ways[way]):>10}' for way in WAYS)}  {kind}")
    if differing(found):
        lines.append(
            f"what is below {SAME} is no fault of the export: its card says how to prepare such files"
        )
    return "\n".join(lines)


def _shown(value: float | str) -> str:
    return "refused" if isinstance(value, str) else f"{value:.4f}"


def _cosine(expected: np.ndarray, found: Sequence[float] | str) -> float | str:
    if isinstance(found, str):
        return found
    vector = np.asarray(found, dtype=np.float64)
    one = expected.astype(np.float64)
    return round(float(vector @ one / np.linalg.norm(vector) / np.linalg.norm(one)), 4)
