import pathlib
import sys

import jax
import pytest
from train_helpers import TINY, assert_refused, config_file, end, main, parse, spawn

import tasks
import train


def test_values_come_from_the_file_then_the_command_line(here):
    text = (
        "--model.cells bmru,lru+s5 --train.steps=40 --optimizer.lr 0.5 --model.options.s5.blocks 2 --workdir elsewhere"
    )
    ramp = ["--train.schedules.epsilon.begin", "0.5"]
    config = parse(["--config", str(config_file(here)), *text.split(), *ramp])
    assert config.model.blocks == ["bmru", "lru+s5"]
    assert (config.model.width, config.train.steps, config.optimizer.lr) == (8, 40, 0.5)
    assert config.model.options == {"s5": {"blocks": 2}}
    assert config.train.schedules == {"epsilon": {"start": 1.0, "end": 0.0, "begin": 0.5, "finish": 0.6}}
    assert (config.task.length, config.task.retention, config.workdir) == (20, (), pathlib.Path("elsewhere"))
    assert parse(["--task.name", "digits"]).workdir == pathlib.Path("runs/digits")
    assert parse(["--config", str(config_file(here))]).workdir == pathlib.Path("runs/tiny")


def test_lists_on_the_command_line(here):
    config = parse(["--config", str(config_file(here)), "--model.cells", "[lru, pmru]", "--task.retention", "[20, 30]"])
    assert config.model.blocks == ["lru", "pmru"]
    assert config.task.retention == (20, 30)


def yaml_of(old="", new="", extra=""):
    assert old in TINY
    return (TINY.replace(old, new) if old else TINY) + extra


