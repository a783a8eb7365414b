"""Messages of a conversation: from what data sets call them to role, content and what else a chat template takes.

A message of a row is {role, content}, perhaps with `extra`, its further keys as a JSON object (a table would give
every message the same ones), and `learn`, which is false for a turn of the assistant that is not learnt.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from startup_llm.data.rows_to_predict import find_text_fault

Message = dict[str, Any]
Messages = list[Message]

ROLES = {
    "system": "system",
    "developer": "developer",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
}
"""The names that data sets give the roles; the words of a function_call are a call in JSON."""
STANDARD_ROLES = ("system", "developer", "user", "assistant", "tool")
REASONING_KEYS = ("reasoning_content", "thinking", "reasoning")
"""Names of the thoughts before an answer; transformers gives a template all of them."""
_OWN_KEYS = frozenset({"role", "from", "content", "value", "weight", "extra", "learn"})


class MessageFault(ValueError):
    """A message that cannot be read; the text says which and why."""


def read_messages(messages: Any) -> Messages:
    """Read messages in any of the forms that data sets write, or as JSON text.

    Contents in parts are joined by line ends. A weight of 0 means that the assistant's turn is not learnt. Whatever
    keys a message has besides go to the chat template.

    Args:
        messages: A list of {role, content} or {from, value}, or JSON text of one.

    Raises:
        MessageFault: If a part of a content is no text, a weight is neither 0 nor 1, or a call is no JSON object.
    """
    if isinstance(messages, str):
        messages = json.loads(messages)
    return [_read_message(message, place) for place, message in enumerate(messages or [], start=1)]


def _read_message(message: Any, place: int) -> Message:
    if not isinstance(message, dict):
        return {"role": None, "content": message}  # which `find_conversation_fault` names
    stated_role = message.get("role", message.get("from"))
    role = ROLES.get(stated_role, stated_role)
    content = _join_parts(message.get("content", message.get("value")), f"message {place} ({role})")
    extra = {key: value for key, value in message.items() if key not in _OWN_KEYS and value is not None}
    if stated_role == "function_call":
        content, extra["tool_calls"] = "", _read_calls(content, f"message {place} (function_call)")
    if extra.get("tool_calls"):
        extra["tool_calls"] = [_read_arguments(call) for call in extra["tool_calls"]]
        content = content or ""
    result: Message = {"role": role, "content": content}
    if extra:
        result["extra"] = json.dumps(extra, ensure_ascii=False)
    if (weight := message.get("weight")) is not None:
        if weight not in (0, 1):
            raise MessageFault(f"message {place} ({role}) has the weight {weight!r}, expected 0 or 1")
        if not weight and role == "assistant":
            result["learn"] = False
    return result


def _join_parts(content: Any, name: str) -> Any:
    """Join a content in parts: texts, or objects of the type text."""
    if not isinstance(content, list):
        return content
    texts = []
    for part in content:
        kind = "text" if isinstance(part, str) else part.get("type") if isinstance(part, dict) else type(part).__name__
        text = part if isinstance(part, str) else part.get("text") if isinstance(part, dict) else None
        if kind != "text" or not isinstance(text, str):
            raise MessageFault(f"{name} has a part of type {kind!r}, expected text")
        texts.append(text)
    return "\n".join(texts)


def _read_calls(content: Any, name: str) -> list[Any]:
    try:
        calls = json.loads(content) if isinstance(content, str) else content
    except ValueError:
        calls = None
    calls = calls if isinstance(calls, list) else [calls]
    if not all(isinstance(call, dict) and call.get("name") for call in calls):
        raise MessageFault(f"{name} is {str(content)[:50]!r}, expected a call in JSON with name and arguments")
    return [{"type": "function", "function": call} for call in calls]


def _read_arguments(call: Any) -> Any:
    """Return a call whose arguments are an object, as chat templates take them, not JSON text of one."""
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = json.loads(function["arguments"])
    except ValueError:
        return call
    return {**call, "function": {**function, "arguments": arguments}} if isinstance(arguments, dict) else call


def list_template_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Return messages as a chat template takes them, their further keys beside role and content."""
    return [
        {"role": message["role"], "content": message["content"], **json.loads(message.get("extra") or "{}")}
        for message in messages
    ]


def is_learnt(message: Message) -> bool:
    """Say whether a message is a turn of the assistant that is learnt."""
    return message["role"] == "assistant" and message.get("learn") is not False


def list_words(message: Message) -> str:
    """Return what an assistant's turn says: its thoughts, its content and its calls, a line each."""
    extra = json.loads(message.get("extra") or "{}")
    thoughts = next((extra[key] for key in REASONING_KEYS if isinstance(extra.get(key), str)), "")
    calls = [json.dumps(call, ensure_ascii=False) for call in extra.get("tool_calls") or ()]
    return "\n".join(filter(None, [thoughts, message["content"], *calls]))


def find_conversation_fault(messages: Any, *, question: bool = False) -> str | None:
    """Return what is wrong with a conversation, such as "message 3 (user) is empty"; None where nothing is.

    Args:
        messages: As `read_messages` gives them.
        question: Whether it is to be answered, so that it ends with the user; otherwise it ends with the assistant.
    """
    if not isinstance(messages, list) or not messages:
        return "has no messages"
    roles: list[str] = []
    for place, message in enumerate(messages, start=1):
        if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
            return f"message {place} is {str(message)[:50]}, expected a role and a content"
        if fault := _find_message_fault(message, place) or _find_order_fault(message["role"], roles, place):
            return fault
        roles.append(message["role"])
    if question:
        ends = ("user", "tool")
        return None if roles[-1] in ends else f"ends with the {roles[-1]}, so there is nothing to answer"
    if "assistant" not in roles:
        return "has no turn of the assistant"
    if roles[-1] != "assistant":
        return f"ends with the {roles[-1]}, expected an answer of the assistant"
    return None if any(map(is_learnt, messages)) else "has the weight 0 in each turn of the assistant"


def _find_message_fault(message: Message, place: int) -> str | None:
    role, content = message["role"], message["content"]
    if role is None and not isinstance(content, dict):
        return f"message {place} is {str(content)[:50]}, expected a role and a content"
    if role not in STANDARD_ROLES:
        return f"message {place} has the role {role!r}, expected {', '.join(STANDARD_ROLES[:-1])} or tool"
    if not isinstance(content, str) or not content.strip():
        if content == "" and "tool_calls" in json.loads(message.get("extra") or "{}"):
            return None
        return f"message {place} ({role}) is {'empty' if content is None or isinstance(content, str) else content}"
    fault = find_text_fault(content)
    return f"message {place} ({role}) {fault}" if fault else None


def _find_order_fault(role: str, before: Sequence[str], place: int) -> str | None:
    if role == "system" and before:
        return f"message {place} is a system message, which may only come first"
    if role == "developer" and set(before) - {"system"}:
        return f"message {place} is a developer's, which may only come first"
    if before and role == before[-1] and role != "tool":
        return f"messages {place - 1} and {place} are both the {role}'s"
    return None
