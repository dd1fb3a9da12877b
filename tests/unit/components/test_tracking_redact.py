"""Secrets are hidden wherever they turn up, and nothing else is."""

from __future__ import annotations

import pytest
from bmflow_components.tracking.redact import redact, redact_items


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://mlflow:hunter22@db:5432/mlflow", "postgresql://***@db:5432/mlflow"),
        ("https://token@git.example/repo", "https://***@git.example/repo"),
        ("s3://bucket/key?X-Amz-Security-Token=abc123&x=1", "s3://bucket/key?X-Amz-Security-Token=***&x=1"),
        ("AWS_SECRET_ACCESS_KEY=abc/def+1 run", "AWS_SECRET_ACCESS_KEY=*** run"),
        ("tool --password hunter22 --name a", "tool --password *** --name a"),
        ('{"api_key": "abc123", "size": 3}', '{"api_key": "***", "size": 3}'),
        ("Authorization: Bearer abcdef0123456789", "Authorization: *** ***"),
        ("Bearer abcdef0123456789", "Bearer ***"),
        ("mlflow_tracking_password: hunter22", "mlflow_tracking_password: ***"),
    ],
)
def test_secrets_are_hidden(text: str, shown: str) -> None:
    assert redact(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "token_embedding_MatMul",
        "model.22/Conv_Conv",
        "a@b.example",
        "the password was wrong",
        "tokenizer=wordpiece",
        "models:/shapes@champion",
    ],
)
def test_other_text_is_left_as_it_is(text: str) -> None:
    assert redact(text) == text


def test_values_of_secret_variables_are_hidden_wherever_they_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "s3cr3t-value")
    monkeypatch.setenv("SOME_TOKEN_FILE", "/run/secrets/token")
    assert redact("refused s3cr3t-value at /run/secrets/token") == "refused *** at /run/secrets/token"


def test_items_are_hidden_by_name_and_by_content() -> None:
    items = {"db_password": "x1", "threads": 2, "repo": "https://me:pw@host/r", "token": ""}
    assert redact_items(items) == {"db_password": "***", "threads": "2", "repo": "https://***@host/r", "token": ""}
