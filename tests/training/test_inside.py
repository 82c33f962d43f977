import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from reference import cell_parameters, shake

import mru
from mru.training.inside import counted, summarised

B, T = 3, 12
CONSTANTS = ("time_constant", "longest_time_constant")
LENGTHS, WEIGHTS = np.array([12, 7, 5]), np.array([1, 1, 0])
WHERE = (np.arange(T) < LENGTHS[:, None]) & (WEIGHTS[:, None] > 0)


def model_of(cells, **options):
    return shake(mru.SequenceModel(2, 1, cells=cells, width=4, state_size=3, rngs=nnx.Rngs(0), **options))


def numbers(model, xs):
    """What is logged of some batches, and what was captured."""

    @jax.jit
    def run(x):
        captured = {}
        model(x, lengths=LENGTHS, capture=captured)
        return counted(model, captured, WHERE), captured

    found, captured = zip(*(run(x) for x in xs), strict=True)
    return summarised(jax.device_get(found)), captured


def batches(seed=0):
    return np.random.default_rng(seed).normal(size=(2, B, T, 2)).astype(np.float32) * 2


def test_writes_and_holds_of_all_batches_without_padding():
    values, captured = numbers(model_of("pmru"), batches())
    writes = [np.asarray(c["0/0/PMRU/write"])[b, :n] for c in captured for b, n in enumerate(LENGTHS[:2])]
    rates = np.concatenate(writes).mean(0)
    holds = []
    for n in range(3):
        runs = [len(run) for w in writes for run in "".join("w" if x else "h" for x in w[:, n]).split("w") if run]
        holds.append(np.mean(runs))
    assert values.keys() == {f"0/0/PMRU/{name}" for name in ("write_rate", "dead", "hold_time")}
    np.testing.assert_allclose(values["0/0/PMRU/write_rate"], rates.mean(), rtol=1e-6)
    np.testing.assert_allclose(values["0/0/PMRU/hold_time"], np.mean(holds), rtol=1e-6)
    assert values["0/0/PMRU/dead"] == 0
    assert 0.1 < rates.mean() < 0.9


def test_a_channel_that_never_writes_is_dead():
    model = model_of("bmru")
    cell = model.blocks[0].cells[0]
    cell.threshold.bias[...] = jnp.array([1e6, 0.0, 0.0])
    cell.threshold.kernel[...] = jnp.zeros((4, 3))
    values, _ = numbers(model, batches())
    np.testing.assert_allclose(values["0/0/BMRU/dead"], 1 / 3)
    np.testing.assert_allclose(values["0/0/BMRU/write_rate"], 2 / 3)  # the others always do, and hold for 0 steps
    np.testing.assert_allclose(values["0/0/BMRU/hold_time"], (12 + 7) / 2 / 3)


def test_time_constants_of_constant_and_of_measured_coefficients():
    model = model_of("lru,mingru")
    values, captured = numbers(model, batches())
    nu = cell_parameters(model.blocks[0].cells[0])["nu"]
    constants = 1 / (1 - np.exp(-np.exp(nu)))
    np.testing.assert_allclose(values["0/0/LRU/time_constant"], np.median(constants), rtol=1e-3)
    np.testing.assert_allclose(values["0/0/LRU/longest_time_constant"], constants.max(), rtol=1e-3)
    a = np.concatenate([np.asarray(c["1/0/MinGRU/a"], float)[WHERE] for c in captured])
    constants = 1 / (1 - np.exp(np.log(a).mean(0)))
    np.testing.assert_allclose(values["1/0/MinGRU/time_constant"], np.median(constants), rtol=1e-5)


def test_what_never_decays_is_logged_as_a_number():
    model = model_of("mingru")
    gate = model.blocks[0].cells[0].gate
    gate.kernel[...], gate.bias[...] = jnp.zeros((4, 3)), jnp.array([-200.0, 0.0, 9.0])  # a = 1, 1/2 and nearly 0
    values, _ = numbers(model, batches())
    assert values["0/0/MinGRU/longest_time_constant"] == 2**24
    np.testing.assert_allclose(values["0/0/MinGRU/time_constant"], 2, rtol=1e-6)


def test_both_directions():
    values, _ = numbers(model_of("bmru,lru", bidirectional=True), batches())
    names = [f"0/0/Bidirectional/{d}/{n}" for d in ("forward", "backward") for n in ("write_rate", "dead", "hold_time")]
    names += [f"1/0/Bidirectional/{d}/{n}" for d in ("forward", "backward") for n in CONSTANTS]
    assert values.keys() == set(names)


def test_s5_in_both_directions_has_one_set_of_time_constants():
    model = mru.SequenceModel(2, 1, cells="s5", width=4, state_size=4, bidirectional=True, rngs=nnx.Rngs(0))
    assert numbers(model, batches())[0].keys() == {f"0/0/BidirectionalS5/{name}" for name in CONSTANTS}


def test_a_cell_that_has_neither_has_no_line():
    from own_cells import LSTM

    model = mru.SequenceModel(2, 1, cells=[[LSTM]], width=4, state_size=3, rngs=nnx.Rngs(0))
    assert numbers(model, batches())[0] == {}
