from __future__ import annotations

import gzip
import json
import os
import socket
from pathlib import Path

import pytest

from startup_llm import plain_data
from startup_llm.errors import UserError
from startup_llm.plain_data import (
    check_regular_file,
    open_gzip,
    parse_json,
    read_json,
    read_json_object,
    read_yaml_mapping,
)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is no JSON file"),
        (b'{"a": 1', "is no JSON file"),
        (b"\xff\xfe", "is no JSON file"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a": ' * 100_000, "nested too deeply"),
        (b'{"a": ' + b"1" * 5000 + b"}", "Exceeds the limit"),
        (b"[1, 2]", "holds a list, expected a JSON object"),
        (b"null", "holds nothing, expected a JSON object"),
        (b'"text"', "holds a text, expected a JSON object"),
    ],
)
def test_what_is_no_json_object_is_refused_with_the_file(content, words, tmp_path):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UserError, match=words) as caught:
        read_json_object(tmp_path / "a.json")
    assert str(tmp_path / "a.json") in str(caught.value)


def test_json_that_is_larger_than_a_file_of_this_package_gets_is_not_read(tmp_path):
    (tmp_path / "a.json").write_text("[" + "1," * 1000 + "1]")
    with pytest.raises(UserError, match=r"has 2,003 bytes, expected at most 1,000"):
        read_json(tmp_path / "a.json", max_bytes=1000)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", "is no YAML file"),
        ("- a\n- b\n", "it holds a list, expected options by name"),
        ("", "it holds nothing"),
        ("1: a\n", "it holds dict"),
        ("a: " + "[" * 100_000, "nested deeper than 100"),
        ("a: " + "{b: " * 200 + "}" * 200, "nested deeper than 100"),
        ("a: " + "1" * 5000, "Exceeds the limit"),
        ("a: &a [*a]", "stands for itself"),
        ("a: *b", "stands for itself, or for nothing"),
        ("a: !!python/object/apply:os.system ['true']", "is no YAML file"),
        (
            "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9 if n else 'x')}]" for n in range(12)),
            "100,000 values",
        ),
    ],
)
def test_yaml_that_is_no_mapping_or_stands_for_too_much_is_refused(text, words, tmp_path):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(UserError, match=words):
        read_yaml_mapping(tmp_path / "a.yaml")


def test_yaml_with_some_aliases_is_read(tmp_path):
    (tmp_path / "a.yaml").write_text("base: &base {rank: 4}\nother: *base\n")
    assert read_yaml_mapping(tmp_path / "a.yaml") == {"base": {"rank": 4}, "other": {"rank": 4}}


def make_special(kind: str, path: Path) -> None:
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a folder":
        path.mkdir()
    elif kind == "a device":
        path.symlink_to("/dev/zero")
    elif kind == "a symbolic link leads back to itself":
        path.symlink_to(path.name)
    elif kind == "there is no such file":
        path.symlink_to("gone")
    else:
        with socket.socket(socket.AF_UNIX) as listener:
            os.chdir(path.parent)
            listener.bind(path.name)


@pytest.mark.parametrize(
    "kind",
    ["a pipe", "a folder", "a device", "a socket", "a symbolic link leads back to itself", "there is no such file"],
)
def test_what_is_no_plain_file_is_named_and_not_waited_for(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_special(kind, tmp_path / "a")
    for action in (check_regular_file, read_json, read_yaml_mapping):
        with pytest.raises(UserError, match=kind):
            action(tmp_path / "a")


@pytest.mark.parametrize("name", ["x" * 300, "a\0b"])
def test_a_name_that_no_file_can_have_is_refused(name):
    with pytest.raises(UserError, match="cannot be read: "):
        check_regular_file(name)


def test_gzip_is_decompressed_unless_it_expands_too_far(monkeypatch, tmp_path):
    monkeypatch.setattr(plain_data, "MIN_EXPANDED_BYTES", 1000)
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(b"x" * 900))
    with open_gzip(str(path)) as stream:
        assert stream.read() == b"x" * 900
    path.write_bytes(gzip.compress(b"x" * (1 << 24)))
    with open_gzip(str(path)) as stream, pytest.raises(UserError, match="decompress the file and name it"):
        stream.read()


def test_parsing_names_the_place():
    assert parse_json('{"a": 1}') == {"a": 1}
    for text, words in (('{"a" 1}', "column 6"), ("[" * 100_000, "nested too deeply"), ("1" * 5000, "limit")):
        with pytest.raises(ValueError, match=words) as caught:
            parse_json(text)
        assert not isinstance(caught.value, json.JSONDecodeError)
