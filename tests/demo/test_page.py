"""The page in a real browser: needs Gradio, Playwright and Debian's Chromium."""

import json
import os
import shutil
import socket
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from uronet_jax.reports.evaluation_page import evaluation_page

# Gradio's libraries warn as they are imported.
pytestmark = pytest.mark.filterwarnings("default")
CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="module")
def served(tmp_path_factory, make_variables):
    """Returns the address of a page with tiny untrained models."""
    pytest.importorskip("gradio", reason="the page is made of gradio")
    from test_configs import save_models

    from uronet_jax.demo import page as pages
    from uronet_jax.demo import studio as studios
    from uronet_jax.photos.purify import load_photo_models
    from uronet_jax.reports.results import Result

    runs = save_models(tmp_path_factory.mktemp("runs"), make_variables)
    models = load_photo_models(**runs)
    studio = studios.DefenseStudio(models, studios.open_images(models, "generated"))
    row = {"noise": "GN", "severity": 1}
    row |= {"undefended_accuracy": 0.25, "purified_accuracy": 0.875}
    content = {"dataset": "birds", "rows": [row], "clean_accuracy": 0.5}
    content["config"] = {"classifier": "resnet8"}
    report = Result("mine", "quickstart", content)
    with studios.private_uploads():
        page = pages.build_page(studio, [report], about="tiny models")
        studio.warm_up()
        yield pages.serve(page, port=free_port())
        page.close()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_the_command_serves_a_page_and_no_second_one_at_its_port(start, tmp_path):
    pytest.importorskip("gradio", reason="the page is made of gradio")
    command = (
        *("-m", "launch.demo", f"--port={free_port()}"),  # All else is usual.
        "--reports=docs/results/quickstart.json",
    )
    # Behind a proxy, which knows nothing of this machine.
    proxy = dict.fromkeys(
        ("http_proxy", "HTTP_PROXY"), f"http://127.0.0.1:{free_port()}"
    )
    proxy |= {"no_proxy": "", "NO_PROXY": ""}
    first = start(*command, TMPDIR=str(tmp_path), **proxy)
    line = first.stdout.readline()
    assert line.startswith("open http://127.0.0.1:"), first.communicate()[1]
    with urllib.request.urlopen(line.split()[1]) as answer:
        assert b"uronet demo" in answer.read()
    second = start(*command)
    output, errors = second.communicate()
    assert (second.returncode, output) == (2, "")
    assert errors.startswith("error: cannot listen at 127.0.0.1:")
    assert errors.endswith(
        "give another port with --port, or another address with --host\n"
    )
    assert len(list(tmp_path.glob("uronet_demo.*"))) == 1
    first.terminate()
    assert first.wait() == 0
    assert list(tmp_path.glob("uronet_demo.*")) == []


def test_a_classifier_of_other_images_than_the_usual_weights(
    start, tmp_path, make_variables
):
    pytest.importorskip("gradio", reason="the command asks for gradio")
    from test_configs import save_untrained

    run = save_untrained("classifier", tmp_path / "c", make_variables, (28, 28, 1))
    process = start("-m", "launch.demo", f"--classifier={run}", f"--port={free_port()}")
    output, errors = process.communicate()
    assert (process.returncode, output) == (2, "")
    assert errors.endswith(
        "(universal-cifar10 was taken because --purifier is missing)\n"
    )


@pytest.fixture
def chromium():
    """Returns an empty page of the browser, and the addresses that it asked."""
    playwright = pytest.importorskip("playwright.sync_api", reason="drives a browser")
    if not CHROMIUM:
        pytest.skip("needs chromium")
    with playwright.sync_playwright() as started:
        # Chromium's sandbox does not work for root.
        chromium = started.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox"]
        )
        page = chromium.new_page(viewport={"width": 1250, "height": 1000})
        page.set_default_timeout(30_000)  # Programs are compiled meanwhile.
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        yield page, asked
        chromium.close()


@pytest.fixture
def browser(chromium, served):
    """Likewise, with the page of the demo."""
    chromium[0].goto(served)
    return chromium


def test_the_table_of_an_evaluation_sorts(chromium, tmp_path):
    page, asked = chromium
    # As text 0.05 would come behind 0.5, and 1e-05 last.
    accuracies = {"GN": 0.5, "IN": 1e-05, "SN": 1.0, "UN": 0.05}
    rows = [
        {"noise": noise, "severity": 1, "undefended_accuracy": accuracy}
        for noise, accuracy in accuracies.items()
    ]
    result = {
        **{"rows": rows, "summary": {"num_images": 7, "clean_accuracy": 1.0}},
        "config": {"data": {"name": "birds", "split": "test"}},
    }
    path = tmp_path / "page.html"
    path.write_text(evaluation_page(result), encoding="utf-8")
    page.goto(path.as_uri())

    def order():
        return "".join(
            page.locator("table.sorts tbody td:first-child").all_inner_texts()
        )

    assert order() == "GNINSNUN"
    heading = page.get_by_role("columnheader", name="undefended")
    for expected in ("INUNGNSN", "SNGNUNIN", "INUNGNSN"):
        heading.click()
        assert order() == expected
    page.get_by_role("columnheader", name="noise").click()
    assert order() == "GNINSNUN"
    assert page.locator("tfoot td").first.inner_text() == "mean"
    assert asked == [path.as_uri()]


