"""The pictures of the site, drawn from the operators and cells themselves."""

import jax.numpy as jnp
import numpy as np

import mru
from mru.plots import states, style

COLOURS = (style.BLUE, style.VERMILLION, style.GREEN)
LOOKS = ("-", "--", ":")


def write(folder, cells):
    """Draw the operators, and the hysteresis loops of some cells by their names, into a folder."""
    style.save(operator_maps(), folder, "operators")
    for name, cell in cells.items():
        loop = mru.dynamics.hysteresis_loop(cell, amplitude=6.0, cycles=10)  # the first cycles are no closed loops
        picture = states.hysteresis(*map(np.asarray, loop), drive_name="input u", title=type(cell).__name__)
        style.save(picture, folder / "cells", f"{name}-loop")


def maps():
    """What each operator makes of a state, for three inputs: title, subtitle, and (label, operator) each."""
    one = jnp.ones((1, 1))
    relay = mru.operators.Relay
    return [
        (
            "Affine\nf(h) = a h + b, a = 1/2",
            [(f"b = {b:g}".replace("-", "−"), mru.Affine(0.5 * one, b * one)) for b in (-1, 0, 1)],
        ),
        (
            "Latch, Relay\nwrite or hold",
            [(label, relay(c * one, one)) for label, c in (("write −1", -2), ("hold", 0), ("write +1", 2))],
        ),
        (
            "Switch\na is 0 or 1",
            [
                (label, mru.operators.Switch(a * one, b * one))
                for label, a, b in (("write 0", 0, 0), ("hold", 1, 0), ("write 1", 0, 1))
            ],
        ),
        (
            "Clamp, Play\nf(h) = clip(h, lo, hi)",
            [
                (f"[{c - 1}, {c + 1}]".replace("-", "−"), mru.Clamp((c - 1.0) * one, (c + 1.0) * one))
                for c in (-1, 0, 1)
            ],
        ),
    ]


def driven(u):
    """The operators for a drive u (T, 1), in the order of `maps`."""
    one = jnp.ones_like(u)
    trigger = mru.operators.Switch((abs(u) < 1).astype(u.dtype), (u >= 1).astype(u.dtype))
    softplus_of_one = jnp.log(jnp.e - 1)
    return [
        ("fading: lag alone", [mru.Affine(0.9 * one, 0.1 * u)]),
        ("relay: two states", [mru.Relay(u, one)]),
        ("Schmitt trigger: 0 and 1", [trigger]),
        ("play: a continuum", [mru.Play(u, softplus_of_one * one)]),
    ]


def triangle(amplitude, speed):
    """A drive from 0 up, down and back to 0, (T, 1)."""
    up = np.arange(0, amplitude, speed)
    u = np.concatenate([up, amplitude - up, -up, up - amplitude])
    return jnp.asarray(np.tile(u, 2)[:, None], jnp.float32)


@style.styled
def operator_maps():
    """Above each operator's maps, below the state that it makes of a drive that rises and falls."""
    figure, axes = style.panels(style.PAGE, 4.3, 2, 4)
    square = {"xticks": (-2, 0, 2), "yticks": (-2, 0, 2), "aspect": "equal"}
    h = jnp.linspace(-2.5, 2.5, 201)[:, None]
    for axis, (title, cases) in zip(axes[:4], maps()):
        axis.plot([-2.5, 2.5], [-2.5, 2.5], color=style.GREY, linewidth=0.6)
        for (label, op), colour, look in zip(cases, COLOURS, LOOKS):
            axis.plot(h[:, 0], op.apply(h)[:, 0], look, color=colour, label=label, linewidth=1.6)
        axis.set_title(title)
        axis.set(xlim=(-2.5, 2.5), ylim=(-2.5, 2.5), xlabel="h", **square)
        axis.legend(loc="upper left", handlelength=1.6, borderpad=0.1, labelspacing=0.2)
    u = triangle(3.0, 0.05)
    rising = np.gradient(np.asarray(u[:, 0])) > 0
    last = np.arange(len(u)) >= len(u) // 2
    for axis, (title, (op,)) in zip(axes[4:], driven(u)):
        state = np.asarray(mru.scan(op)[:, 0])
        for where, label, colour, look in (
            (rising, "input rises", style.VERMILLION, "-"),
            (~rising, "input falls", style.BLUE, "--"),
        ):
            axis.plot(u[:, 0], np.where(where & last, state, np.nan), look, color=colour, label=label)
        axis.set_title(title)
        axis.set(xlim=(-3.2, 3.2), ylim=(-3.2, 3.2), xlabel="input u", **square)
    axes[0].set_ylabel("f(h)")
    axes[4].set_ylabel("state h")
    style.legend_below(figure, axes[4])
    return figure
