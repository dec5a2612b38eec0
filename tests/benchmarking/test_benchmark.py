"""Benchmarks: ratios, FLOPs, peers that compute the same, files that go on."""

import dataclasses
import importlib.util
import json
import os
import sys
import time

import jax
import numpy as np
import pytest

import launch
from launch import benchmark, benchmark_corruption_peers
from uronet_jax.attacks import flax_logits, misclassification, pgd
from uronet_jax.benchmarking import (
    attacks,
    corruptions,
    flops,
    memory,
    rows,
    steps,
    timing,
)
from uronet_jax.benchmarking.linen_remover import LinenRemover, linen_params
from uronet_jax.benchmarking.row import new_row
from uronet_jax.models import make_classifier, make_remover
from uronet_jax.reports import results

needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="PyTorch is not installed"
)
TINY = benchmark.choose_settings("tiny", "cpu", repeats=1)


class FakeClock:
    """Time passes only where a contestant says so."""

    def __init__(self):
        self.now = 0.0
        self.calls = []

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
    seconds = timing.interleave(
        {
            "ours": clock.contestant("ours", [99, 1, 2, 9]),
            "peer": clock.contestant("peer", [99, 2, 8, 3]),
            "slow": clock.contestant("slow", [99, 10]),
        },
        repeats=3,
        limits={"slow": 1},
        clock=clock,
    )
    assert clock.calls == ["ours", "peer", "slow"] * 2 + ["ours", "peer"] * 2
    assert seconds == {"ours": [1, 2, 9], "peer": [2, 8, 3], "slow": [10]}
    # The ratio of the medians would be 2 / 3.
    assert timing.compare(seconds, "ours", "peer") == {
        "subject": "ours",
        "peer": "peer",
        "ratio": 0.5,
        "ratio_min": 0.25,
        "ratio_max": 3.0,
        "rounds": 3,
    }
    assert timing.compare(seconds, "ours", "slow")["ratio"] == 0.1
    assert timing.summarise(seconds)["peer"] == {"median": 3, "min": 2, "max": 8}
    with pytest.raises(ValueError, match="repeat"):
        timing.interleave({}, repeats=0)


def test_flops():
    # 40.55 million multiplications (He et al.: 0.041e9), and as many additions.
    resnet = flops.forward_flops(make_classifier("resnet20", 10), (32, 32, 3))
    assert resnet == 2 * 40_551_040
    # Widths (2,), one channel, 4x4 pixels: encoder 1 -> 2 -> 2 at 16 pixels, then per
    # decoder a transposed 2 -> 2 from 4 pixels, 2 -> 2 and 2 -> 1 at 16 pixels.
    remover = make_remover("paper", widths=(2,))
    encoder = 9 * 16 * (1 * 2 + 2 * 2)
    decoder = 9 * (4 * 2 * 2 + 16 * 2 * 2 + 16 * 2 * 1)
    assert flops.forward_flops(remover, (4, 4, 1)) == 2 * (encoder + 2 * decoder)


def test_naive_linen_remover_is_the_same_function(make_variables):
    shape = (8, 8, 3)
    remover = make_remover("paper", widths=(3, 5))
    params = make_variables(remover, shape)["params"]
    linen = LinenRemover((3, 5))
    images = np.random.default_rng(0).random((2, *shape), np.float32)
    ours = remover.apply({"params": params}, images)
    naive = linen.apply({"params": linen_params(params)}, images)
    for a, b in zip(ours, naive, strict=True):
        # Sums of up to 45 products in another order.
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_another_function_is_not_compared():
    same, other = {"w": np.ones(3)}, {"w": np.float64([1, 1, 1.1])}
    assert steps.agree(same, same) == 0.0
    with pytest.raises(ValueError, match="another function"):
        steps.agree(same, other)
    with pytest.raises(ValueError, match="another function"):
        steps.agree(same, {"w": np.float64([1, np.nan, 1])})


