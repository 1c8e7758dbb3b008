"""Redaction removes personal data as a whole, keeps the text around it, and leaves look-alikes alone."""

from __future__ import annotations

import pytest
from gate_cases import CASES, HELD
from hypothesis import given, settings
from hypothesis import strategies as st
from test_gates_text import recipe

from graft.data.gates import Needs
from graft.data.gates.personal import PersonalGate
from graft.data.gates.secrets import PLUGINS, SecretGate
from graft.data.gates.shared.spans import redacted
from graft.schemas.rows import Proposal

PERSONAL, SECRETS = PersonalGate(recipe(), Needs()), SecretGate(recipe(), Needs())
LETTERS = "abcDEF123ghi456JKL789mno012PQR345stu"
STRIPE = "sk_" + "live_" + LETTERS[:24]
PIECES = (LETTERS[:8], LETTERS[-8:], "0123456789abcdef")


def clean(text: str) -> str:
    return redacted(redacted(text, SECRETS.find)[0], PERSONAL.find)[0]


@pytest.mark.parametrize("text", [text for kind, text in (*CASES, *HELD) if kind == "secret"])
def test_no_piece_of_a_key_stays(text: str) -> None:
    once = clean(text)
    assert "<SECRET>" in once
    assert not any(piece in once for piece in PIECES)


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("postgres://shop:pa55w0rd@db.example.com/orders", "postgres://shop:<SECRET>@db.example.com/orders"),
        ("shop db postgres://shop:shop@db/x", "shop db postgres://shop:<SECRET>@db/x"),
        (" and ".join([STRIPE] * 9), " and ".join(["<SECRET>"] * 9)),
        ("token " + "ghp_" + LETTERS + "A here", "token <SECRET> here"),
        ("4111 1111 1111 1111 12/27", "<CARD> 12/27"),
        ("12 4111 1111 1111 1111 and 5555-5555-5555-4444", "12 <CARD> and <CARD>"),
        ("to DE89 3704 0044 0532 0130 00 and then", "to <IBAN> and then"),
        ("'lena@example.com', o'neil@example.com", "'<EMAIL>', <EMAIL>"),
        ("ssn 536904399, at 192.0.2.0/24", "ssn <NATIONAL_ID>, at <IP_ADDRESS>/24"),
        ("http://198.51.100.23/admin?mail=a@example.com", "http://<IP_ADDRESS>/admin?mail=<EMAIL>"),
    ],
)
def test_the_rest_stays(text: str, after: str) -> None:
    assert clean(text) == after


@pytest.mark.parametrize(
    "text",
    [
        "see section 1.2.3.4 of the manual", "hero@2x.png", "git@github.com:shop/app.git", "add::fee",
        "tokens are 500/day", "password: https://example.com/reset", "APEXLEGENDS is a game",
        "api_key = os.environ['KEY_1']", "token = get_token(user1)", "PASSWORD=$DB_PASSWORD2",
        "postgres://user:password@localhost", "AP12345678 came",
        "4111 1111 1111 1112 12/27", "0.4111111111111111", "+1 point", "aix-6107-1415-32",
        "h * 69069 + 907133923", "+35236450.6",
        'sections "8.2.4.44" and on', "http://127.0.0.1:8080/", "listen on 0.0.0.0",
        "password is <SECRET>", "Bearer <SECRET>",
    ],
)  # fmt: skip
def test_what_only_looks_like_it_is_left_alone(text: str) -> None:
    assert clean(text) == text


def test_every_named_detector_of_the_library_is_there() -> None:
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class

    assert set(PLUGINS) <= {kind.__name__ for kind in get_mapping_from_secret_type_to_class().values()}


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet=st.sampled_from("0123456789 -.:@/+<>_=aAbBDEFKſK٣²\ud800'\"\n") | st.characters(), max_size=80))
def test_any_text_can_be_searched_and_redacting_twice_is_redacting_once(text: str) -> None:
    once = clean(text)
    assert clean(once) == once
    assert PERSONAL.check(Proposal(once)).passed and SECRETS.check(Proposal(once)).passed
