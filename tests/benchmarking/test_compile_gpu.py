"""Programs for a described card: their list, their rows, their page.

What compiles needs the CUDA plugin, and is skipped without it.
"""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from launch.compile_gpu import read_configs
from uronet_jax.attacks import ATTACKS
from uronet_jax.benchmarking import cards, compile_gpu, scaling
from uronet_jax.benchmarking.gpu_programs import CONFIGS, list_programs
from uronet_jax.benchmarking.large_images import NETWORKS
from uronet_jax.corruptions import list_corruptions
from uronet_jax.reports.predictions import peak_bytes, render_predictions
from uronet_jax.reports.results import load_result
from uronet_jax.training.phases import PHASES
from uronet_jax.transformations import TRANSFORMATIONS

ROOT = Path(__file__).parents[2]
HAS_PLUGIN = importlib.util.find_spec("jax_cuda13_plugin") is not None


@pytest.fixture(scope="module")
def programs():
    return list_programs(read_configs(), [1, 8])


def exchange(arrays, size, kind="all-reduce", times=1, in_loop=False):
    return {
        **{"kind": kind, "arrays": arrays, "bytes": size, "times": times},
        **{"in_loop": in_loop, "source": "somewhere"},
    }


def row(batch=128, devices=1, collectives=(), **fields):
    return {
        **{"text": "one training step", "batch": batch, "devices": devices},
        **{"dtype": "bfloat16", "compiles": True, "compile_cpu_seconds": 1.0},
        "steps": 1,
        "memory": {
            **{"arguments": 10**9, "results": 2 * 10**9, "shared": 10**9},
            "temporary": batch * 10**7,
        },
        **{"kernels": 3, "products_flop": 2e9, "other_operations": 1.0, "bytes": 1e9},
        **{"floor_seconds": 1e-3, "products": 0, "library_calls": {}, "sorts": 0},
        "convolutions": {"Forward bf16": 2, "BackwardInput f32": 1},
        "transposes": {"count": 1, "bytes": 5e6},
        "copies": {"count": 0, "bytes": 0.0},
        **{"host_loops": 0, "branches": 0, "collectives": list(collectives)},
        **{"parameters": 100, "statistics": 5, "unexpected_exchanges": []},
        **fields,
    }


def test_every_kind_of_program_is_listed(programs):
    names = {program.name for program in programs}
    assert {f"train/{name}" for name in CONFIGS} <= names
    assert {name.partition(":")[0] for name in CONFIGS} == set(PHASES)
    assert {f"attack/{name}" for name in ATTACKS} <= names
    assert {f"transformation/{name}" for name in TRANSFORMATIONS} <= names
    corruptions = list_corruptions("imagenet_c")
    assert len(corruptions) == 19
    for side in (32, 64, 224):
        assert {f"corruption_{side}/{name}" for name in corruptions} <= names
    keys = [program.key for program in programs]
    assert len(set(keys)) == len(keys)
    assert {x.devices for x in programs if x.name == "train/remover:full"} == {1, 8}


def test_the_arguments_of_a_step_are_shapes_on_the_mesh(programs):
    (program,) = [x for x in programs if x.key == "train/reconstructor:full/128/1"]
    mesh = jax.make_mesh((1,), ("data",), devices=jax.devices()[:1])
    _, (state, frozen, batch) = program.make(mesh)
    leaves = jax.tree.leaves((state, frozen, batch))
    assert all(isinstance(x, jax.ShapeDtypeStruct) and x.sharding for x in leaves)
    assert batch["degraded"].shape == (128, 32, 32, 3)
    assert batch["degraded"].dtype == np.uint16
    assert set(frozen) == {"classifier"}


def test_what_is_benchmarked_on_large_images_is_listed(programs):
    mesh = jax.make_mesh((1,), ("data",), devices=jax.devices()[:1])
    large = {x.name: x for x in programs if x.name.startswith("large/")}
    assert {name.rpartition("_")[0] for name in large} == {
        f"large/{name}" for name in NETWORKS
    }
    _, (state, _, batch) = large["large/remover_224_step"].make(mesh)
    leaves = jax.tree.leaves((state, batch))
    assert all(isinstance(x, jax.ShapeDtypeStruct) for x in leaves)
    assert batch["clean"].shape == batch["degraded"].shape == (128, 224, 224, 3)
    forward, arguments = large["large/resnet50_224_forward"].make(mesh)
    assert jax.eval_shape(forward, *arguments).shape == (128, 1000)


def test_a_card_is_read():
    assert {"h100", "h200"} <= set(cards.CARDS)
    h100, h200 = map(cards.read_card, ("h100", "h200"))
    assert h100.kind == "NVIDIA H100 80GB HBM3"
    # The vendor's numbers: 3.35 TB/s, 80 GB; 989 TFLOP/s in bfloat16.
    assert h100.rates.bytes == pytest.approx(3.35e12, rel=1e-3)
    assert 79e9 < h100.memory_bytes < 86e9 < h200.memory_bytes
    assert h100.rates.products["bf16"] == 989e12 == 2 * h100.rates.products["f32"]
    # 67 TFLOP/s, which count a fused multiplication and addition twice.
    assert h100.rates.operations == pytest.approx(67e12, rel=0.01)
    assert h100.cache_bytes == 50 * 2**20


