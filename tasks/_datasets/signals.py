"""Free Spoken Digit Dataset, Speech Commands at 8 kHz, and records of the MIT-BIH Arrhythmia Database."""

import hashlib
import io
import lzma
import re
import tarfile
import wave
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from scipy.signal import resample_poly

from tasks._datasets.base import Arrays, DataSet, Form, joined, order
from tasks._datasets.originals import Original
from tasks._datasets.progress import steps

SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
_RECORDING = re.compile(r"(?:.*/)?recordings/(\d)_(\w+)_(\d+)\.wav")


def _samples(name: str, data: bytes, rate: int = 8000) -> bytes:
    """The samples of a wav file of one channel and 16 bit, at that rate in Hz."""
    try:
        with wave.open(io.BytesIO(data)) as file:
            if (file.getnchannels(), file.getsampwidth(), file.getframerate()) != (1, 2, rate):
                raise ValueError(f"{name} is not of one channel, 16 bit and {rate} Hz")
            return file.readframes(file.getnframes())
    except (wave.Error, EOFError) as error:
        raise ValueError(f"{name} is no wav file: {error}") from None


def _digits(recordings: Iterator[tuple[str, bytes]]) -> Arrays:
    parts: dict[str, list[tuple[bytes, int]]] = {"train": [], "test": []}
    for name, data in steps(recordings, "reading", "recording", 3000):
        if found := _RECORDING.fullmatch(name):
            digit, _, number = found.groups()
            parts["test" if int(number) < 5 else "train"].append((_samples(name, data), int(digit)))
    for part, clips in parts.items():
        rows = order(samples + bytes([digit]) for samples, digit in clips)
        yield from zip((f"{part}_samples", f"{part}_starts"), joined([clips[row][0] for row in rows], np.dtype("<i2")))
        yield f"{part}_labels", np.array([clips[row][1] for row in rows], np.uint8)


def _members(paths: list[Path]) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(paths[0]) as archive:
        for member in archive:
            if member.name.endswith(".wav"):
                yield member.name, archive.extractfile(member).read()


FSDD = DataSet(
    name="fsdd",
    licence="CC BY-SA 4.0",
    source="Jakobovski et al., version 1.0.10; https://github.com/Jakobovski/free-spoken-digit-dataset",
    forms=(
        Form(
            (Original("fsdd_recordings.tar.xz", "a44acf51a42c7daf58d099b0ba555049ef84241daf038a9e7241bd84e8b63125"),),
            lambda paths: _digits(_members(paths)),
        ),
        Form(
            (
                Original(
                    "v1.0.10.tar.gz",
                    url="https://github.com/Jakobovski/free-spoken-digit-dataset/archive/refs/tags/v1.0.10.tar.gz",
                ),
            ),
            lambda paths: _digits(_members(paths)),
        ),
        Form(  # a clone of the repository
            tuple(Original(f"recordings/{d}_{s}_{i}.wav") for d in range(10) for s in SPEAKERS for i in range(50)),
            lambda paths: _digits((path.as_posix(), path.read_bytes()) for path in paths),
        ),
    ),
    bytes=21_000_000,
    sha256=(
        ("train_samples", "0dfbafa976412e57ea42053dd7d818f408005e3b3724f8c3f55e7401ac696000"),
        ("train_labels", "7addde96faa05f620a5e809976ecf487b5a0063d717926efe8a37bae14173a0a"),
        ("test_samples", "6a5357f94164572fd74bcefae3d80df729d0092f50b636786125294c4dc62987"),
        ("test_labels", "e4f867760860c2c407de2077b042a1394fa237c68cabe02ea32f531d7e966af9"),
    ),
)

COMMANDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go", "_unknown_", "_silence_")
# Of ten groups of speakers; the other seven are for training.
_TEST, _VALIDATION = (0, 1), (9,)


def group(name: str, groups: int = 10) -> int:
    """The group of a clip, the same for all clips of a speaker, by a checksum: about as many fall in each.

    The speaker is in the name, as in `yes/68dd409e_nohash_0.wav`. Silence has none: each clip counts as one of its own.
    """
    found = re.search(r"([0-9a-f]{8})_nohash", name)
    speaker = found[1] if found else name
    return int.from_bytes(hashlib.sha256(speaker.encode()).digest(), "big") % groups


