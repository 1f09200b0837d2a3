#!/usr/bin/env python3
"""Writes docs/api/*.md from the docstrings of the installed package; a test compares them.

    python3 tools/api_pages.py           # wants torch, transformers and matplotlib beside manyhop
    python3 tools/api_pages.py --check   # exit 1 and the names of stale pages
"""

import argparse
import dataclasses
import importlib
import inspect
import re
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "api"
SUBMODULES = ("spectral", "nn", "hf", "plot", "errors")
TITLES = {"graph": "Graphs", "attention": "Attention", "diffusion": "Diffusion", "ppr": "Personalised PageRank",
          "settings": "Threads and memory", "errors": "Errors", "spectral": "Spectra", "nn": "Models", "hf": "Hugging Face",
          "plot": "Pictures", "sparsek": "SparseK"}
SHARED = {"sparsek_attention": "sparsek"}  # files whose names stand on another file's page


def public(module):
    """{full name: object} of a module's __all__, without modules."""
    return {f"{module.__name__}.{name}".replace("manyhop", "mh", 1): getattr(module, name) for name in module.__all__
            if not inspect.ismodule(getattr(module, name))}


def pages():
    """{page: (introduction, {full name: object})}; a name of the package itself goes by the file that holds it."""
    import manyhop

    found = {}
    for name, thing in public(manyhop).items():
        home = thing.__module__.split(".")[-1].lstrip("_")
        home = SHARED.get(home, home)
        if home not in SUBMODULES:
            found.setdefault(home, ("", {}))[1][name] = thing
    for sub in SUBMODULES:
        try:
            module = importlib.import_module(f"manyhop.{sub}")
        except manyhop.Error:
            continue  # its package is not installed here
        found[sub] = (inspect.cleandoc(module.__doc__), public(module))
    return found


def members(thing):
    """{name: object} of what a class and its bases in this package define for callers."""
    if not inspect.isclass(thing) or issubclass(thing, (tuple, dict, BaseException)):
        return {}
    found = {}
    for home in inspect.getmro(thing):
        for name, value in vars(home).items() if home.__module__.startswith("manyhop.") else ():
            plain = value.__func__ if isinstance(value, (classmethod, staticmethod)) else value
            if not name.startswith("_") and (inspect.isfunction(plain) or isinstance(plain, property)) and plain.__doc__:
                found.setdefault(name, plain)
    return found


def signature(thing):
    """Without annotations, which print differently from one Python to the next."""
    if inspect.isclass(thing) and hasattr(thing, "_fields"):
        return "(" + ", ".join(thing._fields) + ")"
    if inspect.isclass(thing) and "__init__" not in vars(thing) and not dataclasses.is_dataclass(thing):
        return ""
    try:
        known = inspect.signature(thing)
    except (TypeError, ValueError):
        return ""
    parameters = [p.replace(annotation=p.empty) for p in known.parameters.values() if p.name not in ("self", "cls")]
    return str(known.replace(parameters=parameters, return_annotation=known.empty))


def markdown(doc):
    """A docstring as Markdown: examples and indented blocks fenced, roles and double backticks made plain."""
    lines = []
    for block in re.split(r"\n\s*\n", inspect.cleandoc(doc)):
        if block.startswith(">>>"):
            block = "\n".join(re.sub(r"\s+# doctest:.*", "", line) for line in block.split("\n"))
            if lines and lines[-1].startswith("```pycon"):
                lines[-1] = lines[-1][:-4] + "\n\n" + block + "\n```"
            else:
                lines.append("```pycon\n" + block + "\n```")
            continue
        block = re.sub(r":(?:func|class|meth|mod):`([^`]+)`", lambda m: f"`{m[1].split('manyhop.')[-1]}`", block)
        block = block.replace("``", "`")
        # `name : meaning` and its indented lines are a list.
        block = re.sub(r"(?m)^(\w+(?:, \w+)*) : ", r"- `\1`: ", block)
        block = re.sub(r"(?m)^Source: ", "\nSource: ", block)
        block = re.sub(r"(?m)^(Cost|Errors): ", r"\n\1: ", block)
        lines.append(re.sub(r"\n{3,}", "\n\n", block).strip("\n"))
    return "\n\n".join(lines)


def page(key, introduction, names):
    text = [f"# {TITLES.get(key, key.capitalize())}"]
    if introduction:
        text.append(markdown(introduction))
    for name, thing in names.items():
        text.append(f"## {name}\n\n```python\n{name}{signature(thing) if callable(thing) else ''}\n```\n\n{markdown(thing.__doc__)}")
        for member, plain in members(thing).items():
            shown = "" if isinstance(plain, property) else signature(plain)
            text.append(f"### {name.split('.')[-1]}.{member}\n\n```python\n.{member}{shown}\n```\n\n{markdown(plain.__doc__)}")
    return "\n\n".join(text) + "\n"


def contents(found):
    text = ["# The Python package, name by name",
            "`import manyhop as mh`. Every example runs in the tests. These pages come from the docstrings: after a change, "
            "`python3 tools/api_pages.py`.", "| page | names |\n|---|---|"]
    rows = [f"| [{TITLES.get(key, key.capitalize())}]({key}.md) | {', '.join(f'`{name}`' for name in names)} |"
            for key, (_, names) in found.items()]
    return "\n\n".join(text) + "\n" + "\n".join(rows) + "\n"


def rendered():
    """{file name: text}"""
    found = pages()
    result = {f"{key}.md": page(key, *given) for key, given in found.items()}
    if all(sub in found for sub in SUBMODULES):
        result["README.md"] = contents(found)
    return result


def stale():
    return [name for name, text in rendered().items()
            if not (FOLDER / name).exists() or (FOLDER / name).read_text(encoding="utf-8") != text]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    if parser.parse_args().check:
        found = stale()
        print("\n".join(found))
        return 1 if found else 0
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in rendered().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
