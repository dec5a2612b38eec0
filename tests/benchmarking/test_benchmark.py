"""Benchmarks: ratios, FLOPs, peers that compute the same, files that go on."""

import dataclasses
import importlib.util
import json
import mmap
import os
import sys
import time

import jax
import numpy as np
import pytest

from uronet_jax.attacks import flax_logits, misclassification, pgd
from uronet_jax.attacks.adaptive import without_success
from uronet_jax.benchmarking import (
    attacks,
    base,
    convolutions,
    corruptions,
    flops,
    large_images,
    memory,
    rows,
    serving,
    steps,
    suite,
    timing,
    torch_networks,
    torch_peer,
    transformation_peers,
    transformations,
)
from uronet_jax.benchmarking.base import (
    BenchmarkRun,
    BenchmarkSizes,
    installed,
    new_row,
)
from uronet_jax.benchmarking.linen_remover import LinenRemover
from uronet_jax.benchmarking.torch_peer import TorchPeer
from uronet_jax.models import make_classifier, make_remover
from uronet_jax.models.pytorch import network_from_pytorch
from uronet_jax.reports import results
from uronet_jax.transformations import TRANSFORMATIONS

needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="PyTorch is not installed"
)
TINY = suite.choose_sizes("cpu", tiny=True, repeats=1)
RUN = BenchmarkRun(TINY, tiny=True)


def make_torch_peer():
    return TorchPeer(platform="cpu", dtype="float32", threads=1)


class FakeClock:
    """Time passes only where a contestant says so."""

    def __init__(self):
        self.now, self.calls = 0.0, []

    def __call__(self):
        return self.now

    def contestant(self, name, seconds):
        durations = iter(seconds)

        def run():
            self.calls.append(name)
            self.now += next(durations)

        return run


def test_contestants_take_turns_and_ratios_are_of_neighbours():
    clock = FakeClock()
    times = {"ours": [99, 1, 2, 9], "peer": [99, 2, 8, 3], "slow": [99, 10]}
    contestants = {name: clock.contestant(name, x) for name, x in times.items()}
    seconds = timing.interleave(contestants, repeats=3, limits={"slow": 1}, clock=clock)
    assert clock.calls == ["ours", "peer", "slow"] * 2 + ["ours", "peer"] * 2
    assert seconds == {"ours": [1, 2, 9], "peer": [2, 8, 3], "slow": [10]}
    # The ratio of the medians would be 2 / 3.
    ratio = {"ratio": 0.5, "ratio_min": 0.25, "ratio_max": 3.0, "rounds": 3}
    expected = {"subject": "ours", "peer": "peer"} | ratio
    assert timing.time_ratio(seconds, "ours", "peer") == expected
    assert timing.time_ratio(seconds, "ours", "slow")["ratio"] == 0.1
    assert timing.summarise(seconds)["peer"] == {"median": 3, "min": 2, "max": 8}
    with pytest.raises(ValueError, match="repeat"):
        timing.interleave({}, repeats=0)


def test_flops():
    # 40.55 million multiplications (He et al.: 0.041e9), and as many additions.
    resnet = flops.forward_flops(make_classifier("resnet20", 10), (32, 32, 3))
    assert resnet == 2 * 40_551_040
    # 4.09e9 as torchvision states it; 385 million counted over the layers of
    # efficientnet_lite_pytorch by hooks.
    resnet50 = flops.forward_flops(make_classifier("resnet50", 1000), (224, 224, 3))
    assert resnet50 == 2 * 4_089_184_256
    lite = flops.forward_flops(
        make_classifier("efficientnet_lite0", 1000), (224, 224, 3)
    )
    assert lite == 2 * 385_187_552
    # Widths (2,), one channel, 4x4 pixels: encoder 1 -> 2 -> 2 at 16 pixels, then per
    # decoder a transposed 2 -> 2 from 4 pixels, 2 -> 2 and 2 -> 1 at 16 pixels.
    remover = make_remover("paper", widths=(2,))
    encoder = 9 * 16 * (1 * 2 + 2 * 2)
    decoder = 9 * (4 * 2 * 2 + 16 * 2 * 2 + 16 * 2 * 1)
    assert flops.forward_flops(remover, (4, 4, 1)) == 2 * (encoder + 2 * decoder)


