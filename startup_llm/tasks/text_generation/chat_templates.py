"""Chat templates: how a conversation becomes a tokenizer's tokens, and which of them the assistant says."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from startup_llm.errors import UserError
from startup_llm.tasks.text_generation.messages import Message, is_learnt, list_template_messages

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

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
_FIRST_MARK = 0x10E000  # of characters for private use, one for each control token that stands in a message
_MARKS = re.compile(f"[{chr(_FIRST_MARK)}-{chr(_FIRST_MARK + 0xFFF)}]")


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
        tokenizer.name_or_path = name  # by which a template that fails is named
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


def render_conversation(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    *,
    answer: bool = False,
    arguments: Mapping[str, Any] | None = None,
) -> str:
    """Write a conversation by the tokenizer's template.

    A control token that stands in a message's content is written as a mark, which `tokenize_text` reads as plain text.

    Args:
        tokenizer: Has the template.
        messages: The turns.
        answer: Whether to open a turn of the assistant behind them.
        arguments: What the template takes beside them: tools, documents, chat_template_kwargs.

    Raises:
        UserError: If there is no template, or it refuses the conversation or fails on it.
    """
    return _render(tokenizer, messages, arguments, add_generation_prompt=answer)[0]


def _render(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    arguments: Mapping[str, Any] | None,
    *,
    add_generation_prompt: bool = False,
    spans: bool = False,
) -> tuple[str, list[tuple[int, int]]]:
    """Return the text and, where `spans` asks for it, the characters that the template marks as generated."""
    import jinja2
    from transformers.utils.chat_template_utils import render_jinja_template

    if not tokenizer.chat_template:
        raise UserError(
            "the tokenizer has no chat template, expected one for conversations; "
            "give it with --model.chat_template chatml, plain or FILE when the model is trained"
        )
    template_messages = list_template_messages(messages)
    if "developer" not in tokenizer.chat_template:
        template_messages = [
            {**entry, "role": "system"} if entry["role"] == "developer" else entry for entry in template_messages
        ]
    protect = _build_protection(tokenizer)
    template_messages = [protect(message, message["role"] == "assistant") for message in template_messages]
    known = protect(dict(arguments or {}), False)
    options = {**tokenizer.special_tokens_map, **known.pop("chat_template_kwargs", {}), **known}
    try:
        texts, written_spans = render_jinja_template(
            [template_messages],
            chat_template=tokenizer.chat_template,
            add_generation_prompt=add_generation_prompt,
            return_assistant_tokens_mask=spans,
            **options,
        )
    except jinja2.exceptions.TemplateSyntaxError as error:
        raise UserError(f"{_name_template(tokenizer)}: line {error.lineno}: {error.message}") from None
    except jinja2.TemplateError as error:
        raise UserError(f"{_name_template(tokenizer)} refuses the conversation: {_first_line(error)}") from None
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {_first_line(error)}"
        raise UserError(
            f"{_name_template(tokenizer)} fails on the conversation with {reason}; give another with "
            "--model.chat_template"
        ) from None
    return texts[0], [(start, end) for start, end in written_spans[0]] if spans else []


def _name_template(tokenizer: PreTrainedTokenizerBase) -> str:
    return f"the chat template{f' of {tokenizer.name_or_path}' if tokenizer.name_or_path else ''}"


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else "no reason given"


def list_control_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return the special tokens by which a template may write a turn."""
    added = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    return sorted({*added, *tokenizer.all_special_tokens})


def _build_protection(tokenizer: PreTrainedTokenizerBase) -> Callable[[Any, bool], Any]:
    """Return what puts marks in the place of control tokens in all texts of a value.

    Its second argument says whether they are the assistant's, which may hold what a model was taught to write, such as
    a token before a thought: of its words only those tokens are marked that a template writes around turns.
    """
    tokens = list_control_tokens(tokenizer)
    marks = {token: chr(_FIRST_MARK + number) for number, token in enumerate(tokens)}
    anywhere, around = _match_any(tokens), _match_any(_list_turn_tokens(tokenizer, tokens))

    def protect(value: Any, by_assistant: bool) -> Any:
        if isinstance(value, str):
            return (around if by_assistant else anywhere).sub(lambda match: marks[match[0]], value)
        if isinstance(value, dict):
            return {key: protect(inner, by_assistant) for key, inner in value.items()}
        return [protect(inner, by_assistant) for inner in value] if isinstance(value, list) else value

    return protect


def list_marked_tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> set[str]:
    """Return the control tokens that stand in the messages' content of a rendered text."""
    marks = set(_MARKS.findall(text))
    tokens = list_control_tokens(tokenizer) if marks else []
    return {tokens[ord(mark) - _FIRST_MARK] for mark in marks}


def restore_control_tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """Return a rendered text with the messages' own control tokens in the place of their marks."""
    if not _MARKS.search(text):
        return text
    tokens = list_control_tokens(tokenizer)
    return _MARKS.sub(lambda match: tokens[ord(match[0]) - _FIRST_MARK], text)


