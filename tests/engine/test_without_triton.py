"""A JAX without the Triton backend of Pallas, which it has deprecated: scans fall back, and say so once."""

import subprocess
import sys

PROGRAM = """
import sys

sys.modules["jax.experimental.pallas.triton"] = None  # its import fails

import jax, jax.numpy as jnp
import mru
from mru.engine import methods, selective

methods.kernel.on_cuda = selective.on_cuda = lambda: True
ones = jnp.ones((2, 40, 3))
affine = mru.Affine(ones, ones)
op = mru.operators.Selective(x=ones, dt=ones, a=-jnp.ones((3, 4)), b=jnp.ones((2, 40, 4)), c=jnp.ones((2, 40, 4)))
gradient = jax.grad(lambda op: mru.scan(op).sum())
for _ in range(2):
    for function, maps in ((gradient, affine), (selective.selective_scan, op)):
        jax.clear_caches()
        print("pallas_call" in str(jax.make_jaxpr(function)(maps)))
for run in (lambda: mru.scan(affine, method="pallas"), lambda: selective.selective_scan(op, method="pallas")):
    try:
        run()
    except ValueError as error:
        print(error)
print(mru.scan(affine)[0, -1, 0])
"""


def test_scans_fall_back_from_their_kernels_with_one_line():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    missing = "this JAX has no Triton backend of Pallas"
    refused = f"method 'pallas' can not run this: {missing}; method 'auto' would take another"
    assert done.stdout.splitlines() == ["False"] * 4 + [refused] * 2 + ["40.0"]
    assert done.stderr.splitlines() == [
        f"mru.scan falls back from its kernel to its associative form on GPU: {missing}",
        f"selective_scan falls back from its kernel to its loop on GPU: {missing}",
    ]
