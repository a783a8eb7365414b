from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile
from sounds import write_sounds

from startup_llm.data.task_data import compute_rows_sha256
from startup_llm.errors import UserError
from startup_llm.tasks.audio.options import LabelledRecordingData, TranscribedRecordingData
from startup_llm.tasks.audio.recordings import load_labelled_recordings, load_transcribed_recordings, read_recordings


def test_class_folders_give_labels(tmp_path):
    write_sounds(tmp_path, 10, classes=True)
    data = load_labelled_recordings(LabelledRecordingData(data_dir=str(tmp_path)))
    assert data.label_names == ("down", "low", "up")
    assert {name: len(rows) for name, rows in data.splits.items()} == {"train": 22, "validation": 2, "test": 6}
    assert set(data.splits["test"]["label"]) == {0, 1, 2}
    row = data.splits["test"][0]
    assert data.label_names[row["label"]] in row["audio"]["path"]
    assert 0.3 <= row["seconds"] <= 0.5


def test_split_folders_are_kept(tmp_path):
    for split, count in (("train", 6), ("test", 2)):
        write_sounds(tmp_path / split, count, classes=True)
    data = load_labelled_recordings(LabelledRecordingData(data_dir=str(tmp_path), validation_fraction=0.0))
    assert {name: len(rows) for name, rows in data.splits.items()} == {"train": 18, "test": 6}
    assert any("6 training recordings stand in the test split too" in note for note in data.notes)
    cleaned = load_labelled_recordings(
        LabelledRecordingData(data_dir=str(tmp_path), validation_fraction=0.0, remove_overlap=True)
    )
    assert len(cleaned.splits["train"]) == 12


def test_columns_stand_in_file_names_and_cut_the_splits(tmp_path):
    write_sounds(tmp_path, 10)
    config = TranscribedRecordingData(
        data_dir=str(tmp_path),
        file_name_columns="{word}_{speaker}_{take}",
        text_column="word",
        value_names={"low": "a low tone"},
        keep_where={"speaker": ["a"]},
        test_where={"take": ["0", "2"]},
    )
    data = load_transcribed_recordings(config)
    assert len(data.splits["test"]) == 6
    assert sum(map(len, data.splits.values())) == 15
    assert {value["path"][-7:-4] for value in data.splits["test"]["audio"]} == {"a_0", "a_2"}
    assert set(data.splits["test"]["text"]) == {"a low tone", "up", "down"}


def test_a_speaker_stands_on_one_side(tmp_path):
    write_sounds(tmp_path, 10)
    config = LabelledRecordingData(
        data_dir=str(tmp_path),
        file_name_columns="{word}_{speaker}_{take}",
        label_column="word",
        group_column="speaker",
        test_fraction=0.5,
        validation_fraction=0.0,
    )
    data = load_labelled_recordings(config)
    speakers = {name: {v["path"].split("_")[-2] for v in rows["audio"]} for name, rows in data.splits.items()}
    assert len(speakers["train"]) == len(speakers["test"]) == 1
    assert speakers["train"] != speakers["test"]


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_metadata_tells_the_texts(tmp_path, kind):
    paths = write_sounds(tmp_path / "sounds", 4)
    rows = [{"file_name": f"sounds/{path.name}", "transcription": path.name.split("_")[0]} for path in paths]
    if kind == "csv":
        lines = ["file_name,transcription", *(f"{row['file_name']},{row['transcription']}" for row in rows)]
    else:
        lines = [json.dumps(row) for row in rows]
    (tmp_path / f"metadata.{kind}").write_text("\n".join(lines) + "\n")
    data = load_transcribed_recordings(TranscribedRecordingData(data_dir=str(tmp_path)))
    assert sum(map(len, data.splits.values())) == 12
    assert all(row["text"] in row["audio"]["path"] for rows in data.splits.values() for row in rows)


def test_a_table_s_paths_start_from_its_folder(tmp_path):
    paths = write_sounds(tmp_path / "deep", 4)
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(json.dumps({"path": f"deep/{p.name}", "text": p.name.split("_")[0]}) for p in paths))
    data = load_transcribed_recordings(TranscribedRecordingData(train_file=str(file)))
    assert sum(map(len, data.splits.values())) == 12