def _match_any(tokens: Sequence[str]) -> re.Pattern[str]:
    longest_first = sorted(tokens, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")


def _list_turn_tokens(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[str]) -> list[str]:
    """Return those of the control tokens that stand in the template itself, and a text's start and end."""
    template, ends = tokenizer.chat_template or "", (tokenizer.bos_token, tokenizer.eos_token)
    return [token for token in tokens if token in template or token in ends]


def tokenize_text(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[list[int], list[int]]:
    """Return the tokens of a rendered conversation and the character at which each begins.

    Marks of control tokens in a message's content are read as the plain text that they stand for.
    """
    ids, starts, place = [], [], 0
    controls = list_control_tokens(tokenizer) if _MARKS.search(text) else []
    for piece in re.split(f"({_MARKS.pattern})", text):
        if controls and _MARKS.fullmatch(piece):
            plain = controls[ord(piece) - _FIRST_MARK]
            token_ids = tokenizer(plain, add_special_tokens=False, split_special_tokens=True)["input_ids"]
            ids += token_ids
            starts += [place] * len(token_ids)
        elif piece:
            encoded = tokenizer(piece, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
            ids += encoded["input_ids"]
            starts += [place + start for start, _ in encoded["offset_mapping"]]
        place += len(piece)
    return ids, starts


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
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    end_of_turn: int,
    arguments: Mapping[str, Any] | None = None,
) -> tuple[list[int], list[bool]]:
    """Return a conversation's tokens, and which of them are learnt: the assistant's, the end of each turn among them.

    Args:
        tokenizer: Has the template; where that marks what is generated, the marks tell.
        messages: The turns; one whose `learn` is false is not learnt.
        end_of_turn: From `find_end_of_turn`.
        arguments: What the template takes beside them.

    Raises:
        UserError: If the assistant's words cannot be told from the others'.
    """
    text, turns = locate_turns(tokenizer, messages, end_of_turn, arguments)
    spans = [span for place, span in turns.items() if is_learnt(messages[place])]
    ids, starts = tokenize_text(tokenizer, text)
    return ids, [any(first <= start < end for first, end in spans) for start in starts]


def locate_turns(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    end_of_turn: int,
    arguments: Mapping[str, Any] | None = None,
) -> tuple[str, dict[int, tuple[int, int]]]:
    """Write a conversation and find the assistant's turns in it.

    Args:
        tokenizer: Has the template.
        messages: The turns.
        end_of_turn: From `find_end_of_turn`.
        arguments: What the template takes beside them.

    Returns:
        The text, and for the place of each of the assistant's messages its first character and the one behind the
        token that ends the turn; a message that the template does not write is missing.

    Raises:
        UserError: If the assistant's words cannot be told from the others'.
    """
    mark = tokenizer.convert_ids_to_tokens(end_of_turn)
    if _GENERATION.search(tokenizer.chat_template):
        return _follow_marks(tokenizer, messages, mark, arguments)
    return _follow_prefixes(tokenizer, messages, mark, arguments)


def _follow_marks(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    mark: str,
    arguments: Mapping[str, Any] | None,
) -> tuple[str, dict[int, tuple[int, int]]]:
    """Take each turn from where it is marked as generated up to its end: some templates mark less, and some more."""
    text, generated = _render(tokenizer, messages, arguments, spans=True)
    spans: list[tuple[int, int]] = []
    before = -1
    for start, stop in sorted(generated):
        if start != before and not (spans and start < spans[-1][1]):  # else it goes on with the turn before
            end = text.find(mark, start)
            spans.append((start, end + len(mark) if end >= 0 else stop))
        before = stop
    places = [place for place, message in enumerate(messages) if message["role"] == "assistant"]
    if len(spans) != len(places):
        raise UserError(
            f"{_name_template(tokenizer)} marks {len(spans)} turns as generated where the assistant has "
            f"{len(places)}, so its words cannot be told; give another with --model.chat_template"
        )
    return text, dict(zip(places, spans, strict=True))


def _follow_prefixes(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    mark: str,
    arguments: Mapping[str, Any] | None,
) -> tuple[str, dict[int, tuple[int, int]]]:
    """Find each turn of the assistant behind what the template writes before it, up to the end of the turn."""
    text = render_conversation(tokenizer, messages, arguments=arguments)
    spans = {}
    for place, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prefix = render_conversation(tokenizer, messages[:place], answer=True, arguments=arguments)
        end = text.find(mark, len(prefix))
        if not text.startswith(prefix) or end < 0:
            raise UserError(
                f"{_name_template(tokenizer)} writes what comes before message {place + 1} in another way where the "
                "conversation goes on, so the assistant's words cannot be told; give another with "
                "--model.chat_template, or one turn of the assistant per row"
            )
        spans[place] = (len(prefix), end + len(mark))
    return text, spans
