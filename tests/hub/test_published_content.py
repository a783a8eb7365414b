"""What is searched before a publication: every file's decoded content."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save

from startup_llm.errors import UserError
from startup_llm.hub.published_content import OWN_TOKEN, Allowances, check_content, search_file
from startup_llm.hub.published_folder import PublishedFolder, describe

TOKEN = "ghp_" + "aB3dE5gH7jK9" * 3
EMAIL = "jane.roe@example.org"


def write_parquet(**columns: object) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


CONTENTS = {
    "config.json": b'{"id2label": {"0": "\\u006aane.roe@example.org"}}',
    "tokenizer.json": json.dumps({"model": {"vocab": {f"\u0120{EMAIL}": 1}}}).encode(),
    "results.json": json.dumps({"mistakes": [{"text": f"mail {EMAIL}"}]}).encode(),
    "config.yaml": b'data:\n  text_column: "jane\\x2eroe@example.org"\n',
    "README.md": f"# Model\n\nAsk {EMAIL}.\n".encode(),
    "report.html": b"<p>Ask jane&#46;roe@example.org</p>",
    "chat_template.jinja": f"{{# {EMAIL} #}}".encode(),
    "vocab.txt": f"##{EMAIL}\n".encode(),
    "data/cells.parquet": write_parquet(text=["a", f"mail {EMAIL}"]),
    "data/nested.parquet": write_parquet(rows=[{"turns": [{"content": EMAIL}]}]),
    "data/names.parquet": write_parquet(**{EMAIL: [1]}),
    "data/keys.parquet": write_parquet(rows=[{EMAIL: 1}]),
    "data/bytes.parquet": write_parquet(file=[EMAIL.encode()]),
    f"{EMAIL}.txt": b"nothing",
    "model.safetensors": save({}, metadata={"author": EMAIL}),
}


@pytest.mark.parametrize("path", CONTENTS)
def test_personal_data_is_found_in_the_decoded_content_of_every_kind_of_file(path):
    found = list(search_file(path, CONTENTS[path]))
    assert {exposure.kind for exposure in found} == {"email"}
    assert all("jane" not in str(exposure) for exposure in found)


@pytest.mark.parametrize("path", CONTENTS)
def test_a_token_is_found_wherever_personal_data_is(path):
    if path == "config.yaml":
        content = b'a: "ghp\\x5f' + TOKEN[4:].encode() + b'"'
    elif path.endswith(".parquet"):
        content = write_parquet(binary=[b"\xff\x00" + TOKEN.encode() + b"\xfe"])
    elif path.endswith(".safetensors"):
        content = save({}, metadata={"a": TOKEN})
    else:
        content = CONTENTS[path].replace(b"\\u006aane", b"jane").replace(EMAIL.encode(), TOKEN.encode())
        content = content.replace(b"jane&#46;roe@example.org", b"<b title='" + TOKEN.encode() + b"'>")
        path = path.replace(EMAIL, TOKEN)
    found = list(search_file(path, content))
    assert {exposure.kind for exposure in found} == {"github-token"}
    assert all(TOKEN[4:20] not in str(exposure) for exposure in found)


def test_a_payment_card_in_a_column_of_numbers_is_found():
    content = write_parquet(paid=[12, 4111111111111111])
    assert [str(one) for one in search_file("data/a.parquet", content)] == [
        "data/a.parquet row 2 paid: payment_card in '<PAYMENT_CARD>'"
    ]


def test_versions_and_the_vocabulary_of_a_public_checkpoint_are_no_personal_data():
    lock = json.dumps({"environment": {"packages": {"cublas": "12.8.4.1"}}}).encode()
    assert list(search_file("run.lock.json", lock)) == []
    folder = build_folder({"tokenizer.json": CONTENTS["tokenizer.json"]}, has_own_vocabulary=False)
    check_content(folder, Allowances(None), [])


def build_folder(contents: dict[str, bytes | Path], **options: bool) -> PublishedFolder:
    return PublishedFolder("the run x", {path: describe(c) for path, c in contents.items()}, "", "", [], **options)


def test_what_is_found_is_refused_until_it_is_allowed_by_kind_or_by_kind_and_file():
    folder = build_folder({"config.json": CONTENTS["config.json"], "a.txt": f"{EMAIL} {TOKEN}".encode()})
    with pytest.raises(UserError, match=r"holds 3 .*--allow_findings 'email@config.json,github-token@a.txt,") as e:
        check_content(folder, Allowances(None), [])
    assert e.value.details == (
        "config.json id2label.0: email in '<EMAIL>'",
        "a.txt line 1: github-token in '<EMAIL> ghp_…'",
        "a.txt line 1: email in '<EMAIL> ghp_…'",
    )
    with pytest.raises(UserError, match=r"holds 1 .*--allow_findings 'github-token,email@c\*,email@a.txt'"):
        check_content(folder, Allowances("github-token,email@c*"), [])
    check_content(folder, Allowances("github-token@a.txt,personal-data"), [])
    with pytest.raises(UserError, match=r"no kind 'emial'.* did you mean email"):
        Allowances("emial")


def test_the_own_token_is_never_allowed():
    folder = build_folder({"a.json": json.dumps({"a": ["x", {"b": f"my {TOKEN}"}]}).encode()})
    with pytest.raises(UserError, match=r"a\.json of the run x holds your access token") as refused:
        check_content(folder, Allowances("github-token"), [TOKEN])
    assert refused.value.details == (f"a.json a[1].b: {OWN_TOKEN} in 'my ghp_…'",)
