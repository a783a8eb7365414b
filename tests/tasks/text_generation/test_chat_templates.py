from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from chat_checkpoints import build_chat_tokenizer

from startup_llm.errors import UserError
from startup_llm.tasks.text_generation.chat_templates import (
    TEMPLATES,
    find_end_of_turn,
    hash_chat_template,
    render_conversation,
    set_chat_template,
    tokenize_conversation,
)

CONVERSATION = [
    {"role": "user", "content": "please refund my order"},
    {"role": "assistant", "content": "yes, we refund the money"},
    {"role": "user", "content": "thanks, where is my parcel?"},
    {"role": "assistant", "content": "on its way"},
]
PUBLISHED = {  # template of a checkpoint -> its tokens, what ends a turn first
    "llama3": ["<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"],
    "gemma": ["<end_of_turn>", "<start_of_turn>"],
    "phi3": ["<|end|>", "<|user|>", "<|assistant|>"],
    "qwen2_5_vl": ["<|im_end|>", "<|im_start|>"],
    "qwen3_instruct_2507": ["<|im_end|>", "<|im_start|>"],
    "qwen3": ["<|im_end|>", "<|im_start|>"],
}


def decode_said(tokenizer, conversation=CONVERSATION):
    ids, said = tokenize_conversation(tokenizer, conversation, find_end_of_turn(tokenizer))
    return tokenizer.decode([token for token, is_said in zip(ids, said, strict=True) if is_said])


def build_published(name: str, file: str):
    trl = pytest.importorskip("trl")
    tokenizer = build_chat_tokenizer()
    tokenizer.add_tokens(PUBLISHED[name], special_tokens=True)
    tokenizer.add_special_tokens({"bos_token": "<bos>"})
    tokenizer.chat_template = (Path(trl.__file__).parent / "chat_templates" / f"{file}.jinja").read_text()
    return tokenizer


@pytest.mark.parametrize("name", sorted(PUBLISHED.keys() - {"qwen3"}))
def test_prefixes_and_generation_marks_of_published_templates_tell_the_same_tokens(name):
    by_prefixes, by_marks = build_published(name, name), build_published(name, f"{name}_training")
    assert "generation %}" in by_marks.chat_template
    assert "{% generation" not in by_prefixes.chat_template
    end = PUBLISHED[name][0]
    assert by_prefixes.convert_ids_to_tokens(find_end_of_turn(by_prefixes)) == end
    one, other = (tokenize_conversation(t, CONVERSATION, find_end_of_turn(t)) for t in (by_prefixes, by_marks))
    assert one == other
    assert decode_said(by_prefixes) == f"yes, we refund the money{end}on its way{end}"


def test_qwen3_answers_with_an_empty_thought_at_the_end_as_its_template_writes():
    tokenizer = build_published("qwen3", "qwen3")
    assert decode_said(tokenizer).endswith("<think>\n\n</think>\n\non its way<|im_end|>")
    assert render_conversation(tokenizer, CONVERSATION[:3], answer=True).endswith("<|im_start|>assistant\n")


@pytest.mark.parametrize(("name", "end"), [("chatml", "<|im_end|>"), ("plain", "<eos>")])
def test_a_template_is_given_by_its_name_and_saved_with_the_tokenizer(tmp_path, name, end):
    from transformers import AutoTokenizer

    tokenizer = build_chat_tokenizer()
    with pytest.raises(UserError, match=r"no chat template.*--model.chat_template chatml, plain or FILE"):
        find_end_of_turn(tokenizer)
    assert hash_chat_template(tokenizer) is None
    set_chat_template(tokenizer, name)
    assert decode_said(tokenizer) == f"yes, we refund the money{end}on its way{end}"
    ids, said = tokenize_conversation(tokenizer, CONVERSATION, find_end_of_turn(tokenizer))
    prompt = render_conversation(tokenizer, CONVERSATION[:1], answer=True)
    assert ids[: said.index(True)] == tokenizer(prompt)["input_ids"]  # what is learnt is what will be asked
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert hash_chat_template(again) == hash_chat_template(tokenizer)
    assert hash_chat_template(again) == hashlib.sha256(TEMPLATES[name].encode()).hexdigest()
    assert tokenize_conversation(again, CONVERSATION, find_end_of_turn(again)) == (ids, said)


def test_a_template_comes_from_a_file(tmp_path):
    path = tmp_path / "mine.jinja"
    path.write_text(
        "{% for m in messages %}{{ m.role[0] }}|{{ m.content }}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}a|{% endif %}"
    )
    tokenizer = build_chat_tokenizer()
    set_chat_template(tokenizer, str(path))
    assert decode_said(tokenizer) == "yes, we refund the money<eos>on its way<eos>"
    with pytest.raises(UserError, match=r"model.chat_template nowhere.jinja: no such file; expected chatml, plain"):
        set_chat_template(tokenizer, "nowhere.jinja")


def test_templates_that_cannot_be_learnt_from_are_refused():
    from conftest import build_tokenizer

    with pytest.raises(UserError, match=r"no token <\|im_start\|>.*use --model.chat_template plain"):
        set_chat_template(build_tokenizer(decoder=True), "chatml")
    tokenizer = build_chat_tokenizer("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")
    with pytest.raises(UserError, match=r"closes the assistant's turn with '.n', expected a special token"):
        find_end_of_turn(tokenizer)
    tokenizer = build_chat_tokenizer("{{ raise_exception('Roles must alternate') }}")
    with pytest.raises(UserError, match="refuses the conversation: Roles must alternate"):
        render_conversation(tokenizer, CONVERSATION)
    counted = "{{ messages|length }}" + TEMPLATES["chatml"].replace("generation", "if true", 1)
    counted = counted.replace("{%- if true %}", "").replace("{%- endgeneration %}", "")
    tokenizer = build_chat_tokenizer(counted)
    with pytest.raises(UserError, match="in another way where the conversation goes on"):
        tokenize_conversation(tokenizer, CONVERSATION, find_end_of_turn(tokenizer))
