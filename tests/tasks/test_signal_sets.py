"""Audio and heart beats, from small originals made here in every form, and the tasks on them."""

import hashlib
import io
import itertools
import lzma
import wave

import numpy as np
import pytest
from made_originals import same, write_tar
from made_set import fails

import tasks
from tasks._datasets import SETS, heart, speech, store

RNG = np.random.default_rng(0)


def wav(samples, rate=8000, channels=1):
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setparams((channels, 2, rate, 0, "NONE", ""))
        file.writeframes(np.asarray(samples, "<i2").tobytes())
    return out.getvalue()


def test_fsdd_is_the_same_from_an_archive_and_a_clone(tmp_path):
    clips = {
        f"recordings/{digit}_theo_{i}.wav": RNG.integers(-32768, 32768, size=50 + i)
        for digit, i in itertools.product((0, 9), (0, 4, 5, 49))
    }
    files = {name: wav(samples) for name, samples in clips.items()}
    archive = write_tar(tmp_path / "a.tar.gz", {f"fsdd-1.0.10/{name}": data for name, data in files.items()})
    (tmp_path / "recordings").mkdir()
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    packed, _, clone = SETS["fsdd"].forms
    assert {file.name for file in clone.files} >= set(files)
    assert len(clone.files) == 3000
    arrays = same(packed.arrays([archive]), clone.arrays([tmp_path / name for name in sorted(files)]))
    for part, numbers in (("test", (0, 4)), ("train", (5, 49))):
        flat, starts = arrays[f"{part}_samples"], arrays[f"{part}_starts"]
        found = [
            (flat[a:b].tolist(), int(k)) for (a, b), k in zip(itertools.pairwise(starts), arrays[f"{part}_labels"])
        ]
        expected = [(clips[f"recordings/{d}_theo_{i}.wav"].tolist(), d) for d in (0, 9) for i in numbers]
        assert sorted(found) == sorted(expected)


@pytest.mark.parametrize("data", [wav([1], rate=16000), wav([1, 2], channels=2), b"RIFF", b""])
def test_recording_of_another_kind(tmp_path, data):
    archive = write_tar(tmp_path / "a.tar.gz", {"recordings/1_theo_7.wav": data})
    with pytest.raises(
        ValueError, match=r"recordings/1_theo_7.wav is (no wav file|not of one channel, 16 bit and 8000 Hz)"
    ):
        dict(SETS["fsdd"].forms[0].arrays([archive]))


def test_fsdd_examples(arrays_are):
    samples = RNG.integers(-3000, 3000, size=30).astype(np.int16)
    arrays_are(
        {"test_samples": samples, "test_starts": np.array([0, 4, 30]), "test_labels": np.array([3, 8], np.uint8)}
    )
    task = tasks.get("fsdd")(length=10)
    batch = task.examples("test", np.array([0, 1]))
    np.testing.assert_allclose(batch["inputs"][0, :, 0], [*samples[:4] / 1995, *6 * [0]], rtol=1e-6)
    np.testing.assert_allclose(batch["inputs"][1, :, 0], samples[4:14] / 1995, rtol=1e-6)
    assert batch["lengths"].tolist() == task.example_lengths("test", np.array([0, 1])).tolist() == [4, 10]
    assert batch["targets"].tolist() == [3, 8]


def test_mu_law_is_its_own_inverse_within_its_steps():
    x = np.linspace(-1, 1, 2001)
    again = speech.from_mu_law(speech.mu_law(x))
    # A step of the logarithmic scale: its width grows as 1 / 255 + |x| does.
    assert np.all(np.abs(again - x) < np.log(256) / 255 * (1 / 255 + np.abs(x)) * 1.03)
    np.testing.assert_array_equal(speech.mu_law(speech.from_mu_law(np.arange(256))), np.arange(256))


def small_commands():
    """Names of clips of a few speakers."""
    speakers = [f"{i:08x}" for i in range(60)]
    names = [f"{word}/{s}_nohash_0.wav" for s in speakers for word in ("yes", "go")]
    names += [f"_unknown_/two_{s}_nohash_1.wav.wav" for s in speakers] + [f"_silence_/{i}.wav" for i in range(20)]
    return names


def test_commands_are_split_by_speaker(tmp_path):
    names = small_commands()
    codes = RNG.integers(256, size=(len(names), 8000), dtype=np.uint8)
    labels = [speech.COMMANDS.index(name.split("/")[0]) for name in names]
    (tmp_path / "x.xz").write_bytes(lzma.compress(codes.tobytes(), preset=0))
    np.savez(tmp_path / "m.npz", labels=np.array(labels, np.uint8), classes=speech.COMMANDS, names=names)
    arrays = dict(SETS["speech_commands_test_8k"].forms[0].arrays([tmp_path / "x.xz", tmp_path / "m.npz"]))
    at = {code.tobytes(): name for code, name in zip(codes, names)}
    seen, all_names = {}, []
    for part in ("train", "validation", "test"):
        for clip, label in zip(arrays[f"{part}_clips"], arrays[f"{part}_labels"]):
            name = at[clip.tobytes()]
            all_names.append(name)
            assert speech.COMMANDS[label] == name.split("/")[0]
            if "nohash" in name:
                speaker = name.split("/")[1].removeprefix("two_")[:8]
                assert seen.setdefault(speaker, part) == part
    assert sorted(all_names) == sorted(names)
    assert set(seen.values()) == {"train", "validation", "test"}


