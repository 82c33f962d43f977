"""Makes ListOps expressions: random trees, their tokens and their values.

A tree grows level by level from random words of 64 bits, one a node. Trees are drawn one by one until the length fits;
the values and tokens of many trees are then computed at once, again level by level.
"""

import numpy as np

from tasks.base import streams

SIZES = {"train": 96_000, "validation": 2_000, "test": 2_000}

DEPTH = 10
MOST_ARGUMENTS = 10
SHORTEST, LONGEST = 501, 1999
LENGTH = 2000  # with padding

# Token 0 is padding, digit d is token 1 + d.
DIGIT, MIN, MAX, MED, SM, CLOSE = 1, 11, 12, 13, 14, 15
VOCABULARY = 16


def generate(seed: int, split: str, indices: np.ndarray) -> dict[str, np.ndarray]:
    """Expressions by their index, the same on any machine and with any version of Python and NumPy.

    Args:
        seed: Seed of the generator.
        split: "train", "validation" or "test".
        indices: int `(n,)`.

    Returns:
        `inputs` uint8 `(n, 2000)`, tokens; `targets` uint8 `(n,)`, values; `lengths` int32 `(n,)`, without padding.
    """
    trees = [_draw(stream.bit_generator) for stream in streams("listops", seed, split, indices)]
    nothing = np.zeros(0, np.uint64)
    words = [np.concatenate([nothing, *(tree[d] for tree in trees if d < len(tree))]) for d in range(DEPTH)]
    arguments = [_arguments(level, d) for d, level in enumerate(words)]
    symbols = [_symbols(*level) for level in zip(words, arguments)]
    values, sizes = _fold(arguments, symbols)
    tokens = _write(arguments, symbols, sizes)
    return {"inputs": tokens, "targets": values.astype(np.uint8), "lengths": sizes[0].astype(np.int32)}


def _draw(bits: np.random.BitGenerator) -> list[np.ndarray]:
    """Random words of each level of the first tree whose length fits."""
    while True:
        words: list[np.ndarray] = []
        length, nodes = 0, 1
        while nodes and length + nodes <= LONGEST:
            words.append(bits.random_raw(nodes))
            arguments = _arguments(words[-1], len(words) - 1)
            # An operator is two tokens, itself and the bracket that closes it.
            length += nodes + np.count_nonzero(arguments)
            nodes = int(arguments.sum())
        if not nodes and SHORTEST <= length <= LONGEST:
            return words


def _arguments(words: np.ndarray, depth: int) -> np.ndarray:
    """Number of arguments of each node, int64: 0 for a digit, and from 2 to 10, equally likely, for an operator.

    One node in four is an operator. The root always is, as an expression of one digit would be too short; at the
    greatest depth none is.
    """
    if depth == DEPTH - 1:
        return np.zeros(len(words), np.int64)
    numbers = MOST_ARGUMENTS - 1
    choice = _choice(words >> np.uint64(32), numbers if depth == 0 else 4 * numbers)
    return np.where(choice < numbers, choice + 2, 0)


def _symbols(words: np.ndarray, arguments: np.ndarray) -> np.ndarray:
    """Token of each node, int64: an operator if it has arguments, else a digit."""
    rest = words & np.uint64(2**32 - 1)
    return np.where(arguments > 0, MIN + _choice(rest, 4), DIGIT + _choice(rest, 10))


def _choice(words: np.ndarray, n: int) -> np.ndarray:
    """Words of 32 bits as integers below n, int64; their probabilities differ from 1 / n by less than 2^-32."""
    return (words * np.uint64(n) >> np.uint64(32)).astype(np.int64)


def _fold(arguments: list[np.ndarray], symbols: list[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Values of the roots, and the number of tokens below and in each node of each level; from the leaves up."""
    sizes: list[np.ndarray] = []
    values = below = np.zeros(0, np.int64)
    for counts, tokens in zip(reversed(arguments), reversed(symbols)):
        is_operator = counts > 0
        counts = counts[is_operator]
        starts = np.cumsum(counts) - counts
        size, value = np.ones(len(tokens), np.int64), tokens - DIGIT
        size[is_operator] = 2 + np.add.reduceat(below, starts)
        value[is_operator] = _apply(tokens[is_operator], values, starts, counts)
        sizes.insert(0, size)
        values, below = value, size
    return values, sizes


def _apply(operators: np.ndarray, values: np.ndarray, starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Value of each operator, whose arguments are `counts` values from `starts` on."""
    # Sorted by operator first and value second.
    order = np.repeat(10 * np.arange(len(counts)), counts)
    ascending = np.sort(order + values) - order
    # Of an even number of arguments, the median is the mean of the two in the middle, truncated.
    median = (ascending[starts + (counts - 1) // 2] + ascending[starts + counts // 2]) // 2
    total = np.add.reduceat(values, starts) % 10
    smallest, largest = ascending[starts], ascending[starts + counts - 1]
    return np.choose(operators - MIN, [smallest, largest, median, total])


def _write(arguments: list[np.ndarray], symbols: list[np.ndarray], sizes: list[np.ndarray]) -> np.ndarray:
    """Tokens of all trees, uint8 `(n, 2000)`, in the order in which they are read; from the roots down."""
    tokens = np.zeros((len(sizes[0]), LENGTH), np.uint8)
    flat = tokens.reshape(-1)
    places = LENGTH * np.arange(len(tokens))
    for depth, (counts, level, size) in enumerate(zip(arguments, symbols, sizes)):
        flat[places] = level
        is_operator = counts > 0
        parents, counts = places[is_operator], counts[is_operator]
        flat[parents + size[is_operator] - 1] = CLOSE
        if depth + 1 < DEPTH:
            # Each argument comes after its operator and the arguments before it.
            before = np.cumsum(sizes[depth + 1]) - sizes[depth + 1]
            places = before + np.repeat(parents + 1 - before[np.cumsum(counts) - counts], counts)
    return tokens
