"""Signatures, as the libraries of their schemes make them, and whatever else a header may hold."""

from __future__ import annotations

import time
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from proxy.errors import Unauthenticated
from proxy.payments.signatures import Stripe, Svix, Verifier
from tests.payments.senders import OPENMETER_SECRET, STRIPE_SECRET, TIME_S, stripe_headers, svix_headers

BODY = b'{"id":"evt_1","object":"event","type":"invoice.paid"}'
#: Made of that body, that secret and TIME_S by stripe 16.1.0 from PyPI (`WebhookSignature`).
BY_STRIPES_LIBRARY = "5d989efaed594f87c34ff8c6fbf841990afc370b564656d09deef1d0bea9bcd8"
OTHER_OPENMETER, OTHER_STRIPE = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD", "whsec_another1another2another3"

SVIX = Svix(SecretStr(OPENMETER_SECRET))


def stripe(*secrets: str, now_s: float = TIME_S) -> Stripe:
    return Stripe(SecretStr(" ".join(secrets or (STRIPE_SECRET,))), lambda: round(now_s * 1000))


def is_right(verifier: Verifier, headers: Mapping[str, str], body: bytes = BODY) -> bool:
    try:
        verifier.verify(headers, body)
    except Unauthenticated:
        return False
    return True


@pytest.mark.parametrize("prefix", ["svix", "webhook"])
def test_what_the_library_of_standard_webhooks_signs_is_taken(prefix: str) -> None:
    signed = svix_headers(BODY, prefix=prefix)
    assert is_right(SVIX, signed)
    assert not is_right(SVIX, signed, BODY + b" ")
    for name in signed:
        assert not is_right(SVIX, {one: value for one, value in signed.items() if one != name}), name
        assert not is_right(SVIX, signed | {name: "0"}), name


@pytest.mark.parametrize("seconds", [-301, 301])
def test_what_was_signed_more_than_five_minutes_away_is_not_taken(seconds: int) -> None:
    assert not is_right(SVIX, svix_headers(BODY, at=time.time() + seconds * 1.01))
    assert not is_right(stripe(now_s=TIME_S + seconds), stripe_headers(BODY, at=TIME_S))
    nearly = 300 if seconds > 0 else -300
    assert is_right(stripe(now_s=TIME_S + nearly), stripe_headers(BODY, at=TIME_S))


def test_what_stripes_library_signs_is_taken() -> None:
    assert is_right(stripe(), {"stripe-signature": f"t={TIME_S},v1={BY_STRIPES_LIBRARY}"})
    assert is_right(stripe(), stripe_headers(BODY, at=TIME_S))
    assert not is_right(stripe(), stripe_headers(BODY, at=TIME_S), BODY + b" ")
    assert not is_right(stripe(), stripe_headers(BODY, at=TIME_S, secret=OTHER_STRIPE))


@pytest.mark.parametrize(
    "header",
    [
        "",
        "t,v1",
        f"v1={BY_STRIPES_LIBRARY}",
        f"t={TIME_S}",
        f"t={TIME_S},v0={BY_STRIPES_LIBRARY}",
        f"t={TIME_S},t={TIME_S},v1={BY_STRIPES_LIBRARY}",
        f"t=+{TIME_S},v1={BY_STRIPES_LIBRARY}",
        f"t={TIME_S}.0,v1={BY_STRIPES_LIBRARY}",
        f"t={'9' * 5000},v1={BY_STRIPES_LIBRARY}",
        f"t={TIME_S},v1={BY_STRIPES_LIBRARY.upper()}",
        f"t={TIME_S},v1={BY_STRIPES_LIBRARY[:-1]}",
        f"t={TIME_S},v1=é",
    ],
)
def test_other_headers_of_stripes_are_refused(header: str) -> None:
    assert not is_right(stripe(), {"stripe-signature": header})


def test_a_refusal_is_a_401_that_names_the_setting_and_no_secret() -> None:
    for verifier, name in ((SVIX, "openmeter"), (stripe(), "stripe")):
        with pytest.raises(Unauthenticated) as refused:
            verifier.verify({}, BODY)
        assert (refused.value.status, refused.value.code) == (401, "invalid_signature")
        assert f"hooks.{name}_secret" in str(refused.value)
        assert "whsec_" not in str(refused.value)


def test_while_a_secret_is_changed_either_is_right() -> None:
    both = Svix(SecretStr(f"{OTHER_OPENMETER} {OPENMETER_SECRET}"))
    assert is_right(both, svix_headers(BODY))
    assert is_right(both, svix_headers(BODY, secret=OTHER_OPENMETER))
    new, old = stripe_headers(BODY, at=TIME_S), stripe_headers(BODY, at=TIME_S, secret=OTHER_STRIPE)
    assert is_right(stripe(OTHER_STRIPE, STRIPE_SECRET), new)
    assert is_right(stripe(OTHER_STRIPE, STRIPE_SECRET), old)
    # Stripe itself signs with both meanwhile.
    signatures = f"{old['stripe-signature']},{new['stripe-signature'].partition(',')[2]}"
    assert is_right(stripe(), {"stripe-signature": signatures})
    mixed = svix_headers(BODY, secret=OTHER_OPENMETER)
    mixed["svix-signature"] += f" v1a,AAAA {svix_headers(BODY)['svix-signature']}"
    assert is_right(SVIX, mixed)


def test_a_channel_may_send_the_secret_and_sign_with_one_that_nobody_knows() -> None:
    assert is_right(SVIX, {"x-webhook-secret": OPENMETER_SECRET})
    assert not is_right(SVIX, {"x-webhook-secret": OTHER_OPENMETER})
    assert not is_right(SVIX, {"x-webhook-secret": ""})
    unknown = svix_headers(BODY, secret=OTHER_OPENMETER)
    assert is_right(SVIX, unknown | {"x-webhook-secret": OPENMETER_SECRET})
    assert not is_right(SVIX, unknown | {"x-webhook-secret": OTHER_OPENMETER})


@given(header=st.text(), body=st.binary())
def test_no_header_and_no_body_gets_further_than_a_refusal(header: str, body: bytes) -> None:
    names = ("stripe-signature", *svix_headers(b""), *svix_headers(b"", prefix="webhook"))
    assert not is_right(stripe(), dict.fromkeys(names, header), body)
    assert not is_right(SVIX, dict.fromkeys(names, header), body)
    assert not is_right(SVIX, svix_headers(b"") | {"svix-signature": header}, body)


@given(body=st.binary(max_size=200).filter(lambda body: body != BODY))
def test_no_other_body_has_the_signature(body: bytes) -> None:
    assert not is_right(stripe(), stripe_headers(BODY, at=TIME_S), body)
    assert not is_right(SVIX, svix_headers(BODY), body)