def write_manifest(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_a_nemo_manifest_s_paths_start_from_its_folder_and_offsets_cut_its_files(tmp_path):
    paths = write_sounds(tmp_path / "train" / "wav", 4)
    whole = [
        {"audio_filepath": f"wav/{p.name}", "duration": 0.4, "text": p.name.split("_")[0], "speaker": 1} for p in paths
    ]
    sounds = [soundfile.read(path)[0] for path in paths]
    (tmp_path / "test").mkdir()
    soundfile.write(tmp_path / "test" / "long.wav", np.concatenate(sounds), 16_000)
    ends = np.cumsum([len(sound) for sound in sounds]) / 16_000
    parts = [
        {"audio_filepath": "long.wav", "offset": end - len(s) / 16_000, "duration": len(s) / 16_000, "text": r["text"]}
        for s, end, r in zip(sounds, ends, whole, strict=True)
    ]
    files = {
        "train_file": write_manifest(tmp_path / "train" / "train_manifest.json", whole),
        "test_file": write_manifest(tmp_path / "test" / "test_manifest.jsonl", parts),
    }
    data = load_transcribed_recordings(TranscribedRecordingData(**files, validation_fraction=0))
    assert data.notes[0] == "train split: read as a NeMo manifest."
    assert data.notes[1].startswith("test split: read as a NeMo manifest; parts are cut from their files by offset")
    for got, sound in zip(read_recordings(data.splits["test"], 16_000), sounds, strict=True):
        np.testing.assert_allclose(got, sound, atol=1e-3)
    parts[1]["offset"] = 99.0
    write_manifest(tmp_path / "test" / "test_manifest.jsonl", parts)
    with pytest.raises(UserError, match=r"row 2 \(.*\): the part from 99 s to 99\.\d+ s lies outside"):
        load_transcribed_recordings(TranscribedRecordingData(**files, validation_fraction=0))
    data = load_transcribed_recordings(TranscribedRecordingData(**files, validation_fraction=0, skip_bad=True))
    assert len(data.splits["test"]) == len(parts) - 1


def test_a_hub_dataset_s_audio_column_is_not_decoded_by_datasets(tmp_path):
    """The Hub's Parquet files keep a sound as bytes and path."""
    import datasets

    paths = write_sounds(tmp_path / "sounds", 4)
    rows = {
        "audio": [{"bytes": path.read_bytes(), "path": path.name} for path in paths],
        "text": [path.name.split("_")[0] for path in paths],
    }
    (tmp_path / "hub").mkdir()
    table = datasets.Dataset.from_dict(rows).cast_column("audio", datasets.Audio(decode=False))
    table.to_parquet(tmp_path / "hub" / "train.parquet")
    data = load_transcribed_recordings(TranscribedRecordingData(data_dir=str(tmp_path / "hub")))
    assert sum(map(len, data.splits.values())) == 12
    sound = next(read_recordings(data.splits["test"], 16_000))
    assert len(sound) == round(16_000 * data.splits["test"]["seconds"][0])


def test_rows_count_by_their_files_bytes_not_by_their_paths(tmp_path):
    digests = set()
    for name in "xy":
        write_sounds(tmp_path / name, 4, classes=True)
        data = load_labelled_recordings(LabelledRecordingData(data_dir=str(tmp_path / name)))
        digests.add(compute_rows_sha256(data.splits["test"]))
    assert len(digests) == 1


def test_bad_recordings_are_named_with_row_and_path_or_left_out(tmp_path):
    write_sounds(tmp_path, 6, classes=True)
    (tmp_path / "low" / "low_a_0.wav").write_bytes(b"")
    soundfile.write(tmp_path / "up" / "up_a_0.wav", np.zeros(8000), 16_000)
    cut = tmp_path / "up" / "up_b_1.wav"
    cut.write_bytes(cut.read_bytes()[:-2000])
    with pytest.raises(UserError) as caught:
        load_labelled_recordings(LabelledRecordingData(data_dir=str(tmp_path)))
    message = str(caught.value)
    assert "train split: 3 of 18 recordings cannot be used" in message
    assert f"row 7 ({tmp_path}/low/low_a_0.wav): 0 bytes" in message
    assert f"row 13 ({tmp_path}/up/up_a_0.wav): silence" in message
    assert "up_b_1.wav): cut short" in message
    data = load_labelled_recordings(LabelledRecordingData(data_dir=str(tmp_path), skip_bad=True))
    assert sum(map(len, data.splits.values())) == 15
    assert any("were left out" in note for note in data.notes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "no sounds in sub-folders"),
        ({"file_name_columns": "{word}-{take}"}, "data.file_name_columns ({word}-{take}): train row 1 is named"),
        ({"file_name_columns": "{word}_{who}_{take}"}, "no column text or transcription or transcript among"),
        (
            {"file_name_columns": "{word}_{who}_{take}", "text_column": "wort"},
            "data.text_column: no column 'wort' among file_name, audio, word, who, take; did you mean word?",
        ),
        (
            {"file_name_columns": "{word}_{who}_{take}", "text_column": "word", "test_where": {"take": ["99"]}},
            "data.test_where: no train row has take 99",
        ),
        (
            {"file_name_columns": "{word}_{who}_{take}", "text_column": "word", "keep_where": {"speaker": ["a"]}},
            "data.keep_where: no column 'speaker'",
        ),
    ],
)
def test_what_is_wrong_with_a_folder_is_named(tmp_path, options, message):
    write_sounds(tmp_path, 2)
    with pytest.raises(UserError) as caught:
        load_transcribed_recordings(TranscribedRecordingData(data_dir=str(tmp_path), **options))
    assert message in str(caught.value)


