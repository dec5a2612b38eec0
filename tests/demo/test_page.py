"""The page in a real browser: needs Gradio, Playwright and Debian's Chromium."""

import os
import shutil
import socket
import urllib.request

import numpy as np
import pytest
from PIL import Image

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

    runs = save_models(tmp_path_factory.mktemp("runs"), make_variables)
    models = load_photo_models(**runs)
    studio = studios.DefenseStudio(models, studios.open_images(models, "generated"))
    rows = [{"noise": "GN", "undefended_accuracy": 0.25, "purified_accuracy": 0.875}]
    report = {"dataset": "birds", "rows": rows, "clean_accuracy": 0.5}
    page = pages.build_page(studio, {"mine": report}, about="tiny models")
    yield pages.serve(page, port=free_port(), block=False)
    page.close()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_the_command_serves_a_page_and_no_second_one_at_its_port(start):
    pytest.importorskip("gradio", reason="the page is made of gradio")
    command = (
        *("-m", "launch.demo", "--purifier=median:size=3"),
        *("--reports=docs/results/quickstart.json", f"--port={free_port()}"),
    )
    first = start(*command)
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


@pytest.fixture
def browser(served):
    """Returns a page of the browser, and the addresses that it asked."""
    playwright = pytest.importorskip("playwright.sync_api", reason="drives a browser")
    if not CHROMIUM:
        pytest.skip("needs chromium")
    with playwright.sync_playwright() as started:
        # Chromium's sandbox does not work for root.
        chromium = started.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox"]
        )
        page = chromium.new_page(viewport={"width": 1250, "height": 1000})
        page.set_default_timeout(30_000)  # The first image waits for compilers.
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(served)
        yield page, asked
        chromium.close()


def test_a_person_clicks_through(browser, tmp_path):
    page, asked = browser
    purified = page.get_by_text("label of the purified picture")
    purified.wait_for()
    assert page.locator("img").count() == 4
    before = page.locator("img").nth(1).get_attribute("src")
    page.get_by_label("an attack").check()
    page.get_by_label("epsilon, in grey levels").first.fill("64")
    page.get_by_role("button", name="Show").click()
    page.wait_for_function(
        "before => document.querySelectorAll('img')[1].src != before", arg=before
    )

    Image.new("RGB", (50, 40), (255, 0, 0)).save(tmp_path / "red.png")
    (tmp_path / "bad.png").write_text("a poem")
    page.get_by_label("nothing").check()
    for name, expected in (("bad.png", "bad.png: no image"), ("red.png", None)):
        page.locator("input[type=file]").first.set_input_files(tmp_path / name)
        page.get_by_label("Clear").first.wait_for()
        page.get_by_role("button", name="Show").click()
        if expected:
            page.get_by_text(expected).wait_for()
            page.get_by_label("Clear").first.click()
    page.get_by_text("true label").wait_for(state="detached")
    address = page.locator("img").first.get_attribute("src")
    with urllib.request.urlopen(address) as answer, Image.open(answer) as image:
        assert np.unique(np.asarray(image).reshape(-1, 3), axis=0).tolist() == [
            [255, 0, 0]
        ]

    page.get_by_role("tab", name="Along severities").click()
    page.get_by_role("button", name="Play").click()
    page.get_by_text("severity").last.wait_for()
    page.get_by_role("button", name="Measure accuracy").click()
    page.locator("svg.chart").wait_for()
    assert page.locator("svg.chart circle").count() == 8  # Clean and 3 severities, 2x.

    page.get_by_role("tab", name="Defences").click()
    for cell in ("mine", "birds", "25", "87.5", "50"):
        page.get_by_role("gridcell", name=cell, exact=True).first.wait_for()
    if folder := os.environ.get("URONET_SCREENSHOTS"):
        for tab in ("One image", "Along severities", "Defences"):
            page.get_by_role("tab", name=tab).click()
            page.wait_for_timeout(500)
            page.screenshot(path=f"{folder}/{tab.replace(' ', '_')}.png")
    # It needs no network: the browser asked this server alone.
    own = ("http://127.0.0.1", "data:", "blob:")
    assert [url for url in asked if not url.startswith(own)] == []
