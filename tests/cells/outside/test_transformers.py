"""Layers of language models in transformers: Mamba's, RecurrentGemma's recurrence, Llama's attention."""

import numpy as np
import pytest
from beside import assert_same, inputs, outputs, with_tensors
from reference import cell_parameters, shake

from mru import cells

torch = pytest.importorskip("torch", reason="needs torch: pip install torch")
transformers = pytest.importorskip("transformers", reason="needs transformers: pip install transformers")
pytestmark = pytest.mark.usefixtures("quick_compile")


def test_s6():
    from transformers.models.mamba.modeling_mamba import MambaMixer

    features, size = 20, 4  # two channels stand before the step dt
    cell, x = shake(cells.S6(features, size, rngs=0), scale=0.1), inputs(features)
    p = cell_parameters(cell)
    config = transformers.MambaConfig(hidden_size=features, state_size=size, time_step_rank=2)
    given = {
        "in_proj.weight": np.concatenate([p["up/kernel"], p["gate/kernel"]], -1).T,
        "conv1d.weight": p["taps"].T[:, None],
        "conv1d.bias": p["taps_bias"],
        "x_proj.weight": p["select/kernel"].T,
        "dt_proj.weight": p["dt/kernel"].T,
        "dt_proj.bias": p["dt_bias"],
        "A_log": p["log_a"],
        "D": p["skip"],
        "out_proj.weight": p["out/kernel"].T,
    }
    mixer = with_tensors(MambaMixer(config, layer_idx=0), given)
    assert_same(outputs(cell, x), mixer(torch.tensor(x)))


def test_rg_lru():
    """Theirs is the recurrence alone, between our linear layers; each head has gates of its own, and there is one.

    At position 0 they take the whole input, not sqrt(1 - a^2) of it: positions are counted from 1.
    """
    from transformers.models.recurrent_gemma.modeling_recurrent_gemma import RecurrentGemmaRglru

    features = 6
    cell, x = shake(cells.RGLRU(features, features, rngs=0)), inputs(features)
    cell.input.kernel[...], cell.input.bias[...] = np.eye(features, dtype=np.float32), 0 * cell.input.bias[...]
    p = cell_parameters(cell)
    config = transformers.RecurrentGemmaConfig(lru_width=features, num_attention_heads=1, hidden_size=features)
    given = {
        "recurrent_param": p["rate"],
        "input_gate_weight": p["input_gate/kernel"][None],
        "input_gate_bias": p["input_gate/bias"][None],
        "recurrent_gate_weight": p["recurrence_gate/kernel"][None],
        "recurrent_gate_bias": p["recurrence_gate/bias"][None],
    }
    layer = with_tensors(RecurrentGemmaRglru(config), given)
    h = layer(torch.tensor(x), 1 + torch.arange(x.shape[1])[None].expand(2, -1))
    assert_same(outputs(cell, x), h.numpy() @ p["out/kernel"] + p["out/bias"])


def test_attention():
    from transformers.models.llama.modeling_llama import LlamaAttention, LlamaRotaryEmbedding

    features, heads, base = 16, 2, 500.0
    cell, x = shake(cells.Attention(features, features, heads=heads, base=base, rngs=0)), inputs(features)
    p = cell_parameters(cell)
    config = transformers.LlamaConfig(
        hidden_size=features,
        num_attention_heads=heads,
        attention_bias=True,
        rope_theta=base,
        attn_implementation="sdpa",
    )
    zeros = np.zeros(features)
    given = {f"{name[0]}_proj.weight": p[f"{name}/kernel"].T for name in ("query", "key", "value", "out")}
    given |= {"q_proj.bias": zeros, "k_proj.bias": zeros, "v_proj.bias": zeros, "o_proj.bias": p["out/bias"]}
    layer, x_ = with_tensors(LlamaAttention(config, layer_idx=0), given), torch.tensor(x)
    positions = LlamaRotaryEmbedding(config)(x_, torch.arange(x.shape[1])[None])
    assert_same(outputs(cell, x), layer(x_, positions, attention_mask=None)[0])
