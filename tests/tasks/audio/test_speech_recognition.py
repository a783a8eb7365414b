from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import datasets
import jiwer
import numpy as np
import pytest
from sounds import TUNES, write_digits, write_sounds

from startup_llm.errors import UserError
from startup_llm.evaluation.baselines import predict_baselines
from startup_llm.models.checkpoints import load_checkpoint
from startup_llm.tasks import load_task
from startup_llm.tasks.audio.options import (
    ScratchConformer,
    ScratchWhisper,
    SpeechRecognitionModel,
    TranscribedRecordingData,
)
from startup_llm.tasks.audio.text_lengths import count_ctc_frames
from startup_llm.tasks.base import find_metric

ROOT = Path(__file__).parents[3]
TAG = "automatic-speech-recognition"
QUICK = ["--evaluation.resamples", "20", "--speed.compute_dtype", "float32", "--speed.attention_kernel", "eager"]
NAMES = ["--data.file_name_columns", "{word}_{speaker}_{take}", "--data.text_column", "word"]
SMALL = ["--model.width", "32", "--model.layers", "1", "--model.heads", "2", "--model.dropout", "0"]


def run_well(run_recipe, *words: object) -> None:
    code, _, err = run_recipe(*words)
    assert code == 0, err[-3000:]


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sounds")
    write_sounds(folder, 16)
    return folder


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory, sounds):
    """Speech checkpoints of random weights: two wav2vec 2.0, one with group norm, and a Whisper."""
    import torch
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC, Wav2Vec2Processor

    from startup_llm.tasks.audio.speech_models import build_letter_tokenizer, build_scratch_whisper

    folder = tmp_path_factory.mktemp("checkpoints")
    torch.manual_seed(0)
    tokenizer = build_letter_tokenizer(list(TUNES))
    for norm in ("layer", "group"):
        extractor = Wav2Vec2FeatureExtractor(return_attention_mask=norm == "layer")
        config = Wav2Vec2Config(
            vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, hidden_size=32, num_hidden_layers=2,
            num_attention_heads=2, intermediate_size=64, conv_dim=(16, 16, 16), conv_kernel=(10, 8, 4),
            conv_stride=(10, 8, 4), feat_extract_norm=norm, do_stable_layer_norm=norm == "layer",
            num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2, ctc_loss_reduction="sum",
        )  # fmt: skip
        Wav2Vec2ForCTC(config).save_pretrained(folder / f"wav2vec2-{norm}")
        Wav2Vec2Processor(extractor, tokenizer).save_pretrained(folder / f"wav2vec2-{norm}")
    small = ScratchWhisper(width=32, layers=1, heads=2)
    processor, built = build_scratch_whisper(list(TUNES), 0.6, small, "eager")
    built.model.save_pretrained(folder / "whisper")
    processor.save_pretrained(folder / "whisper")
    return folder


@pytest.mark.fresh_gate
@pytest.mark.slow
def test_the_config_of_spoken_digits_teaches_a_whisper_to_write_what_it_hears(tmp_path, run_recipe):
    write_digits(tmp_path / "sounds", 16)
    run = tmp_path / "run"
    run_well(
        run_recipe, "pretrain", "--config", ROOT / "recipes/configs/fsdd_asr.yaml", "--data.data_dir",
        tmp_path / "sounds", *SMALL, *QUICK, "--run_dir", run, "--train.num_train_epochs", 40,
        "--train.learning_rate", 5e-3, "--train.per_device_train_batch_size", 8, "--model.warp_spectrum", "false",
    )  # fmt: skip
    results = json.loads((run / "results.json").read_text())
    assert results["decides"] == "word_error_rate"
    assert results["test"]["rows"] == 15  # takes 0 to 4
    assert results["data"]["license"] == "cc-by-sa-4.0"
    assert set(results["models"]) == {"whisper", "most-frequent-text"}
    assert results["models"]["whisper"]["word_error_rate"]["value"] < 0.2
    assert results["models"]["most-frequent-text"]["word_error_rate"]["value"] > 0.3
    gate = results["reload_gate"]
    assert gate["merged_max_difference"] < 1e-3
    assert gate["pipeline_max_difference"] == 0
    pictures = [item for item in results["gallery"] if item["kind"] == "image"]
    assert any(item["title"] == "Heard rightly" for item in pictures)

    (tmp_path / "new").mkdir()
    for digit in range(3):
        shutil.copy(tmp_path / "sounds" / f"{digit}_jackson_0.wav", tmp_path / "new")
    run_well(run_recipe, "predict", "--run", run, "--input", tmp_path / "new", "--output", tmp_path / "answers.jsonl")
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    heard = [answer["text"] for answer in sorted(answers, key=lambda answer: answer["file"])]
    assert sum(map(str.__eq__, heard, ("zero", "one", "two"))) >= 2


