"""The sprites: small public-domain pictures that stand in scenes beside drawn shapes.

The atlas in assets/sprites was made once, by `python -m research.world.sprites FOLDER` with FOLDER the unpacked
Debian package openclipart-png (`apt-get download openclipart-png && dpkg -x openclipart-png*.deb .`,
FOLDER is usr/share/openclipart/png). `names.json` is the selection: our name -> file in the package.
Only pictures whose SVG original in openclipart-svg carries the public-domain mark were selected; very
dark or very thin ones were left out, since they vanish on a dark background.
"""

from __future__ import annotations

import json
import sys
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

FOLDER = Path(__file__).resolve().parents[2] / "assets" / "sprites"
SIDE = 22


@lru_cache(maxsize=1)
def load() -> dict[str, np.ndarray]:
    """Read the atlas: name, in alphabetical order, -> uint8 RGBA of shape (22, 22, 4)."""
    names = sorted(json.loads((FOLDER / "names.json").read_text()))
    rgba = np.load(FOLDER / "atlas.npz")["rgba"]
    assert rgba.shape == (len(names), SIDE, SIDE, 4), rgba.shape
    return dict(zip(names, rgba, strict=True))


def make(package: Path) -> None:
    """Write the atlas from the pictures of the unpacked package."""
    selection = json.loads((FOLDER / "names.json").read_text())
    rgba = [shrink(Image.open(package / f"{selection[name]}.png")) for name in sorted(selection)]
    np.savez_compressed(FOLDER / "atlas.npz", rgba=np.stack(rgba))


def shrink(picture: Image.Image) -> np.ndarray:
    """Cut a picture to what isn't transparent, centre it in a square, average it to 22 x 22."""
    picture = picture.convert("RGBA")
    picture = picture.reduce(max(1, max(picture.size) // 300))
    seen = picture.getchannel("A").point([0] * 17 + [255] * 239)
    picture = picture.crop(seen.getbbox())
    side = max(picture.size)
    square = Image.new("RGBA", (side, side))
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return np.asarray(square.resize((SIDE, SIDE), Image.Resampling.BOX))


if __name__ == "__main__":
    make(Path(sys.argv[1]))
