"""Find access tokens, keys and passwords by the forms that their issuers document, and blank them out."""

from __future__ import annotations

import os
import re

_FORMS = {
    # https://huggingface.co/docs/hub/security-tokens
    "hugging-face-token": r"(?:hf|api_org)_[A-Za-z0-9]{30,}",
    # https://docs.github.com/en/authentication/keeping-your-account-and-data-secure/about-authentication-to-github
    "github-token": r"gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{60,}",
    # https://docs.gitlab.com/security/tokens/#token-prefixes
    "gitlab-token": r"gl(?:pat|oas|dt|rt|rtr|cbt|ptt|ft|imt|agent|soat|ffct)-[A-Za-z0-9_\-]{20,}",
    # https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_identifiers.html#identifiers-unique-ids
    "aws-key": r"(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Za-z0-9])",
    # https://learn.microsoft.com/en-us/azure/storage/common/storage-configure-connection-string
    "azure-key": r"AccountKey=[A-Za-z0-9+/]{60,}={0,2}",
    # https://cloud.google.com/docs/authentication/api-keys and /docs/authentication/client-secrets
    "google-key": r"AIza[A-Za-z0-9_\-]{35}|GOCSPX-[A-Za-z0-9_\-]{28}",
    # https://platform.openai.com/docs/api-reference/authentication
    "openai-key": r"sk-(?:(?:proj|svcacct|admin)-[A-Za-z0-9_\-]{40,}|[A-Za-z0-9]{48})",
    # https://docs.anthropic.com/en/api/admin-api/apikeys/get-api-key
    "anthropic-key": r"sk-ant-[a-z0-9]+-[A-Za-z0-9_\-]{20,}",
    # https://docs.slack.dev/authentication/tokens and /messaging/sending-messages-using-incoming-webhooks
    "slack-token": r"xox[abeoprs](?:\.xox[bp])?-[A-Za-z0-9\-]{20,}|xapp-\d-[A-Za-z0-9\-]{20,}"
    r"|hooks\.slack\.com/services/T[A-Z0-9]+/B[A-Z0-9]+/[A-Za-z0-9]{20,}",
    # https://docs.stripe.com/keys and https://docs.stripe.com/webhooks
    "stripe-key": r"(?:sk|rk)_(?:live|test)_[A-Za-z0-9]{20,}|whsec_[A-Za-z0-9+/]{24,}",
    # https://www.twilio.com/docs/sendgrid/ui/account-and-settings/api-keys
    "sendgrid-key": r"SG\.[A-Za-z0-9_\-]{22}\.[A-Za-z0-9_\-]{43}",
    # https://docs.npmjs.com/about-access-tokens
    "npm-token": r"npm_[A-Za-z0-9]{36}",
    # https://pypi.org/help/#apitoken
    "pypi-token": r"pypi-AgE[A-Za-z0-9_\-]{50,}",
    # RFC 7519: two JSON objects in base64url, which begin with an opening brace and a quote, and a signature
    "json-web-token": r"eyJ[A-Za-z0-9_\-]{10,}\.eyJ[A-Za-z0-9_\-]{10,}\.[A-Za-z0-9_\-]{10,}",
    # RFC 7468 and RFC 9580
    "private-key": r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----",
    # RFC 3986, section 3.2.1
    "password-in-url": r"[a-z][a-z0-9+.\-]{1,20}://[^\s/:@\"'<>]{1,100}:[^\s/@\"'<>]{1,200}@(?=[\w\[])",
}
FORMS = {kind: re.compile(rf"(?<![A-Za-z0-9])(?:{form})") for kind, form in _FORMS.items()}
"""Kind of a token to its form."""
_HINTS = {
    "hugging-face-token": ("hf_", "api_org_"),
    "github-token": ("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"),
    "gitlab-token": ("gl",),
    "aws-key": ("AKIA", "ASIA"),
    "azure-key": ("AccountKey=",),
    "google-key": ("AIza", "GOCSPX-"),
    "openai-key": ("sk-",),
    "anthropic-key": ("sk-ant-",),
    "slack-token": ("xox", "xapp-", "hooks.slack.com"),
    "stripe-key": ("_live_", "_test_", "whsec_"),
    "sendgrid-key": ("SG.",),
    "npm-token": ("npm_",),
    "pypi-token": ("pypi-",),
    "json-web-token": ("eyJ",),
    "private-key": ("PRIVATE KEY",),
    "password-in-url": ("://",),
}
"""What every token of a kind holds; plain search for it is much faster than a form."""
_HUB_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{8,}")
"""As written in examples too, of any length."""
_SHOWN_CHARACTERS = 4
_SHORTEST_OWN = 8


def find_access_tokens(text: str) -> list[tuple[str, int, int]]:
    """Return kind, begin and end of every access token in a text, in the order of the kinds."""
    return [
        (kind, *match.span())
        for kind, form in FORMS.items()
        if any(hint in text for hint in _HINTS[kind])
        for match in form.finditer(text)
    ]


def read_own_tokens() -> list[str]:
    """Return the tokens with which this person would reach the Hub: the one that is used, and those set beside it."""
    from huggingface_hub import get_token

    names = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
    tokens = [get_token(), *(os.environ.get(name, "").strip() for name in names)]
    return [token for token in dict.fromkeys(tokens) if token and len(token) >= _SHORTEST_OWN]


def mask_token(token: str) -> str:
    """Return a token's first characters, which say no more than its form does."""
    return f"{token[:_SHOWN_CHARACTERS]}…"


def redact_tokens(text: str) -> str:
    """Blank out access tokens, but for their first characters."""
    text = _HUB_TOKEN.sub("hf_…", text)
    for _, begin, end in sorted(find_access_tokens(text), key=lambda place: -place[1]):
        text = text[:begin] + mask_token(text[begin:end]) + text[end:]
    return text
