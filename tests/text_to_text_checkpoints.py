"""Tiny checkpoints that write a text for a text, each with the kind of tokenizer that its architecture comes with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

BART_SIZES = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 128,
    "init_std": 0.3,
}
BUILT = ("t5", "bart", "marian", "m2m_100")


def build_text_to_text_checkpoint(model_type: str, folder: Path, texts: Sequence[str]) -> Path:
    """Write a checkpoint with random weights and a tokenizer that was trained on the texts.

    Args:
        model_type: One of `BUILT`: t5 with SentencePiece's unigrams, bart with byte-level BPE, marian with two
            SentencePiece files, m2m_100 with NLLB's tokens of languages.
        folder: Made if it is not there.
        texts: What the tokenizer is trained on.
    """
    import torch
    from transformers import AutoConfig, AutoModelForSeq2SeqLM

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = {"t5": _t5, "bart": _bart, "marian": _marian, "m2m_100": _nllb}[model_type](folder, texts)
    tokenizer.save_pretrained(folder)
    tokens = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    tokens["decoder_start_token_id"] = {"t5": tokenizer.pad_token_id, "marian": tokenizer.pad_token_id}.get(
        model_type, tokenizer.eos_token_id
    )
    sizes = BART_SIZES
    if model_type == "t5":
        sizes = {"d_model": 32, "d_kv": 8, "num_heads": 4, "d_ff": 64, "num_layers": 2}
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, vocab_size=len(tokenizer), **sizes, **tokens)
    config.forced_eos_token_id = None
    AutoModelForSeq2SeqLM.from_config(config).save_pretrained(folder)
    return folder


def _train_pieces(folder: Path, name: str, texts: Sequence[str], vocab_size: int = 60) -> tuple[Path, list[str]]:
    import sentencepiece

    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_prefix=str(folder / name),
        vocab_size=vocab_size,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (folder / f"{name}.vocab").unlink()
    file = (folder / f"{name}.model").rename(folder / f"{name}.spm")
    model = sentencepiece.SentencePieceProcessor(str(file))
    return file, [model.id_to_piece(place) for place in range(len(model))]


def _t5(folder: Path, texts: Sequence[str]):
    from transformers import T5Tokenizer

    file, pieces = _train_pieces(folder, "pieces", texts)
    file.unlink()
    plain = [piece for piece in pieces if piece not in ("<unk>", "<s>", "</s>")]
    vocabulary = [(piece, -float(place)) for place, piece in enumerate(["<pad>", "</s>", "<unk>", *plain])]
    return T5Tokenizer(vocab=vocabulary, extra_ids=0)


def _bart(folder: Path, texts: Sequence[str]):
    from tokenizers import ByteLevelBPETokenizer
    from transformers import BartTokenizer

    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(texts, vocab_size=300, special_tokens=special, show_progress=False)
    content = json.loads(trained.to_str())["model"]
    return BartTokenizer(vocab=content["vocab"], merges=[tuple(pair) for pair in content["merges"]])


def _marian(folder: Path, texts: Sequence[str]):
    from transformers import MarianTokenizer

    files, known = [], ["</s>", "<unk>"]
    for name in ("source", "target"):
        file, pieces = _train_pieces(folder, name, texts)
        files.append(str(file))
        known += [piece for piece in pieces if piece not in known and piece != "<s>"]
    vocabulary = folder / "vocab.json"
    vocabulary.write_text(json.dumps({piece: place for place, piece in enumerate([*known, "<pad>"])}))
    return MarianTokenizer(*files, str(vocabulary))


def _nllb(folder: Path, texts: Sequence[str]):
    from transformers import NllbTokenizer

    letters = sorted({letter for text in texts for letter in text} - {" "})
    vocabulary = ["<s>", "<pad>", "</s>", "<unk>", "▁", *letters]
    return NllbTokenizer(
        vocab={piece: place for place, piece in enumerate(vocabulary)},
        merges=[],
        additional_special_tokens=["eng_Latn", "deu_Latn"],
    )
