from __future__ import annotations

import base64
import json
from pathlib import Path

import jiwer
import numpy as np
import pytest
import torch
from sounds import TUNES, make_sound, write_digits, write_sounds
from transformers import SpeechT5FeatureExtractor

from startup_llm.config import ModelConfig
from startup_llm.errors import UserError
from startup_llm.models.checkpoints import load_checkpoint
from startup_llm.tasks import load_task
from startup_llm.tasks.audio.griffin_lim import GriffinLim
from startup_llm.tasks.audio.metrics import MEL_DISTANCE
from startup_llm.tasks.audio.options import ScratchSpeechT5, ScratchWhisper, TranscribedRecordingData
from startup_llm.tasks.audio.sound_files import read_audio
from startup_llm.tasks.audio.spectrograms import compute_speech_frames
from startup_llm.tasks.audio.speech_models import build_scratch_whisper

ROOT = Path(__file__).parents[3]
TAG = "text-to-speech"
NAMES = ["--data.file_name_columns", "{word}_{speaker}_{take}", "--data.text_column", "word"]
QUICK = ["--evaluation.resamples", "20", "--speed.compute_dtype", "float32", "--speed.attention_kernel", "eager"]


def run_well(run_recipe, *words: object) -> None:
    code, _, err = run_recipe(*words)
    assert code == 0, err[-3000:]


@pytest.mark.fresh_gate
@pytest.mark.slow
def test_the_config_of_spoken_digits_teaches_a_speecht5_to_speak(tmp_path, run_recipe):
    write_digits(tmp_path / "sounds", 12)
    run = tmp_path / "run"
    run_well(
        run_recipe, "pretrain", "--config", ROOT / "recipes/configs/fsdd_tts.yaml", "--data.data_dir",
        tmp_path / "sounds", *QUICK, "--model.width", 32, "--model.layers", 1, "--model.dropout", 0,
        "--run_dir", run, "--train.num_train_epochs", 60, "--train.learning_rate", 5e-3,
        "--train.per_device_train_batch_size", 12,
    )  # fmt: skip
    results = json.loads((run / "results.json").read_text())
    distances = {name: figures["mel_distance"]["value"] for name, figures in results["models"].items()}
    assert distances["same-text-recording"] < distances["any-recording"]
    assert distances["speecht5"] < 25  # with random weights it is about 45
    gate = results["reload_gate"]
    assert max(gate["merged_max_difference"], gate["pipeline_max_difference"]) < 1e-3
    assert [item["kind"] for item in results["gallery"]] == ["image"] * len(TUNES)
    rows = (run / "speech" / "metadata.csv").read_text().splitlines()
    assert rows[0] == "file_name,text"
    assert len(rows) == 1 + results["test"]["rows"]
    assert np.abs(read_audio((run / "speech" / "0000.wav").read_bytes())).max() > 0.01

    listener = build_scratch_whisper(list(TUNES), 1, ScratchWhisper(width=32, heads=2), None)
    for part in (listener[0], listener[1].model):  # never taught: what it hears is wrong, and counted
        part.save_pretrained(tmp_path / "listener")
    run_well(
        run_recipe, "evaluate", "--model", tmp_path / "listener", "--task", "automatic-speech-recognition",
        "--data.test_file", run / "speech" / "metadata.csv", "--run_dir", tmp_path / "heard",
    )  # fmt: skip
    heard = json.loads((tmp_path / "heard" / "results.json").read_text())["entries"][0]
    assert heard["rows"] == results["test"]["rows"]
    lines = (tmp_path / "heard" / "predictions-test.jsonl").read_text().splitlines()
    wrong = jiwer.wer([row.partition(",")[2] for row in rows[1:]], [json.loads(line)["prediction"] for line in lines])
    assert heard["metrics"]["word_error_rate"]["value"] == pytest.approx(wrong)

    (tmp_path / "texts.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    run_well(
        run_recipe, "predict", "--run", run, "--input", tmp_path / "texts.jsonl", "--output", tmp_path / "out.jsonl"
    )
    answers = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    sounds = [read_audio(base64.b64decode(answer["wav_base64"])) for answer in answers]
    assert all(0.1 < len(sound) / 16_000 < 3 for sound in sounds)