def test_naive_linen_remover_is_the_same_function(make_variables):
    shape = (8, 8, 3)
    remover = make_remover("paper", widths=(3, 5))
    variables = make_variables(remover, shape)
    images = np.random.default_rng(0).random((2, *shape), np.float32)
    ours, naive = (
        jax.jit(r.apply)(variables, images) for r in (remover, LinenRemover())
    )
    for a, b in zip(ours, naive, strict=True):
        # Sums of up to 45 products in another order.
        np.testing.assert_allclose(a, b, atol=1e-6)


def float32_gradients(module, params, batch):
    """Returns what `separation_gradients` does, in float32 and full precision."""
    gradients = jax.value_and_grad(steps.separation_loss, argnums=1)
    with jax.default_matmul_precision("highest"):
        return jax.jit(gradients, static_argnums=0)(module, params, batch)


def test_gradients_agree_in_float32_where_no_unit_is_next_to_zero():
    # Rows compare in float64, see `separation_gradients`: on larger sizes and on a GPU
    # one unit next to zero is 1.8e-3. On these sizes the limit of float32 holds.
    work = steps.remover_work(TINY)
    ours, naive = (
        float32_gradients(module, work.state.params, work.examples)
        for module in (work.module, LinenRemover())
    )
    assert {str(x.dtype) for x in jax.tree.leaves(ours)} == {"float32"}
    assert steps.agree(ours, naive) < 1e-5


def test_another_function_is_not_compared():
    same = {"w": np.ones(3)}
    assert steps.agree(same, same) == 0.0
    for value in (1.1, np.nan):
        with pytest.raises(ValueError, match="another function"):
            steps.agree(same, {"w": np.float64([1, value, 1])})


@needs_torch
@pytest.mark.parametrize(
    ("name", "channels"),
    [
        *(("wrn10_1", 6), ("resnet8", 3), ("wrn10_2", 3), ("cnn_madry", 1)),
        ("efficientnet_lite0", 3),
    ],
)
def test_torch_classifiers_are_the_same_function(name, channels, make_variables):
    peer = make_torch_peer()
    classifier = make_classifier(name, 4, mean=(0.4,), std=(0.3,))
    if type(classifier) in torch_networks.LIBRARIES:
        try:
            torch_networks.find_library(classifier)
        except ImportError as error:
            pytest.skip(str(error))
    variables = make_variables(classifier, (8, 8, channels))
    images = np.random.default_rng(0).random((2, 8, 8, channels), np.float32)
    ours = jax.jit(classifier.apply)(variables, images)
    assert float(np.std(ours)) > 0.1
    theirs = peer.logits(classifier, variables, images)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


@needs_torch
def test_torch_steps_move_weights_as_ours_do(make_variables):
    # The row itself checks loss and gradients; here Adam and the order of batches.
    peer = make_torch_peer()
    work = steps.remover_work(dataclasses.replace(TINY, widths=(4, 4)))
    variables = make_variables(work.module, TINY.image_shape)
    work = work._replace(state=work.state.replace(params=variables["params"]))
    few = {name: x[0] for name, x in work.batches.items()}
    # In float64, as the row: there rounding decides of no unit whether it counts.
    exact = work.module.clone(dtype="float64")
    before, _ = peer.gradients(exact, variables, few)
    loss, gradients = steps.separation_gradients(exact, variables["params"], few)
    assert before == pytest.approx(float(loss), rel=1e-5)
    # In float32 as well, where on these sizes no unit is next to zero.
    twin = peer._twin(work.module, variables)
    tensors = {name: peer.tensor(x) for name, x in few.items()}
    found = torch_peer._separation_loss(twin, tensors)
    found.backward()
    loss32, ours = float32_gradients(work.module, variables["params"], few)
    assert found.item() == pytest.approx(float(loss32), rel=1e-5)
    theirs = torch_peer._gradient(twin, variables["params"])
    assert steps.agree(ours, theirs) < steps.AGREEMENT
    twins, original = [], peer._twin
    peer._twin = lambda *a: twins.append(original(*a)) or twins[-1]
    peer.steps(work, 1)()
    # Adam's first step is the rate in the direction of the sign of the gradient.
    bias = twins[0].get_parameter("encoder/Conv_0/bias").detach().numpy()
    start, gradient = (
        tree["encoder"]["Conv_0"]["bias"] for tree in (variables["params"], gradients)
    )
    np.testing.assert_allclose(bias, start - 1e-3 * np.sign(gradient), atol=1e-5)


@pytest.fixture(scope="module", autouse=True)
def optimisations():
    """Compiles for few calls: what is compared here is close enough without."""
    jax.config.update("jax_disable_most_optimizations", True)