def test_commands_at_16_khz_are_halved(tmp_path):
    t = np.arange(16000) / 16000
    tone = lambda hertz: np.round(12000 * np.sin(2 * np.pi * hertz * t))  # noqa: E731
    files = {
        "./yes/00000001_nohash_0.wav": wav(tone(500), 16000),
        "./no/00000001_nohash_0.wav": wav(tone(6000), 16000),  # which 8 kHz can not hold
        "./_silence_/1.wav": wav(tone(300)[:9000], 16000),
        "./README.md": b"",
    }
    archive = write_tar(tmp_path / "a.tar.gz", files)
    arrays = dict(SETS["speech_commands_test_8k"].forms[1].arrays([archive]))
    clips = np.concatenate([arrays[f"{part}_clips"] for part in ("train", "validation", "test")])
    labels = np.concatenate([arrays[f"{part}_labels"] for part in ("train", "validation", "test")])
    heard = {speech.COMMANDS[label]: speech.from_mu_law(clip) for clip, label in zip(clips, labels)}
    middle = slice(100, 4000)
    np.testing.assert_allclose(heard["yes"][middle], tone(500)[::2][middle] / 32768, atol=0.012)
    assert np.abs(heard["no"][middle]).max() < 0.02
    assert np.abs(heard["_silence_"][4600:]).max() < 0.001


def test_speech_commands_examples(arrays_are):
    codes = RNG.integers(256, size=(3, 8000), dtype=np.uint8)
    arrays_are({"test_clips": codes, "test_labels": np.array([2, 0, 11], np.uint8)})
    batch = tasks.get("speech_commands")().examples("test", np.array([2]))
    t = codes[2] / 127.5 - 1
    expected = np.sign(t) * (256 ** np.abs(t) - 1) / 255 / tasks.get("speech_commands").deviation
    np.testing.assert_allclose(batch["inputs"][0, :, 0], expected, rtol=1e-5)
    assert batch["targets"].tolist() == [11]


def test_full_speech_commands_come_by_the_builder(arrays_are, tmp_path):
    words = ["down", "_unknown_", "yes", "_silence_"]
    order = ["down", "go", "left", "no", "off", "on", "right", "stop", "up", "yes", "_silence_", "_unknown_"]
    sounds = [RNG.integers(-32768, 32768, size=n) for n in (16000, 9000, 15999, 16000)]
    examples = [{"audio": sound, "label": order.index(word)} for sound, word in zip(sounds, words)]
    with store.writing(tmp_path / "arrays", {"version": 1}) as writer:
        for name, array in SETS["speech_commands_16k"].from_builder(lambda part: examples):
            writer.save(name, array)
    arrays = store.read(tmp_path / "arrays", 1)
    for name, about in store.manifest(tmp_path / "arrays", 1)["files"].items():
        assert hashlib.sha256((tmp_path / "arrays" / name).read_bytes()).hexdigest() == about["sha256"]
    arrays_are(arrays)
    task = tasks.get("speech_commands_16k")()
    batch = task.examples("train", np.arange(4))
    assert [speech.COMMANDS[k] for k in batch["targets"]] == words
    for heard, sound in zip(batch["inputs"][..., 0], sounds):
        np.testing.assert_allclose(heard[: len(sound)], sound / 32768 / task.deviation, rtol=1e-5)
        assert not heard[len(sound) :].any()


def test_rows_that_are_too_few(tmp_path):
    with pytest.raises(ValueError, match=r"expected an array of shape \(3, 2\), and got 8 bytes"):  # noqa: SIM117
        with store.writing(tmp_path / "arrays", {}) as writer:
            writer.save("x", store.Rows([np.zeros(2), np.zeros(2)], (3, 2), np.int16))
    assert not list(tmp_path.iterdir())


def in_212(first, second):
    """Two channels in format 212: three bytes for a sample of both, 12 bits each."""
    out = bytearray()
    for x, y in zip((first % 4096).tolist(), (second % 4096).tolist()):
        out += bytes([x & 255, x >> 8 | (y >> 8) << 4, y & 255])
    return bytes(out)


def in_mit_format(marks):
    """Annotations (position, kind), some far apart, with a text and a number that belong to one of them."""
    words, at = [], 0
    for position, kind in marks:
        step = position - at
        if step > 1023:
            words += [59 << 10, step >> 16, step & 0xFFFF]
            step = 0
        words += [kind << 10 | step]
        at = position
        words += [60 << 10 | 3, 63 << 10 | 3, 0x4E28, 0x00FF]  # a number, and three bytes of text
    return np.array([*words, 0], "<u2").tobytes()


