"""Small originals for the tests of data sets."""

import io
import tarfile

import numpy as np


def write_tar(path, members):
    """An archive of files, by their names."""
    with tarfile.open(path, "w:gz") as archive:
        for name, data in members.items():
            about = tarfile.TarInfo(name)
            about.size = len(data)
            archive.addfile(about, io.BytesIO(data))
    return path


def same(first, second):
    """The arrays of two forms, which are bit for bit the same."""
    first, second = dict(first), dict(second)
    assert first.keys() == second.keys()
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name])
        assert array.dtype == second[name].dtype
    return first


def pairs_of(arrays, part, what):
    """All examples of a part with their classes, sorted."""
    return sorted((x.tobytes(), int(y)) for x, y in zip(arrays[f"{part}_{what}"], arrays[f"{part}_labels"]))
