"""The page: Gradio's widgets around the functions of `studio`. No network is needed."""

import contextlib
import functools
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from typing import Any

import gradio as gr
import numpy as np

from uronet_jax.corruptions import SUITES, list_corruptions, list_severities
from uronet_jax.demo import studio as studios
from uronet_jax.demo.studio import ATTACKERS, DefenseStudio
from uronet_jax.reports.evaluation_page import noise_charts
from uronet_jax.reports.results import Result
from uronet_jax.reports.side_by_side import REPORT_COLUMNS, compare_reports

_WAYS = ("a corruption", "an attack", "nothing")
_PAUSE = 0.8  # Seconds that a severity is shown.
_AMPLIFY = 2  # Times that noise patterns are shown, at first.
_ONE_COMPUTES = threading.Lock()
# Pictures are looked for every ten minutes and removed when an hour old.
_DELETE_CACHE = (600, 3600)
# Of the page's theme: what browsers have.
_FONTS = {
    "font": ("system-ui", "sans-serif"),
    "font_mono": ("ui-monospace", "monospace"),
}
_CSS = """
.gradio-container {max-width: 1200px !important; margin: auto}
.tabitem {min-width: min(100%, 900px)}
.pixels img {image-rendering: pixelated}
.labels td, .labels th {white-space: nowrap; padding: 0.2em 0.8em !important}
"""


def build_page(
    studio: DefenseStudio,
    reports: Sequence[Result],
    *,
    about: str = "",
) -> gr.Blocks:
    """Returns the page.

    Args:
        studio: What is tried.
        reports: Of the table of defences, see `reports.side_by_side`.
        about: Which models these are, Markdown.
    """
    # Without analytics Gradio does not ask the network for newer versions either.
    with gr.Blocks(
        title="uronet demo", analytics_enabled=False, delete_cache=_DELETE_CACHE
    ) as page:
        gr.Markdown(f"# Try a defence\n\n{about}")
        with gr.Tab("One image"):
            image = _one_image(page, studio)
        with gr.Tab("Along severities"):
            _along_severities(studio, image)
        with gr.Tab("Defences"):
            _defenses(reports)
    for event in page.fns.values():  # It is a page, not a service.
        event.api_visibility = "private"
    return page


def serve(
    page: gr.Blocks, *, host: str = "127.0.0.1", port: int = 7860, share: bool = False
) -> str:
    """Serves a page from a thread of its own and returns its address.

    Args:
        page: What `build_page` returns.
        host: Address to listen at; 0.0.0.0 for every network of the machine.
        port: Port to listen at.
        share: Whether Gradio makes it public too, through its own server.

    Raises:
        OSError: If the port is in use, or the address is not of this machine.
    """
    check_port(host, port)
    page.queue(default_concurrency_limit=None)
    with _without_proxy(host):
        _, address, public = page.launch(
            server_name=host,
            server_port=port,
            share=share,
            theme=gr.themes.Default(**_FONTS),
            css=_CSS,
            footer_links=[],
            max_file_size=studios.MAX_UPLOAD_BYTES,
            prevent_thread_lock=True,
            quiet=True,
            ssr_mode=False,
            pwa=False,
        )
    return public or address


@contextlib.contextmanager
def _without_proxy(host: str) -> Iterator[None]:
    """Asks this machine directly: Gradio looks whether its page answers."""
    before = {name: os.environ.get(name) for name in ("no_proxy", "NO_PROXY")}
    hosts = [x for x in before.values() if x] + [host, "127.0.0.1", "localhost"]
    os.environ |= dict.fromkeys(before, ",".join(hosts))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            os.environ |= {} if value is None else {name: value}