def test_a_missing_file_and_an_empty_text_are_named(tmp_path):
    paths = write_sounds(tmp_path, 2)
    file = tmp_path / "rows.csv"
    file.write_text("file_name,text\n" + f"{paths[0].name},low\nnowhere.wav,up\n")
    with pytest.raises(UserError, match=r"row 2 \(.*nowhere.wav\): no such file"):
        load_transcribed_recordings(TranscribedRecordingData(train_file=str(file)))
    file.write_text("file_name,text\n" + f"{paths[0].name},low\n,up\n")
    with pytest.raises(UserError, match="row 2: names no file"):
        load_transcribed_recordings(TranscribedRecordingData(train_file=str(file)))
    file.write_text("file_name,text\n" + f"{paths[0].name},low\n{paths[1].name},\n")
    with pytest.raises(UserError, match=r"train split: 1 of 2 .*row 2: the column 'text' is empty; "):
        load_transcribed_recordings(TranscribedRecordingData(train_file=str(file)))


def test_a_recording_without_its_text_is_left_out_where_that_is_asked_for(tmp_path):
    paths = write_sounds(tmp_path, 4)
    file = tmp_path / "rows.csv"
    texts = ["" if place == 2 else f"text {place}" for place in range(len(paths))]
    lines = [f"{path.name},{text}" for path, text in zip(paths, texts, strict=True)]
    file.write_text("\n".join(["file_name,text", *lines]) + "\n")
    data = load_transcribed_recordings(TranscribedRecordingData(train_file=str(file), skip_bad=True))
    kept = [pair for rows in data.splits.values() for pair in zip(rows["row"], rows["text"], strict=True)]
    assert sorted(kept) == [(place + 1, text) for place, text in enumerate(texts) if text]
    assert any(
        "recordings were left out (empty text 1): row 3: the column 'text' is empty." in note for note in data.notes
    )


@pytest.mark.real_data
def test_spoken_digits_are_read_whole(real_data):
    config = LabelledRecordingData(
        data_dir=str(real_data / "fsdd" / "recordings"),
        file_name_columns="{digit}_{speaker}_{take}",
        label_column="digit",
        test_where={"take": ["0", "1", "2", "3", "4"]},
    )
    data = load_labelled_recordings(config)
    assert {name: len(rows) for name, rows in data.splits.items()} == {"train": 540, "validation": 60, "test": 300}
    assert data.label_names == tuple("0123456789")
