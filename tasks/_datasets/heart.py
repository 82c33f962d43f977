"""Records of the MIT-BIH Arrhythmia Database."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from tasks._datasets.base import Arrays, DataSet, Form, order
from tasks._datasets.originals import Original
from tasks._datasets.progress import steps

# Of every part: records of patients that no other part has.
RECORDS = {
    "train": ("100", "102", "104", "106", "114", "200"),
    "validation": ("108", "116", "121"),
    "test": ("105", "119", "123"),
}


# Kinds of annotation that are beats, in the numbering of WFDB; 5 is a PVC.
_BEATS, _PVC = (*range(1, 14), 25, 30, 34, 35, 38, 41), 5
_SKIP, _NUM, _SUB, _CHN, _AUX = range(59, 64)
_MITDB = "https://physionet.org/files/mitdb/1.0.0"


def _beats(held: Callable[[str], tuple[np.ndarray, np.ndarray, np.ndarray]]) -> Arrays:
    """Of each part the `signals` of its records, one below the other, and `beats`: record, position and class.

    Args:
        held: Of a record the signal, the positions of its beats, and which of them are PVCs.
    """
    for part, records in RECORDS.items():
        signals, beats = [], []
        for row, record in enumerate(steps(records, f"reading {part}", "record")):
            signal, positions, is_pvc = held(record)
            signals.append(signal)
            beats.append(np.stack([np.full_like(positions, row), positions, is_pvc], 1).astype(np.int32))
        lengths = dict(zip(records, map(len, signals)))
        if len({*lengths.values()}) > 1:
            short = min(lengths, key=lengths.__getitem__)
            raise ValueError(
                f"record {short} is cut short: it has {lengths[short]:,} samples, and others of {part} more"
            )
        yield f"{part}_signals", np.stack(signals)
        rows = np.concatenate(beats)
        yield f"{part}_beats", rows[order(row.tobytes() for row in rows)]


def _from_npz(paths: list[Path]) -> Arrays:
    held = np.load(paths[0], allow_pickle=False)

    def record(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        positions = held[f"r_{name}"]
        return held[f"sig_{name}"], positions, np.isin(positions, held[f"pvc_{name}"])

    yield from _beats(record)


def _from_physionet(paths: list[Path]) -> Arrays:
    files = {path.name: path for path in paths}

    def record(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        try:
            signal = first_channel(files[f"{name}.dat"].read_bytes())
            positions, kinds = annotations(files[f"{name}.atr"].read_bytes())
        except (ValueError, IndexError):
            folder = files[f"{name}.dat"].parent
            raise ValueError(
                f"{name}.dat or {name}.atr in {folder} is damaged or cut short: fetch both again"
            ) from None
        is_beat = np.isin(kinds, _BEATS)
        return signal, positions[is_beat], kinds[is_beat] == _PVC

    yield from _beats(record)


def first_channel(data: bytes) -> np.ndarray:
    """The first of two channels in WFDB's format 212, int16: of three bytes the first, and half of the second above."""
    triples = np.frombuffer(data, np.uint8).reshape(-1, 3).astype(np.int16)
    values = triples[:, 0] | (triples[:, 1] & 15) << 8
    return np.where(values > 2047, values - 4096, values).astype(np.int16)


def annotations(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Positions and kinds in an annotation file of the MIT format, int32 both.

    A word has the kind in its upper 6 bits and the steps since the one before in the lower 10. Some kinds are none:
    a skip is followed by more steps, text by its bytes, and three describe the annotation before.
    """
    words = np.frombuffer(data, "<u2").tolist()
    found, at, i = [], 0, 0
    while i < len(words) and words[i]:
        kind, low = words[i] >> 10, words[i] & 1023
        i += 1
        if kind == _SKIP:
            more = words[i] << 16 | words[i + 1]
            at += more - (more >> 31 << 32)
            i += 2
        elif kind == _AUX:
            i += (low + 1) // 2
        elif kind not in (_NUM, _SUB, _CHN):
            at += low
            found.append((at, kind))
    positions, kinds = np.array(found, np.int32).reshape(-1, 2).T
    return positions, kinds


MITDB12 = DataSet(
    name="mitdb12",
    licence="ODC-By 1.0",
    source="Moody and Mark 2001, MIT-BIH Arrhythmia Database, 12 of 48 records; https://physionet.org/content/mitdb",
    forms=(
        Form(
            (Original("mitdb12.npz", "ce90a431d4b3498cd765c9b4f91538ef5b3c5b2a9267682cc7306b2aeeb17d0c"),),
            _from_npz,
        ),
        Form(
            tuple(
                Original(f"{record}.{ending}", url=f"{_MITDB}/{record}.{ending}")
                for records in RECORDS.values()
                for record in records
                for ending in ("dat", "atr")
            ),
            _from_physionet,
        ),
    ),
    bytes=15_910_000,
    sha256=(
        ("train_signals", "e1202388b2e864a6ba2f8db43b47be0e4099a397deb49fcbe99061c765ae6452"),
        ("train_beats", "cebcfa328a360081bb442a3137a73604f7e0d73fb5c9bf72cca68bcfd336e4b4"),
        ("validation_signals", "e7ef275fe1b962f35ada64779caaab143f15ef7908acde6496b7ebb17c5cee39"),
        ("validation_beats", "82ee708f4f4c0ace5b51fa4768aceeb342a4b769beb5901b58a557e80c8f215e"),
        ("test_signals", "f0390ffd37030c08a461332af69ec6b73c27933c48f4ea66b92596b3d0d48dae"),
        ("test_beats", "6dc1d68a980fab67b48cb5e7286fc58b2136a0e0f9d6b24208a78a4ae4c29d44"),
    ),
)
