"""Sets that are fetched: by a download, or by a builder of tensorflow-datasets."""

import errno
import http.server
import sys
import threading
import types
from pathlib import Path

import numpy as np
import pytest
from made_set import DATA, NUMBERS, SHA256, fails, left_in, made

from tasks import prepare
from tasks._datasets import SETS, originals, preparation
from tasks._datasets.originals import Original


class Server(http.server.BaseHTTPRequestHandler):
    """Serves `DATA`; of the first answer only `cut` bytes."""

    cut = None
    data = DATA

    def do_GET(self):
        wanted = self.headers.get("Range")
        type(self).ranges.append(wanted)
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        if start >= len(self.data):
            self.send_error(416)
            return
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(self.data) - start))
        self.end_headers()
        self.wfile.write(self.data[start : type(self).cut])
        type(self).cut = None

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    """A server of one's own, and its address."""
    handler = type("Handler", (Server,), {"ranges": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield handler, f"http://127.0.0.1:{running.server_address[1]}/numbers.gz"
        running.shutdown()
        thread.join()


def test_download_that_breaks_off_is_gone_on_with(use, data_dir, capsys, server):
    handler, url = server
    use(made(url=url))
    handler.cut = 1000
    line = fails(capsys, "made_set", "--data_dir", data_dir)
    assert f"{url} can not be downloaded: the connection was lost; run the command again to go on" in line
    assert (Path(data_dir) / "made_set" / "downloads" / "numbers.gz.part").stat().st_size == 1000
    prepare.main(["made_set", "--data_dir", data_dir])
    assert handler.ranges == [None, "bytes=1000-"]
    np.testing.assert_array_equal(SETS["made_set"].load(data_dir, "x")["numbers"], NUMBERS)
    assert left_in(data_dir) == ["arrays"]  # what was downloaded is not needed any more


def test_interrupted_download_is_gone_on_with(use, data_dir, capsys, server, monkeypatch):
    handler, url = server
    use(made(url=url))
    with monkeypatch.context() as patch:

        def interrupt(*args):
            raise KeyboardInterrupt

        patch.setattr(originals, "_CHUNK", 100)
        patch.setattr(originals.os, "fsync", interrupt)
        assert "interrupted; nothing half-written stays" in fails(capsys, "made_set", "--data_dir", data_dir)
    assert left_in(data_dir) == ["downloads"]
    assert preparation.state(SETS["made_set"], data_dir).said == "missing"
    prepare.main(["made_set", "--data_dir", data_dir])
    assert handler.ranges == [None, f"bytes={len(DATA)}-"]
    np.testing.assert_array_equal(SETS["made_set"].load(data_dir, "x")["numbers"], NUMBERS)


def test_complete_part_is_not_fetched_again(use, data_dir, server, tmp_path):
    _, url = server
    folder = tmp_path / "downloads"
    folder.mkdir()
    (folder / "numbers.gz.part").write_bytes(DATA)
    assert originals.download(Original("numbers.gz", SHA256, url), folder).read_bytes() == DATA


def test_download_of_something_else_is_thrown_away(use, data_dir, capsys, server):
    handler, url = server
    use(made(url=url))
    handler.data = DATA + b"more"
    assert "wrong checksum" in fails(capsys, "made_set", "--data_dir", data_dir)
    assert not list((Path(data_dir) / "made_set" / "downloads").iterdir())


def test_damaged_download_without_a_checksum_is_fetched_anew(use, data_dir, capsys, server):
    handler, url = server
    use(made(sha256="", url=url))
    handler.data = b"<html>sign in first</html>"
    line = fails(capsys, "made_set", "--data_dir", data_dir)
    assert "the originals of made_set can not be read: Not a gzipped file" in line
    assert "run the command again" in line
    assert left_in(data_dir) == []
    handler.data = DATA
    prepare.main(["made_set", "--data_dir", data_dir])
    np.testing.assert_array_equal(SETS["made_set"].load(data_dir, "x")["numbers"], NUMBERS)


def test_no_network_is_one_line(use, data_dir, capsys):
    use(made(url="http://127.0.0.1:9/numbers.gz"))
    line = fails(capsys, "made_set", "--data_dir", data_dir)
    assert "http://127.0.0.1:9/numbers.gz can not be downloaded: " in line
    assert "--source" in line


def test_full_disk_during_a_download(use, data_dir, capsys, server, monkeypatch):
    use(made(url=server[1]))

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(originals.os, "fsync", full)
    assert "no space left for made_set" in fails(capsys, "made_set", "--data_dir", data_dir)
    assert left_in(data_dir) == ["downloads"]  # to be gone on with


@pytest.fixture
def builder(use, monkeypatch):
    """A builder of tensorflow-datasets that is none, for the set, and what it was asked for."""
    asked = {"fails": None}

    def made_by_builder(name, data_dir, file_format):
        asked.update(name=name, format=file_format)
        return types.SimpleNamespace(
            info=types.SimpleNamespace(features=("n",)),
            download_and_prepare=download_and_prepare,
            as_data_source=lambda part, decoders: [{"n": 4}, {"n": 2}],
        )

    def download_and_prepare(download_dir):
        if asked["fails"] is not None:
            raise asked["fails"]

    def from_builder(examples):
        yield "numbers", np.array([example["n"] for example in examples("train")])

    tfds = types.SimpleNamespace(builder=made_by_builder, disable_progress_bar=lambda: None)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", tfds)
    monkeypatch.setattr(preparation.importlib.util, "find_spec", lambda name: object())
    use(made(builder="made", from_builder=from_builder))
    return asked


def test_builder_is_used_where_there_is_tensorflow(builder, data_dir):
    prepare.prepare("made_set", data_dir)
    assert (builder["name"], builder["format"]) == ("made", "array_record")
    assert SETS["made_set"].load(data_dir, "x")["numbers"].tolist() == [4, 2]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("no network\nlong story"), "tensorflow-datasets can not prepare made: no network (or fetch"),
        (OSError(errno.ENOSPC, "No space left on device"), "no space left for made_set"),
    ],
)
def test_builder_that_fails_is_one_line(builder, data_dir, capsys, error, said):
    builder["fails"] = error
    assert said in fails(capsys, "made_set", "--data_dir", data_dir)
    assert left_in(data_dir) == []
