import pytest

from startup_llm.access_tokens import FORMS, find_access_tokens, redact_tokens

LETTERS = "aB3dE5gH7jK9mN1pQ2rS4tU6vW8xY0zA" * 4
TOKENS = {
    "hugging-face-token": f"hf_{LETTERS[:34]}",
    "github-token": f"github_pat_{LETTERS[:22]}_{LETTERS[:59]}",
    "gitlab-token": f"glpat-{LETTERS[:20]}",
    "aws-key": "AKIA" + "Q2R4T6V8" * 2,
    "azure-key": f"AccountKey={LETTERS[:86]}==",
    "google-key": f"AIza{LETTERS[:35]}",
    "openai-key": f"sk-proj-{LETTERS[:90]}",
    "anthropic-key": f"sk-ant-api03-{LETTERS[:93]}",
    "slack-token": f"xoxb-{'123456789012-' * 2}{LETTERS[:24]}",
    "stripe-key": f"sk_live_{LETTERS[:24]}",
    "sendgrid-key": f"SG.{LETTERS[:22]}.{LETTERS[:43]}",
    "npm-token": f"npm_{LETTERS[:36]}",
    "pypi-token": f"pypi-AgE{LETTERS[:80]}",
    "json-web-token": f"eyJ{LETTERS[:20]}.eyJ{LETTERS[:20]}.{LETTERS[:43]}",
    "private-key": "-----BEGIN OPENSSH PRIVATE KEY-----",
    "password-in-url": "postgres://me:pa55word@db.example.org/x",
}


def test_every_form_has_an_example():
    assert set(TOKENS) == set(FORMS)


@pytest.mark.parametrize("kind", TOKENS)
def test_a_token_is_found_where_it_stands_and_blanked_out(kind):
    token = TOKENS[kind]
    text = f'set KEY="{token}" and go'
    ((found, begin, end),) = find_access_tokens(text)
    assert found == kind
    assert token.startswith(text[begin:end])
    assert token[4:24] not in redact_tokens(text)


@pytest.mark.parametrize(
    "text",
    ["hf_transformers", "https://example.org:8080/a@b", "task-oriented sk-learn", "glass-works", "AKIA", "x" * 500],
)
def test_what_only_looks_like_a_token_is_let_be(text):
    assert find_access_tokens(text) == []
