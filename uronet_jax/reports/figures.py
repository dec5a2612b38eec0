"""Figures for reports: galleries, heat maps, lines and bars, as PNG files.

Matplotlib is imported on first use, and without pyplot: no global state, no display.
"""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from uronet_jax.batches import check_number

_DPI = 160
_TEXT = "#222222"
_FONT = {"fontsize": 9}
_TITLE = {"fontsize": 11, "weight": "bold"}
_FULL_DIFFERENCE = 10.0
# Colours that colour-blind readers tell apart (Okabe and Ito), and one marker each.
LINE_COLOURS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"
)  # fmt: skip
_MARKERS = "osD^vPX"
_LEGEND = {
    "loc": "upper left", "bbox_to_anchor": (1.02, 1.0), "borderaxespad": 0.0,
    "frameon": False, "labelcolor": _TEXT, **_FONT,
}  # fmt: skip


def show_noise(noise: np.ndarray, amplify: float = 1.0) -> np.ndarray:
    """Returns noise in `[-1, 1]` as a picture: mid-grey where there is none."""
    check_number("amplify", amplify, above=0.0)
    return np.clip(0.5 + amplify * np.asarray(noise, np.float32) / 2.0, 0.0, 1.0)


def gallery(
    path: str | os.PathLike,
    columns: Mapping[str, np.ndarray],
    row_labels: Sequence[str] | None = None,
    *,
    title: str = "",
    cell_inches: float = 1.0,
    description: str = "",
) -> None:
    """Writes a PNG: one column per kind of picture, one row per example.

    `columns` are heading -> images `[N, H, W, 1 or 3]` in `[0, 1]`, all of the same N,
    H and W. Every pixel becomes a whole number of pixels of the file, so small images
    stay crisp. Headings and the `N` labels may contain line breaks. The description is
    kept in the file's metadata, see `description_of`.
    """
    figure, _ = _gallery(columns, row_labels, title, cell_inches)
    _save(figure, path, description)