@needs_torch
@pytest.mark.parametrize(
    ("name", "channels"), [("wrn10_1", 6), ("resnet8", 3), ("wrn10_2", 3)]
)
def test_torch_classifiers_are_the_same_function(name, channels, make_variables):
    from launch.benchmark_peers import TorchPeer

    peer = TorchPeer(platform="cpu", dtype="float32", threads=1)
    classifier = make_classifier(name, 4, mean=(0.4,), std=(0.3,))
    variables = make_variables(classifier, (8, 8, channels))
    images = np.random.default_rng(0).random((2, 8, 8, channels), np.float32)
    ours = jax.jit(classifier.apply)(variables, images)
    assert float(np.std(ours)) > 0.1
    np.testing.assert_allclose(
        ours, peer.logits(classifier, variables, images), rtol=1e-4, atol=1e-4
    )


@needs_torch
def test_torch_steps_move_weights_as_ours_do(make_variables):
    # The row itself checks loss and gradients; here Adam and the order of batches.
    from launch.benchmark_peers import TorchPeer

    peer = TorchPeer(platform="cpu", dtype="float32", threads=1)
    remover = make_remover("paper", widths=(4, 4))
    variables = make_variables(remover, TINY.image_shape)
    batches = steps.separation_batches(TINY)
    few = {name: x[0] for name, x in batches.items()}
    before, _ = peer.remover_gradients(remover, variables, few)
    loss, gradients = steps.separation_gradients(remover, variables["params"], few)
    assert before == pytest.approx(float(loss), rel=1e-5)
    twins = []
    original = peer._twin
    peer._twin = lambda *a: twins.append(original(*a)) or twins[-1]
    run = peer.remover_steps(remover, variables, batches, 1)
    run()
    # Adam's first step is the rate in the direction of the sign of the gradient.
    bias = twins[0].encoder.Conv_0.bias.detach().numpy()
    np.testing.assert_allclose(
        bias,
        variables["params"]["encoder"]["Conv_0"]["bias"]
        - 1e-3 * np.sign(gradients["encoder"]["Conv_0"]["bias"]),
        atol=1e-5,
    )


ROW_FIELDS = {"work", "comparisons", "values", "limits", "seconds", "notes"}


