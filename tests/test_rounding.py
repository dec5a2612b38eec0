"""Weights in few bits: against codes made by hand, and bounds of the error."""

import numpy as np
import pytest

from uronet_jax.rounding import RoundedWeights, restore_weights, round_weights

RNG = np.random.default_rng(0)


def test_codes_are_those_made_by_hand():
    """Three bits: -3 to 3 steps of a channel, its largest weight being three."""
    kernel = np.float32([[3.0, -0.6], [-1.0, 0.3], [0.4, 0.0]])
    rounded = round_weights({"a": {"kernel": kernel}}, [(0, 3)])
    assert rounded.packed == {"a/kernel": [3, 3, 2]}
    np.testing.assert_allclose(rounded.arrays["a/kernel.scales"], [1.0, 0.2])
    # Steps 3, -3; -1, 1.5 (to the even 2, or 1 by rounding of 0.2); 0, 0; plus 3.
    codes = restore_weights(rounded)["a"]["kernel"] / [1.0, 0.2] + 3
    expected = np.rint(codes).astype(int).ravel()
    assert expected[[0, 1, 2, 4, 5]].tolist() == [6, 0, 2, 3, 3]
    assert expected[3] in (4, 5)
    # The least bit first, without gaps, zeros at the end.
    bits = "".join(f"{code:03b}"[::-1] for code in expected).ljust(24, "0")
    data = [int(bits[i : i + 8], 2) for i in range(0, 24, 8)]
    assert rounded.arrays["a/kernel.codes"].tolist() == data


@pytest.mark.parametrize("bits", [2, 4, 5, 6, 7, 8, 10, 16])
def test_the_error_is_at_most_half_a_step(bits):
    kernel = RNG.normal(size=(3, 3, 5, 7)).astype(np.float32)
    kernel[..., 2] *= 1000
    kernel[..., 4] = 0
    rounded = round_weights({"kernel": kernel, "bias": kernel[0, 0, 0]}, [(8, bits)])
    assert rounded.arrays["kernel.codes"].size == -(-kernel.size * bits // 8)
    found = restore_weights(rounded)
    largest = np.abs(kernel).max(axis=(0, 1, 2))
    step = largest / (2 ** (bits - 1) - 1)
    error = np.abs(found["kernel"] - kernel).max(axis=(0, 1, 2))
    # Of float32 too: some 2^-23 of the largest, for which 16 bits leave room.
    assert (error <= step / 2 + largest * 2.0**-22).all()
    assert (error > 0).sum() == 6  # All channels but that of zeros.
    np.testing.assert_allclose(
        np.abs(found["kernel"]).max(axis=(0, 1, 2)), largest, rtol=1e-6
    )
    # Large enough, but no kernel.
    assert rounded.arrays["bias"].dtype == np.float16
    assert {x.dtype for x in found.values()} == {np.dtype(np.float32)}


def test_the_last_size_that_applies_says_how_many_bits():
    kernels = {
        x: np.ones((n, 2), np.float32) for x, n in {"a": 3, "b": 4, "c": 5}.items()
    }
    packed = round_weights(kernels, [(6, 8), (8, 4)]).packed
    assert packed == {"b": [8, 4, 2], "c": [4, 5, 2]}
    assert not round_weights(kernels, []).packed


def test_what_cannot_be_rounded():
    good = {"a": np.float32([[1, 65_504]])}
    found = restore_weights(RoundedWeights(round_weights(good).arrays, {}))
    np.testing.assert_array_equal(found["a"], good["a"])
    for wrong in (1e5, np.nan):
        with pytest.raises(ValueError, match="^a holds numbers that float16"):
            round_weights({"a": np.float32([[1, wrong]])})
    # Scales are float32.
    large = {"a": np.float32([[1, 1e30]])}
    np.testing.assert_allclose(
        restore_weights(round_weights(large, [(1, 8)]))["a"], large["a"], rtol=1e-6
    )
    with pytest.raises(ValueError, match="a holds numbers"):
        round_weights({"a": np.float32([[1, np.inf]])}, [(1, 8)])
    for wrong, message in (
        ([(1, 17)], r"bits must be an integer in \[2, 16\]: 17"),
        ([(-1, 8)], "size of bits must be"),
        ([(8, 4), (6, 8)], r"sizes of bits must rise: \[8, 6\]"),
        ([(8, 4), (8, 8)], r"sizes of bits must rise"),
        ([(1, 2, 3)], r"pairs \(size, bits\): \(1, 2, 3\)"),
    ):
        with pytest.raises(ValueError, match=message):
            round_weights(good, wrong)
