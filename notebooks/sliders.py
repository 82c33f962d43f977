"""A page with sliders: the hysteresis of memory recurrent units, one scalar unit at a time.

Run it from the checkout:

    pip install -e ".[app]" && marimo run notebooks/sliders.py
"""

import marimo

__generated_with = "0.25.2"
app = marimo.App(width="full", app_title="Hysteresis of memory recurrent units")

with app.setup:
    import base64
    import inspect
    import io

    import jax
    import marimo as mo
    import matplotlib
    import numpy as np
    from matplotlib.figure import Figure

    import mru

    AMPLITUDE = 3.0  # of the sweep
    SPEEDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)  # each divides the amplitude
    STEPS = 4801  # of every sweep, so that one compiled scan serves all speeds: two cycles of the slowest
    BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#666666"  # colour-blind safe

    matplotlib.rcParams.update({"font.size": 11, "axes.spines.top": False, "axes.spines.right": False})
    scan = jax.jit(mru.scan)


@app.class_definition
class Relay:
    """The relay of a BMRU. `sliders` are, here and below: parameter, label, first, last, step and start."""

    name = "BMRU: relay"
    sliders = (
        ("gain", "Candidate gain g", 0.5, 3.0, 0.1, 1.0),
        ("threshold", "Threshold β", 0.0, 4.0, 0.1, 1.0),
        ("leak", "Leak ε through a write", 0.0, 0.9, 0.05, 0.0),
    )
    equation = r"""
        c_t = g u_t, \quad
        h_t = \begin{cases} \operatorname{sgn}(c_t) + \varepsilon h_{t-1} & |c_t| \ge \beta \\
        h_{t-1} & |c_t| < \beta \end{cases}
    """
    words = """
        A switch with **two states**. A candidate beyond ±β writes its sign. Anything weaker is ignored, and the state
        is held bit for bit, for any number of steps.

        Without a leak the area of the loop is $4β/g$ but for the size of a step, however slow the sweep: it is memory,
        not lag. A leak ε adds up repeated writes, so that gradients pass through them; training takes it from 1 to 0.
    """

    def maps(self, u, gain, threshold, leak):
        """The maps of all steps, given the drive (T, 1) and the values of the sliders."""
        return mru.Relay(gain * u, np.full_like(u, threshold), leak)

    def thresholds(self, gain, threshold, leak):
        """The drives beyond which it writes."""
        return -threshold / gain, threshold / gain


@app.class_definition
class Trigger:
    """The Schmitt trigger of an FQ-BMRU, with states 0 and 1."""

    name = "FQ-BMRU: Schmitt trigger"
    sliders = (
        ("gain", "Candidate gain g", 0.5, 3.0, 0.1, 1.0),
        ("threshold", "Lower threshold β", 0.0, 3.0, 0.1, 0.5),
        ("width", "Width of the band δ", 0.1, 4.0, 0.1, 1.0),
    )
    equation = r"""
        c_t = \max(g u_t, 0), \quad
        h_t = \begin{cases} 1 & c_t \ge \beta + \delta \\ 0 & c_t \le \beta \\ h_{t-1} & \text{else} \end{cases}
    """
    words = """
        A switch that lives in the **first quadrant**: candidates and states are never negative, as currents in a
        circuit. At the upper threshold it writes 1, at the lower one 0, and between the two it holds.

        The band between the thresholds is all the memory there is. The loop is as wide as the band and 1 high, so its
        area is $δ/g$.
    """

    def maps(self, u, gain, threshold, width):
        """The maps of all steps, given the drive (T, 1) and the values of the sliders."""
        c = np.maximum(gain * u, 0)
        up = c >= np.float32(threshold + width)
        return mru.Latch(up | (c <= np.float32(threshold)), up.astype(u.dtype))

    def thresholds(self, gain, threshold, width):
        """The drives beyond which it writes."""
        return threshold / gain, (threshold + width) / gain


