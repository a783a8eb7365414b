"""Chat templates: how a conversation becomes a tokenizer's tokens, and which of them the assistant says."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from startup_llm.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    Messages = list[dict[str, str]]

_TURNS = """\
{{%- for message in messages %}}
{{{{- {opening} }}}}
{{%- if message['role'] == 'assistant' %}}
{{%- generation %}}{{{{- message['content'] + {end} }}}}{{%- endgeneration %}}
{{%- else %}}{{{{- message['content'] + {end} }}}}{{%- endif %}}
{{{{- '\\n' }}}}
{{%- endfor %}}
{{%- if add_generation_prompt %}}{{{{- {answer} }}}}{{%- endif %}}"""
CHATML_TOKENS = ("<|im_start|>", "<|im_end|>")
TEMPLATES = {
    "chatml": _TURNS.format(
        opening="'<|im_start|>' + message['role'] + '\\n'", end="'<|im_end|>'", answer="'<|im_start|>assistant\\n'"
    ),
    "plain": _TURNS.format(opening="message['role'] + ':\\n'", end="eos_token", answer="'assistant:\\n'"),
}
"""chatml has tokens of its own for the start and the end of a turn; plain ends a turn with the end of a text."""
_GENERATION = re.compile(r"\{%-?\s*generation\b")
_PROBE = "9f3b2c"  # an answer that no template holds


def set_chat_template(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Give a tokenizer a chat template, which is then saved with it.

    Args:
        tokenizer: Changed in place.
        name: A key of `TEMPLATES`, or a Jinja file.

    Raises:
        UserError: If there is no such file, or the tokenizer has not the tokens that the template ends a turn with.
    """
    if name in TEMPLATES:
        tokenizer.chat_template = TEMPLATES[name]
    elif Path(name).is_file():
        tokenizer.chat_template = Path(name).read_text(encoding="utf-8")
    else:
        raise UserError(f"model.chat_template {name}: no such file; expected {', '.join(TEMPLATES)} or a Jinja file")
    if name == "chatml" and (missing := [mark for mark in CHATML_TOKENS if mark not in tokenizer.get_vocab()]):
        raise UserError(
            f"model.chat_template chatml: the tokenizer has no token {missing[0]}, and the model no vector for it; "
            "use --model.chat_template plain, which ends a turn with the end of a text"
        )
    if name == "plain" and tokenizer.eos_token is None:
        raise UserError("model.chat_template plain: the tokenizer has no token for the end of a text; give a FILE")


def hash_chat_template(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Return the SHA-256 of a tokenizer's chat template; None where it has none."""
    template = tokenizer.chat_template
    return hashlib.sha256(template.encode()).hexdigest() if isinstance(template, str) else None


def render_conversation(tokenizer: PreTrainedTokenizerBase, messages: Messages, *, answer: bool = False) -> str:
    """Write a conversation by the tokenizer's template.

    Args:
        tokenizer: Has the template.
        messages: The turns.
        answer: Whether to open a turn of the assistant behind them.

    Raises:
        UserError: If there is no template, or it refuses the conversation.
    """
    import jinja2

    if not tokenizer.chat_template:
        raise UserError(
            "the tokenizer has no chat template, expected one for conversations; "
            "give it with --model.chat_template chatml, plain or FILE when the model is trained"
        )
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=answer)
    except jinja2.TemplateError as error:
        raise UserError(f"the chat template refuses the conversation: {str(error).splitlines()[0]}") from None


def find_end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the id of the token with which the template closes a turn of the assistant.

    Raises:
        UserError: If there is no such token: a model could not learn where to stop.
    """
    asked = {"role": "user", "content": "a"}
    text = render_conversation(tokenizer, [asked, {"role": "assistant", "content": _PROBE}])
    rest = text.rpartition(_PROBE)[2]
    marks = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    ids = tokenizer(rest, add_special_tokens=False)["input_ids"]
    end = next((token for token in ids if token in marks), None)
    if end is None:
        raise UserError(
            f"the chat template closes the assistant's turn with {rest!r}, expected a special token by which the "
            "model learns to stop; give another with --model.chat_template"
        )
    return end


def tokenize_conversation(
    tokenizer: PreTrainedTokenizerBase, messages: Messages, end_of_turn: int
) -> tuple[list[int], list[bool]]:
    """Return a conversation's tokens, and which of them the assistant says, the end of each turn among them.

    Args:
        tokenizer: Has the template; where that marks what is generated, the marks tell.
        messages: The turns.
        end_of_turn: From `find_end_of_turn`.

    Raises:
        UserError: If the assistant's words cannot be told from the others', or words hold the end of a turn.
    """
    mark = tokenizer.convert_ids_to_tokens(end_of_turn)
    for place, message in enumerate(messages, start=1):
        if mark in message["content"]:
            raise UserError(f"message {place} holds {mark}, the template's own token; take it out")
    if _GENERATION.search(tokenizer.chat_template):
        ids, said = _follow_marks(tokenizer, messages)
    else:
        ids, said = _follow_prefixes(tokenizer, messages, mark)
    return ids, _close_turns(ids, said, end_of_turn)


def _close_turns(ids: list[int], said: list[bool], end_of_turn: int) -> list[bool]:
    """Let each turn end with its token, for some templates mark less than that as generated, and some more."""
    closed, is_open = [], False
    for place, token in enumerate(ids):
        starts = said[place] and (place == 0 or not said[place - 1])
        is_open = is_open or starts
        closed.append(is_open and (said[place] or token == end_of_turn))
        is_open = closed[-1] and token != end_of_turn
    return closed


def _follow_marks(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> tuple[list[int], list[bool]]:
    render_conversation(tokenizer, messages)  # which explains what the template refuses
    encoded = tokenizer.apply_chat_template(
        messages,
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
        tokenizer_kwargs={"verbose": False},
    )
    return list(encoded["input_ids"]), [bool(mark) for mark in encoded["assistant_masks"]]


def _follow_prefixes(
    tokenizer: PreTrainedTokenizerBase, messages: Messages, mark: str
) -> tuple[list[int], list[bool]]:
    """Find each turn of the assistant behind what the template writes before it, up to the end of the turn."""
    text = render_conversation(tokenizer, messages)
    spans = []
    for place, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prefix = render_conversation(tokenizer, messages[:place], answer=True)
        end = text.find(mark, len(prefix))
        if not text.startswith(prefix) or end < 0:
            raise UserError(
                f"the chat template writes what comes before message {place + 1} in another way where the "
                "conversation goes on, so the assistant's words cannot be told; give another with "
                "--model.chat_template, or one turn of the assistant per row"
            )
        spans.append((len(prefix), end + len(mark)))
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    said = [any(start <= first < end for start, end in spans) for first, _ in encoded["offset_mapping"]]
    return list(encoded["input_ids"]), said
