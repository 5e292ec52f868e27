"""Uploads to S3 that were begun and never completed: their parts cost, and nothing lists them.

obstore cannot ask for them, so two requests are made and signed here:
https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListMultipartUploads.html and
https://docs.aws.amazon.com/AmazonS3/latest/API/API_AbortMultipartUpload.html, signed as in
https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
"""

import hashlib
import hmac
import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal
from urllib.parse import quote, urlencode, urlsplit
from xml.etree import ElementTree

from ci_tools.errors import StoreError

_TIMEOUT = 30.0
"""Seconds for one request."""

_EMPTY = hashlib.sha256(b"").hexdigest()

_VARIABLES = {
    "access_key_id": "AWS_ACCESS_KEY_ID",
    "secret_access_key": "AWS_SECRET_ACCESS_KEY",
    "session_token": "AWS_SESSION_TOKEN",
    "token": "AWS_SESSION_TOKEN",
    "region": "AWS_REGION",
    "default_region": "AWS_DEFAULT_REGION",
    "endpoint": "AWS_ENDPOINT_URL",
}
"""Where obstore looks for an option that was not given, which its store does not show."""


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """A bucket, and who asks."""

    url: str
    """Without a slash at the end."""

    region: str
    key_id: str
    secret: str
    token: str | None = None

    def abort_uploads(self, key: str) -> None:
        """Abort every upload of that key (the whole one, with the prefix); blocks.

        Raises:
            StoreError: The store cannot be asked, or refuses.
        """
        for upload_id in self._list_uploads(key):
            self._send("DELETE", "/" + key, {"uploadId": upload_id})

    def _list_uploads(self, key: str) -> list[str]:
        listed = self._send("GET", "", {"uploads": "", "prefix": key})
        answer = ElementTree.fromstring(listed)  # noqa: S314 - from the operator's own store
        return [
            upload.findtext("{*}UploadId", "")
            for upload in answer.iterfind("{*}Upload")
            if upload.findtext("{*}Key") == key
        ]

    def _send(self, method: Literal["GET", "DELETE"], path: str, query: Mapping[str, str]) -> bytes:
        url = f"{self.url}{quote(path)}?{to_query(query)}"
        headers = self.sign(method, url, datetime.now(UTC))
        request = urllib.request.Request(url, method=method, headers=headers)  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:  # noqa: S310
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 404:  # aborted meanwhile
                return b"<None/>"
            raise StoreError(f"The object store failed: status {error.code}.") from None
        except OSError as error:
            raise StoreError(f"The object store failed: {type(error).__name__}.") from None

    def sign(self, method: str, url: str, moment: datetime) -> dict[str, str]:
        """Return the headers of a request without a body."""
        parts = urlsplit(url)
        time, day = f"{moment:%Y%m%dT%H%M%SZ}", f"{moment:%Y%m%d}"
        headers = {"host": parts.netloc, "x-amz-content-sha256": _EMPTY, "x-amz-date": time}
        if self.token is not None:
            headers["x-amz-security-token"] = self.token
        names = ";".join(headers)
        lines = [f"{name}:{value}" for name, value in headers.items()]
        asked = "\n".join([method, parts.path or "/", parts.query, *lines, "", names, _EMPTY])
        scope = f"{day}/{self.region}/s3/aws4_request"
        digest = hashlib.sha256(asked.encode()).hexdigest()
        key = b"AWS4" + self.secret.encode()
        for part in scope.split("/"):
            key = _hmac(key, part)
        signature = _hmac(key, f"AWS4-HMAC-SHA256\n{time}\n{scope}\n{digest}").hex()
        headers["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={self.key_id}/{scope},SignedHeaders={names},"
            f"Signature={signature}"
        )
        return headers


def find_bucket(options: Mapping[str, object]) -> Bucket | None:
    """Return the bucket of a store with those options; None if its keys are not known here.

    So it is where a store gets them from the machine or container that it runs in.
    """

    def find(*names: str) -> str | None:
        given = (options.get(name) or os.environ.get(_VARIABLES[name]) for name in names)
        return next((str(value) for value in given if value), None)

    key_id, secret = find("access_key_id"), find("secret_access_key")
    if key_id is None or secret is None:
        return None
    region = find("region", "default_region") or "us-east-1"
    endpoint = find("endpoint")
    url = (endpoint or f"https://s3.{region}.amazonaws.com").rstrip("/")
    # An endpoint of one bucket has its name in the host.
    is_bucket = endpoint and str(options.get("virtual_hosted_style_request")).lower() == "true"
    return Bucket(
        url=url if is_bucket else f"{url}/{options['bucket']}",
        region=region,
        key_id=key_id,
        secret=secret,
        token=find("session_token", "token"),
    )


def to_query(values: Mapping[str, str]) -> str:
    """Return a query string as it is signed: sorted, and with nothing left unescaped."""
    return urlencode(sorted(values.items()), quote_via=quote, safe="-_.~")


def _hmac(key: bytes, message: str) -> bytes:
    return hmac.digest(key, message.encode(), "sha256")
