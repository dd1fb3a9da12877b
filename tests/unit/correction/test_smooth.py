"""--sq: matrix products lose less where a few channels reach far, and the float network stays what it was."""

from __future__ import annotations

import numpy as np
import pytest
from bmflow.correction.channel_flow import follow
from bmflow.correction.gptq import round_filters
from bmflow.correction.product_rows import ROWS, product_rows
from bmflow.correction.smooth import can_be_smoothed, smooth
from bmflow.dialects.top.elementwise import TopAddOp, TopGELUOp, TopMulOp, TopReluOp
from bmflow.dialects.top.matmul import TopLayerNormOp, TopMatMulOp
from bmflow.dialects.top.shape import TopConcatOp, TopPermuteOp, TopReshapeOp, TopSliceOp
from bmflow.ir.module import Module
from bmflow.kernels import Executable
from token_networks import CHANNELS, Net, Samples, assert_same_in_float, noise, outliers

FAR = outliers(40.0, 3, 11)


def names(module: Module) -> list[str]:
    return [op.layer_name for op in module.layers()]


def bytes_of(module: Module) -> tuple[str, str]:
    return str(module), module.weights_digest()


def behind_norm(rng: np.random.Generator, factor: np.ndarray | float = FAR, transposed: bool = False) -> tuple[Module, Samples]:
    """x -> LayerNorm with outliers -> MatMul that makes up for them."""
    net = Net(rng)
    y = net.product("y", net.norm("norm", net.x, factor), 24, factor, transposed)
    return net.finish(y), net.samples()


@pytest.mark.parametrize("transposed", [False, True], ids=["k x n", "n x k"])
def test_a_product_behind_outliers_loses_a_hundredth_of_what_it_lost(transposed: bool, rng: np.random.Generator) -> None:
    module, samples = behind_norm(rng, transposed=transposed)
    found = smooth(module, samples)
    assert list(found.gains) == ["norm"]
    assert_same_in_float(module, found.module, samples)
    assert noise(module, found.module, samples) < noise(module, module, samples) / 100


def test_a_normalization_without_weights_gets_some(rng: np.random.Generator) -> None:
    """Channels are alike behind it, but the rows that read them are 40 times apart."""
    net, rows = Net(rng), outliers(1 / 40, 3, 11)
    none = net.builder.none
    plain = net.op(TopLayerNormOp, "norm", [net.x, none, none], normalized_shape=[CHANNELS], axis=2)
    module, samples = net.finish(net.product("y", plain, 8, rows)), net.samples()
    found = smooth(module, samples)
    assert list(found.gains) == ["norm"]
    assert_same_in_float(module, found.module, samples)
    assert noise(module, found.module, samples) < noise(module, module, samples)


def test_a_product_by_constants_divides_its_channels_as_well(rng: np.random.Generator) -> None:
    net = Net(rng)
    scaled = net.op(TopMulOp, "scaled", [net.x, net.builder.weight("far", FAR)])
    module, samples = net.finish(net.product("y", scaled, 8, FAR)), net.samples()
    found = smooth(module, samples)
    assert list(found.gains) == ["scaled"]
    assert names(found.module) == names(module)
    assert_same_in_float(module, found.module, samples)


def test_two_that_can_divide_the_same_channels_do_not_do_it_twice(rng: np.random.Generator) -> None:
    """A normalization, and a product by constants behind it; two matrix products read the result."""
    net = Net(rng)
    scaled = net.op(TopMulOp, "scaled", [net.norm("norm", net.x), net.builder.weight("far", FAR)])
    module, samples = net.finish(net.product("y", scaled, 8, FAR), net.product("z", scaled, 8, FAR)), net.samples()
    found = smooth(module, samples)
    assert "norm" in found.gains
    assert_same_in_float(module, found.module, samples)
    peaks = np.abs(Executable(found.module, ["scaled"], 1).run(samples[0])["scaled"]).max((0, 1))
    assert peaks.max() / np.median(peaks) < 4
    for name in ("y", "z"):
        assert noise(module, found.module, samples, output=name) < noise(module, module, samples, output=name) / 50


def test_constants_rounded_before_are_dropped(rng: np.random.Generator) -> None:
    """They were made for channels as they were."""
    module, samples = behind_norm(rng)
    rounded = round_filters(module, samples)
    (before,), (after,) = (products(net) for net in (rounded, smooth(rounded, samples).module))
    assert (len(before.for_int8), len(after.for_int8)) == (2, 0)
    found = smooth(rounded, samples).module
    assert_same_in_float(module, found, samples)
    assert noise(module, found, samples) < noise(module, module, samples) / 100


def products(module: Module) -> list[TopMatMulOp]:
    return [op for op in module.layers() if isinstance(op, TopMatMulOp)]