def test_a_saved_conformer_hears_as_the_pipeline_does(sounds, tmp_path):
    task = load_task(TAG)
    data, _ = encode(task, load_speech(sounds, tmp_path)[1], sounds)
    assert task.saved_model.find_auto_class(str(tmp_path)) == "AutoModelForCTC"
    assert task.saved_model.check_pipeline(str(tmp_path), data.splits["test"], []) == 0


@pytest.mark.fresh_gate
def test_lora_on_a_wav2vec2_trains_its_head_and_reloads(sounds, checkpoints, tmp_path, run_recipe):
    run = tmp_path / "run"
    run_well(
        run_recipe, "finetune", "--task", TAG, "--model.checkpoint", checkpoints / "wav2vec2-layer",
        "--data.data_dir", sounds, *NAMES, *QUICK, "--run_dir", run, "--train.max_steps", 3,
        "--train.learning_rate", 1e-2, "--lora.rank", 4,
    )  # fmt: skip
    results = json.loads((run / "results.json").read_text())
    gate = {name: value for name, value in results["reload_gate"].items() if name.endswith("difference")}
    assert set(gate) == {"merged_max_difference", "pipeline_max_difference", "adapter_max_difference"}
    assert max(gate.values()) < 1e-3


def test_labels_of_a_whisper_are_smoothed_and_those_of_ctc_are_refused(sounds, checkpoints, tmp_path, run_recipe):
    import torch
    from transformers.trainer_pt_utils import LabelSmoother

    from startup_llm.training.speed import SpeedPlan
    from startup_llm.training.trainer import HeadTrainer, build_training_arguments

    task, processor, model = load(checkpoints, "whisper")
    _, encoded = encode(task, processor, sounds)
    section = {"report_to": "none", "label_smoothing_factor": 0.3}
    plan = SpeedPlan("cpu", "float32", "float32", None, 10**6, ())
    trainer = HeadTrainer(
        model=model, args=build_training_arguments(section, tmp_path, plan, ""), train_dataset=encoded, task=task,
        data_collator=task.build_collator(processor), processing_class=processor, head_parameters=[],
        head_learning_rate=0.0, tokens_per_batch=10**6,
    )  # fmt: skip
    batch = trainer.data_collator(encoded.remove_columns(["length", "_row"]).to_list()[:4])
    with torch.inference_mode():
        loss = trainer.compute_loss(model, dict(batch))
        expected = LabelSmoother(epsilon=0.3)({"logits": model(**batch)["logits"]}, batch["labels"])
    torch.testing.assert_close(loss, expected)
    code, _, err = run_recipe(
        "finetune", "--task", TAG, "--model.checkpoint", checkpoints / "wav2vec2-layer", "--data.data_dir", sounds,
        *NAMES, *QUICK, "--run_dir", tmp_path / "run", "--train.label_smoothing_factor", 0.1,
    )  # fmt: skip
    assert (code, err.count("\n")) == (2, 1), err
    assert f"train.label_smoothing_factor 0.1: the loss of {TAG} with Wav2Vec2ForCTC is no cross-entropy" in err


