"""MLflow's client as Equipoise uses it: patient with a server that is away, its errors in one sentence."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, text
from sqlalchemy.exc import SQLAlchemyError

from equipoise.platform.errors import EquipoiseError

PATIENCE_S = 900.0  # how long a server may be away before the study stops, to be resumed

ASKED_WRONG = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "BAD_REQUEST")
AWAY = (502, 503, 504)  # a proxy that finds no server behind it, a server that starts

RESULT_TAG = "equipoise.study"
# Before the names of what is measured while training: MLflow's comparison lists metrics by name, accuracies come first.
TRAIN = "train/"


class TrackingError(EquipoiseError):
    """The MLflow store cannot be reached, or has no such study."""


def sqlite_file(uri: str) -> Path | None:
    """The file of a SQLite store; None of any other."""
    return Path(uri.removeprefix("sqlite:///").partition("?")[0]) if uri.startswith("sqlite:///") else None


BACK = "put a copy of it back; the studies' books (studies/*/ledger.db) still hold every finished trial"


def check_store(uri: str, create: bool) -> None:
    """See that a SQLite store is there and whole, before MLflow writes to it: it fills an empty file without a word.

    Args:
        uri: of a store of any kind.
        create: it may be missing.

    Raises:
        TrackingError: it is missing, or damaged.
    """
    file = sqlite_file(uri)
    if file is None:
        return
    if not file.is_file():
        if create:
            return
        raise TrackingError(f"there is no MLflow store {file}: name another with --tracking-uri")
    if not file.stat().st_size:
        raise TrackingError(f"the MLflow store {file} is empty (0 bytes): {BACK}; or remove it to begin another")
    engine = create_engine(uri)
    try:
        with engine.connect() as connection:
            found = str(connection.execute(text("PRAGMA quick_check(1)")).scalar()).splitlines()[-1]
    except SQLAlchemyError as error:
        raise TrackingError(cannot_be_used(uri, error)) from None
    finally:
        engine.dispose()
    if found != "ok":
        raise TrackingError(f"the MLflow store {file} is damaged ({found}): {BACK}")


def cannot_be_used(uri: str, error: Exception) -> str:
    """The sentence for what MLflow, or the database below it, said."""
    said = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
    file = sqlite_file(uri)
    if file is not None and any(
        words in str(error) for words in ("malformed", "not a database", "Detected out-of-date")
    ):
        return f"the MLflow store {file} is damaged ({said}): {BACK}"
    return f"the MLflow store {uri} cannot be used: {said}"


class PatientClient:
    """An MLflow client that waits for a server that is away; a call that was refused for another reason fails at once.

    Args:
        client: MLflow's client.
        uri: its store, for the sentence.
        patience_s: how long to wait for one call.
    """

    def __init__(self, client: Any, uri: str, patience_s: float) -> None:
        self.plain, self._uri, self._patience_s = client, uri, patience_s
        self.on_wait: Callable[[str | None], None] = lambda text: None
        self._given_up = False

    def __getattr__(self, name: str) -> Any:
        call = getattr(self.plain, name)

        def patiently(*args: Any, **kwargs: Any) -> Any:
            return self.attempt(lambda: call(*args, **kwargs))

        return patiently

    def attempt(self, call: Callable[[], Any]) -> Any:
        """Call until it is answered.

        Raises:
            TrackingError: if the server stays away, or nothing more can be written.
        """
        from mlflow.exceptions import MlflowException
        from requests.exceptions import RequestException

        began, pause = time.monotonic(), 1.0
        while True:
            try:
                answer = call()
            except (MlflowException, RequestException, SQLAlchemyError, OSError) as error:
                away = time.monotonic() - began
                if not _away(error):
                    if getattr(error, "error_code", None) in ASKED_WRONG:
                        raise
                    raise TrackingError(cannot_be_used(self._uri, error)) from error
                if self._given_up or away + pause > self._patience_s:
                    # Winding up must not wait as long again for every run.
                    self._given_up = True
                    raise TrackingError(
                        f"the MLflow server {self._uri} has not answered for {away:.0f} s; what is finished is in the "
                        "study's book: start the server, then go on with --resume"
                    ) from error
                self.on_wait(f"MLflow at {self._uri} does not answer, waiting for it since {away:.0f} s")
                time.sleep(pause)
                pause = min(2 * pause, 15.0)
            else:
                if pause > 1.0:
                    self.on_wait(None)
                return answer


def _away(error: Exception) -> bool:
    """Whether an error means that the server could not be reached or was not ready, and not that it refused."""
    from mlflow.exceptions import MlflowException, RestException
    from requests.exceptions import ConnectionError as NoConnection
    from requests.exceptions import HTTPError, Timeout

    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, NoConnection | Timeout | ConnectionError):
            return True
        if isinstance(seen, HTTPError) and seen.response is not None:
            return bool(seen.response.status_code in AWAY)
        if isinstance(seen, MlflowException) and not isinstance(seen, RestException):
            # MLflow puts what requests said into words where its own retries are used up.
            text = str(seen)
            if "API request to" in text and any(w in text for w in ("failed with exception", *map(str, AWAY))):
                return True
        seen = seen.__cause__ or seen.__context__
    return False


def quoted(text: str) -> str:
    """Text inside the quotes of an MLflow filter."""
    return text.replace("'", "''")
