"""Where images may be, and which of them can be used."""

from __future__ import annotations

import io
import tarfile
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.data.readers.sources import picture
from unime.data.image_check import ImageChecker
from unime.data.images import Checked, ImageError, check, load_rgb, locate
from unime.data.items import hash_image


def kind_of(root: Path, location: str, **options: int) -> str:
    with pytest.raises(ImageError) as caught:
        check(root, location, **options)
    assert str(caught.value) == f"{caught.value.kind}: {caught.value.detail}"
    return caught.value.kind


@pytest.fixture
def root(tmp_path: Path) -> Path:
    picture(tmp_path / "secret.png")
    picture(tmp_path / "root/in/a.png")
    return tmp_path / "root"


@pytest.mark.parametrize(
    "location",
    ["../secret.png", "in/../../secret.png", "in/../in/a.png", "{secret}", "in/out.png",
     "away/secret.png", "in/a.png\0", "", "..", "in/..", "../x.tar#a", "../x.parquet#0"],
)  # fmt: skip
def test_nothing_outside_the_root_is_opened(root: Path, location: str) -> None:
    secret = root.parent / "secret.png"
    (root / "in/out.png").symlink_to(secret)
    (root / "away").symlink_to(root.parent)
    assert kind_of(root, location.format(secret=secret)) == "outside the data root"


def test_links_within_the_root_are_fine(root: Path) -> None:
    (root / "b.png").symlink_to(root / "in/a.png")
    (root / "elsewhere").symlink_to(root / "in")
    (root.parent / "alias").symlink_to(root)
    assert check(root, "b.png") == check(root, "elsewhere/a.png") == check(root, "in/a.png")
    assert check(root.parent / "alias", "in/a.png") == check(root, "in/a.png")


def test_a_loop_of_links_and_a_folder_are_missing(root: Path) -> None:
    (root / "loop.png").symlink_to(root / "loop.png")
    assert kind_of(root, "loop.png") == "missing image"
    assert kind_of(root, "in") == "missing image"
    assert kind_of(root, "in/b.png") == "missing image"


def test_members_of_archives(root: Path) -> None:
    with tarfile.open(root / "many.tar", "w") as archive:
        archive.add(root / "in/a.png", "deep/a.png")
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "../../secret.png"
        archive.addfile(link)
    assert check(root, "many.tar#deep/a.png") == check(root, "in/a.png")
    assert kind_of(root, "many.tar#deep/b.png") == "missing image"
    assert kind_of(root, "many.tar#link.png") == "missing image"
    (root / "bad.tar").write_bytes(b"no archive")
    assert kind_of(root, "bad.tar#a.png") == "missing image"


@pytest.mark.parametrize("member", ["2", "x", "-1", "0/other", "1/image"])
def test_cells_that_hold_no_image(root: Path, member: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = (root / "in/a.png").read_bytes()
    pq.write_table(pa.table({"image": [data, None]}), root / "t.parquet")
    assert check(root, "t.parquet#0") == check(root, "t.parquet#0/image") == check(root, "in/a.png")
    assert kind_of(root, f"t.parquet#{member}") == "missing image"


def test_bombs_are_refused_by_their_header(root: Path) -> None:
    picture(root / "wide.png", size=(101, 100))
    assert check(root, "wide.png", max_pixels=10100).width == 101
    assert kind_of(root, "wide.png", max_pixels=10099) == "image too large"
    # A header that promises far more pixels than Pillow's own limit, with hardly any data.
    header = b"IHDR" + (60000).to_bytes(4, "big") * 2 + b"\x08\x02\x00\x00\x00"
    chunks = [header, b"IDAT" + zlib.compress(b"0" * 1000)]
    (root / "bomb.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            (len(chunk) - 4).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
            for chunk in chunks
        )
    )
    assert kind_of(root, "bomb.png") == "image too large"


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.gif", "a.bmp", "a.tiff"])
def test_cut_files_are_never_taken_for_whole(tmp_path: Path, name: str) -> None:
    noise = Image.effect_noise((64, 64), 80).convert("RGB")
    noise.save(tmp_path / name)
    data = (tmp_path / name).read_bytes()
    assert check(tmp_path, name)[1:] == (64, 64)
    for share in (0.0, 0.02, 0.3, 0.9):
        (tmp_path / name).write_bytes(data[: int(len(data) * share)])
        assert kind_of(tmp_path, name) in ("truncated image", "not an image")