def make_multilingual(folder):
    """Turn a tiny Whisper's tokenizer and generation config into those of one that knows every language."""
    from transformers import AutoTokenizer, GenerationConfig, WhisperForConditionalGeneration, WhisperTokenizer
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    plain = AutoTokenizer.from_pretrained(folder)
    names = [f"<|{code}|>" for code in LANGUAGES]
    special = ["<|endoftext|>", "<|startoftranscript|>", *names, "<|translate|>", "<|transcribe|>", "<|notimestamps|>"]
    letters = [token for token, _ in sorted(plain.get_vocab().items(), key=lambda item: item[1]) if token[:2] != "<|"]
    tokenizer = WhisperTokenizer(vocab={token: i for i, token in enumerate([*letters, special[0]])}, merges=[])
    tokenizer.add_special_tokens({"additional_special_tokens": special[1:]})
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in special}
    model = WhisperForConditionalGeneration.from_pretrained(folder)
    model.resize_token_embeddings(len(tokenizer))
    model.config.decoder_start_token_id = ids["<|startoftranscript|>"]
    end = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), ids["<|endoftext|>"])
    model.config.update(end)
    model.generation_config = GenerationConfig(
        **end, decoder_start_token_id=ids["<|startoftranscript|>"], max_length=16, is_multilingual=True,
        no_timestamps_token_id=ids["<|notimestamps|>"], return_timestamps=False,
        lang_to_id={name: ids[name] for name in names},
        task_to_id={"transcribe": ids["<|transcribe|>"], "translate": ids["<|translate|>"]},
    )  # fmt: skip
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.mark.slow
def test_the_config_of_librispeech_runs_on_a_local_copy(sounds, checkpoints, tmp_path, run_recipe):
    """Rows in the dataset's own columns; a Whisper that knows many languages is told which one."""
    shutil.copytree(checkpoints / "whisper", tmp_path / "whisper")
    make_multilingual(tmp_path / "whisper")
    (tmp_path / "data").mkdir()
    files = sorted(sounds.glob("*.wav"))
    for place, split in enumerate(("train", "validation", "test")):
        rows = files[place::3]
        columns = {
            "file": [path.name for path in rows],
            "audio": [{"bytes": path.read_bytes(), "path": path.name} for path in rows],
            "text": [path.name.split("_")[0].upper() for path in rows],
            "speaker_id": list(range(len(rows))),
        }
        table = datasets.Dataset.from_dict(columns).cast_column("audio", datasets.Audio(decode=False))
        table.to_parquet(tmp_path / "data" / f"{split}.parquet")
    run = tmp_path / "run"
    run_well(
        run_recipe, "finetune", "--config", ROOT / "recipes/configs/librispeech_whisper.yaml", *QUICK,
        "--model.checkpoint", tmp_path / "whisper", "--model.revision", "null", "--data.data_dir", tmp_path / "data",
        "--run_dir", run, "--train.max_steps", 2,
    )  # fmt: skip
    results = json.loads((run / "results.json").read_text())
    assert results["models"].keys() == {"lora", "untuned", "most-frequent-text"}
    assert results["decides"] == "normalized_word_error_rate"
    assert results["comparisons"][0]["metric"] == results["decides"]
    assert "word_error_rate" in results["models"]["lora"]
    (tmp_path / "new").mkdir()
    shutil.copy(files[0], tmp_path / "new")
    run_well(run_recipe, "predict", "--run", run, "--input", tmp_path / "new", "--output", tmp_path / "heard.csv")
    told = json.loads((run / "model" / "generation_config.json").read_text())
    assert (told["language"], told["task"]) == ("english", "transcribe")
    processor = load_task(TAG).saved_model.load_processor(str(run / "model"))
    start = processor.tokenizer.convert_ids_to_tokens(processor.tokenizer("A")["input_ids"])[:4]
    assert start == ["<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>"]


def test_a_checkpoint_of_many_languages_is_measured_as_it_is_without_being_told_which(
    sounds, checkpoints, tmp_path, run_recipe
):
    shutil.copytree(checkpoints / "whisper", tmp_path / "many")
    make_multilingual(tmp_path / "many")
    (tmp_path / "sounds").mkdir()
    for file in sorted(sounds.glob("*.wav"))[:3]:
        shutil.copy(file, tmp_path / "sounds")
    rows = "file_name,text\n" + "".join(
        f"{file.name},{file.name.split('_')[0]}\n" for file in (tmp_path / "sounds").iterdir()
    )
    (tmp_path / "sounds" / "metadata.csv").write_text(rows)
    words = ["--model", tmp_path / "many", "--task", TAG, "--data.test_file", tmp_path / "sounds" / "metadata.csv"]
    run_well(run_recipe, "evaluate", *words, "--run_dir", tmp_path / "measured")
    entry = json.loads((tmp_path / "measured" / "results.json").read_text())["entries"][0]
    assert entry["metrics"]["word_error_rate"]["value"] >= 0