def check_row(row):
    fields = {"work", "comparisons", "values", "limits", "seconds", "notes"}
    assert row.keys() - {"wall_seconds"} == fields
    for comparison in row["comparisons"]:
        assert comparison["ratio_min"] <= comparison["ratio"] <= comparison["ratio_max"]
        assert comparison["ratio_min"] > 0
        assert {comparison["subject"], comparison["peer"]} <= row["seconds"].keys()
    assert row["limits"].keys() <= row["values"].keys()


def peers_of(row):
    return [comparison["peer"] for comparison in row["comparisons"]]


def test_remover_row_without_torch(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    path = tmp_path / "benchmark.json"
    content = suite.run_benchmark(["remover"], path, scale="tiny", repeats=1)
    assert content["config"]["peer"] is None and content["config"]["scale"] == "tiny"
    row = content["rows"]["remover"]
    check_row(row)
    (note,) = row["notes"]
    assert note.startswith("PyTorch is absent") and "pip install" in note
    assert peers_of(row) == ["naive linen"]
    assert row["comparisons"][0]["agreement"] < 1e-5
    assert note in results.render_benchmark(results.load_result(path).content)


@needs_torch
def test_rows_with_torch():
    run = RUN._replace(peer=make_torch_peer())
    row = rows.training_row(run, "detector")
    check_row(row)
    assert peers_of(row) == [run.peer.name]
    # Zero would mean that nothing was compared.
    assert 0 < row["comparisons"][0]["agreement"] < 1e-4


def test_convolutions_are_found_once_with_their_number():
    remover = make_remover("paper", widths=(2, 4))
    found = convolutions.list_convolutions(remover, (8, 8, 3))
    assert {x.name: n for x, n in found.items()} == {
        "3x3 3 to 2 at 8x8": 1,
        "3x3 2 to 2 at 8x8": 3,  # The encoder's second, and each decoder's.
        "3x3 2 to 4 at 4x4": 1,
        "3x3 4 to 4 at 4x4": 3,
        "3x3 transposed 4 to 4 at 2x2": 2,
        "3x3 transposed 4 to 2 at 4x4": 2,
        "3x3 2 to 3 at 8x8": 2,
    }
    first, *others = found
    assert first.parts == ("forward", "gradient by kernel")
    assert all(x.parts == convolutions.PARTS for x in others)
    resnet = convolutions.list_convolutions(make_classifier("resnet8", 10), (32, 32, 3))
    assert {x.name: n for x, n in resnet.items()}[
        "3x3 16 to 32 at 32x32, stride 2"
    ] == 1


def test_shares_of_a_step_are_of_all_its_convolutions():
    layer = convolutions.Convolution(False, (8, 8, 2), 3, 2, 1, False)
    first = layer._replace(size=1, first=True)
    seconds = {f"w, {layer.name}: {x}": [0.5, 1.0] for x in layer.parts}
    seconds |= {f"w, {first.name}: {x}": [1.0, 2.0] for x in first.parts}
    sums = convolutions._sums(seconds, {layer: 3, first: 1}, "w", [7.0, 14.0])
    assert sums == {
        "forward": [2.5, 5.0],
        "gradient by input": [1.5, 3.0],
        "gradient by kernel": [2.5, 5.0],
        "all else": [0.5, 1.0],
    }


@needs_torch
@pytest.mark.parametrize("name", ["remover", "classifier"])
def test_convolutions_row_with_torch(name):
    run = RUN._replace(peer=make_torch_peer())
    row = convolutions.convolutions_row(run, name)
    check_row(row)
    compared = {c["subject"]: c for c in row["comparisons"]}
    layers = convolutions.list_convolutions(
        steps.WORKS[name](TINY).module, TINY.image_shape
    )
    found = [
        compared[f"uronet_jax, {layer.name}: {part}"]["agreement"]
        for layer in layers
        for part in layer.parts
    ]
    # Zero everywhere would mean that nothing was compared; sums of few are equal.
    assert 0 < max(found) < 1e-5
    assert "uronet_jax, step" in compared
    for who in ("uronet_jax", run.peer.name):
        shares = [
            row["values"][f"share of the step of {who}: {x}"]
            for x in (*convolutions.PARTS, convolutions.REST)
        ]
        assert sum(shares) == pytest.approx(1.0)


@needs_torch
def test_serving_row_with_torch():
    run = RUN._replace(peer=make_torch_peer())
    row = serving.serving_row(run)
    check_row(row)
    pairs = [(f"uronet_jax, batch {x}", f"{run.peer.name}, batch {x}") for x in (1, 3)]
    assert [(c["subject"], c["peer"]) for c in row["comparisons"]] == pairs
    # All fields of the prediction; zero would mean that nothing was compared.
    assert all(0 < c["agreement"] < 1e-3 for c in row["comparisons"])


def test_serving_row_without_torch(monkeypatch):
    monkeypatch.setattr(base, "on_gpu", lambda: True)
    row = serving.serving_row(RUN)
    check_row(row)
    assert row["comparisons"] == []
    for batch in (1, 3):
        call = row["seconds"][f"uronet_jax, batch {batch}"]["median"]
        assert row["values"][f"batch {batch}: ms"] == pytest.approx(1e3 * call)
        images = row["values"][f"batch {batch}: images/s"]
        assert images == pytest.approx(batch / call)


def test_a_peer_that_serves_another_defence_is_not_compared():
    class Other:
        name = "other"

        def defense(self, parts):
            assert set(parts) == {"purifier", "detector", "classifier"}
            return lambda pixels: {
                "logits": np.ones((len(pixels), 10), np.float32),
                "degraded_probability": np.ones(len(pixels), np.float32),
                "clean": np.float32(pixels) / 255,
                "noise": np.float32(pixels) / 255,
            }

    with pytest.raises(ValueError, match="another function"):
        serving.serving_row(RUN._replace(peer=Other()))


def test_torch_resnets_take_our_weights():
    pytest.importorskip("torchvision", reason="torchvision is not installed")
    module = make_classifier("resnet18", 7)
    like = jax.eval_shape(module.init, jax.random.key(0), np.zeros((1, 32, 32, 3)))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda x: rng.random(x.shape, np.float32), like)
    twin = torch_networks.library_network(module, variables)
    assert torch_networks.library_version(module).startswith("torchvision 0.")
    state = {k: x.numpy() for k, x in twin.network.state_dict().items()}
    back = network_from_pytorch(state)
    assert back.name == "resnet18"
    jax.tree.map(np.testing.assert_array_equal, back.variables, dict(variables))