def test_programs_are_chosen_by_patterns(programs):
    chosen = compile_gpu.choose_programs(programs, ["*_224/z*", "train/d*/128/8"])
    keys = ["train/detector:full/128/8", "corruption_224/zoom_blur/256/1"]
    assert [x.key for x in chosen] == keys
    assert compile_gpu.choose_programs(programs, []) == programs
    # What is said of them is chosen alike.
    rows = {program.key: row() for program in chosen}
    lines = compile_gpu.summary_lines({"rows": rows}, ["*/zoom_blur"])
    assert [line.partition(":")[0] for line in lines] == keys[1:]
    assert len(compile_gpu.summary_lines({"rows": rows}, ["zoom_blur"])) == 0


def test_what_is_for_one_card_does_not_follow_the_devices():
    devices = compile_gpu.parse_devices(["16", "8", "16"])
    assert devices == [8, 16]
    listed = list_programs(read_configs(), devices)
    assert {x.devices for x in listed if x.name.startswith("attack/")} == {1}
    assert {x.devices for x in listed if x.name == "defence/gated"} == {1, 8, 16}
    assert len({x.key for x in listed}) == len(listed)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: compile_gpu.choose_programs(x, ["trane/*"]), "no program is called"),
        (lambda x: compile_gpu.parse_devices(["1", "0"]), "whole numbers from 1 on"),
        (lambda x: compile_gpu.parse_devices(["one"]), "whole numbers from 1 on"),
        (lambda x: cards.read_card("h10"), "unknown card"),
    ],
)
def test_wrong_inputs_are_named(programs, call, message):
    with pytest.raises(ValueError, match=message):
        call(programs)


def test_a_program_that_does_not_compile_says_why(programs, monkeypatch):
    def fails(mesh):
        raise NotImplementedError("no such\n kernel")

    monkeypatch.setattr(compile_gpu, "described_mesh", lambda card, count: None)
    card, program = cards.read_card("h100"), programs[0]._replace(make=fails)
    found = compile_gpu.compile_row(program, card)
    assert not found["compiles"]
    assert found["reason"] == "NotImplementedError: no such kernel"


def test_a_product_that_only_tuning_can_place_is_left_to_cublas(programs, monkeypatch):
    class Lowered:
        options = []

        def compile(self, compiler_options=None):
            self.options.append(compiler_options)
            if compiler_options is None:
                raise jax.errors.JaxRuntimeError("no tile sizes")
            return jax.jit(lambda x: x).lower(1.0).compile()

    class Function:
        def lower(self):
            return Lowered()

    monkeypatch.setattr(compile_gpu, "described_mesh", lambda card, count: None)
    program = programs[0]._replace(make=lambda mesh: (Function(), ()), trains=False)
    found = compile_gpu.compile_row(program, cards.read_card("h100"))
    assert Lowered.options == [None, {"xla_gpu_enable_triton_gemm": False}]
    assert found["compiles"]
    assert found["without_triton"] == "JaxRuntimeError: no tile sizes"


@pytest.mark.parametrize(
    ("collectives", "expected"),
    [
        # All gradients in two sums, statistics in both directions, metrics.
        ([("bf16[60]", 120), ("f32[40]", 160), ("f32[20]", 80), ("f32[3]", 12)], 0),
        ([("f32[120]", 480), ("f32[128, 4]", 2048)], 1),  # More than there are.
        ([("u8[128, 32, 32, 3]", 393216)], 1),
    ],
)
def test_sums_of_more_than_gradients_are_unexpected(collectives, expected):
    found = row(collectives=[exchange(*x) for x in collectives], parameters=120)
    assert len(compile_gpu.unexpected_exchanges(found)) == expected


def test_gradients_of_all_steps_of_a_call_are_expected():
    twice = exchange("bf16[100]", 200, times=2)
    assert compile_gpu.unexpected_exchanges(row(collectives=[twice], steps=2)) == []
    assert compile_gpu.unexpected_exchanges(row(collectives=[twice], steps=1)) != []


def test_gathers_and_sums_in_a_loop_are_unexpected():
    gather = exchange("f32[3]", 12, kind="all-gather")
    flag = exchange("pred[]", 1, in_loop=True)
    found = compile_gpu.unexpected_exchanges(row(collectives=[gather, flag]))
    assert found[0].startswith("all-gather of f32[3]")
    assert found[1].startswith("all-reduce of pred[] in a loop")