@pytest.mark.fresh_gate
def test_lora_on_a_speecht5_reloads(tmp_path, run_recipe):
    write_sounds(tmp_path / "sounds", 4)
    task = load_task(TAG)
    config = TranscribedRecordingData(
        data_dir=str(tmp_path / "sounds"), file_name_columns="{word}_{speaker}_{take}", text_column="word"
    )
    small = ScratchSpeechT5(width=32, layers=1, heads=2)
    torch.manual_seed(0)
    processor, built = task.reference_models.build(task.load_data(config), small, "eager")
    task.reference_models.save(built.model, processor, None, tmp_path / "checkpoint")
    run_well(
        run_recipe, "finetune", "--task", TAG, "--model.checkpoint", tmp_path / "checkpoint",
        "--data.data_dir", tmp_path / "sounds", *NAMES, *QUICK, "--run_dir", tmp_path / "run",
        "--train.max_steps", 2, "--lora.rank", 4,
    )  # fmt: skip
    gate = json.loads((tmp_path / "run" / "results.json").read_text())["reload_gate"]
    assert max(value for name, value in gate.items() if name.endswith("difference")) < 1e-3
    assert "adapter_max_difference" in gate


@pytest.mark.slow
def test_the_config_of_lj_speech_trains_every_weight_on_the_hub_s_own_columns(tmp_path, run_recipe):
    import datasets

    paths = write_sounds(tmp_path / "sounds", 4)
    words = [path.name.split("_")[0] for path in paths]
    rows = {
        "id": [path.stem for path in paths],
        "audio": [{"bytes": path.read_bytes(), "path": path.name} for path in paths],
        "text": [f"{word}?" for word in words],
        "normalized_text": words,
    }
    table = datasets.Dataset.from_dict(rows).cast_column("audio", datasets.Audio(decode=False))
    (tmp_path / "rows").mkdir()
    table.to_parquet(tmp_path / "rows" / "train.parquet")
    task = load_task(TAG)
    small = ScratchSpeechT5(width=32, layers=1, heads=2)
    config = TranscribedRecordingData(data_dir=str(tmp_path / "rows"), text_column="normalized_text")
    torch.manual_seed(0)
    processor, built = task.reference_models.build(task.load_data(config), small, "eager")
    task.reference_models.save(built.model, processor, None, tmp_path / "checkpoint")
    run_well(
        run_recipe, "finetune", "--config", ROOT / "recipes/configs/ljspeech_speecht5.yaml", "--data.data_dir",
        tmp_path / "rows", "--model.checkpoint", tmp_path / "checkpoint", "--data.test_fraction", 0.2, *QUICK,
        "--run_dir", tmp_path / "run", "--train.max_steps", 2,
    )  # fmt: skip
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert set(results["models"]) == {"full", "any-recording", "same-text-recording"}
    assert results["checkpoint"]["trainable_parameters"] == results["checkpoint"]["parameters"]
    assert results["data"]["license"] == "cc-by-4.0"


def test_griffin_lim_gives_a_sound_of_the_same_spectrogram():
    sound = make_sound("up", 0)
    frames = compute_speech_frames(sound)
    found = GriffinLim(SpeechT5FeatureExtractor())(torch.from_numpy(frames)).numpy()
    assert abs(len(found) - len(sound)) <= 256
    again, other = (compute_speech_frames(x)[: len(frames) - 2] for x in (found, make_sound("low", 0)))
    loud = frames[: len(again)] > -1
    assert np.abs(again - frames[: len(again)])[loud].mean() < 0.15  # 3 dB
    assert MEL_DISTANCE.compute([frames], [again]) < MEL_DISTANCE.compute([frames], [other])


@pytest.fixture
def vits(tmp_path):
    """A VITS of random weights that reads letters."""
    from transformers import VitsConfig, VitsModel, VitsTokenizer

    sizes = {"hidden_size": 16, "ffn_dim": 16, "num_hidden_layers": 1, "flow_size": 16, "spectrogram_bins": 9}
    small = {"upsample_initial_channel": 16, "num_attention_heads": 2, "prior_encoder_num_flows": 1}
    (tmp_path / "vocab.json").write_text(json.dumps({letter: place for place, letter in enumerate("_ dlnopuw")}))
    reads = {"pad_token": "_", "unk_token": "_", "phonemize": False, "is_uroman": False}
    torch.manual_seed(0)
    VitsTokenizer(str(tmp_path / "vocab.json"), **reads).save_pretrained(tmp_path / "vits")
    VitsModel(VitsConfig(vocab_size=9, sampling_rate=22_050, **sizes, **small)).save_pretrained(tmp_path / "vits")
    return tmp_path / "vits"


