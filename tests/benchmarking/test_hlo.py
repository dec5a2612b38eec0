"""The reader of compiled programs, on a stored one: nothing is compiled here.

`compiled_step.txt` is what XLA made for two cards of a convolution, its weight gradient
and update, a loop of three matrix products, a sort, one row of a table, and a loop as
long as any element is positive.
"""

from pathlib import Path

import pytest

from uronet_jax.benchmarking import hlo

TEXT = (Path(__file__).parent / "compiled_step.txt").read_text(encoding="utf-8")
RATES = hlo.Rates({"bf16": 4.0, "f32": 2.0}, operations=8.0, bytes=16.0)
# Images of one card, 3x3 kernel, channels in and out.
PIXELS, KERNEL = 2 * 8 * 8, 9 * 8 * 16


@pytest.fixture(scope="module")
def program():
    return hlo.read_program(TEXT)


def kernel_named(program, name):
    (found,) = [x for x in program.kernels if x.name == name]
    return found


def test_arrays_of_a_written_type():
    written = "(bf16[2,8]{1,0}, pred[3]{0}, /*index=2*/f32[], u8[0]{0}, s4[6]{0})"
    arrays = hlo.arrays_of(written)
    assert [x.shape for x in arrays] == [(2, 8), (3,), (), (0,), (6,)]
    assert [x.bytes for x in arrays] == [32, 3, 4, 0, 3]


def test_convolutions_are_counted_by_what_they_compute(program):
    found = [x for x in program.kernels if x.kind == "convolution"]
    assert [(x.detail, x.dtype) for x in found] == [
        ("Forward", "bf16"),
        ("BackwardFilter", "bf16"),
    ]
    # Each output pixel meets the whole kernel: 2 x its elements. So do gradients.
    assert {x.products for x in found} == {2 * PIXELS * KERNEL}
    moved = 2 * (PIXELS * 8 + KERNEL + PIXELS * 16)
    assert [x.bytes for x in found] == [moved, moved]


@pytest.mark.parametrize(
    ("detail", "shapes"),
    [
        # A 3x3 convolution of stride 2, 8 to 16 channels, 4x4 to 2x2 pixels.
        ("Forward", ("f32[1,2,2,16]", "f32[1,4,4,8]", "f32[16,3,3,8]")),
        ("BackwardInput", ("f32[1,4,4,8]", "f32[1,2,2,16]", "f32[16,3,3,8]")),
        ("BackwardFilter", ("f32[16,3,3,8]", "f32[1,4,4,8]", "f32[1,2,2,16]")),
    ],
)
def test_gradients_of_a_convolution_cost_what_it_does(detail, shapes):
    result, one, other = shapes
    text = f"""
ENTRY %main (a: {one}, b: {other}) -> {result} {{
  %a = {one}{{3,2,1,0}} parameter(0)
  %b = {other}{{3,2,1,0}} parameter(1)
  ROOT %c = ({result}{{3,2,1,0}}, u8[0]{{0}}) custom-call(%a, %b), \
window={{size=3x3 stride=2x2 pad=1_1x1_1}}, dim_labels=b01f_o01i->b01f, \
custom_call_target="__cudnn$conv{detail}"
}}
"""
    (kernel,) = hlo.read_program(text).kernels
    assert kernel.products == 2 * (2 * 2 * 16) * (9 * 8)


def test_a_loop_of_known_length_is_unrolled(program):
    product = kernel_named(program, "gemm_fusion_dot")
    assert (product.kind, product.times, product.dtype) == ("product", 3, "f32")
    assert product.products == 2 * 64**3
    assert product.operations == 64**2  # The sine before it.
    # Its condition, which the host knows, does not run; that of the other one does.
    names = {x.name for x in program.kernels}
    assert "loop_compare_fusion" not in names and "input_reduce_fusion" in names
    assert program.host_loops == 1


def test_a_fusion_reads_only_the_row_that_it_takes(program):
    # A row of 64 of the table, the place, and the row that it writes.
    assert kernel_named(program, "loop_multiply_fusion").bytes == 4 * (64 + 1 + 64)
    assert kernel_named(program, "wrapped_slice").bytes == 4 * (64 + 64)


def test_exchanges_say_whether_they_are_in_a_loop(program):
    flag, gradient = program.exchanges
    assert (flag.kind, flag.bytes, flag.in_loop) == ("all-reduce", 1, True)
    assert (gradient.kind, gradient.in_loop) == ("all-reduce", False)
    assert gradient.bytes == 2 * KERNEL


def test_a_written_row(program):
    row = hlo.summarise_program(program, RATES)
    assert row["convolutions"] == {"BackwardFilter bf16": 1, "Forward bf16": 1}
    assert row["sorts"] == 1 and row["products"] == 3 and row["host_loops"] == 1
    assert row["transposes"] == {"count": 2, "bytes": 2 * 2 * KERNEL}
    assert row["products_flop"] == 4 * PIXELS * KERNEL + 3 * 2 * 64**3
    # Copies of scalars before a loop, one of the table, and one in each pass.
    assert row["copies"]["bytes"] == 2 * 4 * (2 + 64**2 + 3 * 64**2)
    assert [x["arrays"] for x in row["collectives"]] == ["bf16[3, 3, 8, 16]", "pred[]"]
    kernels = program.kernels
    assert row["floor_seconds"] == sum(x.times * RATES.seconds(x) for x in kernels)
    product = kernel_named(program, "gemm_fusion_dot")
    # The slowest of the three: 2 * 64^3 / 2, not 64^2 / 8 or 3 * 4 * 64^2 / 16.
    assert RATES.seconds(product) == 64**3