def test_sums_over_links():
    # A ring of 8 sends 7/8 of the bytes twice.
    inside = 2 * 7 / 8 * 45e9 / 450e9
    assert scaling.sum_seconds(45e9, 8) == pytest.approx(inside + 10e-6)
    between = 2 * 7 / 8 * 45e9 / 8 / 50e9
    assert scaling.sum_seconds(45e9, 64) == pytest.approx(inside + between + 70e-6)
    assert scaling.sum_seconds(1e6, 1) == 0.0
    rows = {"train/a/128/8": row(devices=8, collectives=[exchange("f32[2]", 8)])}
    rows["train/a/128/1"] = row()
    (line,) = scaling.scaling_rows(rows)
    assert (line["program"], line["bytes"], line["collectives"]) == ("a", 8, 1)
    assert line["efficiency"]["8"] == pytest.approx(1e-3 / (1e-3 + 10e-6), rel=1e-3)
    unknown = exchange("pred[]", 1, in_loop=True)
    rows = {"train/a/128/8": row(devices=8, collectives=[unknown])}
    (line,) = scaling.scaling_rows(rows)
    assert set(line["efficiency"].values()) == {None}


def test_the_page_names_what_failed_and_what_is_left(tmp_path):
    described = cards.read_card("h100")
    memory = {"arguments": 50 * 2**20, "results": 0, "shared": 0, "temporary": 0}
    no_bound = {"small": {"memory": memory}, "chosen": {"branches": 1}}
    no_bound["looped"] = {"host_loops": 1}
    moved = [exchange("bf16[100]", 200), exchange("pred[]", 1, in_loop=True)]
    eight = row(devices=8, collectives=moved)
    eight["unexpected_exchanges"] = compile_gpu.unexpected_exchanges(eight)
    rows = {
        "train/remover:full/128/1": row(),
        "train/remover:full/2048/1": row(batch=2048),
        # 50 MB, a branch, a loop that ends on data: there the floor is no bound.
        **{f"defence/{x}/64/1": row(64, text=x, **no_bound[x]) for x in no_bound},
        "train/remover:full/128/8": eight,
        "attack/pgd_linf/1000/1": {
            **{"text": "the attack", "batch": 1000, "devices": 1, "dtype": "float32"},
            **{"compiles": False, "reason": "XlaRuntimeError: too large"},
        },
    }
    content = {
        "config": {
            "kind": described.kind,
            "memory_bytes": described.memory_bytes,
            "cache_bytes": described.cache_bytes,
            "rates": {
                "products": dict(described.rates.products),
                "operations": described.rates.operations,
                "bytes": described.rates.bytes,
            },
        },
        "rows": rows,
        "not_compiled_yet": ["corruption_32/fog/1024/1", "train/detector:full/128/1"],
        "scaling": scaling.scaling_rows(rows),
    }
    page = render_predictions(content)
    assert "nothing on this page was measured" in page
    assert "6 of 7 programs compile" in page
    assert "- small: small\n- chosen: chosen\n- looped: looped" in page
    assert "| 1.000 | 128,000 | 3 |" in page and "| 1.000 | 2,048,000 | 3 |" in page
    for name in no_bound:
        (line,) = [x for x in page.splitlines() if x.startswith(f"| {name} ")]
        assert " 1.000 | 3 " in line  # Floor, kernels: no column of rates between.
    assert "`attack/pgd_linf/1000/1` does not: XlaRuntimeError: too large" in page
    left = "all 1 of `corruption_32/*/1`; `train/detector:full/128/1`"
    assert f"Not tried yet (2): {left}." in page
    assert "- train/remover:full: all-reduce of pred[] in a loop" in page
    # Arguments and results share 1 GB; an image takes 10 MB; 90 % of 85 GB are used.
    assert peak_bytes(rows["train/remover:full/128/1"]) == 2e9 + 128e7
    assert "| remover:full | 10.000 | 2.00 | 7,448 |" in page


def test_without_the_plugin_the_extra_is_named(tmp_path):
    if HAS_PLUGIN:
        pytest.skip("the CUDA plugin is installed")
    with pytest.raises(ValueError, match="gpu-check"):
        cards.described_mesh(cards.read_card("h100"), 1)


def test_a_sample_compiles_and_the_file_goes_on(tmp_path):
    if not HAS_PLUGIN:
        pytest.skip("needs uronet_jax[gpu-check]: JAX's CUDA plugin is not installed")
    out = tmp_path / "predictions_h100.json"

    def run(only):
        command = [sys.executable, "-m", "launch.compile_gpu", f"--out={out}"]
        command += [f"--only={only}", "--devices=1,8"]
        subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
        return json.loads(out.read_text(encoding="utf-8"))["rows"]

    before = run("corruption_32/spatter/1024/8")
    (row,) = before.values()
    # No images: whether any has edges that go on, and for whom the loop is over.
    assert {x["arrays"] for x in row["collectives"]} == {"pred[]"}
    rows = run("train/classifier:full/128/8")
    assert rows.pop("train/classifier:full/128/8")["unexpected_exchanges"] == []
    assert rows == before
    assert load_result(out).kind == "predictions"


@pytest.mark.parametrize("field", ["steps", "branches"])
def test_a_row_without_what_the_page_needs_is_refused(tmp_path, field):
    stored = ROOT / "docs/results/predictions_h100.json"
    content = json.loads(stored.read_text(encoding="utf-8"))
    del content["rows"]["train/remover:full/128/1"][field]
    path = tmp_path / stored.name
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ValueError, match=f"lacks {field} of a row"):
        load_result(path)