@app.class_definition
class Play:
    """The play of a PMRU."""

    name = "PMRU: play"
    sliders = (
        ("gain", "Candidate gain g", 0.5, 3.0, 0.1, 1.0),
        ("radius", "Radius of the band r", 0.1, 3.0, 0.1, 1.0),
    )
    equation = r"c_t = g u_t, \quad h_t = \min(\max(h_{t-1}, c_t - r), c_t + r)"
    words = """
        Backlash, as between two gears. Around the candidate lies a band of radius r, and the state **moves only when an
        edge of the band pushes it**. Otherwise it is held bit for bit.

        Any value can be held, not just two. Noise that is smaller than the band never reaches the state. The loop of a
        sweep to ±A is a parallelogram of area $4r(A - r/g)$, here with A = 3.
    """

    def maps(self, u, gain, radius):
        """The maps of all steps, given the drive (T, 1) and the values of the sliders."""
        before_softplus = np.log(np.expm1(radius))
        return mru.Play(gain * u, np.full_like(u, before_softplus))

    def thresholds(self, gain, radius):
        """None: what is written depends on what is held."""
        return ()


@app.class_definition
class Linear:
    """A leaky average, as one real channel of an LRU."""

    name = "Leaky linear unit"
    sliders = (
        ("gain", "Candidate gain g", 0.5, 3.0, 0.1, 1.0),
        ("leak", "Leak 1 − |a|", 0.01, 0.5, 0.01, 0.05),
    )
    equation = r"h_t = a h_{t-1} + (1 - a) g u_t, \quad 0 < a < 1"
    words = """
        For contrast: one real channel of an LRU. Every step writes, so **nothing is held**: the state moves to the
        present input, within about $1/(1-a)$ steps.

        Its loop is only lag. Sweep at half the speed and its area is nearly halved, while those of the other three
        stay as they are.
    """

    def maps(self, u, gain, leak):
        """The maps of all steps, given the drive (T, 1) and the values of the sliders."""
        return mru.Affine(np.full_like(u, 1 - leak), leak * gain * u)

    def thresholds(self, gain, leak):
        """None."""
        return ()


@app.function
def triangle(speed):
    """The sweep 0, A, -A, 0, ... by `speed` a step, float32 (STEPS, 1), and the slice of its last whole cycle."""
    quarter = round(AMPLITUDE / speed)
    cycle = 4 * quarter
    phase = np.arange(STEPS) % cycle
    u = np.interp(phase, [0, quarter, 3 * quarter, cycle], [0, AMPLITUDE, -AMPLITUDE, 0])
    end = (STEPS - 1) // cycle * cycle
    return u[:, None].astype(np.float32), slice(end - cycle, end + 1)


@app.function
def noisy_pulses(steps=480, seed=4):
    """Pulses of either sign with silence between them, in noise, float32 (steps, 1)."""
    rng = np.random.default_rng(seed)
    u = np.zeros(steps)
    for start, height in zip(range(30, steps, 65), (2, -2, 1.5, 2.4, -1.6, -2.4, 2), strict=True):
        u[start : start + 18] = height
    return (u + 0.3 * rng.normal(size=steps))[:, None].astype(np.float32)


@app.function
def respond(op):
    """States (T, 1), and where one is written, bool (T, 1), given the maps of all steps."""
    h = np.asarray(scan(op))
    before = np.concatenate([[[0]], h[:-1]])
    return h, ~op.holds(before) if op.says("holds") else np.ones(h.shape, bool)


@app.function
def loop_figure(drive, state, thresholds):
    """The states (T, 1) against the drives (T, 1)."""
    figure = Figure(figsize=(5.0, 4.2))
    axis = figure.subplots()
    figure.subplots_adjust(left=0.15, right=0.99, bottom=0.12, top=0.93)
    for threshold in thresholds:
        axis.axvline(threshold, color=ORANGE, linestyle=":", linewidth=1.5)
    axis.fill(drive[:, 0], state[:, 0], color=BLUE, alpha=0.12, linewidth=0)
    axis.plot(drive, state, color=BLUE, linewidth=2)
    height = 1.1 * max(1, np.abs(state).max())
    lowest = -height if state.min() < 0 else -0.1 * height
    axis.set(xlabel="drive u", ylabel="state h", xlim=(-1.1 * AMPLITUDE, 1.1 * AMPLITUDE), ylim=(lowest, height))
    axis.locator_params(axis="y", nbins=5)
    axis.set_title("Hysteresis loop" + (", thresholds dotted" if thresholds else ""), fontsize=12)
    return figure


