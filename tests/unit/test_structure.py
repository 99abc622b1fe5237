"""The core reads downwards, in pieces that a reader can keep in mind."""

import ast
import re
import symtable

from places import CORE

import modelkit_assets

TEXT = CORE.read_text(encoding="utf-8")
TREE = ast.parse(TEXT)
DRIVERS = sorted((CORE.parent / "drivers").glob("*.py"))

MOST_LINES = {"class": 300, "function": 45}
# what there is: who must have more takes it from elsewhere, or says why here
MOST_LINES |= {"modelkit_assets.py": 6140, "s3.py": 640, "http.py": 340}
MOST_LINES |= {"az.py": 275, "gcs.py": 270}

# ------------------------------------------------------------------------- chapters


def find_chapters():
    """Return the number of the line that each chapter begins with."""
    heads = enumerate(TEXT.splitlines(), 1)
    found = {
        match[1]: number
        for number, line in heads
        if (match := re.fullmatch(r"# -{10,} (.+)", line))
    }
    return {"head": 1, **found}


CHAPTERS = find_chapters()


def get_chapter(line):
    """Return the number of the chapter that a line is in."""
    return sum(begin <= line for begin in CHAPTERS.values()) - 1


def find_names(statements):
    """Yield each name that statements of the module bind, and the line."""
    for one in statements:
        if isinstance(one, (ast.If, ast.Try)):
            handlers = [
                part for each in getattr(one, "handlers", ()) for part in each.body
            ]
            yield from find_names([*one.body, *handlers, *one.orelse])
        elif isinstance(one, (ast.FunctionDef, ast.ClassDef)):
            yield one.name, one.lineno
        else:
            for node in ast.walk(one):
                if isinstance(node, ast.alias):
                    yield (node.asname or node.name).partition(".")[0], one.lineno
                elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                    yield node.id, one.lineno


def find_uses(table):
    """Yield each name of the module that functions and classes use, and the line."""
    for scope in table.get_children():
        for symbol in scope.get_symbols():
            if symbol.is_global() and symbol.is_referenced():
                yield symbol.get_name(), scope.get_lineno()
        yield from find_uses(scope)


def find_annotated():
    """Yield each name in an annotation, and the line."""
    for node in ast.walk(TREE):
        arguments = isinstance(node, (ast.arg, ast.AnnAssign))
        annotation = node.annotation if arguments else getattr(node, "returns", None)
        for name in ast.walk(annotation) if annotation else ():
            if isinstance(name, ast.Name):
                yield name.id, name.lineno


def test_each_chapter_uses_only_names_of_those_above_it():
    assert len(CHAPTERS) > 10
    defined = {}
    for name, line in find_names(TREE.body):
        defined.setdefault(name, get_chapter(line))
    uses = {*find_uses(symtable.symtable(TEXT, str(CORE), "exec")), *find_annotated()}
    assert len(uses) > 1000
    names = list(CHAPTERS)
    wrong = [
        f"line {line}, in {names[get_chapter(line)]!r}: {name}, of {names[at]!r}"
        for name, line in sorted(uses, key=lambda use: use[1])
        if (at := defined.get(name, 0)) > get_chapter(line)
    ]
    assert wrong == [], "\n".join(wrong)


def test_a_chapter_that_uses_what_is_below_it_would_be_seen():
    text = "from __future__ import annotations\n"
    text += "def f(a: B):\n    c = 1\n    return lambda: (c, d, len)\n"
    uses = sorted(find_uses(symtable.symtable(text, "", "exec")))
    assert uses == [("d", 4), ("len", 4)]


def test_each_command_is_declared_where_its_function_stands():
    lines = dict(find_names(TREE.body))
    runs = {name[5:] for name in lines if name.startswith("_run_")}
    assert len(runs) > 5
    assert runs == modelkit_assets._COMMANDS.keys()


# ---------------------------------------------------------------------------- sizes


def count_lines(node):
    """Return how long a class or function is, without overloads: these are types."""
    overloads = sum(
        one.end_lineno - one.decorator_list[0].lineno + 2  # and the line between
        for one in getattr(node, "body", ())
        if [ast.unparse(name) for name in getattr(one, "decorator_list", ())]
        == ["overload"]
    )
    return node.end_lineno - node.lineno + 1 - overloads


def test_no_class_and_no_function_is_too_long():
    over = []
    for node in ast.walk(TREE):
        kind = "class" if isinstance(node, ast.ClassDef) else "function"
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            size = count_lines(node)
            if size > MOST_LINES[kind]:
                over.append(f"the {kind} {node.name} has {size} lines")
    assert over == [], "\n".join(over)


def test_no_file_grows():
    for path in (CORE, *DRIVERS):
        lines = path.read_text(encoding="utf-8").count("\n")
        assert lines <= MOST_LINES[path.name], path.name


# ----------------------------------------------------------------------- what is public


def test_what_one_sees_is_what_is_public():
    assert dir(modelkit_assets) == sorted(modelkit_assets.__all__)
    assert len(set(modelkit_assets.__all__)) == len(modelkit_assets.__all__)
    for name in modelkit_assets.__all__:
        assert name[0] != "_"
        assert getattr(modelkit_assets, name).__doc__


def test_each_public_method_says_what_it_does():
    for name in modelkit_assets.__all__:
        value = getattr(modelkit_assets, name)
        if isinstance(value, type) and not issubclass(value, Exception):
            for method, function in vars(value).items():
                public = method[0] != "_" and callable(
                    getattr(function, "__func__", function)
                )
                assert not public or function.__doc__, f"{name}.{method}"


def test_a_driver_knows_nothing_of_the_core():
    assert len(DRIVERS) >= 3
    for path in DRIVERS:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [one.name for one in getattr(node, "names", ())]
            module = getattr(node, "module", None)
            assert "modelkit_assets" not in map(str, (*names, module)), path.name
