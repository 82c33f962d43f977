import jax
import numpy as np
import pytest
from flax import nnx
from known_cells import normal

import mru
from mru.dynamics import captured, layer, layers

MODEL = mru.SequenceModel(3, 2, cells="lru+bmru,pmru", width=4, state_size=3, dropout=0.5, rngs=nnx.Rngs(0))


def test_names_are_those_of_capture():
    found = layers(MODEL)
    assert list(found) == ["0/0/LRU", "0/1/BMRU", "1/0/PMRU"]
    assert found["0/1/BMRU"] is MODEL.blocks[0].cells[1]
    capture = {}
    MODEL(normal(2, 5, 3), capture=capture)
    assert {name.rsplit("/", 1)[0] for name in capture} == set(found)


def test_what_a_layer_is_given_is_what_it_makes_its_states_of():
    """In float64, as a norm of four channels in float32 can enlarge a rounding error beyond any fixed tolerance."""
    x, capture = np.random.default_rng(0).normal(size=(2, 5, 3)), {}
    lengths = np.array([3, 5])
    with jax.enable_x64(True):
        MODEL(x, lengths=lengths, capture=capture)
        for name in layers(MODEL):
            cell, given = layer(MODEL, name, x, lengths=lengths)
            inner = {}
            cell(given, capture=inner)
            np.testing.assert_allclose(inner["state"], capture[f"{name}/state"], rtol=1e-10, atol=1e-10)


def test_tokens():
    model = mru.SequenceModel(0, 2, cells="pmru", vocabulary=5, width=4, state_size=3, rngs=nnx.Rngs(0))
    _, given = layer(model, "0/0/PMRU", np.arange(5)[None])
    assert given.shape == (1, 5, 4)


def test_a_layer_that_is_not_there():
    with pytest.raises(ValueError, match="the model has no layer '1/0/BMRU'; it has 0/0/LRU, 0/1/BMRU, 1/0/PMRU"):
        layer(MODEL, "1/0/BMRU", normal(2, 5, 3))


def test_both_directions_are_layers():
    model = mru.SequenceModel(3, 2, cells="pmru", width=4, state_size=3, bidirectional=True, rngs=nnx.Rngs(0))
    assert list(layers(model)) == ["0/0/Bidirectional/forward", "0/0/Bidirectional/backward"]
    x, capture = np.random.default_rng(0).normal(size=(2, 5, 3)), {}
    with jax.enable_x64(True):
        model(x, capture=capture)
        for direction, step in (("forward", 1), ("backward", -1)):
            name = f"0/0/Bidirectional/{direction}"
            cell, given = layer(model, name, x)
            inner = {}
            cell(given, capture=inner)
            np.testing.assert_allclose(inner["state"], capture[f"{name}/state"][:, ::step], rtol=1e-10, atol=1e-10)


def test_a_quantity_by_its_name():
    x, capture = normal(2, 5, 3), {}
    MODEL(x, capture=capture)
    np.testing.assert_allclose(captured(MODEL, "0/1/BMRU/state", x), capture["0/1/BMRU/state"], rtol=1e-6)
    with pytest.raises(ValueError, match="the model captures no '0/0/LRU/write'; it captures 0/0/LRU/input, 0/0/"):
        captured(MODEL, "0/0/LRU/write", x)
