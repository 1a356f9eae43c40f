"""
YAML as people mean it in a recipe: `010` is ten, `3e-4` a number, `1:30` and dates are text, and no key counts twice.

PyYAML reads YAML 1.1, where `010` is eight, `1:30` is ninety and `3e-4` is text. Numbers are read by version 1.2 here,
but for `_` between digits, which 1.1 allows and which reads well in 10_000; yes, no, on and off stay truth values.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import yaml

_INT, _FLOAT, _TIMESTAMP = (f"tag:yaml.org,2002:{kind}" for kind in ("int", "float", "timestamp"))
_BASES = {"0x": 16, "0o": 8}


class Plain(str):
    """A value that is written without quotes, so that its field decides what it is; so is all on a command line."""


class DuplicateKeyError(yaml.YAMLError):
    """A key is given twice, and one of its values would be lost."""


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in (_INT, _FLOAT, _TIMESTAMP)]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        mapping = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in mapping.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            line = key.start_mark.line + 1
            if key.value in lines:
                raise DuplicateKeyError(f"has {key.value} in lines {lines[key.value]} and {line}: keep one of them")
            lines[key.value] = line
        return mapping

    def construct_number(self, node: yaml.ScalarNode) -> int:
        digits = node.value.replace("_", "")
        return int(digits, _BASES.get(digits.lstrip("+-")[:2], 10))

    def is_plain(self, node: yaml.Node) -> bool:
        """Whether a node is a value without quotes and without a tag."""
        is_bare = isinstance(node, yaml.ScalarNode) and node.style is None
        return is_bare and node.tag == self.resolve(yaml.ScalarNode, node.value, (True, False))


_DIGITS = "[0-9](_?[0-9])*"
_Loader.add_implicit_resolver(_INT, re.compile(rf"[-+]?(0o[0-7]+|0x[0-9a-fA-F]+|{_DIGITS})$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    _FLOAT,
    re.compile(rf"[-+]?({_DIGITS}(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?$"),
    list("-+.0123456789"),
)
_Loader.add_constructor(_INT, _Loader.construct_number)


@contextmanager
def _one_kind_of_error() -> Iterator[None]:
    """PyYAML raises these where a tag does not fit its value, and where too much is nested."""
    try:
        yield
    except (AttributeError, KeyError) as error:
        raise yaml.YAMLError(f"a tag (!!) does not fit its value: {error}") from None
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None


def read_value(text: str) -> Any:
    """What a text means by itself. Raises yaml.YAMLError or ValueError (a number of thousands of digits)."""
    with _one_kind_of_error():
        return yaml.load(text, _Loader)


def read_mapping(text: str) -> Any:
    """A mapping's keys as text, and their values: what is bare as [`Plain`]. Anything but a mapping is read as it is.

    Raises:
        yaml.YAMLError, ValueError: it cannot be read; `DuplicateKeyError` with a text to stand after the file's name.
    """
    loader = _Loader(text)
    try:
        with _one_kind_of_error():
            root = loader.get_single_node()
            if not isinstance(root, yaml.MappingNode):
                return root and loader.construct_document(root)
            return {
                key.value if isinstance(key, yaml.ScalarNode) else str(loader.construct_object(key, deep=True)): (
                    Plain(value.value) if loader.is_plain(value) else loader.construct_object(value, deep=True)
                )
                for key, value in root.value
            }
    finally:
        loader.dispose()
