"""Dropout by Philox: known answers, the same mask by meaning and kernel, and what a mask depends on."""

import ml_dtypes
import numpy as np
import onnx
import pytest
from support.host_cuda import why_not
from support.kernel_calls import by_kernel, by_meaning, call_on

from planc.errors import ModelError
from planc.kernels import call_of, node_of
from planc.kernels.dropout import DROPOUT

needs_compiler = pytest.mark.skipif(why_not() is not None, reason=why_not() or "")
MASK = (1 << 32) - 1


def philox(counter: list[int], key: list[int]) -> list[int]:
    """Philox4x32-10 in Python's whole numbers."""
    c, k = list(counter), list(key)
    for _ in range(10):
        p, q = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(q >> 32) ^ c[1] ^ k[0], q & MASK, (p >> 32) ^ c[3] ^ k[1], p & MASK]
        k = [(k[0] + 0x9E3779B9) & MASK, (k[1] + 0xBB67AE85) & MASK]
    return c


def test_the_generator_gives_the_published_answers() -> None:
    """kat_vectors of the Random123 library, by Salmon et al."""
    assert philox([0] * 4, [0] * 2) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert philox([MASK] * 4, [MASK] * 2) == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]
    pi = [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344]
    assert philox(pi, [0xA4093822, 0x299F31D0]) == [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]


def _wanted(x: np.ndarray, seed: int, step: int, stream: int, ratio: float) -> np.ndarray:
    key = [seed & MASK, seed >> 32 & MASK]
    words = [w for place in range(-(-x.size // 4)) for w in philox([place, 0, step & MASK, stream], key)]
    kept = np.array(words[: x.size]).reshape(x.shape) >= round(ratio * 2**32)
    return np.where(kept, x.astype(np.float32) * np.float32(1 / (1 - ratio)), np.float32(0)).astype(x.dtype)


@needs_compiler
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize(
    ("shape", "seed", "step", "stream"), [((3, 7), 0, 0, 0), ((5, 40), 2**63 - 1, 2**31, 2**32 - 1), ((1,), -5, 9, 3)]
)
def test_meaning_and_kernel_drop_what_the_generator_says(
    dtype: type, shape: tuple[int, ...], seed: int, step: int, stream: int
) -> None:
    x = (np.arange(np.prod(shape)).reshape(shape) + 1).astype(dtype)
    operands = [x, np.array([seed, step])]
    call = call_on(DROPOUT, operands, ratio=0.3, stream=stream)
    wanted = _wanted(x, seed, step, stream, 0.3)
    for made in (by_meaning(call, operands), by_kernel(call, operands), by_kernel(call, operands, narrow=True)):
        assert made[0].tobytes() == wanted.tobytes()


def test_masks_differ_by_seed_step_and_stream_and_keep_their_share() -> None:
    x = np.ones(40_000, np.float32)

    def kept(seed: int, step: int, stream: int, ratio: float = 0.25) -> np.ndarray:
        operands = [x, np.array([seed, step])]
        return by_meaning(call_on(DROPOUT, operands, ratio=ratio, stream=stream), operands)[0] != 0

    first = kept(1, 2, 3)
    assert np.array_equal(first, kept(1, 2, 3))
    assert abs(first.mean() - 0.75) < 4 * np.sqrt(0.25 * 0.75 / x.size)
    for other in (kept(2, 2, 3), kept(1, 3, 3), kept(1, 2, 4)):
        assert abs((first & other).mean() - 0.75**2) < 0.02
    assert kept(1, 2, 3, ratio=0.0).all()


def test_ratios_and_keys_out_of_range_are_refused() -> None:
    x, key = np.ones(4, np.float32), np.array([0, 0])
    for settings in ({"ratio": 1.0}, {"ratio": -0.1}, {"stream": -1}, {"stream": 2**32}):
        with pytest.raises(ModelError, match="Dropout"):
            _ = call_on(DROPOUT, [x, key], **settings).outputs
    with pytest.raises(ModelError, match="Dropout"):
        _ = call_on(DROPOUT, [x, key.astype(np.int32)]).outputs


def test_a_call_is_found_again_in_a_model_whose_attributes_are_float32() -> None:
    x, key = np.ones(4, np.float32), np.array([0, 0])
    call = call_on(DROPOUT, [x, key], ratio=0.1)
    node = onnx.NodeProto.FromString(node_of(call, ["x", "key"], ["y"]).SerializeToString())
    assert call_of(node, {"x": call.inputs[0], "key": call.inputs[1]}) == call