def test_a_language_is_asked_for_where_there_are_many_and_refused_where_there_is_one(sounds, checkpoints, tmp_path):
    task = load_task(TAG)
    plain = load_checkpoint(SpeechRecognitionModel(checkpoint=str(checkpoints / "whisper")))
    with pytest.raises(UserError, match=r"model.language english: checkpoint .* knows one language"):
        task.load_processor(plain, SpeechRecognitionModel(language="english"))
    shutil.copytree(checkpoints / "whisper", tmp_path / "many")
    make_multilingual(tmp_path / "many")
    many = load_checkpoint(SpeechRecognitionModel(checkpoint=str(tmp_path / "many")))
    processor = task.load_processor(many, SpeechRecognitionModel())
    with pytest.raises(UserError, match=r"knows many languages; name yours: --model.language english"):
        task.build_model(many, processor, encode(task, processor, sounds)[0], SpeechRecognitionModel(), None)
    with pytest.raises(UserError, match=r"model.language klingon"):
        task.load_processor(many, SpeechRecognitionModel(language="klingon"))


def encode(task, processor, sounds, **options):
    data = task.load_data(
        TranscribedRecordingData(
            data_dir=str(sounds), file_name_columns="{word}_{speaker}_{take}", text_column="word", **options
        )
    )
    return data, task.encode(data.splits["train"], processor)[0]


def load_speech(sounds, folder):
    """Save a conformer of random weights, and load it again."""
    import torch

    task = load_task(TAG)
    config = TranscribedRecordingData(
        data_dir=str(sounds), file_name_columns="{word}_{speaker}_{take}", text_column="word"
    )
    torch.manual_seed(0)
    small = ScratchConformer(width=32, layers=1, heads=2)
    processor, built = task.reference_models.build(task.load_data(config), small, "eager")
    task.reference_models.save(built.model, processor, None, folder)
    return load(folder.parent, folder.name)


def load(checkpoints, name):
    task = load_task(TAG)
    checkpoint = load_checkpoint(SpeechRecognitionModel(checkpoint=str(checkpoints / name)))
    return (
        task,
        task.load_processor(checkpoint, SpeechRecognitionModel()),
        task.saved_model.load(str(checkpoint.path)).eval(),
    )


@pytest.mark.parametrize("name", ["wav2vec2-layer", "wav2vec2-group"])
def test_padding_does_not_change_what_a_model_hears(sounds, checkpoints, name):
    import torch

    task, processor, model = load(checkpoints, name)
    _, encoded = encode(task, processor, sounds)
    rows = encoded.remove_columns(["labels", "length", "_row"]).to_list()[:6]
    collate = task.build_collator(processor)
    with torch.inference_mode():
        together = task.saved_model.compute_scores(model, collate(rows), processor)
        alone = [task.saved_model.compute_scores(model, collate([row]), processor)[0] for row in rows]
    assert len({len(row) for row in alone}) > 1
    for a, b in zip(together, alone, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_parts_of_a_batch_give_the_batch_s_own_gradient(sounds, checkpoints, tmp_path):
    """Samples, not frames, are what the mask counts; the budget is in frames."""
    import torch

    from startup_llm.models.pretrained import set_dropout
    from startup_llm.tasks.audio.speech_models import count_mask_positions
    from startup_llm.training.speed import SpeedPlan
    from startup_llm.training.trainer import HeadTrainer, build_training_arguments

    task, processor, model = load(checkpoints, "wav2vec2-layer")
    model.config.apply_spec_augment, model.config.ctc_loss_reduction, model.config.layerdrop = False, "mean", 0.0
    set_dropout(model, 0.0)
    task.token_logits = None
    _, encoded = encode(task, processor, sounds)
    plan = SpeedPlan("cpu", "float32", "float32", None, 10**6, ())
    gradients, calls = [], []
    model.register_forward_pre_hook(lambda module, inputs, named: calls.append(1), with_kwargs=True)
    for budget in (10**6, 60):
        trainer = HeadTrainer(
            model=model, args=build_training_arguments({"report_to": "none"}, tmp_path, plan, ""),
            train_dataset=encoded, data_collator=task.build_collator(processor), processing_class=processor,
            task=task, head_parameters=[], head_learning_rate=0.0, tokens_per_batch=budget,
            mask_positions=count_mask_positions(processor.feature_extractor),
        )  # fmt: skip
        trainer.current_gradient_accumulation_steps = 1
        rows = encoded.remove_columns(["length", "_row"]).to_list()[:8]
        calls.clear()
        trainer.training_step(model, trainer.data_collator(rows))
        gradients.append(model.lm_head.weight.grad.clone())
        assert (len(calls) > 1) is (budget == 60), len(calls)
        model.zero_grad()
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-5)