@given(st.binary(max_size=200))
def test_any_bytes_are_an_image_or_a_reason(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    root = tmp_path_factory.mktemp("any")
    for start in (b"", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"II*\0", b"RIFF\0\0\0\0WEBP"):
        (root / "x").write_bytes(start + data)
        try:
            assert load_rgb(root, "x").mode == "RGB"
        except ImageError as error:
            assert error.kind in ("not an image", "truncated image", "image too large")


def test_scripts_posing_as_pictures_are_not_run(tmp_path: Path) -> None:
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    (tmp_path / "a.png").write_bytes(eps)
    assert kind_of(tmp_path, "a.png") == "not an image"


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("RGBA", (255, 0, 0, 0), (255, 255, 255)),
        ("RGBA", (0, 0, 0, 255), (0, 0, 0)),
        ("LA", (0, 0), (255, 255, 255)),
        ("L", 128, (128, 128, 128)),
        ("1", 0, (0, 0, 0)),
        ("I;16", 32896, (128, 128, 128)),
    ],
)
def test_all_modes_become_rgb_over_white(
    tmp_path: Path, mode: str, colour: int | tuple[int, ...], expected: tuple[int, int, int]
) -> None:
    Image.new(mode, (4, 4), colour).save(tmp_path / "a.png")
    assert load_rgb(tmp_path, "a.png").getpixel((1, 1)) == expected


def test_palettes_with_a_transparent_colour(tmp_path: Path) -> None:
    image = Image.new("P", (4, 4), 0)
    image.putpalette([10, 20, 30] + [0] * 765)
    image.save(tmp_path / "a.png", transparency=0)
    assert load_rgb(tmp_path, "a.png").getpixel((0, 0)) == (255, 255, 255)


def test_exif_orientation_turns_picture_and_size(tmp_path: Path) -> None:
    image = Image.new("RGB", (20, 10), "white")
    image.paste("black", (0, 0, 10, 10))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.jpg", exif=exif, quality=95)
    assert check(tmp_path, "a.jpg")[1:] == (10, 20)
    upright = load_rgb(tmp_path, "a.jpg")
    assert upright.size == (10, 20)
    assert upright.getpixel((5, 2)) == (0, 0, 0)


def test_good_images_are_read_once_and_again_when_they_change(root: Path) -> None:
    cache = root.parent / "cache/images.sqlite"

    def run(*locations: str, max_pixels: int = 1000) -> tuple[dict[str, Checked | ImageError], int]:
        checker = ImageChecker(root, max_pixels, cache)
        try:
            return checker.check(locations), checker.decoded
        finally:
            checker.close()

    first, decoded = run("in/a.png", "in/a.png", "in/none.png")
    assert decoded == 1
    assert first["in/a.png"] == Checked(hash_image((root / "in/a.png").read_bytes()), 8, 6)
    assert isinstance(first["in/none.png"], ImageError)
    assert run("in/a.png") == ({"in/a.png": first["in/a.png"]}, 0)
    # Another cap holds for what is remembered, too.
    assert str(run("in/a.png", max_pixels=47)[0]["in/a.png"]).startswith("image too large: ")
    (root / "in/a.png").write_bytes(b"now it is none")
    assert str(run("in/a.png")[0]["in/a.png"]).startswith("not an image: ")
    cache.write_bytes(b"this is no database, and long enough to be taken for a broken one" * 20)
    picture(root / "in/a.png", "blue")
    assert run("in/a.png")[1] == 1


def test_places_remember_size_and_time(root: Path) -> None:
    place = locate(root, "in/a.png")
    assert place.size == (root / "in/a.png").stat().st_size
    assert str((root / "in/a.png").stat().st_mtime_ns) in place.version


def test_reasons_do_not_vary_from_run_to_run(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(io.BytesIO(b"nothing").getvalue())
    with pytest.raises(ImageError, match="not an image: 'a.png': cannot identify image file$"):
        check(tmp_path, "a.png")


def test_what_was_found_good_under_other_rules_is_looked_at_again(root: Path) -> None:
    cache = root.parent / "cache/images.sqlite"
    for decoded in (1, 0, 1):
        checker = ImageChecker(root, 1000, cache)
        checker.check(["in/a.png"])
        assert checker.decoded == decoded
        if decoded == 0:
            checker.cache.execute("PRAGMA user_version=1")
        checker.close()