def small_network(monkeypatch):
    """Puts a network that compiles fast in the place of the large ones."""
    entry = large_images.LargeImages("resnet8", 1.2)
    monkeypatch.setattr(large_images, "NETWORKS", {"small": entry})
    monkeypatch.setattr(large_images, "_TINY_SIDE", 8)


@needs_torch
def test_row_on_large_images_with_torch(monkeypatch):
    small_network(monkeypatch)
    run = RUN._replace(peer=make_torch_peer())
    row = large_images.large_images_row(run, "small")
    check_row(row)
    pairs = [(f"uronet_jax, {x}", f"{run.peer.name}, {x}") for x in ("step", "forward")]
    assert [(c["subject"], c["peer"]) for c in row["comparisons"]] == pairs
    for comparison in row["comparisons"]:
        # Zero would mean that nothing was compared.
        assert 0 < comparison["agreement"] < 1e-4
        assert comparison["met"] == (comparison["ratio"] <= 1.2)
    assert row["notes"] == [f"the peer's network: {run.peer.name}"]


def test_row_on_large_images_without_its_peer(monkeypatch):
    small_network(monkeypatch)
    monkeypatch.setattr(base, "on_gpu", lambda: True)

    class Peer:
        def logits(self, *arguments):
            raise ImportError("no torchvision is installed")

    row = large_images.large_images_row(RUN._replace(peer=Peer()), "small")
    check_row(row)
    assert row["comparisons"] == []
    (note,) = row["notes"]
    assert note.startswith("the peer of small is absent (no torchvision is installed)")
    # Of the same batch and FLOPs, three times as many in a step.
    rates = {
        part: row["values"][f"{part}: TFLOP/s"] / row["values"][f"{part}: images/s"]
        for part in ("step", "forward")
    }
    assert rates["step"] == pytest.approx(3 * rates["forward"])


def test_absent_libraries_are_named(monkeypatch):
    monkeypatch.setattr(torch_networks.importlib.util, "find_spec", lambda name: None)
    network = make_classifier("efficientnet_lite0", 10)
    with pytest.raises(ImportError, match="no timm or efficientnet_lite_pytorch is"):
        torch_networks.find_library(network)


def test_large_images_are_few_on_a_cpu(monkeypatch):
    run = BenchmarkRun(BenchmarkSizes())
    network = large_images.NETWORKS["resnet50_224"]
    sizes = large_images.large_sizes(run, network)
    assert (sizes.batch_size, sizes.image_shape) == (16, (224, 224, 3))
    monkeypatch.setattr(base, "on_gpu", lambda: True)
    sizes = large_images.large_sizes(run, network)
    assert (sizes.batch_size, sizes.classifier) == (128, "resnet50")


