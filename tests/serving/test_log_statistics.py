import json

import pytest
from served_models import TEXTS, run_service


def test_a_server_keeps_statistics_of_its_answers_without_texts_and_without_its_own_example(classifier, tmp_path):
    log = tmp_path / "served.jsonl"
    texts = [text for text in TEXTS for _ in range(3)][:20]
    with run_service(classifier, log_statistics=str(log)) as (client, _):
        answers = client.post("/predict", json={"inputs": texts[:12]}).json()["answers"]
        assert log.read_text() == ""
        answers += client.post("/predict", json={"inputs": texts[12:]}).json()["answers"]
    (record,) = map(json.loads, log.read_text(encoding="utf-8").splitlines())
    assert record["rows"] == len(record["scores"]) == len(record["lengths"]) == 20
    assert sum(record["labels"].values()) == 20
    assert sorted(record["scores"]) == pytest.approx(sorted(answer["score"] for answer in answers), abs=1e-4)
    assert len(record["feature_mean"]) == 32
    assert "where is my parcel" not in log.read_text(encoding="utf-8")
