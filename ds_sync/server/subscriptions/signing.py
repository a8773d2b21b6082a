"""The server's secrets: the Ed25519 key that signs webhooks, and the key that makes tokens. Kept as long as the streams are."""

from __future__ import annotations

import hmac
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ds_sync.exceptions import ConflictError, UnauthorizedError
from ds_sync.protocol.headers import MAX_INTEGER
from ds_sync.protocol.subscription import Subscription


@dataclass(frozen=True, slots=True)
class Secrets:
    """Two keys of 32 bytes."""

    signing: bytes
    tokens: bytes


class Signer:
    """Signs and checks with one pair of secrets."""

    def __init__(self, secrets: Secrets) -> None:
        self._private = Ed25519PrivateKey.from_private_bytes(secrets.signing)
        self._tokens = secrets.tokens
        public = _encode(self._private.public_key().public_bytes_raw())
        # RFC 7638: the thumbprint of the key, so that a key always has the same name.
        thumbprint = sha256(json.dumps({"crv": "Ed25519", "kty": "OKP", "x": public}, separators=(",", ":")).encode()).digest()
        self.key_id = f"ds_{_encode(thumbprint)}"
        self.jwks = {"keys": [{"kty": "OKP", "crv": "Ed25519", "x": public, "kid": self.key_id, "use": "sig", "alg": "EdDSA"}]}
        """The JSON Web Key Set that receivers check signatures by."""

    def sign(self, body: bytes, now: float) -> str:
        """Return the value of Webhook-Signature: it signs the time in seconds, a dot, and the body."""
        seconds = int(now)
        signature = self._private.sign(b"%d." % seconds + body)
        return f"t={seconds},kid={self.key_id},ed25519={_encode(signature)}"

    def build_token(self, sub: Subscription) -> str:
        """Return the token of the wake that is going on: `<generation>.<proof>`. It is worth as much as its generation."""
        return f"{sub.generation}.{self._prove(sub.uid, sub.generation)}"

    def require_token(self, sub: Subscription, token: str | None) -> None:
        """Raise UnauthorizedError (TOKEN_INVALID) unless we made this token, ConflictError (FENCED) if it was for an earlier wake."""
        digits, dot, proof = (token or "").partition(".")
        generation = int(digits) if digits.isascii() and digits.isdigit() and len(digits) <= 16 else -1
        expected = self._prove(sub.uid, generation)
        if not dot or not 0 <= generation <= MAX_INTEGER or not hmac.compare_digest(proof.encode(), expected.encode()):
            raise UnauthorizedError("the token is missing, or not one of this subscription", code="TOKEN_INVALID")
        if generation != sub.generation:
            raise ConflictError("this wake is over", code="FENCED")

    def _prove(self, uid: str, generation: int) -> str:
        return _encode(hmac.digest(self._tokens, f"{uid}.{generation}".encode(), "sha256"))


def spell_secrets(secrets: Secrets) -> bytes:
    """Return what `parse_secrets` reads."""
    return json.dumps({"signing": _encode(secrets.signing), "tokens": _encode(secrets.tokens)}).encode()


def parse_secrets(record: bytes) -> Secrets:
    """Read stored secrets. Raises ValueError if they are damaged."""
    try:
        fields = json.loads(record)
        found = Secrets(_decode(fields["signing"]), _decode(fields["tokens"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"the server's keys are damaged: {error!r}") from error
    if len(found.signing) != 32 or len(found.tokens) != 32:
        raise ValueError("the server's keys are damaged: they have 32 bytes each")
    return found


def _encode(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))
