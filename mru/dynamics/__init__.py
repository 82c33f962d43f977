"""The dynamics of cells, in numbers: what they hold, what fades, and what training can see of it.

Each measure takes a cell, or a layer of a trained model with what it is given there:

    cell, x = mru.dynamics.layer(model, "1/0/BMRU", inputs)
    mru.dynamics.write_statistics(cell, x)
"""

from mru.dynamics.attractors import attractors
from mru.dynamics.diagnosis import Diagnosis, diagnose, diagnose_layers
from mru.dynamics.equilibria import Equilibria, equilibria
from mru.dynamics.hysteresis import HysteresisLoop, enclosed_area, hysteresis_loop
from mru.dynamics.inner_clock import InnerClock
from mru.dynamics.layers import captured, layer, layers
from mru.dynamics.lyapunov import lyapunov_exponent
from mru.dynamics.retention import retention
from mru.dynamics.sensitivity import sensitivity
from mru.dynamics.time_constants import time_constants
from mru.dynamics.writes import Writes, hold_times, holds, statistics_of, write_statistics, writes

__all__ = [
    "Diagnosis",
    "Equilibria",
    "HysteresisLoop",
    "InnerClock",
    "Writes",
    "attractors",
    "captured",
    "diagnose",
    "diagnose_layers",
    "enclosed_area",
    "equilibria",
    "hold_times",
    "holds",
    "hysteresis_loop",
    "layer",
    "layers",
    "lyapunov_exponent",
    "retention",
    "sensitivity",
    "statistics_of",
    "time_constants",
    "write_statistics",
    "writes",
]