def _split_by_speaker(names: list[str], clips: np.ndarray, labels: np.ndarray) -> Arrays:
    rows = order(name.encode() for name in names)
    groups = np.array([group(name) for name in names])[rows]
    held_out = np.isin(groups, _TEST), np.isin(groups, _VALIDATION)
    for part, here in (("train", ~held_out[0] & ~held_out[1]), ("validation", held_out[1]), ("test", held_out[0])):
        yield f"{part}_clips", clips[rows[here]]
        yield f"{part}_labels", labels[rows[here]].astype(np.uint8)


def _from_mu_law(paths: list[Path]) -> Arrays:
    clips = np.frombuffer(lzma.decompress(paths[0].read_bytes()), np.uint8).reshape(-1, 8000)
    about = np.load(paths[1], allow_pickle=False)
    if tuple(about["classes"]) != COMMANDS or len(about["labels"]) != len(clips):
        raise ValueError(f"{paths[1]} does not belong to {paths[0]}: it has other classes or another number of clips")
    yield from _split_by_speaker([str(name) for name in about["names"]], clips, about["labels"])


def _from_16_khz(paths: list[Path]) -> Arrays:
    """From the official archive: half the rate, then 8 bits. Other filters than ours make other last bits."""
    names, clips, labels = [], [], []
    for name, data in steps(_members(paths), "reading", "clip", 4890):
        *_, command, file = name.split("/")
        if command in COMMANDS:
            samples = np.frombuffer(_samples(name, data, 16000), "<i2")[:16000] / 32768
            halved = resample_poly(np.pad(samples, (0, 16000 - len(samples))), 1, 2)
            names.append(f"{command}/{file}")
            clips.append(mu_law(halved))
            labels.append(COMMANDS.index(command))
    yield from _split_by_speaker(names, np.stack(clips), np.array(labels))


def mu_law(x: np.ndarray) -> np.ndarray:
    """Numbers in [-1, 1] as 8 bits, finer near 0: the logarithmic scale of ITU-T G.711 with mu = 255, in uint8."""
    scaled = np.sign(x) * np.log1p(255 * np.minimum(np.abs(x), 1)) / np.log(256)
    return np.rint((scaled + 1) * 127.5).astype(np.uint8)


def from_mu_law(codes: np.ndarray) -> np.ndarray:
    """What `mu_law` stood for, float32 in [-1, 1]."""
    return _EXPANDED[codes]


_SCALED = np.arange(256) / 127.5 - 1
_EXPANDED = (np.sign(_SCALED) * (256 ** np.abs(_SCALED) - 1) / 255).astype(np.float32)

SPEECH_COMMANDS = DataSet(
    name="speech_commands_test_8k",
    licence="CC BY 4.0",
    source=(
        "Warden 2018, the official test set of version 0.02, here at 8 kHz in 8 bits; "
        "https://download.tensorflow.org/data/speech_commands_test_set_v0.02.tar.gz"
    ),
    forms=(
        Form(
            (
                Original("sc_test_8k_mulaw.xz", "0c8d082ce1afa1329d01a525f04613fbbfa87bf3103ee123d9f69b76bfe7aeb1"),
                Original("sc_test_meta.npz", "59794baa58cd56aadabb28f7aff19c8ffcda187c82d787b9b3230d1413108442"),
            ),
            _from_mu_law,
        ),
        Form(
            (
                Original(
                    "speech_commands_test_set_v0.02.tar.gz",
                    "cc2a00c1147c2254e9be3fa0f779d8c17421dc349b86366567a8edfa9acd51df",
                    "https://download.tensorflow.org/data/speech_commands_test_set_v0.02.tar.gz",
                ),
            ),
            _from_16_khz,
        ),
    ),
    bytes=39_130_000,
)

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
        positions, kinds = annotations(files[f"{name}.atr"].read_bytes())
        is_beat = np.isin(kinds, _BEATS)
        return first_channel(files[f"{name}.dat"].read_bytes()), positions[is_beat], kinds[is_beat] == _PVC

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
