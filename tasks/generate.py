"""Streams text from a run on characters, one step of its model for each.

    python -m tasks.generate runs/shakespeare --prompt "ROMEO:" --characters 500 --temperature 0.8 --top_p 0.9 --seed 0

The prompt is printed, and every character as soon as it is drawn. What the model carries from one to the next is the
state of its cells, so that time and memory for a character do not depend on how long the text is: it may go on past
what the model was trained on. An error is one line on stderr, with exit code 2.
"""

import argparse
import itertools
import logging
import os
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

import mru
import tasks
from mru.training import devices, look, resume
from mru.training.load import chosen, load
from mru.training.messages import UserError, error_line
from tasks._datasets.text import tokens_of


def nucleus(probabilities: Array, top_p: float) -> Array:
    """Which tokens may be drawn: the fewest of the most likely that together have at least the probability `top_p`.

    Of tokens that are equally likely, the first come first.

    Source: Holtzman et al. 2020, arXiv 1904.09751.

    Args:
        probabilities: float32 `(..., V)`.
        top_p: In (0, 1]; 1 keeps all.

    Returns:
        bool `(..., V)`.
    """
    order = jnp.argsort(-probabilities, axis=-1, stable=True)
    likely = jnp.take_along_axis(probabilities, order, -1)
    before = jnp.cumsum(likely, -1) - likely
    # Rounded sums may come to 1 before the last token. The first is kept however small `top_p` is.
    kept = (before < top_p) | (top_p >= 1) | (jnp.arange(likely.shape[-1]) == 0)
    return jnp.take_along_axis(kept, jnp.argsort(order, axis=-1), -1)


def drawn(logits: Array, key: Array, temperature: float, top_p: float) -> Array:
    """A token of logits `(V,)`, int32 `()`: the most likely at temperature 0, else one of the `nucleus` at random."""
    if temperature == 0:
        return jnp.argmax(logits).astype(jnp.int32)
    scaled = (logits - logits.max()) / temperature
    kept = nucleus(jax.nn.softmax(scaled), top_p)
    return jax.random.categorical(key, jnp.where(kept, scaled, -jnp.inf)).astype(jnp.int32)


def stream(
    model: mru.SequenceModel, prompt: Sequence[int], *, temperature: float = 1.0, top_p: float = 1.0, seed: int = 0
) -> Iterator[int]:
    """The tokens with which a model goes on behind a prompt, without end.

    One program is compiled, which takes one step of the model and draws the next token.

    Args:
        model: Causal, with a vocabulary and an output for each of its tokens, and no pooling.
        prompt: At least one token.
        temperature: What the logits are divided by; 0 for the most likely token each time.
        top_p: Probability of the `nucleus` from which is drawn.
        seed: The same seed gives the same tokens.
    """
    graphdef, variables = nnx.split(model)
    key = jax.random.key(seed)

    @jax.jit
    def step(variables: Any, key: Array, token: Array, state: Any) -> tuple[Array, Any]:
        here = jax.random.fold_in(key, state.position)
        logits, state = nnx.merge(graphdef, variables).step(token, state)
        return drawn(logits, here, temperature, top_p), state

    state = model.initial_state()
    for given in prompt:
        token, state = step(variables, key, jnp.asarray(given, jnp.int32), state)
    while True:
        yield int(token)
        token, state = step(variables, key, token, state)


def opened(workdir: pathlib.Path) -> tuple[mru.SequenceModel, str]:
    """The model of a run on characters, and the characters: a token is the place of one.

    Raises:
        UserError: It is no such run, its checkpoints can not be read, or its model reads backwards too.
    """
    name = look.content_of(workdir, "WORKDIR")["task"].get("name")
    with look.told("WORKDIR", workdir):
        characters = getattr(tasks.get(name), "characters", None)
        if characters is None:
            raise UserError(f"a run of {name}, allowed: one of a task on characters, such as shakespeare")
        model = load(workdir, chosen(workdir))
        if model.bidirectional:
            raise UserError("its model is bidirectional and has no next step, allowed: a causal one")
    return model, characters


def _fail(message: str) -> NoReturn:
    print(error_line(ValueError(message)), file=sys.stderr)
    raise SystemExit(2)


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m tasks.generate", description="Streams text from a run on characters.")
    parser.error = _fail  # type: ignore[method-assign]
    parser.add_argument("workdir", type=pathlib.Path, help="folder of a run, such as one on shakespeare")
    parser.add_argument("--prompt", default="\n", help="what the text begins with (default: a line break)")
    parser.add_argument("--characters", type=int, default=500, help="how many to draw (default: 500)")
    parser.add_argument("--temperature", type=float, default=0.8, help="0: always the most likely one (default: 0.8)")
    parser.add_argument(
        "--top_p", type=float, default=1.0, help="draw from the likeliest that have this probability (default: 1, all)"
    )
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same text (default: 0)")
    given = parser.parse_args(arguments)
    for option, fits, allowed in (
        ("prompt", given.prompt != "", "at least one character"),
        ("characters", given.characters >= 1, "an integer >= 1"),
        ("temperature", given.temperature == 0 or 0.01 <= given.temperature <= 100, "0, or from 0.01 to 100"),
        ("top_p", 0 < given.top_p <= 1, "above 0 and at most 1"),
        ("seed", 0 <= given.seed < 2**31, "an integer >= 0, below 2^31"),
    ):
        if not fits:
            _fail(f"--{option} = {getattr(given, option)}, allowed: {allowed}")
    return given


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    given = _arguments(arguments)
    # Orbax warns of much that a run may do.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    devices.keep_programs()
    resume.quiet_abandoned_files()
    try:
        model, characters = opened(given.workdir)
        prompt = tokens_of(given.prompt, characters, "--prompt").tolist()
    except (UserError, ValueError) as error:
        _fail(str(error))
    options = {"temperature": given.temperature, "top_p": given.top_p, "seed": given.seed}
    try:
        print(given.prompt, end="", flush=True)
        for token in itertools.islice(stream(model, prompt, **options), given.characters):
            print(characters[token], end="", flush=True)
        print(flush=True)
    except KeyboardInterrupt:
        print()
        raise SystemExit(130) from None
    except BrokenPipeError:  # who reads has had enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:  # such as a full disk
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _fail(f"the text can not be written: {error.strerror}")


if __name__ == "__main__":
    main()
