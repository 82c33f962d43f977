"""A small set of one file, and what its preparation left or said."""

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest

from tasks import prepare
from tasks._datasets.base import DataSet, Form
from tasks._datasets.originals import Original

NUMBERS = np.arange(5000, dtype=np.int16)
DATA = gzip.compress(NUMBERS.tobytes(), mtime=0)
SHA256 = hashlib.sha256(DATA).hexdigest()


def read(paths):
    yield "numbers", np.frombuffer(gzip.decompress(paths[0].read_bytes()), np.int16)
    yield "few", np.zeros(3)


def made(sha256=SHA256, url="", arrays=read, **options):
    """A small set of one file."""
    form = Form((Original("numbers.gz", sha256, url),), arrays)
    return DataSet("made_set", "none", "nobody; https://example.org", (form,), 10_024, **options)


def left_in(data_dir):
    """What there is of the set on the disk, the lock apart."""
    return sorted(path.name for path in (Path(data_dir) / "made_set").glob("*") if path.name != "lock")


def fails(capsys, *arguments):
    """The one line of the error that the command line prints."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        prepare.main(list(arguments))
    assert caught.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    *bars, line = captured.err.splitlines()
    assert line.startswith("error: ")
    assert not any(bar.startswith("error") or "Traceback" in bar for bar in bars)
    return line
