"""Pictures one after another as an animated WebP or GIF, or one of them as PNG; the file appears whole or not at all."""

import os
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..envs.picture import COLOURS, INK, PAPER
from .checkpoint import disk_error
from .errors import ConfigError, suggest

SUFFIXES = (".webp", ".gif", ".png")
_ENDINGS = ".webp, .gif, or .png for one picture"
_OWN = (PAPER, INK, *COLOURS)
"""Colours that a GIF shows exactly."""
_PLACES = np.array((65536, 256, 1))
_SAMPLED = 12
"""Pictures from which a GIF's palette is made."""


def check_path(path: Path) -> None:
    """ConfigError for a file that could not be written, before anything is played."""
    suffix = path.suffix.lower()
    if suffix == ".mp4":
        raise ConfigError(f"--out {path}: MP4 is not offered, since it needs a video encoder", remedy=f"end it in {_ENDINGS}")
    if suffix not in SUFFIXES:
        hint = suggest(suffix, SUFFIXES) if suffix else ""
        raise ConfigError(f'--out {path}: "{suffix}" is no kind of picture.{hint}', remedy=f"end it in {_ENDINGS}")
    if not path.parent.is_dir():
        raise ConfigError(f"--out {path}: there is no folder {path.parent}", remedy="make it first, or choose another --out")
    if path.is_dir():
        raise ConfigError(f"--out {path} is a folder", remedy="name a file in it")


class Reel(Image.Image):
    """Pictures of one size, kept compressed, of which one at a time is unpacked: what Pillow's animation writers read from.

    900 pictures of 640 x 500 take 900 MB as pixels, and some 20 MB so.
    """

    def __init__(self, pictures: Iterable[Image.Image]):
        super().__init__()
        self._packed = [_pack(picture) for picture in pictures]
        self.seek(0)

    @property
    def n_frames(self) -> int:
        return len(self._packed)

    @property
    def is_animated(self) -> bool:
        return len(self._packed) > 1

    def picture(self, index: int) -> Image.Image:
        """One of them on its own."""
        picture = Image.open(BytesIO(self._packed[index]))
        picture.load()
        return picture

    def seek(self, frame: int) -> None:
        if not 0 <= frame < len(self._packed):
            raise EOFError(f"picture {frame} of {len(self._packed)}")
        picture = self.picture(frame)
        self._frame, self._mode, self._size, self.im = frame, picture.mode, picture.size, picture.im
        self.palette = picture.palette

    def tell(self) -> int:
        return self._frame


def _pack(picture: Image.Image) -> bytes:
    packed = BytesIO()
    picture.save(packed, "PNG", compress_level=1)
    return packed.getvalue()


def write_film(reel: Reel, path: Path, *, fps: int | float) -> None:
    """Write all pictures as `path`'s suffix says, `fps` a second; the last one stays for a second.

    Raises:
        DiskError: the disk is full, or the folder cannot be written.
    """
    durations = [round(1000 / fps)] * (reel.n_frames - 1) + [max(1000, round(1000 / fps))]
    common = {"save_all": True, "duration": durations, "loop": 0}
    if path.suffix.lower() == ".gif":
        palette = shared_palette(reel)
        indexed = Reel(_indexed(reel.picture(i), palette) for i in range(reel.n_frames))
        _save(indexed, path, format="GIF", optimize=False, disposal=1, **common)
    else:
        _save(reel, path, format="WEBP", lossless=True, quality=20, method=1, kmin=30, kmax=60, **common)


def write_picture(picture: Image.Image, path: Path) -> None:
    """One picture as PNG; DiskError as `write_film`."""
    _save(picture, path, format="PNG", optimize=True)


def shared_palette(reel: Reel) -> Image.Image:
    """One palette for the whole film: the agents' colours as they are, and the most used ones of pictures all along it."""
    count = min(_SAMPLED, reel.n_frames)
    sampled = [reel.picture(i * (reel.n_frames - 1) // max(count - 1, 1)).convert("RGB") for i in range(count)]
    strip = Image.new("RGB", (reel.width, reel.height * count))
    for position, picture in enumerate(sampled):
        strip.paste(picture, (0, position * reel.height))
    found = strip.quantize(256 - len(_OWN), method=Image.Quantize.MEDIANCUT).getpalette() or []
    palette = Image.new("P", (1, 1))
    palette.putpalette([value for colour in _OWN for value in colour] + found[: 3 * (256 - len(_OWN))])
    return palette


def _indexed(picture: Image.Image, palette: Image.Image) -> Image.Image:
    """The picture in the palette's colours. Pillow looks for the nearest in steps of four, so our own colours are set exactly."""
    index = np.array(picture.quantize(palette=palette, dither=Image.Dither.NONE))
    packed = np.asarray(picture.convert("RGB")) @ _PLACES
    for position, colour in enumerate(_OWN):
        index[packed == np.array(colour) @ _PLACES] = position
    indexed = Image.fromarray(index)
    indexed.putpalette(palette.getpalette() or [])
    return indexed


def _save(image: Image.Image, path: Path, **options: Any) -> None:
    temporary = path.with_name(f".tmp-{path.name}-{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            image.save(file, **options)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise disk_error(error, path) from error
    finally:
        temporary.unlink(missing_ok=True)
