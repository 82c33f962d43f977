"""IMDB reviews, tiny Shakespeare, and pairs of papers of the ACL Anthology Network."""

import csv
import gzip
import json
import lzma
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tasks._datasets.base import Arrays, DataSet, Form, joined, order
from tasks._datasets.originals import Original
from tasks._datasets.progress import steps


def _reviews(part: str, texts: list[bytes], labels: list[int]) -> Arrays:
    rows = order(text + bytes([label]) for text, label in zip(texts, labels))
    yield from zip((f"{part}_bytes", f"{part}_starts"), joined([texts[row] for row in rows]))
    yield f"{part}_labels", np.array(labels, np.uint8)[rows]


def _from_lines(paths: list[Path]) -> Arrays:
    """From a line of JSON for each review."""
    for part, path in zip(("train", "test"), paths):
        texts, labels = [], []
        with lzma.open(path, "rt", encoding="utf-8", newline="\n") as lines:
            for line in steps(lines, f"reading {part}", "review", 25_000):
                review = json.loads(line)
                texts.append(review["text"].encode())
                labels.append(review["label"])
        yield from _reviews(part, texts, labels)


def _from_archive(paths: list[Path]) -> Arrays:
    """From the archive of the authors: PART/CLASS/*.txt, of which the folder `unsup` has no class."""
    found: dict[str, tuple[list[bytes], list[int]]] = {"train": ([], []), "test": ([], [])}
    with tarfile.open(paths[0]) as archive:
        for member in steps(archive, "reading", "file", 100_000):
            *_, part, label, name = ("", "", *member.name.split("/"))
            if part in found and label in ("neg", "pos") and name.endswith(".txt"):
                found[part][0].append(archive.extractfile(member).read())
                found[part][1].append(int(label == "pos"))
    for part, (texts, labels) in found.items():
        yield from _reviews(part, texts, labels)


def _from_builder(examples: Callable[[str], Iterable[dict[str, Any]]]) -> Arrays:
    for part in ("train", "test"):
        found = [(example["text"], int(example["label"])) for example in steps(examples(part), part, "review")]
        yield from _reviews(part, [text for text, _ in found], [label for _, label in found])


IMDB = DataSet(
    name="imdb",
    licence="none stated; asks for citation",
    source="Maas et al. 2011, Large Movie Review Dataset v1.0; https://ai.stanford.edu/~amaas/data/sentiment",
    forms=(
        Form(
            (
                Original(
                    "aclImdb_v1.tar.gz",
                    "c40f74a18d3b61f90feba1e17730e0d38e8b97c05fde7008942e91923d1658fe",
                    "https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz",
                ),
            ),
            _from_archive,
        ),
        Form(
            (
                Original("imdb_train.jsonl.xz", "36a3375f955979af16f2200b484232acebe8aa34ab1d472aa58669fa299db3d0"),
                Original("imdb_test.jsonl.xz", "9b25028d40e5296ad2e3af915e82545578718d0aadfb460ab1bc9306f492900b"),
            ),
            _from_lines,
        ),
    ),
    bytes=66_000_000,
    builder="imdb_reviews",
    from_builder=_from_builder,
)

# Every character of tiny Shakespeare, in the order of their codes: a token is the place of its character.
CHARACTERS = "\n !$&',-.3:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def tokens_of(text: str, characters: str = CHARACTERS, what: str = "the text") -> np.ndarray:
    """The tokens of a text, uint8 `(len(text),)`: the places of its characters.

    Args:
        text: The text.
        characters: All that it may have, at most 256.
        what: What a message calls the text.

    Raises:
        ValueError: It has another character.
    """
    strange = sorted(set(text) - set(characters))
    if strange:
        raise ValueError(f"{what} has {strange[0]!r}, which is none of the {len(characters)} characters")
    return np.array([characters.index(c) for c in text], np.uint8)


def _from_text(paths: list[Path]) -> Arrays:
    data = paths[0].read_bytes()
    text = (gzip.decompress(data) if paths[0].suffix == ".gz" else data).decode()
    yield "tokens", tokens_of(text)


def _from_parts(examples: Callable[[str], Iterable[dict[str, Any]]]) -> Arrays:
    """The builder cuts the text in three, in order, each its one example."""
    parts = ("train", "validation", "test")
    yield "tokens", tokens_of("".join(example["text"].decode() for part in parts for example in examples(part)))


TINYSHAKESPEARE = DataSet(
    name="tinyshakespeare",
    licence="public domain",
    source="Karpathy 2015; https://github.com/karpathy/char-rnn",
    forms=(
        Form(
            (
                Original(
                    "input.txt",
                    "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
                    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
                ),
            ),
            _from_text,
        ),
        Form(
            (Original("input.txt.gz", "bed00f18e91cda6838950656f0a95e07e0f4dbe8649a4b959f7602a7e53fbc6e"),),
            _from_text,
        ),
    ),
    bytes=1_120_000,
    builder="tiny_shakespeare",
    from_builder=_from_parts,
)

# Bytes of a document that are kept, as many as Long Range Arena reads.
DOCUMENT = 4000


def _pairs(path: Path) -> Iterator[tuple[int, str, str, bytes, bytes]]:
    """Class, names and texts of each line of a tab-separated file."""
    csv.field_size_limit(1 << 30)  # a field is a whole paper
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.reader(file, delimiter="\t")
        try:
            for label, first, second, text, other in rows:
                if not (text and other and float(label) in (0, 1)):
                    raise ValueError
                yield int(float(label)), first, second, text.encode()[:DOCUMENT], other.encode()[:DOCUMENT]
        except (ValueError, csv.Error):
            raise ValueError(
                f"{path}, line {rows.line_num}: expected class (0 or 1), name, name, text, text, with tabs between"
            ) from None


def _from_tables(paths: list[Path]) -> Arrays:
    """Every paper once, `documents` and `starts`; of each part `PART_pairs` int32 `(n, 2)` of them and the classes."""
    numbers: dict[str, int] = {}
    texts: list[bytes] = []
    for part, path in zip(("train", "validation", "test"), paths):
        pairs, labels = [], []
        for label, first, second, text, other in steps(_pairs(path), f"reading {part}", "pair"):
            for name, document in ((first, text), (second, other)):
                if numbers.setdefault(name, len(texts)) == len(texts):
                    texts.append(document)
            pairs.append((numbers[first], numbers[second]))
            labels.append(label)
        yield f"{part}_pairs", np.array(pairs, np.int32).reshape(-1, 2)
        yield f"{part}_labels", np.array(labels, np.uint8)
    yield from zip(("documents", "starts"), joined(texts))


AAN = DataSet(
    name="aan",
    licence="of the ACL Anthology Network: on request, for research",
    source=(
        "Radev et al. 2013, pairs of Long Range Arena (Tay et al. 2020); they were in lra_release.gz of "
        "https://github.com/google-research/long-range-arena, which is no longer public: who has a copy finds them in "
        "lra_release/tsv_data"
    ),
    forms=(Form(tuple(Original(f"new_aan_pairs.{part}.tsv") for part in ("train", "eval", "test")), _from_tables),),
    bytes=90_000_000,
)