def test_nothing_is_inserted_where_the_weights_of_a_normalization_do(rng: np.random.Generator) -> None:
    module, samples = behind_norm(rng)
    before = bytes_of(module)
    assert names(smooth(module, samples).module) == names(module)
    assert bytes_of(module) == before, "the module given is left alone"


def test_channels_that_are_alike_keep_their_weights_byte_for_byte(rng: np.random.Generator) -> None:
    """Signs and permutations of one token: no channel reaches farther than another, and all weights have one magnitude."""
    net = Net(rng, channels=4)
    module = net.finish(net.product("y", net.norm("norm", net.x), 4))
    module.weights["norm_b"][:] = 0
    module.weights["y_w"] = np.array([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]], np.float32)
    tokens = np.stack([np.roll([1.0, 3.0, -1.0, -3.0], i) for i in range(12)]).astype(np.float32)
    found = smooth(module, [{"x": tokens[None]}])
    assert (found.gains, found.left) == ({}, ["norm"])
    assert bytes_of(found.module) == bytes_of(module)


def test_the_estimate_of_the_gain_is_that_of_the_lowered_product(rng: np.random.Generator) -> None:
    """The product's own result is rounded, too, which is left out of the estimate."""
    module, samples = behind_norm(rng)
    found = smooth(module, samples)
    assert noise(module, module, samples) == pytest.approx(found.gains["norm"].before, rel=0.3)
    assert found.gains["norm"].after < noise(module, found.module, samples) < found.gains["norm"].after * 3


def test_a_normalization_that_a_residual_sum_reads_gets_a_factor_of_its_own(rng: np.random.Generator) -> None:
    net = Net(rng)
    norm = net.norm("norm", net.x, FAR)
    hidden = net.op(TopGELUOp, "gelu", [net.product("up", norm, 32, FAR)])
    total = net.op(TopAddOp, "sum", [norm, net.product("down", hidden, CHANNELS)])
    module, samples = net.finish(net.product("y", hidden, 8), total), net.samples()
    found = smooth(module, samples)
    assert "norm_smooth" in found.gains
    assert [op.layer_name for op in found.module.layers() if isinstance(op, TopMulOp)] == ["norm_smooth"]
    assert_same_in_float(module, found.module, samples)
    assert noise(module, found.module, samples, output="y") < noise(module, module, samples, output="y") / 20


def test_what_follows_a_factor_that_does_not_pay_is_smoothed_all_the_same(rng: np.random.Generator) -> None:
    """All weights behind the normalization are whole steps, which no scale improves."""
    net, far = Net(rng), outliers(127.0, 3, 11)
    norm = net.norm("norm", net.x)
    up = net.product("up", norm, CHANNELS)
    net.builder.module.weights["norm_b"][:] = 0
    net.builder.module.weights["up_w"] = (rng.choice([-1.0, 1.0], (CHANNELS, CHANNELS)) * far).astype(np.float32)
    total = net.op(TopAddOp, "sum", [norm, net.product("y", net.op(TopReluOp, "relu", [up]), CHANNELS, far)])
    module, samples = net.finish(total), net.samples()
    found = smooth(module, samples)
    assert (list(found.gains), found.left) == (["up"], ["norm"])
    assert names(found.module) == names(module)
    assert_same_in_float(module, found.module, samples)


def test_the_factor_stands_before_all_that_reads_it(rng: np.random.Generator) -> None:
    """Products read the normalization in another order than the program has them."""
    net = Net(rng)
    norm = net.norm("norm", net.x, FAR)
    first, second = net.product("first", norm, 8, FAR), net.product("second", net.x, 8, FAR)
    total = net.op(TopAddOp, "sum", [norm, norm])
    module, samples = net.finish(first, second, total), net.samples()
    late, early = (op for op in module.layers() if op.layer_name in ("second", "first"))
    late.operands[0], early.operands[0] = early.operands[0], early.operands[0]
    early.operands[0] = norm  # the use of the earlier product is the younger one now
    found = smooth(module, samples)
    assert list(found.gains) == ["norm_smooth"]
    assert_same_in_float(module, found.module, samples)


def test_a_factor_that_would_not_pay_is_not_inserted(rng: np.random.Generator) -> None:
    net = Net(rng)
    norm = net.norm("norm", net.x)
    module = net.finish(net.op(TopAddOp, "sum", [norm, net.product("y", norm, CHANNELS)]))
    found = smooth(module, net.samples())
    assert (found.gains, found.left) == ({}, ["norm"])
    assert names(found.module) == names(module)


def test_outliers_of_the_values_of_attention_are_evened_out_through_the_heads(rng: np.random.Generator) -> None:
    net = Net(rng)
    v = net.product("values", net.x, CHANNELS)
    net.builder.module.weights["values_w"] *= FAR.astype(np.float32)
    net.builder.module.weights["values_c"] *= FAR.astype(np.float32)
    mixed = net.attention(net.product("queries", net.x, CHANNELS), net.product("keys", net.x, CHANNELS), v)
    module, samples = net.finish(net.product("y", mixed, 8, FAR, transposed=True)), net.samples()
    found = smooth(module, samples)
    assert list(found.gains) == ["values"]
    assert_same_in_float(module, found.module, samples)
    assert noise(module, found.module, samples) < noise(module, module, samples) / 20


