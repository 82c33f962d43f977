"""The registry of cells and of tasks, with packages as they lie on a user's disk."""

import sys

import pytest

from mru.registry import Registry


class Base:
    def __init_subclass__(cls, name=None):
        if name is not None:
            registry.add(name, cls)


registry = None  # of the test that runs


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "registry", Registry("cell", "test.cells"))
    yield
    for name in [name for name in sys.modules if name.startswith("other_")]:
        del sys.modules[name]


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Puts a package with one module and its entry points on the path, as an installer does."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "registered", sys.modules[__name__])

    def install(package, code, **entry_points):
        (tmp_path / f"{package}.py").write_text(f"from registered import Base\n{code}\n")
        info = tmp_path / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        lines = [f"{name} = {value}" for name, value in entry_points.items()]
        (info / "entry_points.txt").write_text("\n".join(["[test.cells]", *lines, ""]))

    return install


def define(module, name="leaky"):
    """A class `Leaky` as if it stood in a module."""
    return type("Leaky", (Base,), {"__module__": module, "__qualname__": "Leaky"}, name=name)


def test_a_class_is_found_by_its_name():
    leaky = define("here")
    define("here", name="bouncy")
    assert registry.get("leaky") is leaky
    assert registry.names() == ["bouncy", "leaky"]


def test_an_unknown_name_lists_the_known():
    define("here")
    define("here", name="bouncy")
    with pytest.raises(ValueError, match="unknown cell 'leak'; known cells: bouncy, leaky"):
        registry.get("leak")


def test_a_taken_name_is_refused_with_both_places():
    first = define("one.file")
    with pytest.raises(ValueError, match=r"cell name 'leaky' is taken by one\.file:Leaky; other\.file:Leaky needs"):
        define("other.file")
    assert registry.get("leaky") is first


def test_the_same_class_defined_again_as_notebooks_do_takes_its_own_place():
    define("notebook")
    again = define("notebook")
    assert registry.get("leaky") is again


def test_another_packages_class_is_imported_when_it_is_asked_for(install):
    install("other_cells", "class Bouncy(Base, name='bouncy'):\n    pass", bouncy="other_cells:Bouncy")
    define("here")
    assert registry.names() == ["bouncy", "leaky"]
    registry.get("leaky")
    assert "other_cells" not in sys.modules  # nothing is imported to list names or to find others
    found = registry.get("bouncy")
    assert found is sys.modules["other_cells"].Bouncy
    assert registry.get("bouncy") is found


def test_a_package_may_name_a_class_where_it_is_not_defined(install):
    install("other_inner", "class Bouncy(Base, name='bouncy'):\n    pass")
    install("other_outer", "from other_inner import Bouncy", bouncy="other_outer:Bouncy")
    assert registry.get("bouncy").__module__ == "other_inner"


def test_two_packages_with_one_name_are_refused(install):
    for package in ("other_one", "other_two"):
        install(package, "class Bouncy(Base, name='bouncy'):\n    pass", bouncy=f"{package}:Bouncy")
    with pytest.raises(ValueError, match="'bouncy' is given by") as caught:
        registry.get("bouncy")
    for package in ("other_one", "other_two"):
        assert f"{package}:Bouncy (of {package})" in str(caught.value)
    assert not {"other_one", "other_two"} & set(sys.modules)


def test_a_package_can_not_take_a_name_of_ours(install):
    leaky = define("here")
    install("other_cells", "class Mine(Base, name='leaky'):\n    pass", leaky="other_cells:Mine")
    with pytest.raises(ValueError, match=r"the package other_cells .* is taken by here:Leaky; other_cells:Mine needs"):
        registry.get("leaky")
    assert registry._classes["leaky"] is leaky


def test_an_entry_point_to_a_class_of_another_name_does_not_shadow(install):
    define("here")
    install("other_cells", "class Mine(Base, name='mine'):\n    pass", leaky="other_cells:Mine")
    with pytest.raises(ValueError, match=r"defined with name='leaky'; that name is taken by here:Leaky"):
        registry.get("leaky")


@pytest.mark.parametrize(
    ("code", "value", "message"),
    [
        ("raise RuntimeError('no GPU')", "other_cells:Mine", "can not be imported: RuntimeError: no GPU"),
        ("", "other_cells:Mine", "can not be imported: AttributeError: .*Mine"),
        ("import nothing_of_this_name", "other_cells:Mine", "can not be imported: ModuleNotFoundError: .*nothing_of"),
        ("class Mine(Base):\n    pass", "other_cells:Mine", "must be a class that is defined with name='mine'"),
        ("Mine = 3", "other_cells:Mine", "must be a class that is defined with name='mine'"),
    ],
)
def test_a_broken_package_is_named(install, code, value, message):
    install("other_cells", code, mine=value)
    with pytest.raises(
        ValueError, match=f"other_cells:Mine, which the package other_cells gives as cell 'mine',.*{message}"
    ):
        registry.get("mine")
    define("here")
    assert registry.get("leaky").__module__ == "here"  # a broken package is in nobody else's way


def test_a_package_listed_twice_is_one(install, tmp_path):
    """An editable install may be found through two folders of the path."""
    install("other_cells", "class Bouncy(Base, name='bouncy'):\n    pass", bouncy="other_cells:Bouncy")
    twin = tmp_path / "twin"
    (twin / "other_cells-1.0.dist-info").mkdir(parents=True)
    for file in (tmp_path / "other_cells-1.0.dist-info").iterdir():
        (twin / "other_cells-1.0.dist-info" / file.name).write_text(file.read_text())
    sys.path.insert(0, str(twin))
    try:
        assert registry.get("bouncy").__name__ == "Bouncy"
    finally:
        sys.path.remove(str(twin))