needs_foolbox = pytest.mark.skipif(
    importlib.util.find_spec("foolbox") is None, reason="foolbox is not installed"
)


@needs_torch
@needs_foolbox
@pytest.mark.filterwarnings("default")  # Those of foolbox.
@pytest.mark.parametrize("side", [32, 28])
def test_noise_rows_with_torch(side):
    run = RUN._replace(peer=make_torch_peer())
    row = rows.noise_row(run, side)
    check_row(row)
    compared = [(c["subject"], c["peer"]) for c in row["comparisons"]]
    ours, peer = "uronet_jax", run.peer.name
    expected = [(ours, "plain step"), ("rescaling", ours), (ours, peer)]
    assert compared == expected
    assert 0 < row["comparisons"][2]["agreement"] < 1e-4


@needs_torch
@needs_foolbox
@pytest.mark.filterwarnings("default")  # Those of foolbox.
def test_torch_steps_of_noise_move_what_ours_move():
    peer, work = make_torch_peer(), steps.WORKS["adversarial_noise_32"](TINY)
    twins, original = [], peer._twin
    peer._twin = lambda *a: twins.append(original(*a)) or twins[-1]
    run = peer.steps(work, 1)
    network, learning, *kept = twins
    before = [{k: v.clone() for k, v in t.state_dict().items()} for t in twins]
    run()
    moved = [
        max(float((v - old[k]).abs().max()) for k, v in t.state_dict().items())
        for t, old in zip(twins, before, strict=True)
    ]
    # Adam's first step is the rate; SGD's depends on the gradient.
    assert moved[0] > 0 and moved[2:] == [0.0] * len(kept)
    assert moved[1] == pytest.approx(work.noise.rate, rel=1e-2)


@pytest.mark.parametrize("absent", [True, False])
def test_noise_row_without_its_peer(absent, monkeypatch):
    class Peer:
        name = "PyTorch"

        def logits(self, *arguments):
            raise ImportError("No module named 'foolbox'")

    row = rows.noise_row(RUN._replace(peer=Peer() if absent else None), 28)
    check_row(row)
    plain, rescaling = row["comparisons"]
    assert plain["met"] == (plain["ratio"] <= plain["at_most"] == 2.3)
    assert rescaling["met"] == (rescaling["ratio"] <= rescaling["at_most"] == 0.05)
    assert any("pip install" in note for note in row["notes"]) == absent


def test_noise_work_counts_the_passes_and_fills_the_batch():
    sizes = dataclasses.replace(TINY, batch_size=32)
    work = steps.WORKS["adversarial_noise_32"](sizes)
    forward = flops.forward_flops(work.module, sizes.image_shape)
    # Forward and to the image, then forward, to the image and to the weights.
    assert work.flops == 5 * forward
    assert work.noise.parts == {
        "clean": 16,
        "degraded": 0,
        "noise": 10,
        "replay": [3, 3],
    }
    grey = steps.WORKS["adversarial_noise_28"](sizes)
    assert grey.batches["image"].shape[2:] == (28, 28, 1)
    assert type(grey.module) is type(make_classifier("cnn_madry", 10))


def test_ceilings_are_work_over_time(monkeypatch):
    assert suite.ROWS["ceilings"](RUN)["values"] == {}  # Times of GPUs only.
    monkeypatch.setattr(base, "on_gpu", lambda: True)
    row = suite.ROWS["ceilings"](RUN)
    seconds = {name: x["min"] / 2 for name, x in row["seconds"].items()}
    assert row["values"] == {
        "bfloat16 product, TFLOP/s": pytest.approx(
            2 * 256**3 / seconds["products"] / 1e12
        ),
        # Eight matrices of two bytes, read and written.
        "copy, GB/s read and written": pytest.approx(
            2 * 8 * 256**2 * 2 / seconds["copies"] / 1e9
        ),
    }


def test_data_row():
    row = rows.data_row(RUN)
    check_row(row)
    assert [c["subject"] for c in row["comparisons"]] == ["on_device", "streamed"]
    assert peers_of(row) == ["constant batch"] * 2
    on_device, streamed = row["comparisons"]
    assert on_device["met"] == (on_device["ratio"] <= on_device["at_most"] == 1.03)
    assert "met" not in streamed


