"""A causal language model in a GGUF file: what is written, what it is worth, and that llama.cpp computes it."""

import importlib.util
import json
import socket
import subprocess
import time
import urllib.request
from types import SimpleNamespace

import numpy as np
import pytest
from export.conftest import run_words

from startup_llm.errors import UserError
from startup_llm.export import gguf_files

gguf = pytest.importorskip("gguf", reason="needs the package gguf")

TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
TEMPLATE += "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"


def read(folder, name="export.json"):
    return json.loads((folder / name).read_text())


@pytest.fixture(scope="module")
def chat_checkpoint(tmp_path_factory):
    """A tiny Llama with grouped heads, the marks of a chat, and rows of embeddings that no token has."""
    import torch
    from conftest import build_tokenizer
    from tokenizers import pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("checkpoint")
    tokenizer = build_tokenizer(decoder=True)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = TEMPLATE
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=320, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, tie_word_embeddings=True, initializer_range=0.3,
        rope_parameters={"rope_type": "default", "rope_theta": 5000.0}, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def chat_run(chat_checkpoint, tmp_path_factory):
    """LoRA on a few conversations, merged into the run's model."""
    folder = tmp_path_factory.mktemp("chat")
    rows = [
        {"messages": [{"role": "user", "content": f"order {n} 12"}, {"role": "assistant", "content": f"it is {n}"}]}
        for n in ("lost", "late", "here", "paid", "sent", "old")
    ]
    for name, part in (("train", rows), ("test", rows[:4])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    words = ["--task", "text-generation", "--model.checkpoint", chat_checkpoint, "--train.max_steps", 2]
    words += ["--data.train_file", folder / "train.jsonl", "--data.test_file", folder / "test.jsonl"]
    words += ["--data.validation_fraction", 0, "--speed.plan", "plain", "--evaluation.resamples", 50]
    assert run_words("finetune", *words, "--run_dir", folder / "run") == 0
    return folder / "run"


@pytest.fixture(scope="module")
def chat_export(chat_run):
    from startup_llm.export import timing

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing, "COLD_STARTS", 1)
        folder = chat_run.with_name("gguf")
        words = ["--format", "gguf", "--allow_drop", "--evaluation.resamples", 50]
        assert run_words("export", "--run", chat_run, *words, "--run_dir", folder) == 0
    return folder


def test_the_file_is_loaded_again_and_proved_on_the_test_rows(chat_run, chat_export):
    from transformers import AutoModelForCausalLM

    proof, results = read(chat_export), read(chat_export, "results.json")
    assert results["export"] == proof
    assert (proof["format"], proof["quantization"], proof["decides"]) == ("gguf-q8_0", "q8_0", "bits_per_byte")
    own, export = proof["models"]["run"], proof["models"]["gguf-q8_0"]
    trained = results["models"]["lora"]["bits_per_byte"]["value"]
    assert own["metrics"]["bits_per_byte"]["value"] == pytest.approx(trained, abs=1e-6)
    assert export["metrics"]["bits_per_byte"]["value"] == pytest.approx(trained, rel=0.02)
    assert 0 < proof["largest_difference"] < 1
    assert export["tokens_per_second"] > 0
    assert (chat_export / "model" / "model.gguf").stat().st_size == export["bytes"]
    loaded = AutoModelForCausalLM.from_pretrained(chat_export / "model", gguf_file="model.gguf", dtype="float32")
    merged = AutoModelForCausalLM.from_pretrained(chat_run / "model", dtype="float32").state_dict()
    for name, weight in loaded.state_dict().items():
        assert (weight - merged[name]).abs().max() <= merged[name].abs().max() / 127, name
    assert "gguf-q8_0" in (chat_export / "README.md").read_text()
    assert "gguf_file" in (chat_export / "README.md").read_text()


def test_the_other_quantizations_are_written_too(chat_run, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(chat_run / "model", dtype="float32")
    tokenizer = AutoTokenizer.from_pretrained(chat_run / "model")
    kinds = {}
    for quantization in ("f16", "q4_0", "q4_1"):
        folder = tmp_path / quantization
        folder.mkdir()
        gguf_files.write_gguf(model, tokenizer, folder, quantization, "tiny")
        tensors = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(folder / "model.gguf").tensors}
        names = ("token_embd.weight", "blk.0.attn_q.weight", "output_norm.weight")
        kinds[quantization] = [tensors[name] for name in names]
        assert "output.weight" not in tensors
    assert kinds == {"f16": ["F16", "F16", "F32"], "q4_0": ["Q8_0", "Q4_0", "F32"], "q4_1": ["Q8_0", "Q4_1", "F32"]}
    loaded, again = gguf_files.load_gguf(tmp_path / "f16")
    for name, weight in model.state_dict().items():
        assert np.allclose(weight, loaded.state_dict()[name], atol=1e-3), name
    messages = [{"role": "user", "content": "order 123\n\n  wörld"}]
    how = {"add_generation_prompt": True, "return_dict": True}
    both = [each.apply_chat_template(messages, **how)["input_ids"] for each in (tokenizer, again)]
    assert both[0] == both[1]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "gpt2"}, "'gpt2', which cannot be written as GGUF; expected llama"),
        ({"rope_parameters": {"rope_type": "llama3"}}, "rotary positions of the kind 'llama3'"),
        ({"attention_bias": True}, "biases"),
    ],
)
def test_a_model_that_the_file_cannot_say_is_refused(change, said):
    plain = {"model_type": "llama", "attention_bias": False, "mlp_bias": False, "hidden_act": "silu"}
    gguf_files.check_config("run x", SimpleNamespace(**plain))
    with pytest.raises(UserError, match=said):
        gguf_files.check_config("run x", SimpleNamespace(**(plain | change)))