def test_a_long_recording_is_heard_in_windows(checkpoints, tmp_path):
    import soundfile

    task, processor, model = load(checkpoints, "whisper")
    soundfile.write(tmp_path / "long.wav", np.random.default_rng(0).normal(0, 0.1, 40_000), 16_000)  # windows of 1 s
    rows = datasets.Dataset.from_dict({"audio": [str(tmp_path / "long.wav")]})
    encoded = task.predictor.encode(rows, processor)
    assert encoded["_row"] == [0, 0, 0]
    assert [value["start"] for value in encoded["input_features"]] == [0.0, 1.0, 2.0]
    heard = [np.array(word) for word in ("one", "", "two")]
    assert task.predictor.answer(heard, encoded, rows, processor, model.config) == [{"text": "one two"}]
    _, truncation = task.encode(rows, processor)
    assert (truncation.rows, round(truncation.tokens_share, 2)) == (1, 0.6)


def test_a_letter_that_a_checkpoint_does_not_know_is_named(sounds, checkpoints):
    task, processor, _ = load(checkpoints, "wav2vec2-layer")
    with pytest.raises(UserError, match=r"'ü' in 'ü' is no letter that the tokenizer knows; it knows d l n o p u w"):
        encode(task, processor, sounds, value_names={"up": "ü"})


def test_ctc_needs_a_frame_for_each_label_and_one_between_equal_ones():
    import torch

    generator = torch.Generator().manual_seed(0)
    for length in range(1, 12):
        labels = torch.randint(1, 3, (length,), generator=generator)
        needed = count_ctc_frames(labels.tolist())
        for frames, is_finite in ((needed, True), (needed - 1, False)):
            scores = torch.zeros(max(frames, 1), 1, 3).log_softmax(-1)
            loss = torch.nn.functional.ctc_loss(scores, labels[None], torch.tensor([frames]), torch.tensor([length]))
            assert bool(loss.isfinite()) is is_finite


def with_texts(data, splits):
    """Return rows with other texts: a text for each recording of some splits."""
    texts = {name: splits.get(name, rows["text"]) for name, rows in data.splits.items()}
    return replace(data, splits=datasets.DatasetDict({
        name: rows.select(range(len(texts[name]))).remove_columns("text").add_column("text", texts[name])
        for name, rows in data.splits.items()
    }))  # fmt: skip


