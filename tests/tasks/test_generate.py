"""Text from a run: greedy characters, the nucleus, what is drawn, one program, constant memory, and mistakes."""

import itertools
import json
import os
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from train_helpers import config_file, main

import mru
from mru.training import look
from tasks import generate
from tasks._datasets.base import DataSet
from tasks.shakespeare import Shakespeare

TEXT = """\
task: {name: shakespeare, window: 128, windows: 32}
model: {cells: [pmru], width: 8, state_size: 4, expansion: 0, positions: 4}
optimizer: {lr: 1.0e-2}
train: {steps: 2, batch_size: 8, eval_every: 2, log_every: 2}
"""
RNG = np.random.default_rng(0)
CHARACTERS = Shakespeare.characters


@pytest.fixture(scope="module")
def run(cache, tmp_path_factory):
    """The folder of a run of two steps on random characters."""
    folder = tmp_path_factory.mktemp("text")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DataSet, "load", lambda *_: {"tokens": RNG.integers(65, size=1115394).astype(np.uint8)})
        code, said = main("--config", config_file(folder, TEXT), "--workdir", folder / "run")
    assert code == 0, said
    return folder / "run"


def language_model(cells, **options):
    return mru.SequenceModel(
        0, 65, vocabulary=65, cells=cells, width=8, state_size=4, pooling="none", rngs=0, **options
    )


def test_greedy_text_is_that_of_reading_it_all_again(run, capsys):
    generate.main([str(run), "--prompt", "ROMEO:", "--characters", "25", "--temperature", "0"])
    text, model = "ROMEO:", mru.load(run)
    # One length to compile: what stands behind the text changes nothing before it.
    whole = jax.jit(lambda tokens: model(tokens)[0])
    for _ in range(25):
        tokens = [CHARACTERS.index(c) for c in text]
        logits = whole(jnp.asarray(tokens + [0] * (32 - len(tokens))))[len(tokens) - 1]
        text += CHARACTERS[int(np.argmax(logits))]
    assert capsys.readouterr().out == text + "\n"


def test_text_is_the_same_for_a_seed_alone(run, capsys):
    texts = []
    for seed in (3, 3, 4):
        generate.main([str(run), "--characters", "40", "--top_p", "0.9", "--seed", str(seed)])
        texts.append(capsys.readouterr().out)
        assert len(texts[-1]) == 42
        assert texts[-1][0] == "\n"
    assert texts[0] == texts[1] != texts[2]


def likeliest(p, top_p):
    """The nucleus in float64, token by token."""
    kept, total = set(), 0.0
    for token in sorted(range(len(p)), key=lambda token: (-p[token], token)):
        kept.add(token)
        total += p[token]
        if total >= top_p:
            break
    return kept


@pytest.mark.parametrize("top_p", [1e-9, 0.1, 0.5, 0.9, 0.99, 1.0])
def test_nucleus(top_p):
    p = RNG.dirichlet(np.full(65, 0.1), size=50)
    found = np.asarray(generate.nucleus(jnp.asarray(p, jnp.float32), top_p))
    for row, kept in zip(p, found):
        assert {*np.flatnonzero(kept)} == (likeliest(row, top_p) if top_p < 1 else {*range(65)})


def test_nucleus_of_equal_tokens_takes_the_first():
    assert generate.nucleus(jnp.full(4, 0.25), 0.5).tolist() == [True, True, False, False]
    assert generate.nucleus(jnp.array([0.125, 0.5, 0.25, 0.125]), 0.75).tolist() == [False, True, True, False]


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 0.8), (2.0, 0.6), (0.01, 1.0)])
def test_frequencies_are_the_probabilities(temperature, top_p):
    logits, draws = np.array([1.0, 0.2, -0.5, 2.0, 0.0]), 20_000
    p = np.exp(logits / temperature) / np.exp(logits / temperature).sum()
    p = np.array([x if i in likeliest(p, top_p) else 0.0 for i, x in enumerate(p)])
    p /= p.sum()
    keys = jax.random.split(jax.random.key(1), draws)
    draw = jax.vmap(lambda key: generate.drawn(jnp.asarray(logits, jnp.float32), key, temperature, top_p))
    counts = np.bincount(draw(keys), minlength=5)
    assert (counts[p == 0] == 0).all()
    np.testing.assert_allclose(counts / draws, p, atol=5 * 0.5 / np.sqrt(draws))


