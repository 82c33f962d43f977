import yaml
from train_helpers import assert_refused, config_file, main, parse

from mru.training import workdir


def test_workdirs_that_can_not_be(here, nothing_compiles, monkeypatch):
    config = config_file(here)
    (here / "file").write_text("mine")
    assert_refused(*main("--config", config, "--workdir", "file"), ["workdir = file", "folder"])
    assert_refused(*main("--config", config, "--workdir", "file/under"), ["workdir = file/under", "folder to write"])
    assert (here / "file").read_text() == "mine"

    def read_only(path, text):  # root, who runs some test machines, could write to any folder
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(workdir, "write", read_only)
    assert_refused(*main("--config", config, "--workdir", "locked"), ["workdir = locked", "Permission denied"])


def test_the_workdir_of_another_run(here, nothing_compiles):
    config = config_file(here)
    (here / "w").mkdir()
    resolved = parse(["--config", str(config), "--workdir", "w"]).resolved
    (here / "w/config.yaml").write_text(yaml.safe_dump(resolved))
    argv = ["--config", config, "--workdir", "w", "--optimizer.lr", "0.5", "--model.cells", "lru"]
    assert_refused(*main(*argv), ["workdir = w", "optimizer.lr = 0.01 (now 0.5)", "['pmru'] (now ['lru'])"])
    # Where it runs may change, what it computes may not.
    moved = {"workdir": "elsewhere", "mesh": {"data": 4}, "distributed": {"process_id": 1}}
    (here / "w/config.yaml").write_text(yaml.safe_dump(resolved | moved))
    assert workdir.earlier(parse(argv[:4])) is not None
    for broken in (b"{", b"\xff\xfe\x00", b"- a\n"):
        (here / "w/config.yaml").write_bytes(broken)
        assert_refused(*main(*argv[:4]), ["workdir = w", "config.yaml, unreadable"])
