from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sounds import TUNES, write_digits, write_sounds

from startup_llm.errors import UserError
from startup_llm.models.checkpoints import load_checkpoint
from startup_llm.tasks import load_task
from startup_llm.tasks.audio.baselines import predict_mel_statistics_svm
from startup_llm.tasks.audio.options import AudioClassificationModel, LabelledRecordingData, ScratchConformer
from startup_llm.training.inference import extract_features
from startup_llm.training.speed import SpeedPlan

ROOT = Path(__file__).parents[3]
TAG = "audio-classification"
QUICK = ["--evaluation.resamples", "20", "--speed.compute_dtype", "float32", "--speed.attention_kernel", "eager"]


def run_well(run_recipe, *words: object) -> None:
    code, _, err = run_recipe(*words)
    assert code == 0, err[-3000:]


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sounds")
    write_sounds(folder, 16, classes=True)
    return folder


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Encoders of random weights: a spectrogram transformer, and a wav2vec 2.0 with group norm."""
    import torch
    from transformers import (
        ASTConfig,
        ASTFeatureExtractor,
        ASTModel,
        Wav2Vec2Config,
        Wav2Vec2FeatureExtractor,
        Wav2Vec2Model,
    )

    folder = tmp_path_factory.mktemp("checkpoints")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    ASTModel(ASTConfig(**sizes, max_length=64, num_mel_bins=32)).save_pretrained(folder / "ast")
    ASTFeatureExtractor(num_mel_bins=32, max_length=64).save_pretrained(folder / "ast")
    config = Wav2Vec2Config(
        **sizes, conv_dim=(16, 16, 16), conv_kernel=(10, 8, 4), conv_stride=(10, 8, 4), feat_extract_norm="group",
        num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2, classifier_proj_size=16,
    )  # fmt: skip
    Wav2Vec2Model(config).save_pretrained(folder / "wav2vec2")
    Wav2Vec2FeatureExtractor(return_attention_mask=False).save_pretrained(folder / "wav2vec2")
    return folder


def test_a_saved_conformer_classifies_as_the_pipeline_does(sounds, tmp_path):
    import torch

    task = load_task(TAG)
    data = task.load_data(LabelledRecordingData(data_dir=str(sounds)))
    torch.manual_seed(0)
    small = ScratchConformer(name="conformer", width=32, layers=1, heads=2)
    processor, built = task.reference_models.build(data, small, "eager")
    task.reference_models.save(built.model, processor, data, tmp_path)
    model, processor = task.saved_model.load(str(tmp_path)).eval(), task.saved_model.load_processor(str(tmp_path))
    rows = task.encode(data.splits["test"], processor)[0].remove_columns(["labels", "length", "_row"]).to_list()
    with torch.inference_mode():
        outputs = task.compute_outputs(model, task.build_collator(processor)(rows), processor)
    assert np.ptp(outputs) > 0.01
    assert task.saved_model.check_pipeline(str(tmp_path), data.splits["test"], outputs) < 1e-4


def test_features_of_a_recording_are_the_same_whatever_its_batch_was_padded_to(checkpoints, sounds):
    task = load_task(TAG)
    data = task.load_data(LabelledRecordingData(data_dir=str(sounds)))
    settings = AudioClassificationModel(checkpoint=str(checkpoints / "wav2vec2"))
    checkpoint = load_checkpoint(settings)
    processor = task.load_processor(checkpoint, settings)
    model = task.build_model(checkpoint, processor, data, settings, "eager").model
    encoded = task.encode(data.splits["train"], processor)[0]
    assert len(set(encoded["length"])) > 1
    together, alone = (
        extract_features(task, model, encoded, processor, SpeedPlan("cpu", "float32", "float32", "eager", tokens, ()))
        for tokens in (10**6, 1)
    )
    assert together == pytest.approx(alone, abs=1e-5)
    assert np.ptp(alone, axis=0).max() > 1e-3


@pytest.mark.fresh_gate
def test_the_config_of_spoken_digits_trains_an_adapter_on_an_encoder_with_its_head(checkpoints, tmp_path, run_recipe):
    write_digits(tmp_path / "sounds", 12)
    run = tmp_path / "run"
    run_well(
        run_recipe, "finetune", "--config", ROOT / "recipes/configs/fsdd_audio.yaml", "--method", "lora",
        "--model.checkpoint", checkpoints / "ast", "--data.data_dir", tmp_path / "sounds", *QUICK,
        "--model.warp_spectrum", "true", "--run_dir", run, "--train.max_steps", 3, "--lora.rank", 4,
    )  # fmt: skip
    results = json.loads((run / "results.json").read_text())
    assert set(results["models"]) == {"lora", "linear-probe", "majority", "mel-statistics-svm"}
    gate = {name: value for name, value in results["reload_gate"].items() if name.endswith("difference")}
    assert set(gate) == {"merged_max_difference", "pipeline_max_difference", "adapter_max_difference"}
    assert max(gate.values()) < 1e-3
    assert all(item["kind"] == "image" for item in results["gallery"])
    run_well(
        run_recipe, "predict", "--run", run, "--input", tmp_path / "sounds", "--output", tmp_path / "answers.jsonl"
    )
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert len(answers) == 36
    told = [json.loads(line)["lora"] for line in (run / "predictions.jsonl").read_text().splitlines()]
    tested = [answer for answer in answers if int(answer["file"].split("_")[-1][:-4]) < 5]
    assert sum(answer["label"] == str(label) for answer, label in zip(tested, told, strict=True)) >= 14


@pytest.mark.slow
def test_the_config_of_minds14_trains_an_adapter_on_the_hub_s_own_columns(checkpoints, tmp_path, run_recipe):
    import datasets

    intents = {"low": "abroad", "up": "address", "down": "app_error"}
    paths = write_sounds(tmp_path / "sounds", 12, rate=8_000)
    kinds = [list(TUNES).index(path.name.split("_")[0]) for path in paths]
    rows = {
        "path": [path.name for path in paths],
        "audio": [{"bytes": path.read_bytes(), "path": path.name} for path in paths],
        "transcription": ["hello"] * len(paths),
        "english_transcription": ["hello"] * len(paths),
        "intent_class": kinds,
        "lang_id": [0] * len(paths),
    }
    table = datasets.Dataset.from_dict(rows).cast_column("audio", datasets.Audio(decode=False))
    table = table.cast_column("intent_class", datasets.ClassLabel(names=list(intents.values())))
    (tmp_path / "rows").mkdir()
    table.cast_column("lang_id", datasets.ClassLabel(names=["en-US"])).to_parquet(tmp_path / "rows" / "train.parquet")
    run_well(
        run_recipe, "finetune", "--config", ROOT / "recipes/configs/minds14_wav2vec2.yaml",
        "--model.checkpoint", checkpoints / "wav2vec2", "--data.data_dir", tmp_path / "rows", *QUICK,
        "--run_dir", tmp_path / "run", "--train.max_steps", 2, "--lora.rank", 4,
    )  # fmt: skip
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["labels"] == list(intents.values())
    assert results["data"]["license"] == "cc-by-4.0"
    assert results["reload_gate"]["adapter_max_difference"] < 1e-3


def test_every_head_beside_the_body_is_saved_with_an_adapter(sounds, checkpoints):
    task = load_task(TAG)
    data = task.load_data(LabelledRecordingData(data_dir=str(sounds)))
    heads = {}
    for name in ("ast", "wav2vec2"):
        checkpoint = load_checkpoint(AudioClassificationModel(checkpoint=str(checkpoints / name)))
        processor = task.load_processor(checkpoint, AudioClassificationModel())
        built = task.build_model(checkpoint, processor, data, AudioClassificationModel(), None)
        heads[name] = set(built.head_modules)
    assert heads == {"ast": {"classifier"}, "wav2vec2": {"projector", "classifier"}}


def test_a_spectrogram_is_warped_in_training_alone(sounds):
    import torch

    from startup_llm.tasks.audio.speech_models import warp_spectra

    task = load_task(TAG)
    data = task.load_data(LabelledRecordingData(data_dir=str(sounds)))
    small = ScratchConformer(name="conformer", width=32, layers=1, heads=2, dropout=0.0)
    torch.manual_seed(0)
    processor, built = task.reference_models.build(data, small, "eager")
    rows = task.encode(data.splits["test"], processor)[0].remove_columns(["labels", "length", "_row"]).to_list()[:2]
    inputs = {name: v for name, v in task.build_collator(processor)(rows).items() if name != "row_lengths"}
    first, second = (built.model.eval()(**inputs)["logits"] for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(built.model.train()(**inputs)["logits"], built.model(**inputs)["logits"])

    spectra = torch.randn(4, 100, 80)
    assert warp_spectra(spectra).shape == spectra.shape
    assert not torch.equal(warp_spectra(spectra), warp_spectra(spectra))
    torch.testing.assert_close(warp_spectra(torch.full((4, 100, 80), 3.0)), torch.full((4, 100, 80), 3.0))


def test_warping_a_model_of_samples_is_refused(sounds, checkpoints):
    task = load_task(TAG)
    data = task.load_data(LabelledRecordingData(data_dir=str(sounds)))
    checkpoint = load_checkpoint(AudioClassificationModel(checkpoint=str(checkpoints / "wav2vec2")))
    processor = task.load_processor(checkpoint, AudioClassificationModel())
    with pytest.raises(UserError, match="this checkpoint reads samples, not a spectrogram"):
        task.build_model(checkpoint, processor, data, AudioClassificationModel(warp_spectrum=True), None)


def test_a_checkpoint_that_cannot_hear_is_refused(sounds, tiny_checkpoint):
    task = load_task(TAG)
    checkpoint = load_checkpoint(AudioClassificationModel(checkpoint=str(tiny_checkpoint("bert"))))
    with pytest.raises(UserError, match="no usable feature extractor"):
        task.load_processor(checkpoint, AudioClassificationModel())
    data = task.load_data(LabelledRecordingData(data_dir=str(sounds)))
    with pytest.raises(UserError, match="type bert, which has no audio classifier"):
        task.build_model(checkpoint, None, data, AudioClassificationModel(), None)


def test_a_broken_question_is_named(tmp_path):
    task = load_task(TAG)
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    assert "no sound file" in task.predictor.find_fault("audio", str(tmp_path / "a.wav"))
    assert "no file" in task.predictor.find_fault("audio", str(tmp_path / "b.wav"))


def test_statistics_of_the_spectrogram_tell_tunes_apart(sounds):
    data = load_task(TAG).load_data(LabelledRecordingData(data_dir=str(sounds)))
    found = predict_mel_statistics_svm(data.splits, data)
    assert np.mean(found == np.asarray(data.splits["test"]["label"])) > 0.8
