from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.sections import check_webhook_secrets, percentages


@given(st.binary(min_size=24, max_size=64))
def test_a_secret_is_24_to_64_bytes_after_its_prefix(secret: bytes) -> None:
    one = "whsec_" + base64.b64encode(secret).decode()
    check_webhook_secrets(one)
    check_webhook_secrets(f"{one} {one}")


@pytest.mark.parametrize(
    "secret",
    [
        "",
        "whsec_",
        "C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
        "whsec_" + base64.b64encode(bytes(23)).decode(),
        "whsec_" + base64.b64encode(bytes(65)).decode(),
        "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7o",  # not whole
        "whsec_C2FVsBQIhrscChlQIMV-b5sSYspob7oD",  # of another alphabet
        "whsec_éééééééééééééééééééééééééééééééé",
        "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD whsec_",
        "whpk_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
    ],
)
def test_anything_else_is_refused_without_being_repeated(secret: str) -> None:
    with pytest.raises(ValueError, match=r"^must be whsec_ and 24 to 64 bytes in base64; make one with: ") as refused:
        check_webhook_secrets(secret)
    assert not secret or secret == "whsec_" or secret not in str(refused.value)


@pytest.mark.parametrize(
    ("listed", "numbers"), [(["100", "80"], (80, 100)), ([1000, 1], (1, 1000)), ([80, 80], (80,)), ([], ())]
)
def test_percentages_are_put_in_order(listed: object, numbers: tuple[int, ...]) -> None:
    assert percentages(listed) == numbers


@pytest.mark.parametrize("listed", [80, None, ["x"], [0], [-5], [1001], [80.5], [True], {"a": 1}])
def test_what_is_no_percentage_is_refused(listed: object) -> None:
    with pytest.raises(ValueError, match="must be whole percentages from 1 to 1000, such as 80,100"):
        percentages(listed)