@pytest.fixture
def quick_compilation():
    """Compiles for the few calls of a test that compares no numbers."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def check_row(row):
    assert row.keys() - {"wall_seconds"} == ROW_FIELDS
    for comparison in row["comparisons"]:
        assert comparison["ratio_min"] <= comparison["ratio"] <= comparison["ratio_max"]
        assert comparison["ratio_min"] > 0
        assert {comparison["subject"], comparison["peer"]} <= row["seconds"].keys()
    assert row["limits"].keys() <= row["values"].keys()


def peers_of(row):
    return [comparison["peer"] for comparison in row["comparisons"]]


def test_remover_row_without_torch(tmp_path, monkeypatch, quick_compilation):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "launch.benchmark_peers", raising=False)
    monkeypatch.delattr(launch, "benchmark_peers", raising=False)
    peer, note = benchmark.make_peer(platform="cpu", dtype="float32", threads=1)
    assert peer is None and "pip install" in note
    path = tmp_path / "benchmark.json"
    content = benchmark.measure(["remover"], TINY, path, peer=peer, note=note)
    row = content["rows"]["remover"]
    check_row(row)
    assert peers_of(row) == ["naive linen"] and row["notes"] == [note]
    assert row["comparisons"][0]["agreement"] < 1e-5
    assert note in results.render_benchmark(results.load_result(path).content)


@needs_torch
def test_rows_with_torch():
    peer, _ = benchmark.make_peer(platform="cpu", dtype="float32", threads=1)
    settings = dataclasses.replace(TINY, linen_repeats=0)
    row = rows.detector_row(settings, peer)
    check_row(row)
    assert peers_of(row) == [peer.name]
    # Zero would mean that nothing was compared.
    assert 0 < row["comparisons"][0]["agreement"] < 1e-4


def test_data_row(quick_compilation):
    row = rows.data_row(TINY, None)
    check_row(row)
    assert [c["subject"] for c in row["comparisons"]] == ["on_device", "streamed"]
    assert peers_of(row) == ["constant batch"] * 2
    on_device = row["comparisons"][0]
    assert on_device["met"] == (on_device["ratio"] <= on_device["at_most"] == 1.03)


def test_evaluation_compiles_once(quick_compilation):
    row = rows.evaluation_row(TINY, None)
    check_row(row)
    assert row["values"] == {"compilations of the judge": 1}
    assert row["limits"]["compilations of the judge"]["met"]


def test_memory_row():
    row = rows.memory_row(TINY, None)
    check_row(row)
    # A Python process with JAX takes some 0.3 GB before it does anything.
    assert 0.1 < row["values"]["peak host GB"] < 4.0


def test_peak_host_bytes_sees_an_allocation():
    before = memory.peak_host_bytes()
    block = np.ones(before + 2**26, np.uint8)
    assert memory.peak_host_bytes() >= block.size
    del block


def fake_functions(calls):
    def row(settings, peer):
        calls.append("row")
        return new_row("work", {"uronet_jax": [1.0]})

    return {"data": row, "remover": row}


def test_a_run_goes_on_where_it_stopped(tmp_path):
    path, calls = tmp_path / "benchmark.json", []
    options = {"functions": fake_functions(calls), "extra": {"threads": 1}}
    benchmark.measure(["data"], TINY, path, **options)
    content = benchmark.measure(["data", "remover"], TINY, path, note="n", **options)
    assert len(calls) == 2 and content["rows"].keys() == {"data", "remover"}
    assert content["rows"]["remover"]["notes"] == ["n"]
    assert content == json.loads(path.read_text()) == results.load_result(path).content
    assert content["config"]["widths"] == [4, 4]
    assert content["config"]["threads"] == 1
    benchmark.measure(["data"], TINY, path, force=True, **options)
    assert len(calls) == 3
    other = dataclasses.replace(TINY, repeats=7)
    expected = "measured otherwise.*: config repeats: 1 there, 7 now$"
    with pytest.raises(ValueError, match=expected):
        benchmark.measure(["data"], other, path, **options)
    assert len(calls) == 3


def test_wall_time_is_summed_over_rows(tmp_path):
    clock = FakeClock()
    functions = {
        name: lambda settings, peer: clock.contestant("", [30])() or new_row("work")
        for name in ("data", "memory")
    }
    path = tmp_path / "benchmark.json"
    content = {}
    for name in functions:
        content = benchmark.measure(
            [name], TINY, path, functions=functions, clock=clock
        )
    assert content["seconds"] == 60.0


def test_settings_are_checked():
    with pytest.raises(ValueError, match="batch_size.*even.*: 3"):
        steps.Settings(batch_size=3)
    with pytest.raises(ValueError, match="unknown classifier 'alexnet'"):
        steps.Settings(classifier="alexnet")
    with pytest.raises(ValueError, match="repeats must be at least 1: 0"):
        steps.Settings(repeats=0)
    with pytest.raises(ValueError, match="unknown row 'speed'"):
        benchmark.choose_rows(["remover", "speed"])
    groups = benchmark.CORRUPTION_ROWS, benchmark.ATTACK_ROWS
    assert benchmark.choose_rows(["all"]) == [*rows.ROWS, *groups[0], *groups[1]]
    assert benchmark.choose_rows(["corruptions"]) == list(groups[0])
    assert benchmark.choose_rows(["attacks"]) == list(groups[1])
    gpu = benchmark.choose_settings("full", "gpu", dtype="bfloat16", batch_size=None)
    assert (gpu.classifier, gpu.steps_per_sample) == ("wrn16_8", 50)
    assert (gpu.batch_size, gpu.widths) == (128, (64, 128, 256))


def test_throughput_on_a_known_gpu(monkeypatch):
    class H200:
        platform, device_kind = "gpu", "NVIDIA H200"

    monkeypatch.setattr(rows.jax, "devices", lambda: [H200])
    settings = steps.Settings(batch_size=100, steps_per_sample=10, dtype="bfloat16")
    values = rows._throughput(settings, [0.5, 2.0, 0.25], 10**9)
    assert values["images/s"] == 2000.0 and values["ms/step"] == 50.0
    assert values["TFLOP/s"] == 2.0
    assert values["MFU"] == pytest.approx(2.0 / 989.0)
    H200.device_kind = "another"
    assert "MFU" not in rows._throughput(settings, [0.5], 10**9)


def test_nothing_is_reported_in_seconds_on_a_cpu():
    assert rows._throughput(TINY, [1.0], 10**9) == {}


def test_corruption_rows_compare_times_per_image():
    seen = []

    def slow(image, name, severity):
        seen.append((image.shape, image.dtype, name, severity))
        time.sleep(0.02)

    names = ["contrast", "brightness"]
    row = corruptions.throughput_row(
        {"slow": slow}, side=32, batch_size=4, peer_images=1, repeats=2, names=names
    )
    assert set(seen) == {((32, 32, 3), np.dtype(np.uint8), name, 3) for name in names}
    assert len(seen) == 2 * 3  # One of each before the rounds.
    assert [c["subject"] for c in row["comparisons"]] == [*names, "all of these"]
    for comparison in row["comparisons"]:
        # 20 ms for one image, against a few for four.
        assert comparison["peer"] == "slow" and 0 < comparison["ratio"] < 0.5
        assert comparison["met"] == (comparison["ratio"] <= comparison["at_most"])
    assert row["comparisons"][2]["at_most"] == pytest.approx(1 / 15)
    assert row["values"] == {}  # Absolute figures are for GPUs.


def test_other_corruption_rows():
    functions = benchmark.corruption_rows(TINY, "cpu", 1, tiny=True)
    assert list(functions) == list(benchmark.CORRUPTION_ROWS)
    row = functions["corruptions_memory"](TINY, None)
    assert 0.1 < row["values"]["peak host GB"] < corruptions.MAX_HOST_GB
    assert row["limits"]["peak host GB"]["met"]
    row = corruptions.corrupted_set_row(4, suite="mnist_c", names=["stripe", "shear"])
    assert row["work"].startswith("2 corruptions x 1 severities of 4 32x32 images")


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux only")
def test_threads_are_limited_to_what_is_there():
    for threads in (0, 100_000):
        with pytest.raises(ValueError, match=f"--threads .*: {threads}"):
            benchmark.limit_threads(threads)
    available = os.sched_getaffinity(0)
    try:
        benchmark.limit_threads(1)
        assert len(os.sched_getaffinity(0)) == 1
    finally:
        os.sched_setaffinity(0, available)


def test_absent_corruption_peers_are_noted(monkeypatch):
    monkeypatch.setitem(sys.modules, "corrupt_tta", None)
    monkeypatch.setitem(sys.modules, "imagecorruptions", None)
    peers, notes = benchmark_corruption_peers.corruption_peers(1)
    assert not peers and len(notes) == 2
    assert all("pip install uronet_jax[benchmark]" in note for note in notes)


def test_attack_rows_without_peers(monkeypatch, quick_compilation):
    for package in ("foolbox", "torchattacks"):
        monkeypatch.setitem(sys.modules, package, None)
    functions = benchmark.attack_rows(TINY, "cpu", 1, tiny=True)
    assert list(functions) == list(benchmark.ATTACK_ROWS)
    row = functions["attack_pgd"](TINY, None)
    check_row(row)
    assert row["seconds"].keys() == {"uronet_jax"} and len(row["notes"]) == 2
    assert all("pip install uronet_jax[benchmark]" in note for note in row["notes"])


def test_pgd_is_compared_with_peers_that_compute_the_same():
    module = make_classifier("resnet8", 10)
    shape = TINY.image_shape
    variables = jax.jit(module.init)(jax.random.key(0), np.zeros((1, *shape)))
    problem = attacks.make_problem(module, variables, shape, 4)
    logits = module.apply(variables, problem.images)
    assert problem.labels.tolist() == np.argmax(logits, axis=-1).tolist()
    made = []

    def make_peers(*network):
        def ours(images, labels):
            time.sleep(0.1)
            loss_fn = misclassification(flax_logits(*network), labels)
            adversarial = pgd(
                jax.random.key(5),
                images,
                lambda x: loss_fn(x)[0],
                epsilon=8 / 255,
                step_size=2 / 255,
                steps=40,
                random_start=False,
            )
            made.append(adversarial)
            return np.asarray(adversarial)

        def idle(images, labels):
            return images

        peers = {"same": ours, "idle": idle}
        return [attacks.AttackPeer(name, peers[name], None) for name in chosen], []

    chosen = ["same"]
    row = attacks.pgd_row(problem, make_peers, repeats=1)
    check_row(row)
    (comparison,) = row["comparisons"]
    assert comparison["agreement"] == 0.0 and comparison["at_most"] == 1.0
    assert np.abs(made[0] - problem.images).max() == pytest.approx(8 / 255, abs=1e-6)
    chosen = ["same", "idle"]
    with pytest.raises(ValueError, match="another attack: it raises the mean loss"):
        attacks.pgd_row(problem, make_peers, repeats=1)
