import itertools
import math

import pytest
import torch

from startup_llm.errors import UserError
from startup_llm.models.scratch.transformer import (
    Decoder,
    Encoder,
    EncoderDecoder,
    SequenceClassifier,
    compute_mean_pooling,
    compute_sinusoidal_positions,
    gelu_new,
)

SMALL = {"width": 16, "heads": 4, "dropout": 0.0}


def spread(model):
    """Move the matrices far from the start, so that outputs differ clearly."""
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.4)


def build_decoder(kernel="eager"):
    torch.manual_seed(0)
    model = Decoder(20, layers=2, max_length_tokens=16, kernel=kernel, **SMALL).eval()
    spread(model)
    return model


def build_encoder_decoder(vocab_size=20, norm="post", kernel="eager", shared_embeddings=True):
    torch.manual_seed(0)
    model = EncoderDecoder(
        vocab_size,
        encoder_layers=2,
        decoder_layers=2,
        max_length_tokens=16,
        norm=norm,
        kernel=kernel,
        shared_embeddings=shared_embeddings,
        **SMALL,
    ).eval()
    spread(model)
    return model


def test_gelu_new_is_the_tanh_formula():
    x = torch.linspace(-4, 4, 17)
    expected = 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    torch.testing.assert_close(gelu_new(x), expected)


def test_sinusoidal_positions_follow_the_formula():
    table = compute_sinusoidal_positions(7, 6)
    assert table[5, 2].item() == pytest.approx(math.sin(5 / 10000 ** (2 / 6)))
    assert table[5, 3].item() == pytest.approx(math.cos(5 / 10000 ** (2 / 6)))


def test_mean_pooling_takes_real_tokens_only():
    hidden = torch.tensor([[[1.0], [3.0], [99.0]], [[7.0], [8.0], [9.0]]])
    mean = compute_mean_pooling(hidden, torch.tensor([[1, 1, 0], [0, 0, 0]]))
    assert mean.tolist() == [[2.0], [0.0]]


@pytest.mark.parametrize("position", [1, 4])
@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
def test_a_later_token_does_not_change_earlier_outputs_of_the_decoder(position, kernel):
    model, tokens = build_decoder(kernel), torch.arange(6)[None]
    changed = tokens.clone()
    changed[0, position] = 19
    before, after = model(tokens)["logits"], model(changed)["logits"]
    torch.testing.assert_close(after[:, :position], before[:, :position], atol=0, rtol=0)
    assert (after[:, position:] - before[:, position:]).abs().amax(-1).min() > 1e-3


def test_a_later_token_does_not_change_earlier_outputs_of_the_encoder_decoder():
    model, source, target = build_encoder_decoder(), torch.arange(5)[None], torch.arange(6)[None]
    changed = target.clone()
    changed[0, 3] = 19
    before = model(source, decoder_input_ids=target)["logits"]
    after = model(source, decoder_input_ids=changed)["logits"]
    torch.testing.assert_close(after[:, :3], before[:, :3], atol=0, rtol=0)
    assert (after[:, 3:] - before[:, 3:]).abs().amax(-1).min() > 1e-3


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", ["encoder", "decoder", "classifier", "encoder-decoder"])
def test_padding_never_changes_a_real_token(side, kernel, kind):
    torch.manual_seed(0)
    tokens = torch.tensor([[5, 6, 7]])
    pads = torch.tensor([[13, 4]])  # arbitrary ids: the mask alone says what is padding
    both = (pads, tokens) if side == "left" else (tokens, pads)
    padded = torch.cat(both, dim=1)
    mask = torch.cat([torch.zeros_like(part) if part is pads else torch.ones_like(part) for part in both], dim=1)
    real = slice(2, 5) if side == "left" else slice(0, 3)
    if kind == "decoder":
        model = build_decoder(kernel)
        alone, beside = model(tokens)["logits"], model(padded, mask)["logits"][:, real]
    elif kind == "encoder-decoder":
        model, target = build_encoder_decoder(kernel=kernel), torch.tensor([[1, 8, 9]])
        alone = model(tokens, decoder_input_ids=target)["logits"]
        beside = model(padded, mask, decoder_input_ids=target)["logits"]
    else:
        model = Encoder(20, layers=2, max_length_tokens=16, kernel=kernel, **SMALL)
        alone, beside = model(tokens), model(padded, mask)[:, real]
        if kind == "classifier":
            model = SequenceClassifier(model, classes=3).eval()
            alone, beside = model(tokens)["logits"], model(padded, mask)["logits"]
    torch.testing.assert_close(beside, alone, atol=1e-5, rtol=1e-5)


