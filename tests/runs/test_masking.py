from startup_llm.runs.masking import mask_examples

EMAIL = "jane.roe@example.org"
TOKEN = "ghp_" + "aB3dE5gH7jK9" * 3


def test_personal_data_and_tokens_are_masked_in_every_example():
    results = {
        "mistakes": [{"row": 3, "text": f"write to {EMAIL}", "text_pair": TOKEN, "label": "a", "confidence": 0.5}],
        "confusions": [{"label": "a", "predicted": "b", "rows": 1, "examples": ["call +49 171 2345678"]}],
        "gallery": [{"title": "row 1", "kind": "text", "pairs": [["given", f"I am {EMAIL}"]]}],
        "columns": ["text"],
    }
    masked = mask_examples(results)
    assert masked["mistakes"] == [
        {"row": 3, "text": "write to <EMAIL>", "text_pair": "ghp_…", "label": "a", "confidence": 0.5}
    ]
    assert masked["confusions"][0]["examples"] == ["call <PHONE>"]
    assert masked["gallery"][0]["pairs"] == [["given", "I am <EMAIL>"]]
    assert results["mistakes"][0]["text"] == f"write to {EMAIL}"
    assert mask_examples(masked) == masked


def test_marks_in_a_text_stay_where_they_were_and_a_picture_as_it_is():
    text = f"Ask {EMAIL} in Rome."
    start = text.index("Rome")
    span = {"start": start, "end": start + 4, "label": "place", "true": True}
    picture = {"title": "row 2", "kind": "image", "png_base64": "0171234567890", "caption": EMAIL}
    spans = {"title": EMAIL, "kind": "spans", "text": text, "spans": [span]}
    shown = mask_examples({"gallery": [spans, picture]})["gallery"]
    assert shown[0]["text"][start : start + 4] == "Rome"
    assert shown[0]["text"].startswith("Ask •••")
    assert shown[1] == {"title": "row 2", "kind": "image", "png_base64": "0171234567890", "caption": "<EMAIL>"}
    assert EMAIL not in str(shown)
