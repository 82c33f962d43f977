"""The Legendre memory in NumPy: its matrices from the definition, and its recurrence step by step."""

import functools

import numpy as np


@functools.cache
def discretized(order, theta):
    """A_d and B_d by a Taylor series, scaled and squared, in the widest floating point of the machine; float64."""
    a = np.array([[(2 * i + 1) * (-1 if i < j else (-1) ** (i - j + 1)) for j in range(order)] for i in range(order)])
    both = np.zeros((order + 1, order + 1), np.longdouble)
    both[:order, :order] = a
    both[:order, order] = [(2 * i + 1) * (-1) ** i for i in range(order)]
    both /= theta
    squarings = max(0, int(np.ceil(np.log2(float(abs(both).sum(0).max())))) + 1)
    both /= 2.0**squarings
    term = found = np.eye(order + 1, dtype=np.longdouble)
    for k in range(1, 20):  # of a matrix whose norm is at most 1/2
        term = term @ both / k
        found = found + term
    for _ in range(squarings):
        found = found @ found
    return found[:order, :order].astype(float), found[:order, order].astype(float)


def memories(u, order, theta, reset=None, m=None):
    """m after each step, (B, T, C d), of signals (B, T, C); a reset empties it."""
    a, b = discretized(order, theta)
    m = np.zeros((u.shape[0], u.shape[2], order)) if m is None else m.reshape(u.shape[0], u.shape[2], order)
    found = []
    for t in range(u.shape[1]):
        if reset is not None:
            m = np.where(reset[:, t, None, None], 0, m)
        m = np.einsum("ij,bcj->bci", a, m) + u[:, t, :, None] * b
        found.append(m.reshape(len(m), -1))
    return np.stack(found, 1)