def test_padding_does_not_count_in_the_loss_of_the_decoder():
    model, tokens = build_decoder(), torch.tensor([[5, 6, 7]])
    padded, mask = torch.tensor([[5, 6, 7, 13, 4]]), torch.tensor([[1, 1, 1, 0, 0]])
    torch.testing.assert_close(model(padded, mask, labels=padded)["loss"], model(tokens, labels=tokens)["loss"])


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
def test_generation_is_the_same_with_and_without_cache(kernel):
    model = build_decoder(kernel)
    prompts, mask = torch.tensor([[3, 4, 5], [0, 7, 8]]), torch.tensor([[1, 1, 1], [0, 1, 1]])
    for temperature in (0.0, 1.0):
        texts = [
            model.generate(
                prompts,
                max_new_tokens=10,
                attention_mask=mask,
                temperature=temperature,
                generator=torch.Generator().manual_seed(0),
                use_cache=use_cache,
            )
            for use_cache in (True, False)
        ]
        assert texts[0].shape == (2, 13)
        assert texts[0].tolist() == texts[1].tolist()


def test_a_left_padded_prompt_is_continued_as_it_is_alone():
    model = build_decoder()
    together = model.generate(
        torch.tensor([[3, 4, 5], [0, 7, 8]]), 6, attention_mask=torch.tensor([[1, 1, 1], [0, 1, 1]])
    )
    assert together[1, 3:].tolist() == model.generate(torch.tensor([[7, 8]]), 6)[0, 2:].tolist()


def test_a_text_ends_at_the_end_token_and_is_padded():
    model, prompts = build_decoder(), torch.tensor([[3, 4, 5], [9, 1, 6]])
    first, second = model.generate(prompts, 8)[:, 3:].tolist()
    eos = next(token for token in first if token not in second)  # ends the first text only
    length = first.index(eos) + 1
    written = model.generate(prompts, 8, eos_token_id=eos, pad_token_id=17)[:, 3:].tolist()
    assert length < 8
    assert written == [first[:length] + [17] * (8 - length), second]


def test_generation_stops_where_all_texts_have_ended():
    model, prompt = build_decoder(), torch.tensor([[3, 4, 5]])
    free = model.generate(prompt, 8)[0, 3:].tolist()
    written = model.generate(prompt, 8, eos_token_id=free[2])[0, 3:].tolist()
    assert written == free[: free.index(free[2]) + 1]


def test_sampling_keeps_to_the_top_k_and_follows_the_temperature():
    model, prompt = build_decoder(), torch.tensor([[3, 4, 5]]).expand(4000, -1)
    logits = model(prompt[:1])["logits"][0, -1]
    drawn = model.generate(prompt, 1, temperature=2.0, top_k=3, generator=torch.Generator().manual_seed(0))[:, -1]
    top = logits.topk(3)
    expected = torch.softmax(top.values / 2.0, dim=-1)
    assert set(drawn.tolist()) == set(top.indices.tolist())
    shares = torch.stack([(drawn == token).float().mean() for token in top.indices])
    torch.testing.assert_close(shares, expected.detach(), atol=0.03, rtol=0)  # 4000 draws: 3.8 standard errors


def test_generation_leaves_the_training_mode_as_it_was():
    model = build_decoder().train()
    model.generate(torch.tensor([[3]]), 1)
    assert model.training


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_new_tokens": 14}, r"17 tokens is longer than max_length_tokens \(16\)"),
        ({"max_new_tokens": 0}, r"max_new_tokens \(0\) must be at least 1"),
        ({"max_new_tokens": 1, "temperature": -1.0}, r"temperature \(-1.0\) must be at least 0"),
        ({"max_new_tokens": 1, "top_k": 0}, r"top_k \(0\) must be at least 1"),
        ({"max_new_tokens": 1, "attention_mask": torch.tensor([[1, 1, 0]])}, r"prompt 0 ends in padding; pad .* left"),
    ],
)
def test_generate_names_a_bad_argument(arguments, message):
    with pytest.raises(UserError, match=message):
        build_decoder().generate(torch.tensor([[3, 4, 5]]), **arguments)


def test_decoder_ties_its_output_to_the_embedding():
    model = build_decoder()
    assert not any("output" in name or "lm_head" in name for name in model.state_dict())
    before = model(torch.tensor([[3]]))["logits"][0, 0]
    with torch.no_grad():
        model.token_embedding.weight[9] *= 2
    after = model(torch.tensor([[3]]))["logits"][0, 0]
    torch.testing.assert_close(after[9], 2 * before[9])


def test_decoder_starts_with_a_narrow_residual_path():
    model = Decoder(20, width=64, heads=4, layers=8)
    weights = [block.feed_forward.contract.weight for block in model.blocks]
    assert torch.cat(weights).std().item() == pytest.approx(0.02 / math.sqrt(2 * 8), rel=0.02)
    assert model.blocks[0].feed_forward.expand.weight.std().item() == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize("shared_embeddings", [True, False])