def sources_of(page):
    """Returns the addresses of the pictures that are seen."""
    images = page.locator("img:visible")
    return [images.nth(i).get_attribute("src") for i in range(images.count())]


def pixels_of(address):
    with urllib.request.urlopen(address) as answer, Image.open(answer) as image:
        return np.asarray(image).astype(int)


def wait_for_another(page, number, before):
    """Waits until a picture is another; returns the addresses of all."""
    page.wait_for_function(
        "([number, before]) => { const seen = [...document.querySelectorAll('img')]"
        ".filter(x => x.offsetParent); return seen.length > number"
        " && seen[number].src != before }",
        arg=[number, before],
    )
    return sources_of(page)


def test_a_picture_is_of_what_is_chosen(browser):
    page, _ = browser
    attacked = page.get_by_text("the label that the classifier alone gives")
    page.get_by_role("cell", name="made worse").wait_for()
    shown = sources_of(page)
    assert len(shown) == 4
    # Without a click on the button: corruption, suite, way, and how strong it is.
    page.get_by_label("corruption", exact=True).first.click()
    page.get_by_role("option", name="SPN").click()
    shown = wait_for_another(page, 1, shown[1])
    page.get_by_label("suite", exact=True).first.click()
    page.get_by_role("option", name="cifar_c", exact=True).click()
    shown = wait_for_another(page, 1, shown[1])
    page.get_by_label("an attack").check()
    attacked.wait_for()
    shown = wait_for_another(page, 1, shown[1])
    page.get_by_label("epsilon, in grey levels").first.fill("5")
    shown = wait_for_another(page, 1, shown[1])
    first, worse = (pixels_of(address) for address in shown[:2])
    # fgsm: 5 levels up or down wherever there is room for it.
    assert set(np.unique(np.abs(worse - first))) <= set(range(6))
    assert (np.abs(worse - first) == 5).mean() > 0.5
    page.get_by_label("nothing").check()
    attacked.wait_for(state="detached")
    shown = wait_for_another(page, 1, shown[1])
    np.testing.assert_array_equal(*(pixels_of(x) for x in shown[:2]))

    page.get_by_role("tab", name="Along severities").click()
    # What is seen while it plays, each for a while: no moment has to be met.
    page.evaluate(
        "() => { window.played = new Set(); setInterval(() => { for (const x of "
        "[...document.querySelectorAll('img')].filter(x => x.offsetParent).slice(0, 1))"
        " window.played.add(x.src) }, 20) }"
    )
    page.get_by_role("button", name="Play").click()
    page.get_by_role("cell", name="severity 1").wait_for()
    page.get_by_role("cell", name="severity 3").wait_for()
    page.wait_for_function("() => window.played.size == 3")  # One a severity.
    assert page.get_by_label("number input for severity").last.input_value() == "3"
    page.get_by_role("tab", name="One image").click()
    page.get_by_label("number input for image of").fill("1")
    page.get_by_role("tab", name="Along severities").click()
    page.get_by_role("cell", name="severity 3").wait_for(state="detached")
    page.wait_for_function(
        "() => ![...document.querySelectorAll('img')].some(x => x.offsetParent)"
    )

    page.get_by_role("button", name="Measure accuracy").click()
    page.locator("svg.chart").wait_for()
    page.locator("svg.chart circle").nth(7).wait_for()
    assert page.locator("svg.chart circle").count() == 8  # Clean and 3 severities, 2x.


def test_a_person_brings_a_picture_and_compares_defences(browser, tmp_path):
    page, asked = browser
    Image.new("RGB", (50, 40), (255, 0, 0)).save(tmp_path / "red.png")
    (tmp_path / "bad.png").write_text("a poem")
    page.get_by_label("nothing").check()
    page.get_by_text("true label").wait_for()
    page.locator("input[type=file]").first.set_input_files(tmp_path / "bad.png")
    page.get_by_text("bad.png: no image").wait_for()
    page.get_by_label("Clear").first.click()
    page.locator("input[type=file]").first.set_input_files(tmp_path / "red.png")
    page.get_by_text("true label").wait_for(state="detached")
    red = pixels_of(sources_of(page)[0]).reshape(-1, 3)
    assert np.unique(red, axis=0).tolist() == [[255, 0, 0]]

    page.get_by_role("tab", name="Defences").click()
    for cell in ("mine", "birds", "25", "87.5", "50"):
        page.get_by_role("gridcell", name=cell, exact=True).first.wait_for()
    # It needs no network: the browser asked this server alone.
    own = ("http://127.0.0.1", "data:", "blob:")
    assert [url for url in asked if not url.startswith(own)] == []


def test_the_page_is_no_service_and_keeps_no_uploads(served):
    with urllib.request.urlopen(f"{served}gradio_api/info") as answer:
        assert not any(json.load(answer).values())
    folder = Path(os.environ["GRADIO_TEMP_DIR"])
    assert folder.stat().st_mode & 0o777 == 0o700
