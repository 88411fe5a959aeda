"""Reads configurations that are programs, without running them: XTuner's Python, and the options in a shell script.

Python is walked as a syntax tree: assignments of literals, names, `dict(...)` and arithmetic count, everything else is
opaque. A shell script is cut into words: assignments are put in place of their names, `--option value` pairs are kept.
"""

from __future__ import annotations

import ast
import operator
import re
import shlex
from collections.abc import Callable, Iterator
from typing import Any

from vramsim.errors import VramsimError

MOST = 10**15
"""Largest number that arithmetic in a configuration may make."""


class _Opaque(Exception):
    """An expression that only running the program would give a value."""


# Python ---------------------------------------------------------------------------------------------------------------


def python_values(text: str) -> dict[str, Any]:
    """Names that a Python configuration assigns at its top level, as far as they can be read off it.

    text : source. [-]   Raises ValueError for text that is no Python.

    >>> python_values("a = 2; a *= 3; model = dict(type=Adam, r=a if a > 4 else 0)")
    {'a': 6, 'model': {'type': 'Adam', 'r': 6}}
    """
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, MemoryError) as error:
        where = f" (line {error.lineno})" if isinstance(error, SyntaxError) else ""
        raise ValueError(f"{getattr(error, 'msg', None) or error}{where}") from None
    names: dict[str, Any] = {}
    _statements(tree.body, names)
    return names


def inherits(text: str) -> bool:
    """Whether a Python configuration builds on other files, which mmengine would run.

    text : source. [-]
    """
    return re.search(r"^\s*(_base_\s*=|with\s+read_base\(\))", text, re.MULTILINE) is not None


def _statements(body: list[ast.stmt], names: dict[str, Any]) -> None:
    for statement in body:
        if isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign):
            _assign(statement, names)
        elif isinstance(statement, ast.If):
            try:
                chosen = statement.body if _value(statement.test, names) else statement.orelse
            except _Opaque:
                continue
            _statements(chosen, names)


def _assign(statement: ast.Assign | ast.AnnAssign | ast.AugAssign, names: dict[str, Any]) -> None:
    targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
    try:
        if isinstance(statement, ast.AugAssign):
            value = _arithmetic(statement.op, _value(statement.target, names), _value(statement.value, names))
        elif statement.value is None:
            return
        else:
            value = _value(statement.value, names)
    except _Opaque:
        value = _OPAQUE
    for target in targets:
        if isinstance(target, ast.Name):
            # A name whose new value cannot be read must not keep its old one.
            if value is _OPAQUE:
                names.pop(target.id, None)
            else:
                names[target.id] = value


_OPAQUE = object()

_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_NUMBERS: dict[str, Callable[[float], float]] = {"int": int, "float": float, "round": round}
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
}


def _value(node: ast.expr, names: dict[str, Any]) -> Any:
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name(id=name):
            # What is imported stands for itself: a class is known by its name.
            return names.get(name, name)
        case ast.Attribute(value=inner, attr=attribute):
            base = _value(inner, names)
            if not isinstance(base, str):
                raise _Opaque
            return f"{base}.{attribute}"
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_or_none(item, names) for item in items]
        case ast.Dict(keys=keys, values=values):
            pairs = zip(keys, values, strict=True)
            return {_value(key, names): _or_none(value, names) for key, value in pairs if isinstance(key, ast.Constant)}
        case ast.Call(func=ast.Name(id="dict"), args=[], keywords=keywords):
            return {each.arg: _or_none(each.value, names) for each in keywords if each.arg}
        case ast.Call(func=ast.Name(id="int" | "float" | "round" as name), args=[argument], keywords=[]):
            number = _value(argument, names)
            if isinstance(number, int | float):
                return _NUMBERS[name](number)
        case ast.Call(func=ast.Attribute() | ast.Name() as called):
            return _value(called, names)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return _arithmetic(ast.Mult(), -1, _value(operand, names))
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return not _value(operand, names)
        case ast.BinOp(left=left, op=op, right=right):
            return _arithmetic(op, _value(left, names), _value(right, names))
        case ast.IfExp(test=test, body=body, orelse=other):
            return _value(body if _value(test, names) else other, names)
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in _COMPARE:
            try:
                return _COMPARE[type(op)](_value(left, names), _value(right, names))
            except TypeError:
                raise _Opaque from None
    raise _Opaque


def _or_none(node: ast.expr, names: dict[str, Any]) -> Any:
    try:
        return _value(node, names)
    except _Opaque:
        return None


