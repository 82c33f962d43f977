"""Texts, from small originals made here in every form, and the tasks on them."""

import itertools
import json
import lzma

import numpy as np
import pytest
from made_originals import same, write_tar

import tasks
from tasks._datasets import SETS, text

RNG = np.random.default_rng(0)


def test_imdb_is_the_same_in_both_forms(tmp_path):
    made = {part: [(f"{part} réview {i}" * (i + 1), i % 2) for i in range(9)] for part in ("train", "test")}
    members, paths = {"aclImdb/README": b"x", "aclImdb/train/unsup/0_0.txt": b"no class"}, []
    for part, reviews in made.items():
        members |= {
            f"aclImdb/{part}/{('neg', 'pos')[label]}/{i}_7.txt": words.encode()
            for i, (words, label) in enumerate(reviews)
        }
        lines = [json.dumps({"id": i, "label": label, "text": words}) for i, (words, label) in enumerate(reviews[::-1])]
        paths.append(tmp_path / f"{part}.xz")
        paths[-1].write_bytes(lzma.compress("\n".join(lines).encode()))
    archive, lines = SETS["imdb"].forms
    arrays = same(archive.arrays([write_tar(tmp_path / "a.tar.gz", members)]), lines.arrays(paths))
    for part, reviews in made.items():
        flat, starts = arrays[f"{part}_bytes"], arrays[f"{part}_starts"]
        found = [flat[a:b].tobytes().decode() for a, b in itertools.pairwise(starts)]
        assert sorted(zip(found, arrays[f"{part}_labels"].tolist())) == sorted(reviews)


def test_text_is_bytes_padded_and_cut(arrays_are):
    arrays_are(
        {
            "test_bytes": np.frombuffer("a é".encode() + b"\0" + b"12345678", np.uint8),
            "test_starts": np.array([0, 5, 13]),
            "test_labels": np.array([1, 0], np.uint8),
        }
    )
    task = tasks.get("text")(length=6)
    batch = task.examples("test", np.array([1, 0]))
    assert batch["inputs"].tolist() == [[50, 51, 52, 53, 54, 55], [98, 33, 196, 170, 1, 0]]
    assert batch["lengths"].tolist() == task.example_lengths("test", np.array([1, 0])).tolist() == [6, 5]
    assert batch["targets"].tolist() == [0, 1]
    assert batch["inputs"].dtype == batch["lengths"].dtype == np.int32


def test_retrieval_from_tables(arrays_are, tmp_path):
    papers = {"A1": "first paper", "B2": 'a "quoted"\tpaper'.replace("\t", " "), "C3": "x" * 5000}
    made = {
        "train": [(0, "A1", "B2"), (1, "A1", "C3"), (1, "C3", "B2")],
        "eval": [(1, "B2", "A1")],
        "test": [(0, "C3", "A1"), (0, "B2", "B2")],
    }
    paths = []
    for original, (part, rows) in zip(SETS["aan"].forms[0].files, made.items(), strict=True):
        paths.append(tmp_path / original.name)
        assert part in original.name
        lines = [f"{float(label)}\t{a}\t{b}\t{papers[a]}\t{papers[b]}\n" for label, a, b in rows]
        paths[-1].write_text("".join(lines))
    arrays = dict(SETS["aan"].forms[0].arrays(paths))
    assert len(arrays["documents"]) == len(papers["A1"]) + len(papers["B2"]) + 4000  # each once
    arrays_are(arrays)
    task = tasks.get("retrieval")(document=8)
    assert task.sizes == {"train": 3, "validation": 1, "test": 2}
    assert task.length == 17
    for split, part in (("train", "train"), ("validation", "eval"), ("test", "test")):
        batch = task.examples(split, np.arange(task.sizes[split]))
        np.testing.assert_array_equal(task.example_lengths(split, np.arange(task.sizes[split])), batch["lengths"])
        for row, n, label, (truth, a, b) in zip(batch["inputs"], batch["lengths"], batch["targets"], made[part]):
            expected = [c + 1 for c in papers[a].encode()[:8]] + [257] + [c + 1 for c in papers[b].encode()[:8]]
            assert row[:n].tolist() == expected
            assert not row[n:].any()
            assert label == truth
    with pytest.raises(ValueError, match=r"task.document = 4001, allowed for retrieval: an integer from 1 to 4000"):
        tasks.get("retrieval")(document=4001)


@pytest.mark.parametrize(
    "line", ["1.0\tA\tB\ttext\n", "2.0\tA\tB\ttext\ttext\n", "yes\tA\tB\ttext\ttext\n", "1\tA\tB\t\tx\n"]
)
def test_retrieval_table_with_a_bad_line(tmp_path, line):
    paths = [tmp_path / original.name for original in SETS["aan"].forms[0].files]
    for path in paths:
        path.write_text("0.0\tA\tB\tone\ttwo\n" + line)
    with pytest.raises(ValueError, match=r"train.tsv, line 2: expected class \(0 or 1\), name, name, text, text"):
        dict(SETS["aan"].forms[0].arrays(paths))


def test_shakespeare_rows_are_windows_of_the_text(arrays_are):
    text_ = "".join(text.CHARACTERS[i] for i in RNG.integers(65, size=1115394))
    arrays_are({"tokens": text.tokens_of(text_)})
    task = tasks.get("shakespeare")(window=7, windows=3)
    parts = {"train": text_[:1003854], "validation": text_[1003854:1059624], "test": text_[1059624:]}
    for split, part in parts.items():
        indices = np.array([0, 5, task.sizes[split] - 1])
        batch = task.examples(split, indices)
        for index, inputs, targets, reset in zip(indices, batch["inputs"], batch["targets"], batch["reset"]):
            for j in range(3):
                here = slice(7 * j, 7 * j + 7)
                start = index + j * task.sizes["train"] if split == "train" else 21 * index + 7 * j
                assert "".join(task.characters[k] for k in inputs[here]) == part[start : start + 7]
                assert "".join(task.characters[k] for k in targets[here]) == part[start + 1 : start + 8]
                assert reset[here].tolist() == [True] + 6 * [False]
    assert task.sizes["test"] * 21 + 21 + 1 > len(parts["test"])  # no other row would fit
    # Every start of train once an epoch: the last window of the last row ends before validation.
    assert len(parts["train"]) - 7 - 3 < task.sizes["train"] * 3 <= len(parts["train"]) - 7


def test_bits_per_character():
    task = tasks.get("shakespeare")(window=2, windows=1)
    logits, targets = RNG.normal(size=(3, 2, 65)), RNG.integers(65, size=(3, 2))
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = [np.mean([-np.log2(p[i, t, targets[i, t]]) for t in range(2)]) for i in range(3)]
    found = task.metrics(logits.astype(np.float32), {"targets": targets})["bits_per_character"]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_strange_character_is_refused(tmp_path):
    (tmp_path / "input.txt").write_text("häm")
    with pytest.raises(ValueError, match=r"the text has 'ä', which is none of the 65 characters"):
        dict(SETS["tinyshakespeare"].forms[0].arrays([tmp_path / "input.txt"]))
