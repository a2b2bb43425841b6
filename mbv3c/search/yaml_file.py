"""YAML files read into types, field by field; what is wrong is named with its line."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import msgspec

from mbv3c.door.files import Refused, read_plain
from mbv3c.errors import ToolError, UsageError
from mbv3c.nearest import among

_LARGEST = 1 << 20
_DEEPEST = 20
_AT = re.compile(r"(?P<what>.*) - at `(?:key in )?\$(?P<path>[^`]*)`", re.DOTALL)
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+|\.\.\.)\]")

# What msgspec calls otherwise than people who write YAML.
_WORDS = {
    "object": "names with values",
    "array": "a list",
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "null": "nothing",
}

Read = TypeVar("Read")


class YamlFile:
    """A file in YAML: plain values, lists and mappings, nothing that runs or repeats itself.

    Args:
        path: the file.

    Raises:
        UsageError: there is no such file, it is no YAML, or it has anchors, tags, or a key twice.
        ToolError: PyYAML is not installed.
    """

    def __init__(self, path: Path) -> None:
        try:
            import yaml
        except ImportError as error:
            raise ToolError("YAML takes PyYAML: pip install pyyaml") from error

        self._path = path
        try:
            text = read_plain(path, _LARGEST).decode()
        except FileNotFoundError as error:
            raise UsageError(f"no such file: {path}") from error
        except OSError as error:
            raise UsageError(f"cannot read {path}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise UsageError(f"{path} is no text in UTF-8") from error
        except Refused as error:
            raise UsageError(f"{path} is no YAML to read: {error}") from error
        try:
            self._scan(text)
            self._root: Any = yaml.compose(text, Loader=yaml.SafeLoader)
            self._check(self._root)
            self._document: Any = yaml.safe_load(text)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark
            line = f", line {mark.line + 1}" if mark else ""
            raise UsageError(f"{path}{line} is no YAML: {error.problem}") from error
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise UsageError(f"{path} is no YAML: {error}") from error

    def read(self, kind: type[Read]) -> Read:
        """Return the document as a type.

        Raises:
            UsageError: a field is missing, unknown, or has a value that it may not have.
        """
        try:
            return msgspec.convert(self._document, kind)
        except msgspec.ValidationError as error:
            found = _AT.fullmatch(str(error))
            what, path = (found["what"], found["path"]) if found else (str(error), "")
            steps = [int(two) if two.isdigit() else one or two for one, two in _STEP.findall(path)]
            unknown = re.search(r"unknown field `([^`]+)`", what)
            where = self.place(*steps, *([unknown[1]] if unknown else []))
            if unknown is not None:
                raise UsageError(f"{where}: {_unknown(unknown[1], kind, steps)}") from error
            raise UsageError(f"{where}: {_in_words(what)}") from error

    def place(self, *steps: str | int) -> str:
        """Return where a field stands: the file, the line, and its path."""
        node, line = self._root, 1
        for step in steps:
            node, line = _below(node, step, line)
        path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)
        return f"{self._path}, line {line}{', ' if path else ''}{path.lstrip('.')}"

    def _scan(self, text: str) -> None:
        """Refuse anchors and tags, and what is nested too deep, which takes minutes to read."""
        import yaml

        deep = 0
        for token in yaml.scan(text, Loader=yaml.SafeLoader):
            where = f"{self._path}, line {token.start_mark.line + 1}"
            if isinstance(token, yaml.AnchorToken | yaml.AliasToken | yaml.TagToken):
                raise UsageError(f"{where}: anchors and tags are not read")
            kind = type(token).__name__
            if kind.startswith(("Block", "Flow")):
                deep += kind.endswith("StartToken") - kind.endswith("EndToken")
            if deep > _DEEPEST:
                raise UsageError(f"{where}: it is nested too deep")

    def _check(self, node: Any) -> None:
        """Refuse keys that stand twice, or are lists or mappings."""
        if node is None or isinstance(node.value, str):
            return
        seen: set[str] = set()
        for each in node.value:
            key, value = each if isinstance(each, tuple) else (None, each)
            if key is not None:
                if not isinstance(key.value, str):
                    raise UsageError(f"{self._path}, line {_line(key)}: a key must be a word")
                if key.value in seen:
                    raise UsageError(
                        f"{self._path}, line {_line(key)}: {key.value} stands here twice"
                    )
                seen.add(key.value)
            self._check(value)


def _unknown(name: str, kind: type[Any], steps: Sequence[str | int]) -> str:
    """Say that a field is unknown, and which there are where it stands."""
    for step in steps:
        found = get_type_hints(kind)[step] if isinstance(step, str) else get_args(kind)[0]
        kind = found
    known = [field.name for field in msgspec.structs.fields(kind)]
    return f"unknown field {name}{among(name, known)}"


def _in_words(what: str) -> str:
    """Say in words of YAML what msgspec found."""
    if missing := re.search(r"missing required field `([^`]+)`", what):
        return f"the field {missing[1]} is missing"

    def words(found: re.Match[str]) -> str:
        names = found[1].split(" | ")
        wanted = [name for name in names if name != "null" or len(names) == 1]
        return " or ".join(_WORDS.get(name, name) for name in wanted)

    text = re.sub(r"`([^`]+)`", words, what)
    return f"{text[0].lower()}{text[1:]}"


def _below(node: Any, step: str | int, line: int) -> tuple[Any, int]:
    """Return what stands at a step below a node, and its line; the node's where there is none."""
    children = getattr(node, "value", None)
    if not isinstance(children, list):
        return None, line
    if isinstance(step, int):
        if step < len(children) and not isinstance(children[step], tuple):
            return children[step], _line(children[step])
        return None, line
    for each in children:
        if isinstance(each, tuple) and each[0].value == step:
            return each[1], _line(each[0])
    return None, line


def _line(node: Any) -> int:
    return int(node.start_mark.line) + 1