def _arithmetic(op: ast.operator, left: Any, right: Any) -> Any:
    numbers = all(isinstance(each, int | float) and abs(each) <= MOST for each in (left, right))
    if not numbers or type(op) not in _BINARY or (isinstance(op, ast.Pow) and abs(right) > 60):
        raise _Opaque
    try:
        found = _BINARY[type(op)](left, right)
    except (ArithmeticError, ValueError):
        raise _Opaque from None
    if not isinstance(found, int | float) or not abs(found) <= MOST:
        raise _Opaque
    return found


# Shell ----------------------------------------------------------------------------------------------------------------

_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)\+?=(.*)", re.DOTALL)
_REFERENCE = re.compile(r"\$\{(\w+)(?::?-([^}]*))?\}|\$(\w+)")
_SUM = re.compile(r"\$\(\(([^()]*(?:\([^()]*\)[^()]*)*)\)\)|\$\(expr ([^()]*)\)")


def shell_options(text: str) -> dict[str, Any]:
    r"""Options of a command line or a shell script, without their dashes; a flag without a value is true.

    text : script. [-]   Raises ValueError for text without a single option.

    >>> shell_options("TP=2\ntorchrun --nproc_per_node 8 train.py --tensor-model-parallel-size $TP --bf16")
    {'nproc_per_node': '8', 'tensor_model_parallel_size': '2', 'bf16': True}
    """
    variables: dict[str, str] = {}
    options: dict[str, Any] = {}
    name, program = "", False
    for word in _words(text):
        if re.match(r"--\w[\w-]*(=|$)", word):
            name, equals, value = word.lstrip("-").partition("=")
            name = name.strip().replace("-", "_")
            options[name] = _filled(value, variables) if equals else True
        elif match := _ASSIGNMENT.fullmatch(word):
            name, (variable, value) = "", match.groups()
            if not value.startswith("("):
                variables[variable] = _filled(value, variables)
                if variable.lower() in _ENVIRONMENT:
                    options.setdefault(_ENVIRONMENT[variable.lower()], variables[variable])
        elif name and options.get(name) is True and not re.match(r"[()|;&\\`]|\$\((?!\()", word):
            options[name] = _filled(word if "(" in word else word.rstrip(")"), variables)
        else:
            if program:
                options.setdefault("swift_command", word)
            name = ""
        program = re.fullmatch(r"(.*/)?(swift|megatron)", word) is not None
    if not options:
        raise ValueError("it holds no options such as --micro-batch-size 1")
    # What a variable holds that the script does not set, only running it would tell.
    return {key: value for key, value in options.items() if "$" not in str(value)}


_ENVIRONMENT = {"nproc_per_node": "nproc_per_node", "gpus_per_node": "nproc_per_node", "nnodes": "nnodes"}


def _words(text: str) -> Iterator[str]:
    joined = re.sub(r"\\\r?\n", " ", text)
    for line in joined.splitlines():
        # Sums are one word, whatever is written inside of them.
        line = _SUM.sub(lambda match: match.group().replace(" ", ""), line) if "expr" not in line else line
        line = re.sub(r"\$\(expr ([^()]*)\)", lambda match: "$((" + match[1].replace(" ", "") + "))", line)
        line = re.sub(r"(\w=)\(", r"\1( ", line)
        try:
            words = shlex.split(line, comments=True)
        except ValueError:
            words = line.partition(" #")[0].split()
        for word in words:
            # An array may quote an option together with its value.
            yield from (word.split() if word.startswith("--") and " " in word else [word.rstrip(";")])


def _filled(text: str, variables: dict[str, str]) -> str:
    filled = _REFERENCE.sub(lambda m: variables.get(m[1] or m[3]) or m[2] or m.group(), text)
    if match := re.fullmatch(r"\$\(\((.*)\)\)", filled):
        try:
            terms = re.sub(r"\b([A-Za-z_]\w*)\b", lambda m: variables.get(m[1], m[1]), match[1])
            found = _value(ast.parse(terms.replace("/", "//"), mode="eval").body, {})
        except (_Opaque, SyntaxError, ValueError, RecursionError):
            return filled
        return str(found)
    return filled


def megatron_options(content: dict[str, Any]) -> dict[str, Any]:
    """Options that a YAML file gives as keys with dashes, in one section or at the top.

    content : of the file. [-]   Raises VramsimError for keys that are no texts.
    """
    section = content.get("MODEL_ARGS", content)
    if not isinstance(section, dict) or not all(isinstance(key, str) for key in section):
        raise VramsimError("options must be a mapping of texts to values")
    return {key.lstrip("-").replace("-", "_"): value for key, value in section.items()}
