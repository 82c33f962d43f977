"""The bits of `numpy.random.Philox`, of many streams at a time.

NumPy moves one generator from stream to stream by a call for each, which for short examples is most of the time, and
which no other thread of Python can run beside. Source: Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy
as 1, 2, 3", 2011, Philox 4x64 with 10 rounds.
"""

import numpy as np

_ROUNDS = 10
_MULTIPLIERS = np.uint64(0xD2E7470EE14C6C93), np.uint64(0xCA5A826395121157)
_WEYL = 0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B  # what is added to the key before each round but the first
_HALF, _LOWER = np.uint64(32), np.uint64(2**32 - 1)


def raw(key: np.ndarray, indices: np.ndarray, count: int) -> np.ndarray:
    """The first numbers that `random_raw` of each stream gives, uint64 `(n, count)`.

    Args:
        key: Of all streams, uint64 `(2,)`.
        indices: The top word of each stream's counter, `(n,)`; the others begin at 0.
        count: Numbers of each stream.
    """
    blocks = np.arange(1, -(-count // 4) + 1, dtype=np.uint64)  # NumPy counts on before each block of four numbers
    x0, x3 = np.broadcast_arrays(blocks, np.asarray(indices).astype(np.uint64)[:, None])
    x1 = x2 = np.zeros_like(x0)
    for number in range(_ROUNDS):
        k0, k1 = (np.uint64((int(word) + number * step) % 2**64) for word, step in zip(key, _WEYL, strict=True))
        (high0, low0), (high1, low1) = _product(_MULTIPLIERS[0], x0), _product(_MULTIPLIERS[1], x2)
        x0, x1, x2, x3 = high1 ^ x1 ^ k0, low1, high0 ^ x3 ^ k1, low0
    return np.stack([x0, x1, x2, x3], -1).reshape(len(indices), 4 * len(blocks))[:, :count]


def _product(a: np.uint64, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The upper and the lower 64 bits of a number times an array."""
    a0, a1, b0, b1 = a & _LOWER, a >> _HALF, b & _LOWER, b >> _HALF
    middle = a1 * b0 + (a0 * b0 >> _HALF)
    other = a0 * b1 + (middle & _LOWER)
    return a1 * b1 + (middle >> _HALF) + (other >> _HALF), a * b