def test_queries_and_keys_of_one_product_with_the_values_keep_their_scale(rng: np.random.Generator) -> None:
    net = Net(rng)
    qkv = net.product("qkv", net.x, 3 * CHANNELS)
    net.builder.module.weights["qkv_w"][:, 2 * CHANNELS :] *= FAR.astype(np.float32)
    parts = [net.slice(f"{name}_part", qkv, i * CHANNELS, (i + 1) * CHANNELS) for i, name in enumerate("qkv")]
    module, samples = net.finish(net.product("y", net.attention(*parts), 8, FAR)), net.samples()
    found = smooth(module, samples)
    (op,) = (op for op in found.module.layers() if op.layer_name == "qkv")
    assert isinstance(op, TopMatMulOp)
    np.testing.assert_array_equal(found.module.weight(op.right)[:, : 2 * CHANNELS], module.weights["qkv_w"][:, : 2 * CHANNELS])
    assert list(found.gains) == ["qkv"]
    assert_same_in_float(module, found.module, samples)


def test_relu_between_two_products_takes_part_and_one_with_a_limit_does_not(rng: np.random.Generator) -> None:
    for limit, expected in ((-1.0, {"up"}), (6.0, set[str]())):
        net = Net(rng)
        up = net.product("up", net.x, CHANNELS)
        net.builder.module.weights["up_w"] *= FAR.astype(np.float32)
        module = net.finish(net.product("y", net.op(TopReluOp, "relu", [up], relu_limit=limit), 8, FAR))
        samples = net.samples()
        found = smooth(module, samples)
        assert set(found.gains) == expected
        assert_same_in_float(module, found.module, samples)


def test_channels_are_followed_through_moves_that_keep_them_apart(rng: np.random.Generator) -> None:
    """Windows as in Swin: two halves of the tokens change places, and become two batches."""
    net = Net(rng)
    norm = net.norm("norm", net.x, FAR)
    none, half = net.builder.none, net.tokens // 2
    parts = [
        net.op(TopSliceOp, f"part{i}", [norm, none, none, none], (1, half, CHANNELS), offset=[0, i * half, 0],
               ends=[1, (i + 1) * half, CHANNELS], steps=[1, 1, 1])
        for i in (1, 0)
    ]  # fmt: skip
    rolled = net.op(TopConcatOp, "rolled", parts, (1, net.tokens, CHANNELS), axis=1)
    windows = net.op(TopReshapeOp, "windows", [rolled], (2, half, CHANNELS))
    module, samples = net.finish(net.product("y", windows, 8, FAR)), net.samples()
    found = smooth(module, samples)
    assert list(found.gains) == ["norm"]
    assert_same_in_float(module, found.module, samples)


def test_channels_that_become_tokens_are_fixed(rng: np.random.Generator) -> None:
    net = Net(rng)
    norm = net.norm("norm", net.x, FAR)
    turned = net.op(TopPermuteOp, "turned", [norm], (1, CHANNELS, net.tokens), order=[0, 2, 1])
    module = net.finish(net.product("y", turned, 8))
    assert not can_be_smoothed(module)
    assert follow(module, norm).fixed == set(range(CHANNELS))


def test_a_network_output_keeps_its_scale(rng: np.random.Generator) -> None:
    net = Net(rng)
    norm = net.norm("norm", net.x, FAR)
    module, samples = net.finish(norm, net.product("y", norm, 8, FAR)), net.samples()
    found = smooth(module, samples)
    assert list(found.gains) == ["norm_smooth"]
    assert_same_in_float(module, found.module, samples)


def test_the_same_samples_give_the_same_bytes(rng: np.random.Generator) -> None:
    module, samples = behind_norm(rng)
    assert bytes_of(smooth(module, iter(samples)).module) == bytes_of(smooth(module, iter(samples)).module)


def test_tokens_are_kept_evenly_and_no_more_than_a_fixed_number(rng: np.random.Generator) -> None:
    """Samples are numbered; the mean of the numbers kept is that of all, and memory does not grow with them."""
    net = Net(rng, tokens=32)
    module = net.finish(net.op(TopReluOp, "y", [net.x]))
    samples = ({"x": np.full((1, 32, CHANNELS), i, np.float32)} for i in range(400))
    halves = product_rows(module, ["y"], samples, 1)["y"]
    assert [rows.peak.max() for rows in halves] == [398, 399]
    for rows in halves:
        assert rows.kept.shape == (ROWS, CHANNELS)
        assert abs(rows.kept[:, 0].mean() - 199.5) < 4 * 400 / 12**0.5 / ROWS**0.5
