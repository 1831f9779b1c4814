import inspect
import re

import pytest

from qaedge import errors

ALL = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if kind.__module__ == errors.__name__]


def test_message_and_hint_are_a_line_each():
    error = errors.NotMeasured("No row.", "Run: qaedge profile")
    assert (error.message, error.hint) == ("No row.", "Run: qaedge profile")
    assert str(error) == "No row.\nRun: qaedge profile"
    assert str(errors.NotMeasured("No row.")) == "No row."


def test_invalid_file_names_file_key_expected_and_found():
    error = errors.InvalidFile("a.toml", "data.height", "int", "str", "Write a number.")
    assert str(error) == "a.toml: data.height: expected int, found str.\nWrite a number."
    assert (error.path, error.key, error.expected, error.found) == ("a.toml", "data.height", "int", "str")
    assert str(errors.InvalidFile("a.toml", "", "text", "bytes")) == "a.toml: expected text, found bytes."


def test_missing_extra_names_the_command():
    assert 'pip install "qaedge[nn]"' in str(errors.MissingExtra("nn", "torch"))


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_every_error_is_a_qaedge_error_and_stands_in_the_tree(kind):
    assert issubclass(kind, errors.QaedgeError)
    assert kind.exit_status == (2 if kind is errors.UsageError else 1)
    assert re.search(rf"\b{kind.__name__}\b", errors.__doc__), "the tree at the top of errors.py lacks it"


def test_the_tree_names_no_error_that_is_not_there():
    drawn = set(re.findall(r"^[ │├└─]*([A-Z]\w+) ", errors.__doc__, re.MULTILINE)) - {"Every"}
    assert drawn == {kind.__name__ for kind in ALL}
