"""How a run is asked over HTTP once recipes/serve.py serves it, in the words of three clients."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

from startup_llm.tasks import TASKS, load_task

ADDRESS = "http://localhost:8000"
"""By name: an address in numbers would look like personal data in a published card."""


def build_request_examples(results: Mapping[str, Any]) -> dict[str, str] | None:
    """Return the options of the server, and code by its language; None for a run that is not asked by a text.

    Args:
        results: A run's.
    """
    tag = results["task"]
    if tag not in TASKS or load_task(tag).predictor.reads_files:
        return None
    is_chat = tag == "text-generation" and "messages" in (results.get("columns") or ())
    path = "/v1/chat/completions" if is_chat else "/predict"
    text = "where is my parcel?"
    body = {"messages": [{"role": "user", "content": text}]} if is_chat else {"inputs": _build_row(results)}
    answer = {"python": '["choices"][0]["message"]["content"]', "javascript": ".choices[0].message.content"}
    if not is_chat:
        answer = {"python": '["answers"]', "javascript": ".answers"}
    content = json.dumps(body, ensure_ascii=False)
    return {
        "options": " --chat" if is_chat else "",
        "bash": f"curl {ADDRESS}{path} -H 'Content-Type: application/json' -d {shlex.quote(content)}",
        "python": (
            "import json\nimport urllib.request\n\n"
            f"body = json.dumps({body!r}).encode()\n"
            f'request = urllib.request.Request("{ADDRESS}{path}", body, {{"Content-Type": "application/json"}})\n'
            f"print(json.load(urllib.request.urlopen(request)){answer['python']})"
        ),
        "javascript": (
            f'const response = await fetch("{ADDRESS}{path}", {{\n'
            '  method: "POST",\n  headers: { "Content-Type": "application/json" },\n'
            f"  body: JSON.stringify({content}),\n}});\n"
            f"console.log((await response.json()){answer['javascript']});"
        ),
    }


def _build_row(results: Mapping[str, Any]) -> str | dict[str, str]:
    """Return a row as the run reads it: a text where it reads one alone, else an object by column."""
    data = (results.get("config") or {}).get("data") or {}
    joined = data.get("text_column")
    known = results.get("columns") or ()
    columns = load_task(results["task"]).predictor.columns
    if isinstance(joined, list) and len(joined) > 1:
        names = [*joined, *(name for name in columns[1:] if name in known)]
    else:
        names = [name for name in columns if name != "text_pair" or name in known]
    row = {name: f"a {name.replace('_', ' ')}" for name in names}
    return next(iter(row.values())) if len(row) == 1 else row
