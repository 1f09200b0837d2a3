"""Every public name has an example that runs, and the pages of docs/api say what the docstrings say."""

import doctest
import importlib
import importlib.util
import pkgutil
import re
import sys
from pathlib import Path

import pytest

import manyhop as mh

TOOL = Path(__file__).parents[2] / "tools" / "api_pages.py"


def api_pages():
    spec = importlib.util.spec_from_file_location("api_pages", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def examples():
    """All docstrings with examples; a module whose package is not installed stands for itself."""
    found = []
    for name in ["manyhop", *(m.name for m in pkgutil.walk_packages(mh.__path__, "manyhop."))]:
        if name.split(".")[-1] in ("_core", "__main__"):
            continue
        try:
            module = importlib.import_module(name)
        except (ImportError, mh.Error) as error:  # torch, transformers, matplotlib may be absent
            found.append(pytest.param(str(error), id=name))
            continue
        found += [pytest.param(test, id=test.name) for test in doctest.DocTestFinder().find(module, name) if test.examples]
    return found


@pytest.mark.parametrize("test", examples())
def test_example(test):
    if isinstance(test, str):
        pytest.skip(test)
    source = "".join(e.source for e in test.examples)
    for line in re.findall(r"^import (.*)$", source, re.M):
        for name in line.split(","):
            pytest.importorskip(name.split()[0].split(".")[0])
    if "mh.plot" in source:
        pytest.importorskip("matplotlib").use("Agg")
    said = []
    found = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test, out=said.append)
    assert found.failed == 0, "".join(said)
    if "mh.plot" in source:
        sys.modules["matplotlib.pyplot"].close("all")


def test_every_public_name_has_an_example():
    tool = api_pages()
    for _, names in tool.pages().values():
        for name, thing in names.items():
            assert ">>>" in (thing.__doc__ or ""), f"{name}: no example"
            for member, plain in tool.members(thing).items():
                assert ">>>" in plain.__doc__, f"{name}.{member}: no example"
            if isinstance(thing, type) and "forward" in dir(thing):
                assert "forward" in tool.members(thing), f"{name}.forward: no docstring"


def test_pages_are_those_of_the_docstrings():
    tool = api_pages()
    if not tool.FOLDER.exists():
        pytest.skip(f"no {tool.FOLDER}")
    assert tool.stale() == [], "run tools/api_pages.py"


def test_coming_from():
    """The examples of the page for newcomers, one session from top to bottom."""
    page = TOOL.parents[1] / "docs" / "coming_from.md"
    pytest.importorskip("scipy")
    text = "\n".join("" if line.startswith("```") else line for line in page.read_text().splitlines())
    test = doctest.DocTestParser().get_doctest(text, {}, page.name, str(page), 0)
    assert len(test.examples) > 10
    said = []
    assert doctest.DocTestRunner().run(test, out=said.append).failed == 0, "".join(said)