def test_evaluation_compiles_once():
    row = rows.evaluation_row(RUN)
    check_row(row)
    assert row["values"] == {"compilations of the judge": 1}
    assert row["limits"]["compilations of the judge"]["met"]


# A Python process with JAX takes some 0.3 GB before it does anything, and the judge of
# ten tiny images less than that.
@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "quantity", "least", "most", "limit"),
    [
        ("memory", "peak host GB", 0.1, 4.0, 4.0),
        ("corruptions_memory", "peak host GB", 0.1, 4.0, 4.0),
        ("evaluation_memory", "host GB beyond the models", 0.0, 1.0, 3.0),
    ],
)
def test_memory_rows(name, quantity, least, most, limit):
    row = suite.ROWS[name](RUN)
    check_row(row)
    assert least < row["values"][quantity] < most
    assert row["limits"] == {quantity: {"at_most": limit, "met": True}}


def test_planned_memory_grows_with_images():
    row = suite.ROWS["remover_memory"](RUN)
    check_row(row)
    values = row["values"]
    small, large = (values[f"{x}x{x}, purified: MB an image"] for x in (8, 32))
    # Sixteen times the pixels, arrays that do not depend on them, and alignment.
    assert 4 * small < large < 20 * small
    assert values["8x8, trained on: MB an image"] > small > 0
    assert peers_of(row) == ["8x8"]


def test_attacks_take_little_more_memory_than_a_gradient(monkeypatch):
    names = ("pgd_linf", "square_linf", "deepfool_l2")
    monkeypatch.setattr(memory, "MEASURED_ATTACKS", names)
    row = suite.ROWS["attack_memory"](RUN)
    check_row(row)
    one, gradient, queries, several, most, most_of_several = row["values"].values()
    assert most == pytest.approx(gradient / one)
    assert most_of_several == pytest.approx(several / one)
    # Square looks at logits alone.
    assert queries < gradient < several
    assert all(limit["met"] for limit in row["limits"].values())


def test_images_are_generated_from_their_index():
    source = memory.GeneratedImages(20, (4, 5, 3))
    images, labels = source.read(np.array([3, 17, 3]))
    assert len(source) == 20 and images.shape == (3, *source.image_shape)
    assert images.dtype == np.uint8 and labels.tolist() == [3, 7, 3]
    np.testing.assert_array_equal(images[0], images[2])
    assert (images[0] != images[1]).mean() > 0.9


def test_host_bytes_see_an_allocation():
    before, size = memory.host_bytes("VmRSS"), 2**27
    with mmap.mmap(-1, size) as block:  # Never memory that was there before.
        block.write(bytes(size))
        now = memory.host_bytes("VmRSS")
        assert before + size / 2 < now <= memory.host_bytes("VmHWM")


def test_a_run_goes_on_where_it_stopped(tmp_path):
    path, calls = tmp_path / "benchmark.json", []

    def row(run):
        calls.append("row")
        return new_row("work", {"uronet_jax": [1.0]})

    options = {"functions": {"data": row, "remover": row}, "extra": {"threads": 1}}
    suite.measure_rows(["data"], RUN, path, **options)
    content = suite.measure_rows(["data", "remover"], RUN, path, note="n", **options)
    assert len(calls) == 2 and content["rows"].keys() == {"data", "remover"}
    assert content["rows"]["remover"]["notes"] == ["n"]
    assert content == json.loads(path.read_text()) == results.load_result(path).content
    assert content["config"]["widths"] == [4]
    assert content["config"]["threads"] == 1
    suite.measure_rows(["data"], RUN, path, force=True, **options)
    assert len(calls) == 3
    other = BenchmarkRun(dataclasses.replace(TINY, repeats=7))
    with pytest.raises(
        ValueError, match="otherwise.*: config repeats: 1 there, 7 now$"
    ):
        suite.measure_rows(["data"], other, path, **options)
    assert len(calls) == 3


def test_wall_time_is_summed_over_rows(tmp_path):
    clock = FakeClock()
    functions = {
        name: lambda run: clock.contestant("", [30])() or new_row("work")
        for name in ("data", "memory")
    }
    options = {"functions": functions, "clock": clock}
    for name in functions:
        content = suite.measure_rows([name], RUN, tmp_path / "b.json", **options)
    assert content["seconds"] == 60.0


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ({"batch_size": 3}, "batch_size.*even.*: 3"),
        ({"classifier": "alexnext"}, "unknown classifier 'alexnext'"),
        ({"detector": "alexnext"}, "unknown classifier 'alexnext'"),
        ({"repeats": 0}, "repeats must be an integer .*: 0"),
        ({"dtype": "float8"}, "unknown dtype 'float8'"),
    ],
)
def test_sizes_are_checked(size, message):
    with pytest.raises(ValueError, match=message):
        BenchmarkSizes(**size)


