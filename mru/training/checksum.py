"""CRC-32 of arrays and of plain data: with it, no bit of what a run wrote changes unnoticed."""

from __future__ import annotations

import json
import zlib
from typing import Any

import numpy as np


def of_array(x: np.ndarray) -> int:
    """That of an array's numbers."""
    return zlib.crc32(np.ascontiguousarray(x).reshape(-1).view(np.uint8).data)


def of_json(held: Any) -> int:
    """That of plain data, the same however the text is laid out."""
    return zlib.crc32(json.dumps(held, sort_keys=True).encode())


def sealed(held: dict[str, Any]) -> dict[str, Any]:
    """Plain data as JSON gives it back, with its CRC-32 under `checksum`."""
    held = json.loads(json.dumps(held))
    return held | {"checksum": of_json(held)}


def is_sealed(held: dict[str, Any]) -> bool:
    """Whether `sealed` gave this."""
    rest = {name: x for name, x in held.items() if name != "checksum"}
    return "checksum" in held and held["checksum"] == of_json(rest)