@pytest.mark.parametrize("kind", ["sentencepiece", "prefix", "split"])
def test_a_tokenizer_without_a_name_in_gguf_is_refused(kind):
    from conftest import build_tokenizer
    from tokenizers import normalizers, pre_tokenizers

    tokenizer = build_tokenizer(decoder=True)
    assert gguf_files.read_tokenizer(tokenizer)["split"] == "gpt-2"
    if kind == "sentencepiece":
        tokenizer.backend_tokenizer.normalizer = normalizers.Prepend("▁")
    elif kind == "prefix":
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    else:
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(UserError, match="no name in GGUF; expected byte-level BPE as gpt-2, smollm, llama-bpe"):
        gguf_files.read_tokenizer(tokenizer)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--format", "gguf"], "is for text-classification, which has no export to gguf; expected a run for text-gen"),
        (["--format", "gguf", "--quantization", "static"], "format gguf has q8_0, q4_0, q4_1, f16"),
        (["--quantization", "q4_0"], "format onnx-int8 has dynamic, static"),
        (["--format", "onnx", "--quantization", "dynamic"], "format onnx has no choice: leave the option out"),
        (["--format", "torch"], "format 'torch' is not written"),
    ],
)
def test_a_format_of_other_tasks_or_options_is_one_line(finished_run, run_recipe, tmp_path, words, said):
    code, _, err = run_recipe("export", "--run", finished_run, "--run_dir", tmp_path / "new", *words)
    assert (code, err.count("\n")) == (2, 1), err
    assert said in err
    assert not (tmp_path / "new").exists()


def test_predict_names_what_answers_by_the_file(chat_export, run_recipe):
    code, _, err = run_recipe("predict", "--run", chat_export, "--text", "where is it?")
    assert (code, err.count("\n"), "llama.cpp answers by" in err) == (2, 1, True), err


def test_the_file_is_published_with_its_tokenizer(chat_export, run_recipe, tmp_path, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    words = ["--repo", "me/mine", "--dry_run", tmp_path / "published"]
    code, _, err = run_recipe("push", "--run", chat_export, *words)
    assert code == 0, err
    assert {"model.gguf", "tokenizer.json", "config.json"} <= {
        file.name for file in (tmp_path / "published").iterdir()
    }


@pytest.mark.skipif(importlib.util.find_spec("xllamacpp") is None, reason="needs the package xllamacpp")
def test_llama_cpp_computes_what_transformers_computes(chat_export):
    """Its own sums are of numbers of 8 bits: the likeliest tokens' probabilities are near, and not the same."""
    import torch

    from startup_llm.runs.llama_cpp import LlamaCppModel

    text = "order 12\n\n  wörld"
    model, tokenizer = gguf_files.load_gguf(chat_export / "model")
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        expected = model(input_ids=ids).logits[0, -1].log_softmax(-1)
    by_llama_cpp = LlamaCppModel(chat_export / "model" / "model.gguf", threads=1)
    asked = {"prompt": text, "max_tokens": 1, "temperature": 0.0, "ignore_eos": True, "n_probs": 3}
    answer = by_llama_cpp._server.handle_completions(asked)
    assert answer["usage"]["prompt_tokens"] == ids.shape[1]
    for token in answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]:
        assert token["logprob"] == pytest.approx(expected[token["id"]].item(), abs=0.3)
    assert by_llama_cpp.complete(text, 4, ends=False)
    assert isinstance(by_llama_cpp.converse([{"role": "user", "content": text}], 4), str)


@pytest.mark.skipif(importlib.util.find_spec("xllamacpp") is None, reason="needs the package xllamacpp")
def test_chats_are_served_by_llama_cpp(chat_export):
    from startup_llm.config import ServeConfig
    from startup_llm.serving.chat_server import build_chat_command

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = build_chat_command(ServeConfig(run=str(chat_export), chat=True, port=port))
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    body = json.dumps({"messages": [{"role": "user", "content": "order lost"}], "max_tokens": 3}).encode()
    asked = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions", body, {"Content-Type": "application/json"}
    )
    try:
        end = time.monotonic() + 60
        while True:
            try:
                answer = json.load(urllib.request.urlopen(asked, timeout=30))
                break
            except OSError:
                assert server.poll() is None
                assert time.monotonic() < end
                time.sleep(0.2)
    finally:
        server.terminate()
        server.wait()
    assert answer["choices"][0]["message"]["role"] == "assistant"
    assert answer["usage"]["completion_tokens"] <= 3
    with pytest.raises(UserError, match=r"compute_dtype: llama\.cpp's server, .* has no such option"):
        build_chat_command(ServeConfig(run=str(chat_export), chat=True, compute_dtype="auto"))
