import pathlib

import pytest
from train_helpers import assert_refused, main

from mru.training.commands import Asked, asked
from mru.training.help import COMMANDS
from mru.training.messages import UserError


def paths(*names):
    return [pathlib.Path(name) for name in names]


CASES = {
    "check": (["--check", "a"], Asked("--check", paths("a"), {})),
    "an equals sign": (["--check=a"], Asked("--check", paths("a"), {})),
    "plot": (["--plot", "a"], Asked("--plot", paths("a"), {})),
    "plot several": (["--plot", "a", "b", "c", "--out", "d"], Asked("--plot", paths("a", "b", "c"), {"--out": "d"})),
    "plot, out first": (["--out", "d", "--plot", "a", "b"], Asked("--plot", paths("a", "b"), {"--out": "d"})),
    "robustness": (["--robustness", "a", "--draws", "7"], Asked("--robustness", paths("a"), {"--draws": "7"})),
    "robustness, bits": (["--robustness", "a", "--bits", "4"], Asked("--robustness", paths("a"), {"--bits": "4"})),
    "training": (["--config", "x.yaml", "--train.steps", "5"], None),
    "nothing": ([], None),
    "help": (["--plot", "a", "--help"], None),
}


@pytest.mark.parametrize(("argv", "expected"), CASES.values(), ids=CASES)
def test_what_is_asked(argv, expected):
    assert asked(argv) == expected


@pytest.mark.parametrize(
    "argv",
    [
        ["--check"],
        ["--check", "a", "b"],
        ["--check", "a", "--out", "b"],
        ["--check", "a", "--check", "b"],
        ["--check", "a", "--plot", "b"],
        ["--check", "a", "--train.steps", "5"],
        ["--plot"],
        ["--plot", "--out", "a"],
        ["--plot", "a", "--out"],
        ["--plot", "a", "--out", "b", "--out", "c"],
        ["--plot", "a", "--draws", "5"],
        ["--robustness", "a", "b"],
        ["--robustness", "a", "--draws"],
    ],
    ids=" ".join,
)
def test_what_does_not_fit(argv):
    name = next(word for word in argv if word in COMMANDS)
    with pytest.raises(UserError, match=f"^{name}: expected .*, and no other: train.py {name} WORKDIR"):
        asked(argv)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_folder_that_is_no_run(name, tmp_path):
    for folder, parts in ((tmp_path / "none", ["No such file"]), (tmp_path, ["it has none of config.yaml"])):
        code, said = main(name, folder)
        assert_refused(code, said, [name, "allowed: the folder of a run", *parts])


@pytest.mark.parametrize("draws", ["0", "-1", "x", "1.5", "1000000000000", "10001"])
def test_draws_out_of_range(draws, tmp_path):
    code, said = main("--robustness", tmp_path, f"--draws={draws}")
    assert_refused(code, said, [f"--draws = {draws}", "an integer from 1 to 10,000"])


@pytest.mark.parametrize("bits", ["1", "25", "x"])
def test_bits_out_of_range(bits, tmp_path):
    code, said = main("--robustness", tmp_path, f"--bits={bits}")
    assert_refused(code, said, [f"--bits = {bits}", "an integer from 2 to 24"])


def test_help_names_them(capsys):
    with pytest.raises(SystemExit):
        main("--help")
    assert {*COMMANDS} <= set(capsys.readouterr().out.split())