def test_the_dearest_branch_is_taken():
    text = """
%small (x: f32[4]) -> f32[4] {
  %x = f32[4]{0} parameter(0)
  ROOT %y = f32[4]{0} negate(%x)
}

%large (a: f32[8]) -> f32[4] {
  %a = f32[8]{0} parameter(0)
  %b = f32[8]{0} negate(%a)
  ROOT %c = f32[4]{0} slice(%b), slice={[0:4]}
}

ENTRY %main (i: s32[], p: f32[4], q: f32[8]) -> f32[4] {
  %i = s32[] parameter(0)
  %p = f32[4]{0} parameter(1)
  %q = f32[8]{0} parameter(2)
  ROOT %r = f32[4]{0} conditional(%i, %p, %q), branch_computations={%small, %large}
}
"""
    program = hlo.read_program(text)
    assert [x.name for x in program.kernels] == ["b", "c"]
    assert program.branches == 1


def test_a_fusion_is_looked_through_other_shapes():
    text = """
%fused (table: f32[8,8], row: f32[4], at: s32[]) -> f32[8,8] {
  %table = f32[8,8]{1,0} parameter(0)
  %row = f32[4]{0} parameter(1)
  %at = s32[] parameter(2)
  %flat = f32[64]{0} bitcast(%table)
  %old = f32[4]{0} dynamic-slice(%flat, %at), dynamic_slice_sizes={4}
  %sum = f32[4]{0} add(%old, %row)
  %new = f32[64]{0} dynamic-update-slice(%flat, %sum, %at)
  ROOT %square = f32[8,8]{1,0} bitcast(%new)
}

ENTRY %main (a: f32[8,8], b: f32[4], i: s32[]) -> f32[8,8] {
  %a = f32[8,8]{1,0} parameter(0)
  %b = f32[4]{0} parameter(1)
  %i = s32[] parameter(2)
  ROOT %f = f32[8,8]{1,0} fusion(%a, %b, %i), kind=kLoop, calls=%fused
}
"""
    (kernel,) = hlo.read_program(text).kernels
    # The part that it reads, the row, the place, which is used twice, what it writes.
    assert kernel.bytes == 4 * (4 + 4 + 1 + 4)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("f32[4] all-reduce-start(%a)", ["f32[4]"]),
        ("(f32[4], s32[2]) all-reduce-start(%a, %b)", ["f32[4]", "s32[2]"]),
        (
            "((f32[4], s32[2]), (f32[8], s32[4])) all-gather-start(%a, %b)",
            ["f32[8]", "s32[4]"],
        ),
        ("(f32[8], s32[4]) all-gather(%a, %b)", ["f32[8]", "s32[4]"]),
        ("(f32[4], f32[4], u32[], u32[]) collective-permute-start(%a)", ["f32[4]"]),
    ],
)
def test_what_a_card_ends_up_with(written, expected):
    text = f"""
ENTRY %main (a: f32[4], b: s32[2]) -> f32[4] {{
  %a = f32[4]{{0}} parameter(0)
  %b = s32[2]{{0}} parameter(1)
  %c = {written}, channel_id=1
  ROOT %r = f32[4]{{0}} negate(%a)
}}
"""
    (found,) = hlo.read_program(text).exchanges
    assert found.arrays == hlo.arrays_of(", ".join(expected))


def test_a_product_of_an_unlisted_type_is_no_free_one(program):
    product = kernel_named(program, "gemm_fusion_dot")._replace(dtype="f64")
    with pytest.raises(ValueError, match="multiplies f64, whose rate is not known"):
        RATES.seconds(product)


@pytest.mark.parametrize(
    "attributes",
    [
        "dot(%a, %b), lhs_contracting_dims={1}, operand_precision={highest,highest}",
        'custom-call(%a, %b), custom_call_target="__cublas$lt$matmul", '
        'backend_config={"gemm_backend_config":{"dot_dimension_numbers":'
        '{"lhs_contracting_dimensions":["1"]},"precision_config":'
        '{"operand_precision":["HIGHEST","HIGHEST"]}}}',
    ],
)
def test_exact_products_are_not_in_tf32(attributes):
    text = f"""
ENTRY %main (a: f32[4,8], b: f32[8,2]) -> f32[4,2] {{
  %a = f32[4,8]{{1,0}} parameter(0)
  %b = f32[8,2]{{1,0}} parameter(1)
  ROOT %c = f32[4,2]{{1,0}} {attributes}
}}
"""
    (kernel,) = hlo.read_program(text).kernels
    assert (kernel.kind, kernel.dtype) == ("product", "f32-exact")
    assert kernel.products == 2 * 4 * 8 * 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("HloModule nothing", "no line `ENTRY`"),
        ("ENTRY %main () -> f32[] {\n  what is this\n}", "cannot be read"),
        ("ENTRY %m () -> f32[] {\n  %a = f32[] add(%b\n}", "is not closed"),
    ],
)
def test_what_is_no_program_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        hlo.read_program(text)
