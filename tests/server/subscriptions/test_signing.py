import json
import re
from base64 import urlsafe_b64decode
from dataclasses import replace

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from ds_sync.exceptions import ConflictError, UnauthorizedError
from ds_sync.protocol.subscription import Config, Kind, Subscription
from ds_sync.server.subscriptions.signing import Secrets, Signer, parse_secrets, spell_secrets

SECRETS = Secrets(bytes(range(32)), bytes(range(32, 64)))
SIGNER = Signer(SECRETS)
SUB = Subscription("s", "u" * 32, "", "", Config(Kind.PULL_WAKE, "*", (), None, "w", 1000, None), {}, generation=7)


def decode(text: str) -> bytes:
    return urlsafe_b64decode(text + "==")


def test_a_signature_is_checked_with_the_published_key() -> None:
    found = re.fullmatch(r"t=(\d+),kid=(ds_[\w-]+),ed25519=([\w-]+)", SIGNER.sign(b'{"a":1}', 1234.9))
    assert found is not None
    assert found[1] == "1234"
    [key] = [key for key in SIGNER.jwks["keys"] if key["kid"] == found[2]]
    assert {name: key[name] for name in ("kty", "crv", "use", "alg")} == {"kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA"}
    public = Ed25519PublicKey.from_public_bytes(decode(key["x"]))
    public.verify(decode(found[3]), b'1234.{"a":1}')
    with pytest.raises(InvalidSignature):
        public.verify(decode(found[3]), b'1235.{"a":1}')


def test_a_key_is_named_by_its_thumbprint() -> None:
    # The key and its thumbprint of RFC 8037, appendix A.
    example = Signer(Secrets(decode("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A"), SECRETS.tokens))
    assert example.jwks["keys"][0]["x"] == "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"
    assert example.key_id == "ds_kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"


def test_a_token_is_worth_its_generation_of_its_subscription() -> None:
    token = SIGNER.build_token(SUB)
    SIGNER.require_token(SUB, token)
    with pytest.raises(ConflictError) as fenced:
        SIGNER.require_token(replace(SUB, generation=8), token)
    assert fenced.value.code == "FENCED"
    with pytest.raises(UnauthorizedError):
        SIGNER.require_token(replace(SUB, uid="v" * 32), token)
    with pytest.raises(UnauthorizedError):
        Signer(Secrets(SECRETS.signing, bytes(32))).require_token(SUB, token)


@pytest.mark.parametrize("token", [None, "", ".", "7", "7.", "-7.x", "7.é", "08.x", "٧.x", "9" * 17 + ".x", "7." + "A" * 43])
def test_what_is_no_token_is_refused(token: str | None) -> None:
    with pytest.raises(UnauthorizedError) as refused:
        SIGNER.require_token(SUB, token)
    assert (refused.value.status, refused.value.code) == (401, "TOKEN_INVALID")


def test_secrets_are_read_as_they_were_written() -> None:
    assert parse_secrets(spell_secrets(SECRETS)) == SECRETS


@pytest.mark.parametrize("record", [b"", b"{}", b"[]", b'{"signing": 1, "tokens": "x"}', b'{"signing": "A", "tokens": "A"}', b"\xff"])
def test_damaged_secrets_are_an_error(record: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_secrets(record)


def test_secrets_are_json() -> None:
    assert set(json.loads(spell_secrets(SECRETS))) == {"signing", "tokens"}