@pytest.mark.slow
def test_a_vits_speaks_as_it_comes_and_is_not_trained(vits, tmp_path, run_recipe):
    from transformers import pipeline

    write_sounds(tmp_path / "sounds", 3)
    data = ["--task", TAG, "--data.data_dir", tmp_path / "sounds", *NAMES]
    code, _, err = run_recipe("finetune", "--model.checkpoint", vits, *data, "--run_dir", tmp_path / "run")
    assert code != 0
    assert "VITS, which transformers can run (recipes/evaluate.py, recipes/predict.py) but not train" in err
    assert not (tmp_path / "run").exists()
    run_well(
        run_recipe, "evaluate", "--model", vits, *data, "--evaluation.resamples", 20, "--run_dir", tmp_path / "heard"
    )
    entry = json.loads((tmp_path / "heard" / "results.json").read_text())["entries"][0]
    assert 10 < entry["metrics"]["mel_distance"]["value"] < 100

    (tmp_path / "texts.jsonl").write_text('{"text": "up"}\n{"text": "low down"}\n')
    words = ["--input", tmp_path / "texts.jsonl", "--output", tmp_path / "out.jsonl"]
    run_well(run_recipe, "predict", "--task", TAG, "--run", vits, *words)
    answer = json.loads((tmp_path / "out.jsonl").read_text().splitlines()[1])
    say = pipeline(TAG, model=str(vits), device="cpu")
    torch.manual_seed(0)
    published = say("low down")
    assert published["sampling_rate"] == 22_050
    sound = read_audio(base64.b64decode(answer["wav_base64"]))
    np.testing.assert_allclose(sound, published["audio"].ravel(), atol=1e-4)  # 16 bits
    (tmp_path / "texts.jsonl").write_text('{"text": "up"}\n{"text": "123"}\n')
    code, _, err = run_recipe("predict", "--task", TAG, "--run", vits, *words, "--overwrite", "true")
    assert (code, err.splitlines()[-1]) == (
        2,
        "error: the text '123' has no letter that the model knows; spell it out",
    )
    assert (tmp_path / "out.jsonl").read_text().count("wav_base64") == 2  # as it was


def test_a_vits_that_reads_phonemes_asks_for_what_writes_them(vits):
    from transformers.utils import is_phonemizer_available

    if is_phonemizer_available():
        pytest.skip("phonemizer is installed")
    file = vits / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "phonemize": True}))
    checkpoint = load_checkpoint(ModelConfig(checkpoint=str(vits)))
    with pytest.raises(UserError, match="reads phonemes, which phonemizer writes; pip install phonemizer"):
        load_task(TAG).load_processor(checkpoint, ModelConfig())


def test_a_checkpoint_that_cannot_speak_is_refused(tiny_checkpoint):
    task = load_task(TAG)
    bert = load_checkpoint(ModelConfig(checkpoint=str(tiny_checkpoint("bert"))))
    with pytest.raises(UserError, match="no usable SpeechT5 processor"):
        task.load_processor(bert, ModelConfig())
    with pytest.raises(UserError, match="type bert; choose a SpeechT5-style one"):
        task.build_model(bert, None, None, ModelConfig(), None)


@pytest.mark.real_data
def test_a_recording_comes_back_from_its_spectrogram(real_data):
    path = Path(real_data) / "fsdd" / "recordings" / "7_jackson_0.wav"
    sound = read_audio(path.read_bytes(), 16_000)
    frames = compute_speech_frames(sound)
    found = GriffinLim(SpeechT5FeatureExtractor())(torch.from_numpy(frames)).numpy()
    assert MEL_DISTANCE.compute([frames[:, :40]], [compute_speech_frames(found)[:, :40]]) < 6