@pytest.mark.parametrize("cells", ["bmru", "lstm", "attention"])
def test_one_program_and_memory_that_does_not_grow(cells, monkeypatch):
    traced, real = [], mru.SequenceModel.step
    monkeypatch.setattr(mru.SequenceModel, "step", lambda *args: (traced.append(args[0]), real(*args))[1])
    options = {"attention": {"max_length": 8}} if cells == "attention" else {}
    model = language_model(cells, options=options)
    text, sizes = generate.stream(model, [1, 2, 3], top_p=0.9), []
    for _ in range(4):
        assert len(list(itertools.islice(text, 20))) == 20
        sizes.append(sum(x.nbytes for x in jax.live_arrays()))
    assert len(traced) == 1
    assert len(set(sizes)) == 1


def test_characters_come_one_by_one(run, monkeypatch):
    seen = []

    class Terminal:
        def write(self, text):
            seen.append(text)

        def flush(self):
            seen.append(None)

    monkeypatch.setattr(sys, "stdout", Terminal())
    generate.main([str(run), "--prompt", "To be", "--characters", "9"])
    shown = [len("".join(filter(None, seen[:i]))) for i, text in enumerate(seen) if text is None]
    assert shown == [5, *range(6, 15), 15]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_full_disk_is_one_line(run, monkeypatch, capsys):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(SystemExit, match="2"):
            generate.main([str(run), "--prompt", "To be", "--characters", "9"])
    assert capsys.readouterr().err == "error: the text can not be written: No space left on device\n"


def refused(capsys, *arguments):
    """The one line on stderr with which a command ends."""
    with pytest.raises(SystemExit) as exits:
        generate.main([str(x) for x in arguments])
    captured = capsys.readouterr()
    assert exits.value.code == 2
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("error: ")
    return captured.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--prompt", "häm"], "--prompt has 'ä', which is none of the 65 characters"),
        (["--prompt", ""], "--prompt = , allowed: at least one character"),
        (["--characters", "0"], "--characters = 0, allowed: an integer >= 1"),
        (["--temperature", "-1"], "--temperature = -1.0, allowed: 0, or from 0.01 to 100"),
        (["--temperature", "nan"], "--temperature = nan, allowed: 0, or from 0.01 to 100"),
        (["--top_p", "0"], "--top_p = 0.0, allowed: above 0 and at most 1"),
        (["--top_p", "x"], "--top_p: invalid float value: 'x'"),
        (["--seed", "-1"], "--seed = -1, allowed: an integer >= 0"),
    ],
)
def test_arguments_that_do_not_fit(run, capsys, arguments, said):
    assert said in refused(capsys, run, *arguments)


def test_other_folders_are_refused(run, finished, capsys, tmp_path, monkeypatch):
    assert "No such file or directory" in refused(capsys, tmp_path / "none")
    assert "allowed: the folder of a run" in refused(capsys, tmp_path)
    assert "a run of copy_first, allowed: one of a task on characters" in refused(capsys, finished[0])
    (tmp_path / "new").mkdir()
    held = look.content_of(run, "run")
    (tmp_path / "new" / "config.yaml").write_text(json.dumps(held))
    assert "holds no checkpoints" in refused(capsys, tmp_path / "new")
    monkeypatch.setattr(generate, "load", lambda *_: language_model("lru", bidirectional=True))
    assert "bidirectional" in refused(capsys, run)
