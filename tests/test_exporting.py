"""An exported defence: run by JAX alone, described by its JSON, served."""

import hashlib
import io
import json
import re
import socket
import time
import urllib.error
import urllib.request
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import linen as nn
from PIL import Image
from test_configs import save_models, save_untrained

from uronet_jax.defense import Defense
from uronet_jax.exporting import export_defense
from uronet_jax.loading import load_defense
from uronet_jax.models import Separation
from uronet_jax.purifiers import Chain, chain, make_transformation

pytest.importorskip("flatbuffers", reason="jax.export writes with flatbuffers")
PAGE = Path(__file__).parents[1] / "docs" / "SERVING.md"
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(256, size=(5, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, make_variables):
    folder = tmp_path_factory.mktemp("runs")
    runs = save_models(folder, make_variables)
    # One with batch norm.
    return runs | {
        "classifier": save_untrained("adversarial_noise", folder / "c", make_variables)
    }


@pytest.fixture(scope="module")
def exported(runs, tmp_path_factory):
    """Returns the program's file and the defence it is of."""
    path = tmp_path_factory.mktemp("exported") / "defense.stablehlo"
    defense = load_defense(**runs)
    export_defense(defense, path, threshold=0.7, models=runs)
    return path, defense


ALONE = """
import sys

import jax
import numpy as np
from jax import export

program = export.deserialize(bytearray(open(sys.argv[1], "rb").read()))
pixels = np.load(sys.argv[2])
found = {}
for count in (2, 5):
    for name, x in program.call(pixels[:count]).items():
        found[f"{name}_{count}"] = np.asarray(x)
np.savez(sys.argv[3], **found)
others = {"uronet_jax", "flax", "orbax", "optax", "absl", "launch"} & set(sys.modules)
assert not others, others
print(sorted(program.platforms))
"""


def test_jax_alone_runs_it_on_any_number_of_images(exported, tmp_path, start):
    path, defense = exported
    np.save(tmp_path / "pixels.npy", PIXELS)
    files = [str(x) for x in (path, tmp_path / "pixels.npy", tmp_path / "found.npz")]
    process = start("-c", ALONE, *files, PYTHONPATH="")
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    assert output == "['cpu', 'cuda']\n"
    found = np.load(tmp_path / "found.npz")
    for count in (2, 5):
        expected = defense(PIXELS[:count])._asdict()
        assert {f"{name}_{count}" for name in expected} <= set(found)
        for name, x in expected.items():
            y = found[f"{name}_{count}"]
            assert (y.shape, y.dtype) == (x.shape, x.dtype)
            # Two programs round differently; logits are of size 1.
            np.testing.assert_allclose(y, x, atol=2e-5, err_msg=name)
    assert np.ptp(found["logits_5"]) > 0.1 and np.ptp(found["clean_5"]) > 0.1


def test_the_description(exported, runs):
    path, defense = exported
    about = json.loads(path.with_suffix(".json").read_text())
    assert about["input"] == {
        **{"name": "images", "shape": ["batch", 32, 32, 3], "dtype": "uint8"},
        "range": [0, 255],
    }
    found = defense(PIXELS)._asdict()
    assert about["outputs"].keys() == found.keys()
    for name, fields in about["outputs"].items():
        assert fields["shape"] == ["batch", *found[name].shape[1:]]
        assert fields["dtype"] == found[name].dtype
        if fields["range"]:
            low, high = fields["range"]
            assert low <= found[name].min() and found[name].max() <= high
    assert about["outputs"]["logits"]["range"] is None
    assert (about["num_classes"], about["threshold"], about["gate"]) == (10, 0.7, None)
    assert about["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert about["models"] == runs and "jax" in about["versions"]


def call(path, pixels):
    program = jax.export.deserialize(bytearray(path.read_bytes()))
    return {name: np.asarray(x) for name, x in program.call(pixels).items()}


def test_gate_and_transformations(runs, tmp_path):
    path = tmp_path / "new" / "gated"
    defense = load_defense(**runs)
    gate = float(np.median(defense(PIXELS).degraded_probability))
    defense = load_defense(**runs, gate=gate)
    about = export_defense(defense, path)
    assert about["gate"] == gate and path.with_suffix(".json").is_file()
    expected = defense(PIXELS[:3])
    found = call(path, PIXELS[:3])
    np.testing.assert_allclose(found["logits"], expected.logits, atol=2e-5)
    # Without a detector, with what has a loop over the pixels.
    defense = load_defense("median+bit_depth:bits=3", None, runs["classifier"])
    about = export_defense(defense, path)
    assert set(about["outputs"]) == {"logits", "clean", "noise"}
    found = call(path, PIXELS[:1])
    assert set(found) == set(about["outputs"])
    np.testing.assert_allclose(found["clean"], defense(PIXELS[:1]).clean, atol=1e-6)


class Noisy(nn.Module):
    """A network that draws."""

    @nn.compact
    def __call__(self, images):
        return images + jax.random.uniform(self.make_rng("defense"), images.shape)


def noisy(variables, images, key=None, index=None):
    key = jax.random.key(0) if key is None else key
    return Separation(images + jax.random.uniform(key, images.shape), images)


def show(variables, images):
    return images[:, 0, :2, 0]


@pytest.mark.parametrize(
    ("purifier", "options", "message"),
    [
        (
            make_transformation("gaussian_noise", scale=0.1),
            {},
            "gaussian_noise is rand",
        ),
        (
            chain(
                make_transformation("median"),
                make_transformation("gaussian_noise", scale=0.1),
            ),
            {},
            "gaussian_noise is random, and the program takes no key: choose a",
        ),
        (Noisy(), {}, "the purifier is random, and the program takes no key"),
        (noisy, {}, "the purifier is random, and the program takes no key"),
        (None, {"threshold": 1.5}, r"probability, .* in \[0, 1\]: 1.5"),
        (None, {"path": "defense.json"}, "name it .stablehlo"),
    ],
)
def test_what_cannot_be_exported(purifier, options, message, tmp_path):
    own = (None, None) if isinstance(purifier, Chain) else {}
    variables = {"classifier": {}, "purifier": own}
    defense = Defense(purifier, None, show, variables, image_shape=(4, 4, 1))
    options = {"path": "x"} | options
    path = tmp_path / options.pop("path")
    with pytest.raises(ValueError, match=message):
        export_defense(defense, path, **options)
    assert not list(tmp_path.iterdir())


def test_the_program(runs, tmp_path, start):
    names = [f"--{role}={run}" for role, run in runs.items()]
    out = tmp_path / "defense.stablehlo"
    process = start("-m", "launch.export", *names, f"--out={out}", "--gate=0.5")
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    told = "takes uint8 ['batch', 32, 32, 3], gives clean, degraded_probability, logits"
    assert output.startswith(f"{told}, noise\n")
    about = json.loads(out.with_suffix(".json").read_text())
    assert about["gate"] == 0.5 and about["models"] == runs


def blocks():
    return re.findall(
        r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL
    )


def test_the_page_fills_batches_as_it_says(exported):
    path, defense = exported
    program = jax.export.deserialize(bytearray(path.read_bytes()))
    names = {"DEFEND": program.call, "pixels": PIXELS, "np": np}
    exec(blocks()[1], names)
    np.testing.assert_allclose(names["logits"], defense(PIXELS).logits, atol=2e-5)


def post(port, data):
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/predict",
        data,
        {"Content-Type": "application/octet-stream"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.loads(answer.read())


def test_the_server_of_the_page(exported, tmp_path, start):
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    path, defense = exported
    for file in (path, path.with_suffix(".json")):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    code = blocks()[0]
    assert "uronet" not in code and len(code.splitlines()) <= 26
    (tmp_path / "server.py").write_text(code)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    run = "import os, sys, uvicorn; os.chdir(sys.argv[1]); sys.path.insert(0, '.'); "
    run += "uvicorn.run('server:app', port=int(sys.argv[2]), log_level='warning')"
    process = start("-c", run, str(tmp_path), str(port))
    file = io.BytesIO()
    Image.fromarray(PIXELS[0]).save(file, "PNG")
    for _ in range(240):
        assert process.poll() is None, process.communicate()[1]
        try:
            found = post(port, file.getvalue())
            break
        except urllib.error.URLError:
            time.sleep(0.25)
    expected = defense(PIXELS[:1])
    assert found["label"] == expected.logits[0].argmax()
    probability = float(expected.degraded_probability[0])
    assert found["degraded_probability"] == pytest.approx(probability, abs=2e-5)
    assert found["degraded"] == (probability > 0.7)
    with pytest.raises(urllib.error.HTTPError) as error:
        post(port, b"no picture at all")
    error.value.close()
    assert error.value.code == 415
    # A grey picture of another size.
    file = io.BytesIO()
    Image.fromarray(RNG.integers(256, size=(50, 41), dtype=np.uint8)).save(file, "JPEG")
    assert 0 <= post(port, file.getvalue())["degraded_probability"] <= 1