def check_port(host: str, port: int) -> None:
    """Raises OSError if nothing can listen at an address."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise OSError(
                f"cannot listen at {host}:{port} ({error.strerror}): give another port "
                "with --port, or another address with --host"
            ) from error


def _told(function: Callable) -> Callable:
    """Returns a function that waits for others, whose ValueErrors the browser shows."""

    def told(*values):
        try:
            with _ONE_COMPUTES:
                return function(*values)
        except ValueError as error:
            raise gr.Error(str(error), print_exception=False) from error

    return told


def _told_each(function: Callable[..., Iterator]) -> Callable[..., Iterator]:
    """Returns likewise a generator; between two items others may compute."""

    def told(*values):
        following = _told(functools.partial(next, function(*values), None))
        while (item := following()) is not None:
            yield item

    return told


def _picture(label: str) -> gr.Image:
    return gr.Image(
        label=label,
        interactive=False,
        format="png",
        height=260,
        elem_classes="pixels",
        buttons=["download"],
    )


def _suite_and_corruption() -> tuple[list[gr.Component], Any]:
    """Returns the widgets of suite, corruption and severity, and the event.

    It is that of the latter two after another suite was chosen.
    """
    names, severities = list_corruptions("uronet"), list_severities("uronet")
    suite = gr.Dropdown(list(SUITES), value="uronet", label="suite")
    corruption = gr.Dropdown(list(names), value=names[0], label="corruption")
    severity = gr.Slider(1, severities[-1], value=2, step=1, label="severity")

    def change(suite):
        names, last = list_corruptions(suite), list_severities(suite)[-1]
        return (
            gr.update(choices=list(names), value=names[0]),
            # A slider needs two ends.
            gr.update(maximum=max(2, last), value=-(-last // 2), visible=last > 1),
        )

    changed = suite.input(change, suite, [corruption, severity], show_progress="hidden")
    return [suite, corruption, severity], changed


def _tell(lines: Mapping[str, str]) -> str:
    """Returns lines of a name and a text as HTML; those without a text are left out."""
    cells = "".join(
        f"<span style='opacity:0.7'>{escape(name)}</span><b>{escape(text)}</b>"
        for name, text in lines.items()
        if text
    )
    return (
        "<div style='display:grid; grid-template-columns:max-content auto; "
        f"gap:0.4em 1.5em; font-size:1.1em'>{cells}</div>"
    )


def _labels(studio: DefenseStudio, sights: Mapping[str, studios.Sight]) -> str:
    """Returns what classifier, defence and detector say to each image, as HTML."""
    columns = {
        "classifier alone": lambda sight: studio.label(sight.before),
        "behind the purifier": lambda sight: studio.label(sight.after),
        "detector": studio.verdict,
    }
    if not studio.models.classifier:
        columns = {"detector": studio.verdict}

    def line(tag, *cells):
        return "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells)

    rows = [line("th", "", *columns)]
    rows += [
        line("td", name, *(tell(sight) for tell in columns.values()))
        for name, sight in sights.items()
    ]
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f"<table class='labels'>{body}</table>"


def _chosen(studio: DefenseStudio, number: float, file: str | None) -> np.ndarray:
    """Returns the image that the widgets of the first tab name."""
    return studio.upload(file) if file else studio.sample(int(number))


def _corrupted(
    studio: DefenseStudio,
    image: np.ndarray,
    suite: str,
    corruption: str,
    severity: float,
) -> tuple[int, studios.Sight]:
    """Returns the severity, of those that the suite has, and the degraded image."""
    severity = min(int(severity), list_severities(suite)[-1])
    return severity, studio.see(studio.corrupt(image, suite, corruption, severity))


def _one_image(page: gr.Blocks, studio: DefenseStudio) -> list[gr.Component]:
    """Lays out the first tab; returns what says which image is meant."""
    source = studio.source
    with gr.Row():
        with gr.Column(scale=1, min_width=300):
            number = gr.Slider(
                0, len(source) - 1, value=0, step=1,
                label=f"image of {source.name}, {source.split}",
            )  # fmt: skip
            file = gr.File(
                label="or a file of yours",
                file_types=["image"],
                type="filepath",
                height=150,
            )
            ways = _WAYS if studio.attacks() else (_WAYS[0], _WAYS[2])
            way = gr.Radio(list(ways), value=_WAYS[0], label="made worse by")
            with gr.Column() as corruptions:
                chosen, changed = _suite_and_corruption()
            with gr.Column(visible=False) as attacks:
                attack = gr.Dropdown(list(studio.attacks()), label="attack")
                knows = gr.Radio(
                    list(ATTACKERS),
                    value=next(iter(ATTACKERS)),
                    label="the attacker knows",
                )
                linf = gr.Slider(
                    1, 64, value=8, step=1, label="epsilon, in grey levels of 255"
                )
                l2 = gr.Slider(
                    0.1, 5, value=1, step=0.1, label="epsilon, L2 norm", visible=False
                )
            amplify = gr.Slider(
                1, 20, value=_AMPLIFY, step=1, label="noise pattern, times"
            )
            button = gr.Button("Show", variant="primary")
        with gr.Column(scale=3):
            with gr.Row():
                original, worse = _picture("image"), _picture("made worse")
            with gr.Row():
                clean, noise = _picture("purified"), _picture("noise pattern")
            words = gr.HTML()
    way.change(
        lambda way: [gr.update(visible=way == x) for x in _WAYS[:2]],
        way, [corruptions, attacks], show_progress="hidden",
    )  # fmt: skip
    attack.change(
        lambda name: [
            gr.update(visible=str(name).endswith(norm)) for norm in ("linf", "l2")
        ],
        attack, [linf, l2], show_progress="hidden",
    )  # fmt: skip

    def show(
        number, file, way, suite, corruption, severity, attack, knows, linf, l2, amplify
    ):
        first = _chosen(studio, number, file)
        unharmed = studio.see(first)
        lines = {"true label": "" if file else studio.true_label(int(number))}
        if way == _WAYS[0]:
            _, sight = _corrupted(studio, first, suite, corruption, severity)
        elif way == _WAYS[1]:
            epsilon = linf / 255 if str(attack).endswith("linf") else l2
            sight = studio.see(studio.attack(unharmed, attack, epsilon, knows))
            label = studio.label(studios.attacked_probabilities(unharmed, knows))
            lines["attacked"] = f"{label}, the label that {knows} gives to the image"
        else:
            sight = unharmed
        sights = {"image": unharmed}
        if sight is not unharmed:
            sights["made worse"] = sight
        shown = studios.show_sight(sight, amplify)
        return studios.enlarge(first), *shown, _tell(lines) + _labels(studio, sights)

    told = {
        "fn": _told(show),
        "inputs": [number, file, way, *chosen, attack, knows, linf, l2, amplify],
        "outputs": [original, worse, clean, noise, words],
        "trigger_mode": "always_last",
        "show_progress_on": words,
    }
    by_hand = (number, way, *chosen[1:], attack, knows, linf, l2, amplify)
    gr.on([page.load, button.click, file.change, *(x.input for x in by_hand)], **told)
    changed.then(**told)
    return [number, file]


def _along_severities(studio: DefenseStudio, image: list[gr.Component]) -> None:
    gr.Markdown(
        "The image of the first tab, at one severity after the other; and what share "
        "of the data set's first images is classified right."
    )
    with gr.Row():
        with gr.Column(scale=1, min_width=300):
            (suite, corruption, severity), _ = _suite_and_corruption()
            play = gr.Button("Play", variant="primary")
            most = len(studio.source)
            count = gr.Slider(
                1, min(1000, most), value=min(100, most), step=1,
                label="images to judge", visible=studio.can_judge,
            )  # fmt: skip
            judge = gr.Button("Measure accuracy", visible=studio.can_judge)
            stop = gr.Button("Stop")
        with gr.Column(scale=3):
            with gr.Row():
                names = ("made worse", "purified", f"noise pattern, {_AMPLIFY} times")
                pictures = [_picture(name) for name in names]
            words = gr.HTML()
            chart = gr.HTML()

    def told(severity, sight):
        shown = studios.show_sight(sight, _AMPLIFY)
        return *shown, _labels(studio, {f"severity {severity}": sight})

    def show(number, file, suite, corruption, severity):
        first = _chosen(studio, number, file)
        return told(*_corrupted(studio, first, suite, corruption, severity))

    def frames(number, file, suite, corruption) -> Iterator[tuple]:
        first = _chosen(studio, number, file)
        for severity, sight in studio.along_severities(first, suite, corruption):
            yield gr.update(value=severity), *told(severity, sight)

    def played(*values) -> Iterator[tuple]:
        for frame in _told_each(frames)(*values):
            yield frame
            time.sleep(_PAUSE)

    def measured(suite, corruption, count):
        for summary, rows in studio.accuracies(suite, corruption, count):
            yield _accuracies(summary, rows, len(list_severities(suite)))

    asked = [*image, suite, corruption]
    options = {"show_progress_on": words, "trigger_mode": "always_last"}
    playing = play.click(
        played, asked, [severity, *pictures, words], show_progress_on=words
    )
    severity.input(_told(show), [*asked, severity], [*pictures, words], **options)
    judging = judge.click(_told_each(measured), [suite, corruption, count], chart)
    stop.click(None, cancels=[playing, judging])
    # What is shown is always of what is chosen.
    number, file = image
    gr.on(
        [number.input, file.change, suite.input, corruption.input],
        lambda: [None] * 4, None, [*pictures, words],
        cancels=[playing], queue=False, show_progress="hidden",
    )  # fmt: skip
    gr.on(
        [suite.input, corruption.input, count.input],
        lambda: None, None, chart,
        cancels=[judging], queue=False, show_progress="hidden",
    )  # fmt: skip


def _accuracies(
    summary: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], most: int
) -> str:
    """Returns how far the measurement is, and a chart of it."""
    text = f"{summary['num_images']} images, {len(rows)} of {most} severities"
    chart = noise_charts(rows, summary, width=560, height=260) if rows else ""
    return f"{text}{chart}"


def _defenses(reports: Sequence[Result]) -> None:
    if not reports:
        gr.Markdown(
            "No reports were given. `uronet evaluate` writes `evaluation.json`; name "
            "it with `--reports`."
        )
        return
    gr.Markdown(
        "Accuracies in percent: of clean images, means over all degradations of a "
        "report, and of the worst one; of the classifier alone, behind the purifier "
        "and behind the gate. Only rows of the same data, suite, severities and "
        "classifier compare defences. A click on a heading sorts."
    )
    rows = compare_reports(reports)
    columns = {c: h for c, h in REPORT_COLUMNS.items() if any(c in row for row in rows)}

    def cell(row, column):
        value = row.get(column)
        return round(100 * value, 1) if isinstance(value, float) else value

    gr.Dataframe(
        [[cell(row, column) for column in columns] for row in rows],
        headers=list(columns.values()),
        interactive=False,
        wrap=True,
        column_widths=["170px", *["100px"] * (len(columns) - 1)],
    )