@pytest.mark.parametrize("name", ["wav2vec2-layer", "wav2vec2-group", "conformer", "whisper"])
def test_the_longest_text_that_a_model_can_learn_is_kept_and_one_more_letter_is_named(
    sounds, checkpoints, tmp_path, name
):
    """The longest is what the model's own loss takes: of one letter more it is infinite, or an error."""
    task, processor, model = load_speech(sounds, tmp_path / name) if name == "conformer" else load(checkpoints, name)
    data, _ = encode(task, processor, sounds)
    train = data.splits["train"]
    splits = {"train": train.select([1, 0]), "validation": train.select([0]), "test": train.select([0])}
    data = replace(data, splits=datasets.DatasetDict(splits))  # one recording at the end of each
    model.config.ctc_zero_infinity, model.config.ctc_loss_reduction = False, "mean"
    collate = task.build_collator(processor)

    def is_learnt(text: str) -> bool:
        rows = with_texts(data, {"validation": [text]}).splits["validation"]
        encoded = task.encode(rows, processor)[0].remove_columns(["length", "_row"]).to_list()
        try:
            return bool(model(**collate(encoded))["loss"].isfinite())
        except ValueError:
            return False

    letters = ("up" * 60)[:100]
    most = next(length for length in range(1, 100) if not is_learnt(letters[: length + 1]))
    rows = {"train": ["low", letters[:most]], "validation": [letters[:most]], "test": [letters]}
    fitting = with_texts(data, rows)
    assert task.fit_data(fitting, processor, model) is fitting
    fault = rf"needs {most + 1} frames \({most + 1} labels, 0 of .* give {most}; write down what is spoken there alone"
    if name == "whisper":
        positions = model.config.max_target_positions
        fault = rf"is {positions + 1} tokens, but the model's decoder has {positions} positions; cut the recording"
    for split in ("train", "validation"):
        long = with_texts(fitting, {**rows, split: [*rows[split][:-1], letters[: most + 1]]})
        number = long.splits[split]["row"][-1]
        with pytest.raises(
            UserError,
            match=rf"^{split} split: 1 of .* row {number}: .*{fault}.*(skip_bad true|others are left to go on with)$",
        ):
            task.fit_data(long, processor, model)
    task.skip_bad = True
    long = with_texts(fitting, {**rows, "train": ["low", letters[: most + 1]]})
    kept = task.fit_data(long, processor, model)
    assert kept.splits["train"]["text"] == ["low"]
    assert kept.splits["test"]["text"] == [letters]  # the model has it wrong
    assert "recordings were left out (text too long for its recording 1): row " in kept.notes[-1]
    assert kept.loaded is long.splits


@pytest.mark.slow
def test_a_nemo_manifest_is_fine_tuned_as_it_comes(checkpoints, tmp_path, run_recipe):
    rows = [
        {"audio_filepath": f"wav/{file.name}", "duration": 0.4, "text": file.name.split("_")[0]}
        for file in write_sounds(tmp_path / "wav", 6)
    ]
    (tmp_path / "manifest.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, out, err = run_recipe(
        "finetune", "--task", TAG, "--model.checkpoint", checkpoints / "wav2vec2-layer", *QUICK,
        "--data.train_file", tmp_path / "manifest.json", "--train.max_steps", 2, "--run_dir", tmp_path / "run",
    )  # fmt: skip
    assert code == 0, err[-3000:]
    assert "train split: read as a NeMo manifest." in out


@pytest.mark.parametrize("recipe", ["finetune", pytest.param("pretrain", marks=pytest.mark.slow)])
def test_a_run_names_or_leaves_out_a_text_that_is_longer_than_its_recording(checkpoints, tmp_path, run_recipe, recipe):
    for place, split in enumerate(("train", "validation", "test")):
        for file in write_sounds(tmp_path / "sounds" / split, 2)[place % 2 :: 2]:
            words = {"low": "low", "up": "up", "down": "down" * 20 if split == "train" else "down"}
            with (tmp_path / "sounds" / split / "metadata.csv").open("a") as table:
                table.write("" if table.tell() else "file_name,text\n")
                table.write(f"{file.name},{words[file.name.split('_')[0]]}\n")
    model = ["--model.checkpoint", checkpoints / "wav2vec2-layer"]
    words = [
        recipe, "--task", TAG, *(model if recipe == "finetune" else ["--model.name", "conformer", *SMALL]), *QUICK,
        *(["--audit", "none"] if recipe == "finetune" else []),
        "--data.data_dir", tmp_path / "sounds", "--train.max_steps", 1, "--run_dir", tmp_path / "run",
    ]  # fmt: skip
    code, _, err = run_recipe(*words)
    assert code == 2, err[-3000:]
    assert re.search(
        r"train split: 1 of .* row 3: the text 'downdown.*' needs 80 frames .* give \d+; .*--data.skip_bad true", err
    )
    assert not (tmp_path / "run").exists()
    run_well(run_recipe, *words, "--data.skip_bad", "true")
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert any(
        "recordings were left out (text too long for its recording 1): row 3: " in note
        for note in results["data"]["notes"]
    )