DISTRIBUTED = ["--distributed.num_processes", "2", "--distributed.coordinator_address"]
BISTABLE = yaml_of("[pmru]", "[bmru]")
# Name: (arguments after --config tiny.yaml, the text of that file, what the message must hold).
MISTAKES = {
    "unknown field in the file": ([], yaml_of("width: 8", "widht: 8"), ["model.widht = 8", "model.width"]),
    "unknown field": (["--train.stepz", "8"], TINY, ["train.stepz = 8", "mean --train.steps?"]),
    "unknown field with =": (["--train.stepz=8"], TINY, ["train.stepz = 8", "mean --train.steps?"]),
    "abbreviated field": (["--train.batch", "8"], TINY, ["train.batch = 8", "train.batch_size"]),
    "unknown section": (["--modle.width", "8"], TINY, ["modle.width = 8", "model", "optimizer"]),
    "unknown section in the file": ([], yaml_of(extra="modle: {width: 8}\n"), ["modle.width = 8", "model"]),
    "unknown key at the top": ([], yaml_of(extra="lr: 3\n"), ["lr = 3", "optimizer"]),
    "key given twice": ([], yaml_of(extra="train: {steps: 30}\n"), ["tiny.yaml", "train is given twice"]),
    "not an integer in the file": ([], yaml_of("width: 8", "width: eight"), ["model.width = eight", "integer > 0"]),
    "not an integer": (["--train.steps", "many"], TINY, ["train.steps = many", "integer > 0"]),
    "a fraction": (["--train.steps", "10.5"], TINY, ["train.steps = 10.5", "integer > 0"]),
    "not a number": (["--optimizer.lr", "fast"], TINY, ["optimizer.lr = fast", "number > 0"]),
    "not a truth value": (["--model.remat", "maybe"], TINY, ["model.remat = maybe", "true or false"]),
    "null where none may be": ([], yaml_of("width: 8", "width: null"), ["model.width = null", "integer > 0"]),
    "negative size": (["--model.width", "-8"], TINY, ["model.width = -8", "integer > 0"]),
    "no state": (["--model.state_size=0"], TINY, ["model.state_size = 0", "integer > 0"]),
    "no steps": (["--train.steps", "0"], TINY, ["train.steps = 0", "integer > 0"]),
    "no batch": (["--train.batch_size", "0"], TINY, ["train.batch_size = 0", "integer > 0"]),
    "no patience": (["--train.patience", "0"], TINY, ["train.patience = 0", "integer > 0 or null"]),
    "negative seed": (["--train.seed", "-1"], TINY, ["train.seed = -1", "integer >= 0"]),
    "huge seed": (["--train.seed", "4294967296"], TINY, ["train.seed = 4294967296", "2^32"]),
    "unknown cell": (["--model.cells", "bmru,gpt"], TINY, ["model.cells = gpt", "alpha_cmru, attention, bmru"]),
    "empty cell": (["--model.cells", "bmru,"], TINY, ["model.cells = ''", "alpha_cmru, attention, bmru"]),
    "half a pair of cells": (["--model.cells", "bmru+"], TINY, ["model.cells = ''", "alpha_cmru, attention, bmru"]),
    "no cells": (["--model.cells", "[]"], TINY, ["model.cells = []", "at least one"]),
    "cells are numbers": ([], yaml_of("[pmru]", "[1, 2]"), ["model.cells = [1, 2]", "text"]),
    "unknown task": (["--task.name", "copyfirst"], TINY, ["task.name = 'copyfirst'", "copy_first", "digits"]),
    "unknown task in the file": ([], yaml_of("copy_first", "copyfirst"), ["task.name = 'copyfirst'", "copy_first"]),
    "task name is a list": ([], yaml_of("copy_first", "[copy_first]"), ["task.name", "copy_first", "digits"]),
    "unknown cell option": (
        ["--model.cells", "lru", "--model.options", "{lru: {rmax: 0.9}}"],
        TINY,
        ["model.options.lru.rmax = 0.9", "r_min, r_max"],
    ),
    "option of a cell that is not there": (
        ["--model.options", "{lru: {r_max: 0.9}}"],
        TINY,
        ["model.options.lru", "r_max", "allowed: pmru"],
    ),
    "option that the model sets": (["--model.options.pmru.dtype", "x"], TINY, ["model.options.pmru.dtype = x"]),
    "options are no mapping": (["--model.options", "5"], TINY, ["model.options = 5", "mapping"]),
    "odd S5 state": (["--model.cells", "s5", "--model.state_size", "5"], TINY, ["state_size", "multiple of 2", "5"]),
    "LRU radius above 1": (
        ["--model.cells", "lru", "--model.options.lru.r_max", "1.5"],
        TINY,
        ["r_max", "1.5", "r_max <= 1"],
    ),
    "LRU radius is a text": (["--model.cells", "lru", "--model.options.lru.r_max", "high"], TINY, ["r_max", "high"]),
    "S5 rule": (
        ["--model.cells", "s5", "--model.options.s5.discretization", "euler"],
        TINY,
        ["discretization", "'euler'", "bilinear"],
    ),
    "pooling": (["--model.pooling", "max"], TINY, ["model.pooling = max", "mean, last, none"]),
    "pooling of another kind": (["--model.pooling", "none"], TINY, ["model.pooling = none", "last", "copy_first"]),
    "dropout above 1": (["--model.dropout", "1.5"], TINY, ["model.dropout = 1.5", "below 1"]),
    "odd positions": (["--model.positions", "3"], TINY, ["model.positions = 3", "even"]),
    "endless expansion": (["--model.expansion", ".inf"], TINY, ["model.expansion = inf", "finite"]),
    "dtype": (["--model.dtype", "float16"], TINY, ["model.dtype = float16", "float32, bfloat16"]),
    "method": (["--model.method", "magic"], TINY, ["model.method = magic", "sequential"]),
    "bidirectional retention": (
        ["--model.bidirectional", "true", "--task.retention", "[30]"],
        TINY,
        ["model.bidirectional = True", "task.retention"],
    ),
    "no dispatch": (["--train.steps_per_dispatch", "0"], TINY, ["train.steps_per_dispatch = 0", "integer > 0 or null"]),
    "dispatch of several lengths": (
        ["--train.buckets", "2", "--train.steps_per_dispatch", "5"],
        TINY,
        ["train.steps_per_dispatch = 5", "1 or null with several buckets"],
    ),
    "section left out": (["--steps", "100"], TINY, ["steps = 100", "did you mean --train.steps?"]),
    "a field by another name": (["--train.precision", "half"], TINY, ["train.precision = half", "mean --model.dtype?"]),
    "a field by its meaning": (["--learning_rate", "1"], TINY, ["learning_rate = 1", "did you mean --optimizer.lr?"]),
    "part of a name": (["--batch", "3"], TINY, ["batch = 3", "did you mean --train.batch_size?"]),
    "nothing like it": (["--xyzzy", "3"], TINY, ["xyzzy = 3 is not a field, allowed: task, model"]),
    "two files": (["--config", "other.yaml"], TINY, ["--config is given twice", "other.yaml"]),
    "no run to start from": (["--init_from", "nowhere"], TINY, ["init_from = nowhere", "holds no checkpoints"]),
    "mesh that does not fit": (["--mesh.data", "3"], TINY, ["mesh = data 3 x seq 1 x model 1", "a product of"]),
    "no mesh": (["--mesh.data", "0"], TINY, ["mesh.data = 0", "-1"]),
    "negative model axis": (["--mesh.model", "-1"], TINY, ["mesh.model = -1", "at least 1"]),
    "time axis": (["--mesh.seq", "7"], TINY, ["mesh.seq = 7", "divisor of the"]),
    "lr 0": (["--optimizer.lr", "0"], TINY, ["optimizer.lr = 0", "number > 0"]),
    "lr negative": (["--optimizer.lr", "-1"], TINY, ["optimizer.lr = -1", "number > 0"]),
    "lr below float32": (["--optimizer.lr", "1e-50"], TINY, ["optimizer.lr = 1e-50", "number > 0"]),
    "lr nan": (["--optimizer.lr", ".nan"], TINY, ["optimizer.lr = .nan", "number > 0"]),
    "lr by another name": (["--optimizer.lr", "inf"], TINY, ["optimizer.lr = inf", "number > 0"]),
    "lr infinite": (["--optimizer.lr", ".inf"], TINY, ["optimizer.lr = inf", "finite"]),
    "clip": (["--optimizer.clip", "0"], TINY, ["optimizer.clip = 0", "number > 0 or null"]),
    "warm-up": (["--optimizer.warmup", "2"], TINY, ["optimizer.warmup = 2", "to 1"]),
    "moment": (["--optimizer.b2", "1.0"], TINY, ["optimizer.b2 = 1.0", "below"]),
    "part of distributed": (
        ["--distributed.num_processes", "2"],
        TINY,
        ["distributed.coordinator_address = None", "together"],
    ),
    "process number": (
        [*DISTRIBUTED, "127.0.0.1:1", "--distributed.process_id", "2"],
        TINY,
        ["distributed.process_id = 2", "num_processes = 2"],
    ),
    "address": (
        [*DISTRIBUTED, "host", "--distributed.process_id", "0"],
        TINY,
        ["distributed.coordinator_address = host", "HOST:PORT"],
    ),
    "option of another task": ([], yaml_of("length: 20", "cue: 20"), ["task.cue = 20", "task.length"]),
    "option of another task, given": (["--task.cue", "20"], TINY, ["task.cue = 20", "task.length"]),
    "retention without lengths": (
        ["--task.retention", "[1, 2]"],
        "task: {name: digits}\n",
        ["task.retention = (1, 2)", "digits"],
    ),
    "retention of length 0": (["--task.retention", "[0]"], TINY, ["task.retention = (0,)", ">= 1"]),
    "length 0": (["--task.length", "0"], TINY, ["task.length = 0", ">= 1"]),
    "ramp backwards": (
        ["--train.schedules.epsilon", "{begin: 0.8, finish: 0.2}"],
        BISTABLE,
        ["train.schedules.epsilon", "0.8", "0.2", "begin <= finish <= 1"],
    ),
    "ramp after the end": (["--train.schedules.epsilon.finish", "1.5"], BISTABLE, ["epsilon", "1.5", "finish <= 1"]),
    "ramp to nowhere": (["--train.schedules.epsilon.end", ".nan"], BISTABLE, ["epsilon.end = .nan", "a number"]),
    "ramp to a word": (
        ["--train.schedules.epsilon.end", "zero"],
        TINY,
        ["train.schedules.epsilon.end = zero", "a number"],
    ),
    "unknown field of a ramp": (
        ["--train.schedules.epsilon", "{stop: 0.2}"],
        BISTABLE,
        ["train.schedules.epsilon.stop = 0.2", "start, end, begin, finish"],
    ),
    "ramp is a number": (["--train.schedules", "{epsilon: 3}"], TINY, ["train.schedules", "epsilon: 3", "mapping"]),
    "schedule of nothing": (
        ["--train.schedules", "{epsilno: {begin: 0.1}}"],
        BISTABLE,
        ["train.schedules.epsilno", "scalars of this model, epsilon, width"],
    ),
    "schedule of a model without one": (
        ["--train.schedules.epsilon.begin", "0.1"],
        TINY,
        ["train.schedules.epsilon", "which has none"],
    ),
    "schedule without a ramp of its own": (
        ["--train.schedules.width", "{begin: 0.1, end: 0.5}"],
        BISTABLE,
        ["train.schedules.width", "all of start, end, begin, finish"],
    ),
    "missing value": (["--train.steps"], TINY, ["train.steps", "expected one argument"]),
    "two values": (["--train.steps", "10", "20"], TINY, ["20"]),
    "stray word": (["bmru"], TINY, ["bmru", "model", "optimizer"]),
    "no workdir": (["--workdir", ""], TINY, ["workdir = ''", "folder"]),
    "workdir is a number": ([], yaml_of(extra="workdir: 5\n"), ["workdir = 5", "text"]),
    "not YAML": ([], "task: {name: copy_first\nmodel: [", ["tiny.yaml", "not YAML"]),
    "a tab": ([], "task:\n\tname: copy_first\n", ["tiny.yaml", "not YAML"]),
    "a list": ([], "- task\n- model\n", ["tiny.yaml", "mapping"]),
    "one word": ([], "digits\n", ["tiny.yaml", "mapping"]),
    "binary": ([], bytes(range(256)), ["tiny.yaml", "not YAML"]),
    "an impossible date": ([], yaml_of("length: 20", "length: 2001-99-99"), ["task.length = 2001-99-99", "an integer"]),
    "empty": ([], "", ["tiny.yaml", "mapping"]),
    "a dotted key beside its section": (
        [],
        yaml_of(extra="train.steps: 30\n"),
        ["train.steps = 30 in a file", "allowed: train: {steps: ...}"],
    ),
    "a dotted key for its section": ([], "task.name: copy_first\n", ["task.name is missing"]),
    "a dotted key in a section": (
        [],
        yaml_of("width", "options.lru"),
        ["model.options.lru is not a field; did you mean --model.options?"],
    ),
    "a key of Python's": ([], yaml_of("width", "__path__"), ["model.__path__ = 8 is not a"]),
    "an empty unknown section": ([], yaml_of(extra="modle: {}\n"), ["modle = {} is not a field"]),
    "a section given as a field": ([], yaml_of(extra="workdir: {a: 1}\n"), ["workdir = {'a': 1}", "a text"]),
    "a key that is a number": ([], yaml_of("width", "8"), ["tiny.yaml", "a key must be a text, which 8 is not"]),
    "a set": ([], yaml_of("[pmru]", "!!set {pmru}"), ["tiny.yaml", "not YAML of plain data: !!set", "line 2"]),
    "a tag of nothing": ([], yaml_of("8,", "!!int '',"), ["tiny.yaml", "not YAML of plain data: !!int", "line 2"]),
    "a mapping's tag": ([], "task: {name: copy_first}\nmodel: !!map\n", ["not YAML of plain data: !!map"]),
    "a set as an argument": (["--model.options", "{lru: !!set {a}}"], TINY, ["model.options = {lru: !!set {a}}"]),
    "aliases without end": (
        [],
        yaml_of("8,", "[&a0 x, " + ", ".join(f"&a{i + 1} [*a{i}, *a{i}]" for i in range(40)) + "],"),
        ["tiny.yaml", "more than 20,000 values"],
    ),
    "aliases without end as an argument": (
        ["--model.options", "[&a0 x, " + ", ".join(f"&a{i + 1} [*a{i}, *a{i}]" for i in range(40)) + "]"],
        TINY,
        ["model.options = [&a0 x, &a1 [*a0", "allowed: a mapping of names"],
    ),
    "a million characters": (["--model.dtype", "x" * 10**6], TINY, ["model.dtype = xxx", "allowed: float32, bfloat16"]),
    "a long name": ([f"--{'x' * 10**5}", "8"], TINY, ["xxx", "is not a field", "init_from"]),
    "a long key": ([], yaml_of(extra=f"{'x' * 900}: 8\n"), ["xxx", "is not a field", "init_from"]),
    "a long list": (["--model.cells", f"[{'gpt, ' * 9000}]"], TINY, ["model.cells = ['gpt'", "no more than 1,000"]),
    "many digits": (["--train.steps", "9" * 5000], TINY, ["train.steps = 999", "integer > 0"]),
    "colours as an argument": (
        ["--model.pooling", "\x1b[31mred"],
        TINY,
        ["model.pooling = \\x1b[31mred, allowed: mean"],
    ),
    "colours in a name": (["--\x1b[31m.red", "8"], TINY, ["\\x1b[31m.red = 8 is not a field"]),
    "colours in the file": ([], yaml_of("8,", '"\\e[31mred",'), ["model.width = \\x1b[31mred, allowed: an integer"]),
    "colours in a key": ([], yaml_of("width", '"\\e[2J"'), ["model.\\x1b[2J = 8 is not a field"]),
    "a word that runs backwards": (["--task.name", "\u202egpt"], TINY, ["task.name = '\\u202egpt'", "copy_first"]),
    "no UTF-8": (["--workdir", "caf\udce9"], TINY, ["the argument caf\\udce9", "UTF-8"]),
    "NUL": (["--init_from", "a\0b"], TINY, ["the argument a\\x00b", "UTF-8"]),
    "NUL in the file": ([], yaml_of(extra='workdir: "a\\0b"\n'), ["tiny.yaml", "a\\x00b holds a NUL character"]),
    "a long workdir": (["--workdir", "x" * 5000], TINY, ["workdir = xxx", "3,000 bytes", "255"]),
    "a long folder": (["--workdir", f"a/{'é' * 130}/b"], TINY, ["workdir = a/ééé", "3,000 bytes", "255"]),
    "a long source": (["--init_from", "x/" * 2000], TINY, ["init_from = x/x/", "3,000 bytes"]),
    "a long file": (["--config=" + "x" * 5000], "", ["--config is given twice", "xxx"]),
    "config in a config": ([], yaml_of(extra="config: other.yaml\n"), ["config = other.yaml", "--config"]),
    "no task name": ([], yaml_of("name: copy_first, ", ""), ["task.name is missing", "copy_first", "digits"]),
    "no task": ([], "model: {width: 8}\n", ["task.name is missing", "copy_first", "digits"]),
    "section is null": ([], "task: {name: copy_first}\nmodel:\n", ["model", "None", "mapping"]),
    "section is a list": ([], "task: {name: copy_first}\nmodel: [lru]\n", ["model = ['lru']", "mapping"]),
    "section is a word": ([], "task: {name: copy_first}\ntrain: long\n", ["train = 'long'", "mapping"]),
    "almost a task": (["--task.name", "psmist"], TINY, ["task.name = 'psmist'; did you mean psmnist? allowed: adding"]),
    "MNIST is not there": (
        ["--task.data_dir", "nowhere"],
        "task: {name: psmnist}\nmodel: {width: 8, state_size: 4}\n",
        ["nowhere", "tasks.prepare", "task.data_dir"],
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_that_names_the_field_and_the_value(name, here, nothing_compiles):
    arguments, text, parts = MISTAKES[name]
    code, said = main("--config", config_file(here, text), *arguments)
    assert_refused(code, said, parts)
    assert [p.name for p in here.iterdir()] == ["tiny.yaml"]  # no runs/


def test_batch_that_the_devices_can_not_share(here, nothing_compiles, monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 3)
    monkeypatch.setattr(jax, "local_device_count", lambda: 3)
    assert_refused(*main("--config", config_file(here)), ["train.batch_size = 8", "multiple of the 3 devices"])


def test_no_config_and_no_task(here, nothing_compiles):
    assert_refused(*main(), ["task.name is missing", "copy_first", "digits"])
    assert_refused(*main("--config"), ["--config", "expected one argument"])
    assert_refused(*main("--config", "nope.yaml"), ["nope.yaml", "No such file"])
    assert_refused(*main("--config", "x" * 5000), ["--config xxx", "File name too long"])
    assert_refused(*main("--config", "."), ["--config .", "directory"])
    assert not list(here.iterdir())


CANARY = """\
import pathlib
pathlib.Path("executed").touch()
class Thing:
    def __init__(self, *args, **kwargs):
        pathlib.Path("executed").touch()
def call(*args, **kwargs):
    pathlib.Path("executed").touch()
"""
SPECS = [
    "canary.Thing",
    "{class_path: canary.Thing}",
    "{class_path: canary.call, init_args: {command: touch executed}}",
]
PLACES = ["task", "model", "optimizer", "train", "mesh", "distributed"]
INSIDE = {  # where any mapping or value could stand
    "model.cells": "model: {cells: %s}",
    "model.width": "model: {width: %s}",
    "model.options": "model: {options: %s}",
    "model.options.pmru": "model: {options: {pmru: %s}}",
    "model.options.pmru.learn_initial_state": "model: {options: {pmru: {learn_initial_state: [%s]}}}",
    "train.schedules": "train: {schedules: %s}",
    "train.schedules.epsilon": "train: {schedules: {epsilon: %s}}",
    "train.schedules.epsilon.begin": "train: {schedules: {epsilon: {begin: %s}}}",
    "task.length": "task: {name: copy_first, length: %s}",
    "task.retention": "task: {name: copy_first, retention: %s}",
    "workdir": "workdir: %s",
    "init_from": "init_from: %s",
}


@pytest.fixture
def canary(here, nothing_compiles, monkeypatch):
    (here / "canary.py").write_text(CANARY)
    monkeypatch.syspath_prepend(here)
    monkeypatch.setattr(tasks.REGISTRY, "_classes", dict(tasks.REGISTRY._classes))
    yield
    assert "canary" not in sys.modules
    assert not (here / "executed").exists()


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("place", PLACES)
def test_a_section_can_not_run_code(place, spec, here, canary):
    text = "" if place == "task" else "task: {name: copy_first}\n"
    assert_refused(*main("--config", config_file(here, f"{text}{place}: {spec}\n")), [place])
    assert_refused(*main("--config", config_file(here), f"--{place}", spec), [place])
    assert_refused(*main("--config", config_file(here), f"--{place}.class_path", "canary.Thing"), [place])
    if place == "task":
        assert_refused(*main("--config", config_file(here, f"task: {spec}\n"), "--task.name", "copy_first"), [place])


@pytest.mark.parametrize("spec", SPECS[1:])
@pytest.mark.parametrize("place", INSIDE)
def test_a_value_can_not_run_code(place, spec, here, canary):
    text = ("" if place.startswith("task") else "task: {name: copy_first}\n") + INSIDE[place] % spec
    assert_refused(*main("--config", config_file(here, text)), [place.split(".")[0]])
    if place != "workdir":
        assert_refused(*main("--config", config_file(here), f"--{place}", spec), [place.split(".")[0]])


@pytest.mark.parametrize("name", ["os.system", "canary.Thing", "tasks.digits.Digits"])
def test_a_task_or_cell_is_no_import_path(name, here, canary):
    assert_refused(*main("--config", config_file(here, f"task: {{name: {name}}}\n")), [f"task.name = '{name}'"])
    assert_refused(*main("--task.name", name), [f"task.name = '{name}'"])
    assert_refused(*main("--config", config_file(here), "--model.cells", name), [f"model.cells = {name}"])


@pytest.mark.parametrize(
    "tag", ["!!python/object/apply:canary.call []", "!!python/name:canary.call", "!!python/module:canary"]
)
def test_a_tag_can_not_run_code(tag, here, canary):
    text = f"task: {{name: copy_first}}\nmodel: {tag}\n"
    assert_refused(*main("--config", config_file(here, text)), ["tiny.yaml", "not YAML", "python/"])
    assert_refused(*main("--config", config_file(here), "--model.options", tag), ["model.options"])


def test_the_command_itself(here):
    """What only a process shows: the exit code, stderr with nothing else on it, and --help."""
    config = config_file(here)
    runs = [
        spawn("--config", config, "--model.cells", "bmru,gpt", cwd=here),
        spawn("--help", "--config", config, cwd=here),
    ]
    (code, said), (helped, text) = end(*runs)
    assert_refused(code, said, ["model.cells = gpt", "alpha_cmru, attention, bmru"])
    assert helped == 0
    for part in ("--task.length", "--model.cells", "--optimizer.lr", "--train.steps", "--mesh.data", "--workdir"):
        assert part in text
    assert "Time steps T, the one to remember included." in " ".join(text.split())
    assert "Examples of a step, over all devices." in " ".join(text.split())
    assert [p.name for p in here.iterdir()] == ["tiny.yaml"]


@pytest.mark.parametrize("task", ["digits", "evidence"])
def test_help_shows_the_options_of_the_task(task, capsys, here):
    with pytest.raises(SystemExit) as caught:
        train.main(["--task.name", task, "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert {"digits": "--task.permutation_seed", "evidence": "--task.cue"}[task] in text
    assert "--task.length" not in text


def test_print_config_is_a_config(capsys, here):
    with pytest.raises(SystemExit) as caught:
        train.main(["--config", str(config_file(here)), "--print_config"])
    assert caught.value.code == 0
    printed = here / "printed.yaml"
    printed.write_text(capsys.readouterr().out)
    argv = ["--workdir", "w"]
    assert parse(["--config", str(printed), *argv]) == parse(["--config", str(config_file(here)), *argv])
