"""A contact sheet: pictures before and after, at the size of their pixels.

What is shown is a square where a picture is degraded most, not the whole picture made
small: that would average noise away.
"""

import io
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_SIDE = 176  # Of a square, in pixels.
_GAP, _TEXT, _FONT = 8, 34, 13
_COLUMNS = 2
_GAIN = 4  # Of the noise.
_INK, _PAPER, _FAINT = (20, 20, 20), (255, 255, 255), (110, 110, 110)


class SheetEntry(NamedTuple):
    """A picture on a contact sheet."""

    name: str
    text: str  # What is said of it.
    before: np.ndarray  # [H, W, C], uint8 or uint16.
    after: np.ndarray
    place: tuple[int, int]  # Row and column of what is to be seen.


def draw_contact_sheet(entries: Iterator[SheetEntry] | Sequence[SheetEntry]) -> bytes:
    """Returns a PNG with name, text, before, after and noise of each picture.

    The noise is what was removed, four times as strong, around grey.
    """
    cells = [_draw_entry(entry) for entry in entries]
    rows = [cells[i : i + _COLUMNS] for i in range(0, len(cells), _COLUMNS)]
    width, height = cells[0].size
    columns = min(len(cells), _COLUMNS)
    sheet = Image.new("RGB", (columns * width, len(rows) * height), _PAPER)
    for i, row in enumerate(rows):
        for j, cell in enumerate(row):
            sheet.paste(cell, (j * width, i * height))
    data = io.BytesIO()
    sheet.save(data, "PNG")
    return data.getvalue()


def _draw_entry(entry):
    squares = [_square(x, entry.place) for x in (entry.before, entry.after)]
    before, after = (x.astype(np.float32) for x in squares)
    noise = np.clip(127.5 + _GAIN * (before - after), 0, 255).astype(np.uint8)
    width = 3 * (_SIDE + _GAP) + _GAP
    cell = Image.new("RGB", (width, _TEXT + _SIDE + 20 + _GAP), _PAPER)
    draw, font = ImageDraw.Draw(cell), ImageFont.load_default(_FONT)
    draw.text((_GAP, 2), _shortened(entry.name, font, width), _INK, font)
    draw.text((_GAP, 17), _shortened(entry.text, font, width), _FAINT, font)
    labels = ("before", "after", f"removed x{_GAIN}")
    for i, (pixels, label) in enumerate(zip((*squares, noise), labels, strict=True)):
        left = _GAP + i * (_SIDE + _GAP)
        cell.paste(_enlarged(pixels), (left, _TEXT))
        draw.text((left, _TEXT + _SIDE + 2), label, _FAINT, font)
    return cell


def _shortened(text, font, width):
    while font.getlength(text) > width - 2 * _GAP:
        text = (
            text[: len(text) // 2 - 2]
            + "\N{HORIZONTAL ELLIPSIS}"
            + text[len(text) // 2 + 2 :]
        )
    return text


def _square(pixels, place):
    corners = [
        int(np.clip(middle - _SIDE // 2, 0, max(size - _SIDE, 0)))
        for middle, size in zip(place, pixels.shape, strict=False)
    ]
    top, left = corners
    part = pixels[top : top + _SIDE, left : left + _SIDE]
    if part.dtype == np.uint16:
        part = np.rint(part / 257).astype(np.uint8)
    return np.broadcast_to(part, (*part.shape[:2], 3))


def _enlarged(pixels):
    """Repeats the pixels of a small picture, and puts it in the middle."""
    factor = max(_SIDE // max(pixels.shape[:2]), 1)
    pixels = pixels.repeat(factor, axis=0).repeat(factor, axis=1)
    square = Image.new("RGB", (_SIDE, _SIDE), (236, 236, 236))
    height, width = pixels.shape[:2]
    square.paste(
        Image.fromarray(np.ascontiguousarray(pixels)),
        ((_SIDE - width) // 2, (_SIDE - height) // 2),
    )
    return square
