"""The methods by name, and the choice that "auto" makes."""

from __future__ import annotations

import functools
import logging
import types
from collections.abc import Callable
from typing import Any

import jax

from mru.engine import associative, kernel, sequential

_log = logging.getLogger(__name__)


def _by_platform(name: str) -> Callable[..., Any]:
    def choose(*args: Any) -> Any:
        methods: dict[str, Any] = {"cpu": sequential, "default": associative}
        if kernel.on_cuda() and name != "composed":  # kernels compose as "associative" does
            reason = kernel.obstacle(args[0])
            if reason is None:
                methods["cuda"] = kernel
            else:
                _fall_back(reason)
        # `platform_dependent` takes arrays only, so all arguments are bound before.
        return jax.lax.platform_dependent(
            **{on: functools.partial(getattr(m, name), *args) for on, m in methods.items()}
        )

    return choose


@functools.cache  # once a reason
def _fall_back(reason: str) -> None:
    _log.warning("mru.scan falls back from its kernel to its associative form on GPU: %s", reason)


_AUTO = types.SimpleNamespace(**{name: _by_platform(name) for name in ("states", "pullback", "composed")})

METHODS: dict[str, Any] = {
    "auto": _AUTO,
    "sequential": sequential,
    "associative": associative,
    "pallas": kernel,
    "autodiff": associative,
}