def test_rows_and_sizes_are_chosen():
    with pytest.raises(ValueError, match="unknown row 'speed'"):
        suite.choose_rows(["remover", "speed"])
    groups = ("corruptions", "attacks", "transformations", "convolutions")
    every = suite.choose_rows(["all"])
    assert every == list(suite.ROWS)
    assert every[-9:] == [row for name in groups for row in suite.GROUPS[name]]
    for name in groups:
        assert suite.choose_rows([name]) == list(suite.GROUPS[name])
    gpu = suite.choose_sizes("gpu", dtype="bfloat16", batch_size=None)
    assert (gpu.classifier, gpu.steps_per_sample) == ("wrn16_8", 50)
    assert (gpu.batch_size, gpu.widths) == (128, (64, 128, 256))


def test_throughput_is_reported_on_a_gpu_only(monkeypatch):
    assert rows.throughput(TINY, [1.0], 10**9) == {}

    class H200:
        platform, device_kind = "gpu", "NVIDIA H200"

    monkeypatch.setattr(jax, "devices", lambda: [H200])
    settings = BenchmarkSizes(batch_size=100, steps_per_sample=10, dtype="bfloat16")
    values = rows.throughput(settings, [0.5, 2.0, 0.25], 10**9)
    assert values["images/s"] == 2000.0 and values["ms/step"] == 50.0
    assert values["TFLOP/s"] == 2.0
    assert values["MFU"] == pytest.approx(2.0 / 989.0)
    H200.device_kind = "another"
    assert "MFU" not in rows.throughput(settings, [0.5], 10**9)


def test_corruption_rows_compare_times_per_image():
    seen = []

    def slow(image, name, severity):
        seen.append((image.shape, image.dtype, name, severity))
        time.sleep(0.02)

    run = RUN._replace(sizes=dataclasses.replace(TINY, repeats=2))
    row = corruptions.throughput_row(run, side=32, peers={"slow": slow})
    names = ["fog", "contrast"]
    assert set(seen) == {((32, 32, 3), np.dtype(np.uint8), name, 3) for name in names}
    assert len(seen) == 2 * 3  # One of each before the rounds.
    assert [c["subject"] for c in row["comparisons"]] == [*names, "all of these"]
    for comparison in row["comparisons"]:
        # 20 ms for one image, against a few for four.
        assert comparison["peer"] == "slow" and 0 < comparison["ratio"] < 0.5
        assert comparison["met"] == (comparison["ratio"] <= comparison["at_most"])
    assert row["comparisons"][2]["at_most"] == pytest.approx(1 / 15)
    assert row["values"] == {}  # Absolute figures are for GPUs.


def test_corrupted_set_row():
    names = ["stripe", "shear"]
    row = corruptions.corrupted_set_row(RUN, suite="mnist_c", names=names)
    assert row["work"].startswith("2 corruptions x 1 severities of 4 32x32 images")
    assert row["values"] == {}


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux only")
def test_threads_are_limited_to_what_is_there():
    for threads in (0, 100_000):
        with pytest.raises(ValueError, match=f"--threads .*: {threads}"):
            suite.limit_threads(threads)
    available = os.sched_getaffinity(0)
    try:
        suite.limit_threads(1)
        assert len(os.sched_getaffinity(0)) == 1
    finally:
        os.sched_setaffinity(0, available)


def test_absent_packages_are_noted():
    def absent():
        import uronet_jax.nothing  # noqa: F401

    peers, notes = installed({"here": lambda: 1, "there": absent})
    assert peers == {"here": 1} and notes == [
        "there is absent (No module named 'uronet_jax.nothing'): "
        "pip install uronet_jax[benchmark]"
    ]


@pytest.mark.parametrize(
    ("row", "packages"),
    [
        ("corruptions_32", ["corrupt_tta", "imagecorruptions"]),
        ("attack_pgd", ["foolbox", "torchattacks"]),
    ],
)
def test_rows_without_peers(row, packages, monkeypatch):
    for package in packages:
        monkeypatch.setitem(sys.modules, package, None)
    row = suite.ROWS[row](RUN)
    check_row(row)
    assert not row["comparisons"]
    absent = [note for note in row["notes"] if "pip install" in note]
    assert len(absent) == 2 and absent[0] != absent[1]