@app.function
def trace_figure(u, h, write, op, thresholds):
    """Drive, state and writes against time."""
    figure = Figure(figsize=(9.4, 5.0))
    above, middle, below = figure.subplots(3, 1, sharex=True, height_ratios=(4, 4, 0.6))
    figure.subplots_adjust(left=0.08, right=0.995, bottom=0.1, top=0.94, hspace=0.09)
    time = np.arange(len(h))
    above.plot(time, u, color=GREY, linewidth=1)
    for threshold in thresholds:
        above.axhline(threshold, color=ORANGE, linestyle=":", linewidth=1.5)
    if isinstance(op, mru.Play):
        band = op.gates()
        lo, hi = band["lo"][:, 0], band["hi"][:, 0]
        middle.fill_between(time, lo, hi, color=ORANGE, alpha=0.25, linewidth=0)
    middle.plot(time, h, color=BLUE, linewidth=2, drawstyle="steps-post")
    below.fill_between(time, 0, write[:, 0], step="post", color=ORANGE, linewidth=0)
    above.set_title("On a noisy input" + (", band shaded" if isinstance(op, mru.Play) else ""), fontsize=12)
    middle.locator_params(axis="y", nbins=5)
    above.set(ylabel="drive u")
    middle.set(ylabel="state h")
    below.set(xlabel="time step", yticks=[], ylim=(0, 1), xlim=(0, len(h)))
    below.set_ylabel("writes", rotation=0, ha="right", va="center")
    figure.align_ylabels([above, middle])
    return figure


@app.function
def picture(figure, alt, width):
    """A figure as an SVG image, which is sharp on every screen, of a CSS width."""
    file = io.BytesIO()
    figure.savefig(file, format="svg")
    data = base64.b64encode(file.getvalue()).decode()
    return mo.image(f"data:image/svg+xml;base64,{data}", alt=alt, width=width)


@app.function
def reading(drive, state, write):
    """What is measured: the area of the loop, and how often the unit writes on the noisy input."""
    area = mru.dynamics.enclosed_area(drive[:, 0], state).item()
    rate = 100 * np.mean(write)
    return mo.md(f"**Enclosed area: {area:.2f}**\n\nNoisy input: writes in {rate:.0f} % of steps").callout("info")


@app.cell
def _():
    units = {unit.name: unit for unit in (Relay(), Trigger(), Play(), Linear())}
    choice = mo.ui.radio(list(units), value=Relay.name, label="**Cell**")
    speed = mo.ui.slider(
        steps=SPEEDS, value=0.02, label="Sweep speed (drive per step)", show_value=True, full_width=True
    )
    return choice, speed, units


@app.cell
def _(choice, units):
    unit = units[choice.value]
    sliders = mo.ui.dictionary(
        {
            name: mo.ui.slider(first, last, step, value, label=label, show_value=True, full_width=True)
            for name, label, first, last, step, value in unit.sliders
        }
    )
    return sliders, unit


@app.cell
def _(choice, sliders, speed, unit):
    sweep, cycle = triangle(speed.value)
    pulses = noisy_pulses()
    thresholds = unit.thresholds(**sliders.value)
    loop = sweep[cycle], respond(unit.maps(sweep, **sliders.value))[0][cycle]
    maps = unit.maps(pulses, **sliders.value)
    state, write = respond(maps)

    title = mo.md("# Hysteresis\n\nA drive u sweeps from −3 to 3 and back, and the state h of one unit answers.")
    controls = [title, choice, *sliders.elements.values(), speed, reading(*loop, write)]
    words = mo.md(f"$$\n{inspect.cleandoc(unit.equation)}\n$$\n\n{inspect.cleandoc(unit.words)}")
    top = [picture(loop_figure(*loop, thresholds), "The state against the drive", 415), words]
    bottom = picture(trace_figure(pulses, state, write, maps, thresholds), "Drive, state and writes over time", "100%")
    right = mo.vstack([mo.hstack(top, widths=[5, 4], gap=2), bottom])
    mo.hstack([mo.vstack(controls, gap=1.2), right], widths=[1, 3], gap=2)
    return


if __name__ == "__main__":
    app.run()