def test_a_checkpoint_that_was_never_taught_to_write_learns_the_training_texts_letters(sounds, checkpoints, tmp_path):
    for name in ("config.json", "model.safetensors", "preprocessor_config.json", "processor_config.json"):
        if (checkpoints / "wav2vec2-layer" / name).is_file():
            shutil.copy(checkpoints / "wav2vec2-layer" / name, tmp_path)
    task = load_task(TAG)
    data = task.load_data(
        TranscribedRecordingData(
            data_dir=str(sounds), file_name_columns="{word}_{speaker}_{take}", text_column="word",
            value_names={"up": "höher", "low": "a b"},
        )
    )  # fmt: skip
    checkpoint = load_checkpoint(SpeechRecognitionModel(checkpoint=str(tmp_path)))
    processor = task.load_processor(checkpoint, SpeechRecognitionModel(), data)
    letters = set(processor.tokenizer.get_vocab())
    assert letters == {"<pad>", "<unk>", "|", *"höher", *"ab", *"down"}
    built = task.build_model(checkpoint, processor, data, SpeechRecognitionModel(), None)
    assert built.model.lm_head.out_features == len(letters)
    assert built.load_arguments["vocab_size"] == len(letters)
    assert processor.tokenizer.decode(processor.tokenizer("a b")["input_ids"]) == "a b"


def test_a_checkpoint_that_cannot_write_or_hear_is_refused(checkpoints, tiny_checkpoint, tmp_path):
    task = load_task(TAG)
    with pytest.raises(UserError, match=r"no usable feature extractor in .*bert"):
        task.load_processor(
            load_checkpoint(SpeechRecognitionModel(checkpoint=str(tiny_checkpoint("bert")))), SpeechRecognitionModel()
        )
    for name in ("config.json", "model.safetensors", "preprocessor_config.json", "processor_config.json"):
        if (checkpoints / "whisper" / name).is_file():
            shutil.copy(checkpoints / "whisper" / name, tmp_path)
    with pytest.raises(UserError, match="has no tokenizer, so it cannot write"):
        task.load_processor(
            load_checkpoint(SpeechRecognitionModel(checkpoint=str(tmp_path))), SpeechRecognitionModel()
        )


def test_word_and_character_errors_are_jiwer_s_on_a_thousand_random_texts():
    rng = np.random.default_rng(0)
    words = ["the", "cat", "sat", "on", "a", "mat", "while", "dogs", "ran", "home"]
    references = [" ".join(rng.choice(words, rng.integers(1, 12))) for _ in range(1000)]
    predictions = [" ".join(rng.choice(words) if rng.random() < 0.2 else w for w in t.split()) for t in references]
    predictions = [" ".join(w for w in text.split() if rng.random() < 0.8) for text in predictions]
    assert "" in predictions
    for name, published in (("word_error_rate", jiwer.wer), ("character_error_rate", jiwer.cer)):
        compute = find_metric(load_task(TAG), name).compute
        assert compute(references, predictions) == pytest.approx(published(references, predictions))
        for right, text in zip(references, predictions, strict=True):
            assert compute([right], [text]) == pytest.approx(published(right, text))


def test_the_most_frequent_text_is_the_baseline(sounds):
    config = TranscribedRecordingData(
        data_dir=str(sounds),
        file_name_columns="{word}_{speaker}_{take}",
        text_column="word",
        value_names={"up": "down"},
    )
    data = load_task(TAG).load_data(config)
    found = predict_baselines(load_task(TAG).baselines(data), data)
    assert set(found["most-frequent-text"]) == {"down"}


@pytest.mark.slow
@pytest.mark.real_data
def test_spoken_digits_are_heard(real_data, tmp_path, run_recipe):
    """A short training; recipes/configs/fsdd_asr.yaml goes on for longer."""
    folder = os.fspath(real_data / "fsdd" / "recordings")
    run_well(
        run_recipe, "pretrain", "--config", ROOT / "recipes/configs/fsdd_asr.yaml", "--data.data_dir", folder,
        "--run_dir", tmp_path / "run", "--train.num_train_epochs", 18, "--model.warp_spectrum", "false", *QUICK,
    )  # fmt: skip
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    models = {name: figures["word_error_rate"]["value"] for name, figures in results["models"].items()}
    assert models["whisper"] < models["most-frequent-text"] - 0.2