def test_beats_are_split_by_record_and_the_same_in_both_forms(tmp_path):
    held, truth, paths = {}, {}, []
    for part, records in heart.RECORDS.items():
        for row, record in enumerate(records):
            signal = RNG.integers(-2048, 2048, size=90000).astype(np.int16)
            marks = np.sort(RNG.choice(90000, size=8, replace=False)).astype(np.int32)
            kinds = [28, 1, 5, 38, 14, 1, 5, 1]  # 28 and 14 are a change of rhythm and of noise, no beats
            held[f"sig_{record}"] = signal
            held[f"r_{record}"] = marks[[1, 2, 3, 5, 6, 7]]
            held[f"pvc_{record}"] = marks[[2, 6]]
            truth |= {(part, row, int(p)): int(k == 5) for p, k in zip(marks, kinds) if k not in (28, 14)}
            paths += [tmp_path / f"{record}.dat", tmp_path / f"{record}.atr"]
            paths[-2].write_bytes(in_212(signal, RNG.integers(-2048, 2048, size=90000)))
            paths[-1].write_bytes(in_mit_format(zip(marks.tolist(), kinds)))
    np.savez(tmp_path / "a.npz", **held)
    packed, published = SETS["mitdb12"].forms
    assert {path.name for path in paths} == {file.name for file in published.files}
    arrays = same(packed.arrays([tmp_path / "a.npz"]), published.arrays(paths))
    found = {(part, *map(int, b[:2])): int(b[2]) for part in heart.RECORDS for b in arrays[f"{part}_beats"]}
    assert found == truth
    for part, records in heart.RECORDS.items():
        np.testing.assert_array_equal(arrays[f"{part}_signals"], [held[f"sig_{record}"] for record in records])
    assert len({record for records in heart.RECORDS.values() for record in records}) == 12


@pytest.mark.parametrize(
    ("file", "length", "said"),
    [
        ("104.dat", 299, "104.dat or 104.atr in {} is damaged or cut short: fetch both again"),
        ("104.dat", 297, "record 104 is cut short: it has 99 samples, and others of train more"),
        ("102.atr", 3, "102.dat or 102.atr in {} is damaged or cut short: fetch both again"),
        ("106.atr", 4, "106.dat or 106.atr in {} is damaged or cut short: fetch both again"),  # within a skip
        ("100.dat", 300, "wrong checksum: train_signals of mitdb12"),  # whole, and not what was published
    ],
)
def test_records_that_are_cut_short_are_refused(tmp_path, capsys, file, length, said):
    for original in SETS["mitdb12"].forms[1].files:
        is_signal = original.name.endswith("dat")
        data = in_212(*RNG.integers(-2048, 2048, size=(2, 100))) if is_signal else in_mit_format([(2000, 5)])
        (tmp_path / original.name).write_bytes(data[:length] if original.name == file else data)
    line = fails(capsys, "ecg", "--source", str(tmp_path), "--data_dir", str(tmp_path / "data"))
    assert said.format(tmp_path) in line
    assert [path.name for path in (tmp_path / "data" / "mitdb12").iterdir()] == ["lock"]


@pytest.mark.parametrize("part", [0.3, 0.9])
def test_archive_that_is_cut_short_is_refused(tmp_path, capsys, part):
    clips = {f"recordings/{digit}_theo_{i}.wav": wav(RNG.integers(9999, size=900)) for digit in (0, 9) for i in (0, 5)}
    path = write_tar(tmp_path / "v1.0.10.tar.gz", clips)
    data = path.read_bytes()
    path.write_bytes(data[: int(part * len(data))])
    line = fails(capsys, "fsdd", "--source", str(tmp_path), "--data_dir", str(tmp_path / "data"))
    assert "the originals of fsdd can not be read: " in line
    assert [path.name for path in (tmp_path / "data" / "fsdd").iterdir()] == ["lock"]


def test_beat_is_in_the_middle_of_its_window(arrays_are):
    signal = RNG.integers(0, 2048, size=(2, 50)).astype(np.int16)
    arrays_are({"test_signals": signal, "test_beats": np.array([[1, 20, 1], [0, 2, 0], [1, 49, 0]], np.int32)})
    batch = tasks.get("ecg")(length=8).examples("test", np.arange(3))
    for window, (row, at, label), target in zip(batch["inputs"], [(1, 20, 1), (0, 2, 0), (1, 49, 0)], batch["targets"]):
        mv = [(int(signal[row, min(max(at + k, 0), 49)]) - 1024) / 200 for k in range(-4, 4)]
        np.testing.assert_allclose(window[:, 0], np.array(mv) - np.mean(mv), atol=1e-5)
        assert target == label
