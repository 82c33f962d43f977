"""Free Spoken Digit Dataset and Speech Commands."""

import hashlib
import io
import lzma
import re
import tarfile
import wave
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.signal import resample_poly

from tasks._datasets.base import Arrays, DataSet, Form, joined, order
from tasks._datasets.originals import Original
from tasks._datasets.progress import steps
from tasks._datasets.store import Rows

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
        raise ValueError(f"{name} is no wav file: {error or 'it ends too early'}") from None


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

# The order of classes in tensorflow-datasets.
_BUILDER_COMMANDS = ("down", "go", "left", "no", "off", "on", "right", "stop", "up", "yes", "_silence_", "_unknown_")


def _from_commands_builder(examples: Callable[[str], Sequence[dict[str, Any]]]) -> Arrays:
    """In the order of the builder, which is random: 3.2 GB are not shuffled again."""
    numbers = np.array([COMMANDS.index(command) for command in _BUILDER_COMMANDS], np.uint8)
    for part in ("train", "validation", "test"):
        found, labels = examples(part), []

        def clips(found: Sequence[dict[str, Any]] = found, labels: list[int] = labels, part: str = part) -> Any:
            for example in steps(found, f"reading {part}", "clip"):
                labels.append(example["label"])
                clip = np.asarray(example["audio"], np.int16)[:16000]
                yield np.pad(clip, (0, 16000 - len(clip)))

        yield f"{part}_clips", Rows(clips(), (len(found), 16000), np.int16)
        yield f"{part}_labels", numbers[labels]


SPEECH_COMMANDS_16K = DataSet(
    name="speech_commands_16k",
    licence="CC BY 4.0",
    source="Warden 2018, all of version 0.02; https://download.tensorflow.org/data/speech_commands_v0.02.tar.gz",
    forms=(),
    bytes=3_220_000_000,
    builder="speech_commands",
    from_builder=_from_commands_builder,
)