def _gallery(columns, row_labels, title, cell_inches, least_w=0, below=0):
    """Draws a gallery; returns the figure, and where the room below it begins."""
    images = {name: _as_images(name, value) for name, value in columns.items()}
    shapes = {x.shape[:3] for x in images.values()}
    if len(shapes) != 1:
        raise ValueError(
            "a gallery needs one or more columns of equal [N, H, W]: "
            f"{ {name: x.shape for name, x in images.items()} }"
        )
    ((count, height, width),) = shapes
    if row_labels is not None and len(row_labels) != count:
        raise ValueError(f"need one label for each of {count} rows: {len(row_labels)}")

    scale = max(1, round(cell_inches * _DPI / width))
    cell_w, cell_h = width * scale, height * scale
    gap, margin = 10, 16  # Pixels, as everything below.
    label_w, _ = _text_size(row_labels or [])
    heading_w, heading_h = _text_size(images)
    title_w, title_h = _text_size([title] if title else [], **_TITLE)
    # A heading may be wider than its column.
    pitch = max(cell_w, heading_w) + gap
    left = margin + (label_w + gap if label_w else 0)
    body_w = pitch * len(images) - gap
    # Room for a long title.
    right = max(margin, max(title_w + 2 * margin, least_w) - left - body_w)
    top = margin + heading_h + gap // 2 + (title_h + gap if title_h else 0)
    total_w = left + body_w + right
    total_h = top + count * (cell_h + gap) - gap + margin

    figure = _figure(total_w, total_h + below)
    if title:
        _text(figure, margin, margin, title, "left", "top", **_TITLE)
    for j, (heading, column) in enumerate(images.items()):
        x = left + j * pitch + (pitch - gap - cell_w) // 2
        _text(figure, x + cell_w / 2, top - gap // 2, heading, "center", "bottom")
        for i, image in enumerate(column):
            y = top + i * (cell_h + gap)
            _pixels(figure, (x, y, cell_w, cell_h), image)
    for i, label in enumerate(row_labels or []):
        y = top + i * (cell_h + gap) + cell_h / 2
        _text(figure, left - gap, y, label, "right", "center")
    return figure, total_h


def attention_overlay(images: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """Returns images dimmed, with a map of importance laid over them in colour.

    Images are `[N, H, W, 1 or 3]` and maps `[N, H, W]`, both in `[0, 1]`; the brighter
    the yellow, the more important.
    """
    from matplotlib import colormaps

    images, maps = _as_images("images", images), np.asarray(maps, np.float32)
    if maps.shape != images.shape[:3] or not (maps.min() >= 0 and maps.max() <= 1):
        raise ValueError(
            f"maps must be {list(images.shape[:3])} like the images and in [0, 1]: "
            f"{list(maps.shape)} in [{maps.min()}, {maps.max()}]"
        )
    colours = colormaps["inferno"](maps)[..., :3]
    share = 0.7 * maps[..., None]
    return (1.0 - share) * 0.8 * images + share * colours


def attention_gallery(
    path: str | os.PathLike,
    columns: Mapping[str, tuple[np.ndarray, np.ndarray]],
) -> None:
    """Writes a `gallery` of images beside `attention_overlay` of their maps."""
    pictures = {}
    for heading, (images, maps) in columns.items():
        pictures[heading] = images
        pictures[f"{heading},\nGrad-CAM"] = attention_overlay(images, maps)
    gallery(path, pictures)


def heat_map(
    path: str | os.PathLike,
    values: np.ndarray,
    row_labels: Sequence[str],
    column_labels: Sequence[str],
    title: str = "",
    *,
    number_format: str = ".1f",
    low: float | None = None,
    high: float | None = None,
    description: str = "",
) -> None:
    """Writes a table of numbers as coloured cells, dark = high; NaN is a grey dash.

    `values` are `[rows, columns]`; `low` and `high` have the lightest and the darkest
    colour, by default the smallest and the largest value. The description is kept in
    the file's metadata, see `description_of`.
    """
    values = _check_cells(values, row_labels, column_labels)
    finite = values[np.isfinite(values)]
    low = float(finite.min()) if low is None else low
    high = float(finite.max()) if high is None else high
    texts = [
        [format(v, number_format) if np.isfinite(v) else "–" for v in row]
        for row in values
    ]
    shades = (values - low) / max(high - low, 1e-12)
    figure = _cells(texts, shades, "YlGnBu", row_labels, column_labels, title)
    _save(figure, path, description)


def difference_map(
    path: str | os.PathLike,
    values: np.ndarray,
    differences: np.ndarray,
    row_labels: Sequence[str],
    column_labels: Sequence[str],
    title: str = "",
    *,
    description: str = "",
) -> None:
    """Writes a `heat_map` coloured by `differences`, which stand below the numbers.

    Blue is above, red below: a pair that colour-blind readers tell apart. From
    `_FULL_DIFFERENCE` on the colour is full.
    """
    values = _check_cells(values, row_labels, column_labels)
    differences = np.asarray(differences, np.float64)
    if differences.shape != values.shape:
        raise ValueError(
            f"need one difference for each of {values.shape} values: "
            f"{differences.shape}"
        )

    def text(value, difference):
        if not np.isfinite(value):
            return "–"
        if not np.isfinite(difference):
            return f"{value:.1f}"
        return f"{value:.1f}\n{round(difference, 1) + 0.0:+.1f}"  # No signed zero.

    texts = [
        [text(v, d) for v, d in zip(*pair, strict=True)]
        for pair in zip(values, differences, strict=True)
    ]
    shades = np.clip(0.5 + differences / (2.0 * _FULL_DIFFERENCE), 0.0, 1.0)
    figure = _cells(texts, shades, "RdBu", row_labels, column_labels, title)
    _save(figure, path, description)


def noise_samples(
    path: str | os.PathLike,
    clean: np.ndarray,
    variants: Mapping[str, tuple[np.ndarray, np.ndarray]],
    title: str = "",
    *,
    cell_inches: float = 1.0,
    amplify: float = 1.0,
) -> None:
    """Writes a `gallery` of noise on images, and below how the noise is distributed.

    Columns are the clean images and, for each variant, the noisy ones and the noise.
    Below stands, for each variant, a histogram of its noise beside the density of the
    Gaussian of the same norm, on a logarithmic scale.

    Args:
        path: Of the PNG.
        clean: `[N, H, W, 1 or 3]` in `[0, 1]`.
        variants: Name -> noisy images like `clean`, and their noise before clipping,
            of the same shape and any size.
        title: Above it all.
        cell_inches: Width of an image.
        amplify: Factor on the noise where it is shown as a picture.

    Raises:
        ValueError: If there is no variant or too many, or shapes or values do not fit.
    """
    _check_colours("variants", variants)
    columns, noises, deviations = {"clean": clean}, {}, {}
    for name, (noisy, noise) in variants.items():
        noise = np.asarray(noise, np.float64)
        if noise.shape != np.shape(clean) or not 0 < np.abs(noise).max() < np.inf:
            raise ValueError(
                f"noise of {name!r} must be {list(np.shape(clean))} like the images, "
                f"finite and not all zero: {list(noise.shape)}"
            )
        columns[name] = noisy
        columns[f"{name},\nnoise"] = show_noise(noise, amplify)
        noises[name] = noise.ravel()
        deviations[name] = np.sqrt(np.mean(np.square(noise)))

    headings = [f"{name}, rms {value:.3g}" for name, value in deviations.items()]
    note, label = "Density; dashed: Gaussian of the same norm", "noise of an element"
    margin, left, gap, height = 16, 75, 24, 230  # Pixels.
    text_w, _ = _text_size([label, *headings])
    least_w = left + (text_w + gap) * len(noises)
    least_w = max(least_w, _text_size([note])[0] + 2 * margin)
    figure, top = _gallery(columns, None, title, cell_inches, least_w, height + 140)
    width = (figure.get_size_inches()[0] * _DPI - left - margin + gap) / len(noises)
    _text(figure, margin, top + 12, note, "left", "center")
    span = max(np.quantile(np.abs(noise), 0.999) for noise in noises.values())
    edges = np.linspace(-1.05 * span, 1.05 * span, 64)
    centres, axes = (edges[1:] + edges[:-1]) / 2, None
    for i, (name, noise) in enumerate(noises.items()):
        deviation = deviations[name]
        counts = np.histogram(noise, edges)[0] / (noise.size * np.diff(edges))
        gaussian = np.exp(-np.square(centres / deviation) / 2) / np.sqrt(2 * np.pi)
        place = left + i * width, top + 62, width - gap, height
        axes = _axes(figure, place, sharex=axes, sharey=axes)
        axes.stairs(counts, edges, fill=True, color=LINE_COLOURS[i], alpha=0.6)
        axes.plot(centres, gaussian / deviation, "--", color=_TEXT, linewidth=1.2)
        axes.set_title(headings[i], color=_TEXT, **_FONT)
        axes.set_xlabel(label, color=_TEXT, **_FONT)
        axes.tick_params(labelleft=i == 0)
    axes.set(yscale="log", xlim=edges[[0, -1]])
    axes.yaxis.set_minor_formatter("")
    # A single element, and the Gaussian's tails below it, are not worth the room.
    most = max(noise.size for noise in noises.values())
    axes.set_ylim(bottom=0.5 / (most * np.diff(edges)[0]))
    _save(figure, path)


def accuracy_over_sigma(
    path: str | os.PathLike,
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    title: str = "",
    *,
    levels: Mapping[str, float] | None = None,
    x_label: str = "sigma of the Gaussian noise",
    y_label: str = "accuracy (%)",
    description: str = "",
) -> None:
    """Writes accuracies over the standard deviation of Gaussian noise, as lines.

    Figure 2 of Rusak et al., ECCV 2020, is one: there sigma is that of the training,
    and models trained with several are levels.

    Args:
        path: Of the PNG.
        lines: Name -> sigmas, and as many accuracies, fractions; NaN leaves a gap.
        title: Above it.
        levels: Name -> accuracy of what has no sigma, a dashed line across.
        x_label: What sigma is.
        y_label: What accuracy is.
        description: Kept in the file's metadata, see `description_of`.

    Raises:
        ValueError: If there is no line, too many, or numbers do not fit.
    """
    levels = dict(levels or {})
    _check_colours("lines and levels", [*lines, *levels])
    points = {}
    for name, (sigmas, accuracies) in lines.items():
        x, y = np.asarray(sigmas, np.float64), _percent(name, accuracies)
        if x.ndim != 1 or x.shape != y.shape or not np.isfinite(x).all():
            raise ValueError(
                f"{name!r} needs a finite sigma for each accuracy: {x.shape}, {y.shape}"
            )
        order = np.argsort(x, kind="stable")
        points[name] = x[order], y[order]
    across = {name: _percent(name, value) for name, value in levels.items()}

    names = [*points, *across]
    figure, axes = _plot(720, 520, title, names, x_label=x_label, y_label=y_label)
    for (name, (x, y)), colour, marker in zip(
        points.items(), LINE_COLOURS, _MARKERS, strict=False
    ):
        axes.plot(x, y, color=colour, marker=marker, markersize=5, label=name)
    colours = LINE_COLOURS[len(points) :]
    for (name, y), colour in zip(across.items(), colours, strict=False):
        axes.axhline(y, color=colour, linestyle="--", label=name)
    axes.legend(**_LEGEND)
    _save(figure, path, description)


def clean_against_gain(
    path: str | os.PathLike,
    groups: Mapping[str, Mapping[str, Sequence[float]]],
    title: str = "",
    *,
    description: str = "",
) -> None:
    """Writes defences as points: accuracy on clean images, and the gain elsewhere.

    Args:
        path: Of the PNG.
        groups: Kind -> name of a defence -> clean accuracy in percent, gain in points.
        title: Above it.
        description: Kept in the file's metadata, see `description_of`.

    Raises:
        ValueError: If there is no kind, or there are too many.
    """
    _check_colours("kinds", list(groups))
    names = {"x_label": "accuracy on clean images (%)", "y_label": "gain (points)"}
    figure, axes = _plot(900, 640, title, list(groups), **names)
    for (kind, points), colour, marker in zip(
        groups.items(), LINE_COLOURS, _MARKERS, strict=False
    ):
        x, y = np.asarray(list(points.values()), np.float64).T
        axes.scatter(x, y, color=colour, marker=marker, s=28, label=kind)
    axes.margins(x=0.2)
    axes.axhline(0.0, color=_TEXT, linewidth=0.8)
    axes.legend(**_LEGEND)
    # Points that are nearly equal share a text.
    texts: dict[tuple[float, float], list[str]] = {}
    for points in groups.values():
        for name, (clean, gain) in points.items():
            texts.setdefault((round(clean, 1), round(gain, 1)), []).append(name)
    _name_points(figure, axes, {point: " = ".join(x) for point, x in texts.items()})
    _save(figure, path, description)


def _name_points(figure, axes, texts):
    """Writes texts beside points, `(x, y)` of the axes -> text, where there is room."""
    figure.draw_without_rendering()  # Now it is known where the axes are.
    points = axes.transData.transform(list(texts))
    style = {"color": _TEXT, "fontsize": 7, "ha": "center", "va": "center"}
    sizes = np.array([_text_size([x], fontsize=7) for x in texts.values()])
    box, zero = axes.get_window_extent(), axes.transData.transform((0, 0))[1]
    taken = np.array([[box.x0, zero - 1, box.x1, zero + 1]])
    offsets = _find_room(points, sizes, np.array(box.extents), taken)
    for (point, text), size, offset in zip(texts.items(), sizes, offsets, strict=True):
        far = np.hypot(*np.maximum(np.abs(offset) - size / 2, 0)) > _NEAR[0]
        line = {"arrowstyle": "-", "color": "#999999", "linewidth": 0.6}
        line |= {"shrinkA": 0, "shrinkB": 4}
        axes.annotate(
            text,
            point,
            72 / figure.dpi * offset,
            textcoords="offset points",
            arrowprops=line if far else None,
            in_layout=False,
            **style,
        )


# Pixels between a mark and its text, from the best on.
_NEAR = (11.0, 16.0, 22.0, 32.0, 46.0, 62.0)


def _find_room(points, sizes, inside, taken):
    """Returns where the middle of texts is to stand, from their points.

    Every text in turn takes the place, of some around its point, where it covers least
    of other texts, of marks and of what is taken, is not nearer to another point, and
    is near to its own.

    Args:
        points: `[N, 2]`, in pixels, as everything.
        sizes: `[N, 2]`, width and height of texts.
        inside: `[4]`: left, bottom, right and top of the room.
        taken: `[M, 4]`, the same of what should not be covered.

    Returns:
        `[N, 2]`.
    """
    angles = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    directions = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    reach = np.repeat(_NEAR, len(directions))[:, None]
    directions = np.tile(directions, (len(_NEAR), 1))
    marks = np.concatenate([points - 9, points + 9], axis=1)
    texts = np.full((len(points), 4), -np.inf)  # Nowhere yet.
    offsets = np.zeros_like(points)
    for _ in range(3):
        for i, (point, size) in enumerate(zip(points, sizes, strict=True)):
            found = directions * (size / 2 + reach)
            middle = point + found
            boxes = np.concatenate([middle - size / 2, middle + size / 2], axis=1)
            full = np.concatenate([marks, taken, np.delete(texts, i, axis=0)])
            covered = _overlap(boxes[:, None], full).sum(axis=1)
            outside = size.prod() - _overlap(boxes, inside)
            gaps = np.maximum(np.abs(points - middle[:, None]) - size / 2, 0)
            gaps = np.linalg.norm(gaps, axis=2)
            others = np.delete(gaps, i, axis=1).min(axis=1, initial=np.inf)
            doubt = np.clip(gaps[:, i] + 4 - others, 0, None)
            best = np.argmin(covered + 10 * outside + 10 * doubt + 3 * reach[:, 0])
            offsets[i], texts[i] = found[best], boxes[best]
    return offsets


def _overlap(one, other):
    """Returns the areas that boxes `[..., 4]` share."""
    low = np.maximum(one[..., :2], other[..., :2])
    high = np.minimum(one[..., 2:], other[..., 2:])
    return np.maximum(high - low, 0).prod(axis=-1)


def accuracy_over_radius(
    path: str | os.PathLike,
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    title: str = "",
    *,
    points: Mapping[str, tuple[Sequence[float], Sequence[float]]] | None = None,
    description: str = "",
) -> None:
    """Writes certified accuracies over the L2 radius, as lines.

    Args:
        path: Of the PNG.
        lines: Name -> radii, and as many accuracies, fractions.
        title: Above it.
        points: Name -> the same of what is known at some radii only: markers.
        description: Kept in the file's metadata, see `description_of`.

    Raises:
        ValueError: If there is no line, too many, or accuracies are no fractions.
    """
    points = points or {}
    _check_colours("lines and points", [*lines, *points])
    names, x_label = [*lines, *points], "L2 radius"
    y_label = "certified accuracy (%)"
    figure, axes = _plot(720, 520, title, names, x_label=x_label, y_label=y_label)
    drawn = {name: (x, "-", "") for name, x in lines.items()}
    drawn |= {
        name: (x, "", marker)
        for (name, x), marker in zip(points.items(), _MARKERS, strict=False)
    }
    for (name, (values, line, marker)), colour in zip(
        drawn.items(), LINE_COLOURS, strict=False
    ):
        style = {"color": colour, "linestyle": line, "marker": marker, "label": name}
        axes.plot(values[0], _percent(name, values[1]), **style)
    axes.legend(**_LEGEND)
    _save(figure, path, description)


def corruption_bars(
    path: str | os.PathLike,
    models: Mapping[str, Mapping[str, float]],
    title: str = "",
    *,
    y_label: str = "accuracy (%)",
    description: str = "",
) -> None:
    """Writes the accuracy on each corruption as grouped bars, one colour per model.

    Args:
        path: Of the PNG.
        models: Name -> corruption -> accuracy, a fraction. Corruptions stand as they
            first come; there is no bar where a model has none.
        title: Above it.
        y_label: What accuracy is.
        description: Kept in the file's metadata, see `description_of`.

    Raises:
        ValueError: If there is no bar, too many models, or no fractions.
    """
    _check_colours("models", models)
    names = list(dict.fromkeys(name for bars in models.values() for name in bars))
    if not names:
        raise ValueError(f"need a corruption of {', '.join(models)}")
    values = {
        model: _percent(model, [bars.get(name, np.nan) for name in names])
        for model, bars in models.items()
    }
    each = 0.8 / len(models)
    width = 140 + len(names) * max(60, 24 * len(models))
    figure, axes = _plot(width, 560, title, models, y_label=y_label)
    for i, (model, heights) in enumerate(values.items()):
        x = np.arange(len(names)) + (i - (len(models) - 1) / 2) * each
        axes.bar(x, heights, 0.92 * each, color=LINE_COLOURS[i], label=model)
    labels = [name.replace("_", " ") for name in names]
    slope = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(np.arange(len(names)), labels, **slope)
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.set_ylim(0, 100)
    axes.grid(visible=False, axis="x")
    axes.tick_params(axis="x", length=0)
    axes.legend(**_LEGEND)
    _save(figure, path, description)


def _check_colours(what, names):
    if not 1 <= len(names) <= len(LINE_COLOURS):
        raise ValueError(f"need 1 to {len(LINE_COLOURS)} {what}: {len(names)}")


def _percent(name, fractions):
    fractions = np.asarray(fractions, np.float64)
    if not np.all(np.isnan(fractions) | ((fractions >= 0) & (fractions <= 1))):
        raise ValueError(f"accuracies of {name!r} must be fractions: {fractions}")
    return 100.0 * fractions


def description_of(path: str | os.PathLike) -> str | None:
    """Returns the description in a PNG's metadata, None without file or description."""
    from PIL import Image

    if not pathlib.Path(path).is_file():
        return None
    with Image.open(path) as image:
        return image.info.get("Description")


def _check_cells(values, row_labels, column_labels):
    values = np.asarray(values, np.float64)
    if values.shape != (len(row_labels), len(column_labels)):
        raise ValueError(
            f"values must be [rows, columns] like the labels, "
            f"{(len(row_labels), len(column_labels))}: {values.shape}"
        )
    if not np.isfinite(values).any():
        raise ValueError("a heat map needs at least one finite value")
    return values


def _cells(texts, shades, palette, row_labels, column_labels, title):
    """Draws cells with texts, coloured by shades in `[0, 1]`; grey without one."""
    from matplotlib import colormaps

    gap, margin = 12, 20
    number_w, number_h = _text_size(sum(texts, []))
    column_w, column_h = _text_size(column_labels)
    label_w, label_h = _text_size(row_labels)
    title_w, title_h = _text_size([title] if title else [], **_TITLE)
    cell_w = max(number_w, column_w) + 2 * gap
    cell_h = max(number_h, label_h) + 2 * gap
    left = margin + label_w + gap
    top = margin + column_h + gap + (title_h + gap + 4 if title_h else 0)
    total_w = max(left + cell_w * len(column_labels), title_w + margin) + margin
    total_h = top + cell_h * len(row_labels) + margin

    figure = _figure(total_w, total_h)
    if title:
        _text(figure, margin, margin, title, "left", "top", **_TITLE)
    for j, label in enumerate(column_labels):
        x = left + (j + 0.5) * cell_w
        _text(figure, x, top - gap, label, "center", "bottom")
    colours = colormaps[palette](shades)
    colours[~np.isfinite(shades)] = (0.9, 0.9, 0.9, 1.0)
    body_w, body_h = cell_w * len(column_labels), cell_h * len(row_labels)
    axes = _pixels(figure, (left, top, body_w, body_h), colours)
    luminance = colours[..., :3] @ (0.299, 0.587, 0.114)
    for i, row in enumerate(texts):
        y = top + (i + 0.5) * cell_h
        _text(figure, left - gap, y, row_labels[i], "right", "center")
        for j, text in enumerate(row):
            colour = _TEXT if luminance[i, j] > 0.55 else "white"
            x = left + (j + 0.5) * cell_w
            _text(figure, x, y, text, "center", "center", color=colour)
    # White lines between the cells.
    axes.set_xlim(-0.5, len(column_labels) - 0.5)
    axes.set_ylim(len(row_labels) - 0.5, -0.5)
    line = {"color": "white", "linewidth": 1.5}
    for j in range(1, len(column_labels)):
        axes.axvline(j - 0.5, **line)
    for i in range(1, len(row_labels)):
        axes.axhline(i - 0.5, **line)
    return figure


def accuracy_heat_map(
    path: str | os.PathLike, rows: Sequence[Mapping[str, Any]], title: str = ""
) -> None:
    """Writes accuracies as a heat map of corruption x severity, in percent.

    Rows hold `corruption`, `severity` and `accuracy`, a fraction.
    """
    table = {(r["corruption"], r["severity"]): 100.0 * r["accuracy"] for r in rows}
    corruptions = list(dict.fromkeys(corruption for corruption, _ in table))
    severities = sorted({severity for _, severity in table})
    values = [[table.get((c, s), np.nan) for s in severities] for c in corruptions]
    labels = [f"severity {severity}" for severity in severities]
    heat_map(path, values, corruptions, labels, title, low=0.0, high=100.0)


def _as_images(name, images):
    images = np.asarray(images, np.float32)
    if images.ndim != 4 or images.size == 0 or images.shape[-1] not in (1, 3):
        raise ValueError(
            f"column {name!r} needs images [N, H, W, 1 or 3]: {images.shape}"
        )
    if not (images.min() >= 0.0 and images.max() <= 1.0):
        raise ValueError(
            f"column {name!r} needs intensities in [0, 1], got "
            f"[{images.min()}, {images.max()}]; show_noise makes noise visible"
        )
    return np.broadcast_to(images, (*images.shape[:3], 3))


def _figure(width, height):
    from matplotlib.figure import Figure

    return Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, facecolor="white")


def _pixels(figure, place, image):
    """Shows an image, pixel by pixel; its place counts from the top left corner."""
    x, y, width, height = place
    whole, high = figure.get_size_inches() * _DPI
    axes = figure.add_axes(
        (x / whole, 1 - (y + height) / high, width / whole, height / high)
    )
    axes.imshow(image, interpolation="nearest", aspect="auto")
    axes.set_axis_off()
    return axes


def _axes(figure, place, **options):
    """Returns axes for curves; their place counts from the top left corner."""
    x, y, width, height = place
    whole, high = figure.get_size_inches() * _DPI
    place = (x / whole, 1 - (y + height) / high, width / whole, height / high)
    return _plain(figure.add_axes(place, **options))


def _plain(axes):
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    axes.grid(color="#e4e4e4", linewidth=0.8)
    axes.tick_params(labelsize=8, colors=_TEXT)
    return axes


def _plot(width, height, title, names, *, x_label="", y_label=""):
    """Returns a figure with room for title and legend, and its only axes."""
    margin = 20
    title_w, title_h = _text_size([title] if title else [], **_TITLE)
    above = title_h + margin if title else 0
    width = max(width + _text_size(names)[0] + 80, title_w + 2 * margin)
    height = height + above
    figure = _figure(width, height)
    rect = 0, 0, 1, 1 - above / height
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.12, rect=rect)
    axes = _plain(figure.add_subplot())
    axes.set_xlabel(x_label, color=_TEXT, **_FONT)
    axes.set_ylabel(y_label, color=_TEXT, **_FONT)
    if title:
        _text(figure, margin, margin, title, "left", "top", **_TITLE)
    return figure, axes


def _text(figure, x, y, text, horizontal, vertical, **font):
    """Places text; `x` and `y` in pixels from the top left corner."""
    width, height = figure.get_size_inches() * _DPI
    font = {"color": _TEXT, **_FONT, **font}
    figure.text(x / width, 1 - y / height, text, ha=horizontal, va=vertical, **font)


def _text_size(texts, **font):
    """Returns the largest width and height of the texts, in pixels; 0 for none."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = _figure(_DPI, _DPI)
    renderer = FigureCanvasAgg(figure).get_renderer()
    extents = [
        figure.text(0, 0, text, **{**_FONT, **font}).get_window_extent(renderer)
        for text in texts
    ]
    return tuple(
        int(np.ceil(max((getattr(e, side) for e in extents), default=0)))
        for side in ("width", "height")
    )


def _save(figure, path, description=""):
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"Description": description} if description else None
    figure.savefig(path, format="png", dpi=_DPI, metadata=metadata)
