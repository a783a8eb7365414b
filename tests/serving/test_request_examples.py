import json
import re
import shutil
import subprocess
import sys

import pytest
from served_models import LABELS

from startup_llm.hub.model_card import build_model_card
from startup_llm.hub.request_examples import ADDRESS, build_request_examples

RESULTS = {"task": "text-classification", "method": "full", "decides": "accuracy", "models": {"full": {}}}
RUNNERS = {
    "bash": ["bash", "-c"],
    "python": [sys.executable, "-c"],
    "javascript": ["node", "--input-type=module", "-e"],
}


@pytest.mark.parametrize("language", RUNNERS)
def test_the_card_s_call_gets_an_answer(client, language):
    needed = "curl" if language == "bash" else RUNNERS[language][0]
    if shutil.which(needed) is None:
        pytest.skip(f"no {needed} on this machine")
    card = build_model_card(RESULTS)
    blocks = re.findall(rf"```{language}\n(.*?)\n```", card[card.index("## How to serve it") :], re.DOTALL)
    call = next(block for block in blocks if ADDRESS in block).replace(ADDRESS, str(client.base_url).rstrip("/"))
    done = subprocess.run([*RUNNERS[language], call], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert any(label in done.stdout for label in LABELS)


@pytest.mark.parametrize(
    ("results", "row"),
    [
        ({"columns": ["text", "label"]}, "a text"),
        ({"columns": ["text", "text_pair"]}, {"text": "a text", "text_pair": "a text pair"}),
        ({"config": {"data": {"text_column": ["subject", "body"]}}}, {"subject": "a subject", "body": "a body"}),
        ({"task": "question-answering"}, {"question": "a question", "context": "a context"}),
    ],
)
def test_the_call_has_the_run_s_columns(results, row):
    content = build_request_examples(RESULTS | results)["bash"].split(" -d ")[1].strip("'")
    assert json.loads(content) == {"inputs": row}


def test_a_chat_is_asked_in_openais_form_and_a_file_not_at_all():
    chat = build_request_examples(RESULTS | {"task": "text-generation", "columns": ["messages"]})
    assert "/v1/chat/completions" in chat["bash"]
    assert chat["options"] == " --chat"
    assert build_request_examples(RESULTS | {"task": "image-classification"}) is None
    assert build_request_examples(RESULTS | {"task": "no-task-of-ours"}) is None
