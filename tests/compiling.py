"""How XLA compiles in the tests, as that is most of their time."""

import jax

# Up to 0.10, jax can emit code for fused operations without MLIR, in a third of the time. Later ones have no such flag
# and compile as they do for users; CI runs them too.
XLA_FLAGS = "--xla_cpu_use_fusion_emitters=false" if jax.__version_info__ < (0, 11) else ""