def test_embeddings_are_scaled_before_positions_are_added(shared_embeddings):
    model = build_encoder_decoder(shared_embeddings=shared_embeddings)
    position = compute_sinusoidal_positions(16, 16)[1]
    source, target = model.source_embedding.weight[7], model.target_matrix[7]
    torch.testing.assert_close(model.embed_source(torch.tensor([[5, 7]]))[0, 1], 4 * source + position)  # √16 = 4
    torch.testing.assert_close(model.embed_target(torch.tensor([[5, 7]]))[0, 1], 4 * target + position)


def test_shared_embeddings_are_one_matrix():
    shared, own = build_encoder_decoder(), build_encoder_decoder(shared_embeddings=False)
    matrices = [model.source_embedding.weight.numel() for model in (shared, own)]
    sizes = [sum(parameter.numel() for parameter in model.parameters()) for model in (shared, own)]
    assert sizes[1] - sizes[0] == 2 * matrices[0]


def test_labels_are_shifted_right_behind_the_start_token():
    model, source = build_encoder_decoder(), torch.tensor([[5, 6, 7]])
    by_labels = model(source, labels=torch.tensor([[8, 9, 2, -100]]))
    by_hand = model(source, decoder_input_ids=torch.tensor([[1, 8, 9, 2]]))["logits"]
    torch.testing.assert_close(by_labels["logits"], by_hand)
    expected = torch.nn.functional.cross_entropy(by_hand[0, :3], torch.tensor([8, 9, 2]))
    torch.testing.assert_close(by_labels["loss"], expected)


@pytest.mark.parametrize("norm", ["post", "pre"])
@pytest.mark.parametrize("beams", [1, 3])
def test_writing_is_the_same_with_and_without_cache(norm, beams):
    model = build_encoder_decoder(norm=norm)
    source, mask = torch.tensor([[5, 6, 7], [8, 9, 0]]), torch.tensor([[1, 1, 1], [1, 1, 0]])
    cached, plain = (model.generate(source, 15, mask, beams=beams, use_cache=use_cache) for use_cache in (True, False))
    assert cached.tolist() == plain.tolist()


def test_greedy_writing_takes_the_most_probable_token_each_time():
    model, source = build_encoder_decoder(), torch.tensor([[5, 6, 7]])
    written = [model.start_token_id]
    for _ in range(6):
        logits = model(source, decoder_input_ids=torch.tensor([written]))["logits"]
        written.append(logits[0, -1].argmax().item())
        if written[-1] == model.eos_token_id:
            break
    assert model.generate(source, 6)[0].tolist() == written[1:]


SOURCES = torch.cartesian_prod(*[torch.arange(4)] * 3)[::5]  # 13 sources of three tokens


def unpad(written):
    return [tuple(row[: row.index(2) + 1] if 2 in row else row) for row in written.tolist()]


@pytest.mark.parametrize("length_penalty", [0.0, 0.6, 2.0])
def test_a_beam_wide_enough_finds_the_best_target_of_all(length_penalty):
    model = build_encoder_decoder(vocab_size=4)
    targets = torch.tensor(list(itertools.product(range(4), repeat=3)))  # (64, 3)
    best = []
    for row in SOURCES:
        start = torch.full((64, 1), model.start_token_id)
        inputs = torch.cat([start, targets[:, :-1]], dim=1)
        log_p = model(row.expand(64, -1), decoder_input_ids=inputs)["logits"].log_softmax(-1)  # (64, 3, 4)
        ranked = {}
        for target, steps in zip(targets.tolist(), log_p.tolist(), strict=True):
            length = target.index(2) + 1 if 2 in target else 3  # the end token ends it
            score = sum(step[token] for step, token in zip(steps[:length], target[:length], strict=True))
            ranked[tuple(target[:length])] = score / ((5 + length) / 6) ** length_penalty
        best.append(max(ranked, key=ranked.get))
    assert len({len(target) for target in best}) > 1
    assert unpad(model.generate(SOURCES, 3, beams=64, length_penalty=length_penalty)) == best


@pytest.mark.parametrize("beams", [2, 4])
@pytest.mark.parametrize("length_penalty", [0.0, 3.0])
def test_a_narrow_beam_keeps_the_best_targets_at_each_step(beams, length_penalty):
    model = build_encoder_decoder(vocab_size=6)

    def rank(candidate):
        target, score = candidate
        return score / ((5 + len(target)) / 6) ** length_penalty

    expected = []
    for row in SOURCES:
        kept = [((), 0.0)]
        for _ in range(5):
            candidates = []
            for target, score in kept:
                if target and target[-1] == 2:
                    candidates.append((target, score))
                    continue
                inputs = torch.tensor([[model.start_token_id, *target]])
                log_p = model(row[None], decoder_input_ids=inputs)["logits"][0, -1].log_softmax(-1).tolist()
                candidates += [((*target, token), score + log_p[token]) for token in range(6)]
            kept = sorted(candidates, key=rank, reverse=True)[:beams]
        expected.append(kept[0][0])
    assert len({len(target) for target in expected}) > 1
    assert unpad(model.generate(SOURCES, 5, beams=beams, length_penalty=length_penalty)) == expected