def test_pgd_is_compared_with_peers_that_compute_the_same():
    made, chosen = [], ["same"]

    def make_peers(row, module, variables, batch_size):
        logits_fn = flax_logits(module, variables, train=False)

        def ours(images, labels):
            assert len(images) == batch_size == TINY.batch_size
            assert labels.tolist() == np.argmax(logits_fn(images), axis=-1).tolist()
            loss_fn = without_success(misclassification(logits_fn, labels))
            options = {"epsilon": 8 / 255, "step_size": 2 / 255, "steps": 40}
            options["random_start"] = False
            adversarial = pgd(jax.random.key(5), images, loss_fn, **options)
            made.append(adversarial - images)
            return np.asarray(adversarial)

        peers = {"same": ours, "idle": lambda images, labels: images}
        return {name: peers[name] for name in chosen}, []

    row = attacks.pgd_row(RUN, make_peers)
    check_row(row)
    (comparison,) = row["comparisons"]
    assert comparison["agreement"] == 0.0 and comparison["at_most"] == 1.0
    assert np.abs(made[0]).max() == pytest.approx(8 / 255, abs=1e-6)
    chosen[:] = ["idle"]
    with pytest.raises(ValueError, match="another attack: it raises the mean loss"):
        attacks.pgd_row(RUN, make_peers)


def test_autoattack_row():
    def make_peers(row, *network):
        return {"idle": lambda images, labels: images}, [f"a note on {row}"]

    row = attacks.autoattack_row(RUN, make_peers)
    check_row(row)
    assert peers_of(row) == ["idle"] and row["notes"][0] == "a note on autoattack"


def test_every_transformation_has_a_peer():
    assert transformation_peers.PEERS.keys() == TRANSFORMATIONS.keys()


def test_transformation_row(monkeypatch):
    names = ("bit_depth", "gaussian_noise", "quilting")
    monkeypatch.setattr(
        transformations, "TRANSFORMATIONS", {x: TRANSFORMATIONS[x] for x in names}
    )
    peers = transformation_peers.PEERS

    def make_peers(patches):
        return {name: peers[name].make(patches) for name in names}, []

    row = transformations.transformations_row(RUN, make_peers)
    compared = row["comparisons"]
    assert [c["subject"] for c in compared] == list(names)
    assert peers_of(row) == [f"NumPy {np.__version__}"] * 3
    for comparison in compared:
        assert comparison["met"] == (comparison["ratio"] <= comparison["at_most"] == 1)
    # The random one is not compared; the others make the same but for rounding.
    assert "agreement" not in compared[1]
    assert 0 <= compared[0]["agreement"] < 1e-5 and 0 <= compared[2]["agreement"] < 1e-5
    assert row["values"] == {} and row["seconds"].keys() == set(names)
    assert any(note.startswith("quilting: no package") for note in row["notes"])


def test_a_peer_that_transforms_otherwise_is_not_compared(monkeypatch):
    entries = {"bit_depth": TRANSFORMATIONS["bit_depth"]}
    monkeypatch.setattr(transformations, "TRANSFORMATIONS", entries)
    coarse = {"bit_depth": lambda images: np.rint(images)}
    with pytest.raises(ValueError, match="peer of bit_depth makes other images"):
        transformations.transformations_row(RUN, lambda patches: (coarse, []))
    row = transformations.transformations_row(RUN, lambda patches: ({}, ["a note"]))
    assert not row["comparisons"] and row["notes"][-1] == "a note"


@pytest.mark.parametrize("name", ["jpeg", "median", "feature_distillation"])
def test_peers_transform_as_ours_do(name):
    images = np.random.default_rng(0).random((2, 32, 32, 3), np.float32)
    if name == "jpeg":
        images = np.rint(255 * images) / np.float32(255)
    theirs = transformation_peers.PEERS[name].make(None)(images)
    ours = np.asarray(jax.jit(TRANSFORMATIONS[name])(images))
    assert transformations.difference(name, images, ours, theirs) < 1e-4


def test_packages_of_transformations_may_be_absent(monkeypatch):
    absent = {"art": "total_variation_art", "sporco": "sparse_layer"}
    for package in absent:
        monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setitem(sys.modules, "pywt", None)
    peers, notes = transformations.transformation_peers(np.zeros((9, 5, 5, 3)))
    expected = {*absent.values(), "wavelet", "pixel_deflection"}
    assert TRANSFORMATIONS.keys() - peers.keys() == expected
    assert len(notes) == 3 and all("pip install" in note for note in notes)
