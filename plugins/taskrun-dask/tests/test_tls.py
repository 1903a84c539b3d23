"""A cluster that is reached by TLS, with certificates of the test's own."""

from __future__ import annotations

import subprocess
import time
from typing import TYPE_CHECKING

import pytest
from clusters import PATIENCE, Cluster, running

import taskrun

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def certificates(directory: Path, name: str) -> dict[str, str]:
    """Make an authority called *name*, and a certificate that it has signed."""

    def openssl(*arguments: object) -> None:
        subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, timeout=PATIENCE)

    directory.mkdir()
    ca, ca_key, key, request, cert = (directory / file for file in ("ca.pem", "ca.key", "key.pem", "request.pem", "cert.pem"))
    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", ca_key, "-out", ca, "-days", 1, "-subj", f"/CN={name}")
    openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", request, "-subj", "/CN=127.0.0.1")
    openssl("x509", "-req", "-in", request, "-CA", ca, "-CAkey", ca_key, "-CAcreateserial", "-out", cert, "-days", 1)
    return {"tls_ca_file": str(ca), "tls_cert": str(cert), "tls_key": str(key)}


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return certificates(tmp_path_factory.mktemp("tls") / "ours", "taskrun's test")


@pytest.fixture(scope="module")
def guarded(ours: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    tls = ("--tls-ca-file", ours["tls_ca_file"], "--tls-cert", ours["tls_cert"], "--tls-key", ours["tls_key"])
    with running(tmp_path_factory.mktemp("guarded"), workers=1, protocol="tls", tls=tls) as cluster:
        yield cluster


def test_a_profile_with_certificates(
    guarded: Cluster, ours: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = "".join(f'{name} = "{file}"\n' for name, file in ours.items())
    (tmp_path / "taskrun.toml").write_text(f'[profiles.cluster]\nbackend = "dask"\naddress = "{guarded.address}"\n{files}')
    monkeypatch.chdir(tmp_path)
    with taskrun.Executor(profile="cluster") as ex:
        assert ex.submit(pow, 2, 3).result(PATIENCE) == 8
        assert all(worker.startswith("tls://") for worker in ex.stats()["workers"])


def test_a_security_of_dasks(guarded: Cluster, ours: dict[str, str]) -> None:
    from distributed import Security

    security = Security(
        tls_ca_file=ours["tls_ca_file"],
        tls_client_cert=ours["tls_cert"],
        tls_client_key=ours["tls_key"],
        require_encryption=True,
    )
    with taskrun.Executor("dask", address=guarded.address, security=security) as ex:
        assert ex.submit(pow, 2, 3).result(PATIENCE) == 8


def test_the_certificate_of_somebody_else_is_refused(guarded: Cluster, ours: dict[str, str], tmp_path: Path) -> None:
    theirs = certificates(tmp_path / "theirs", "somebody else")
    started = time.monotonic()
    for wrong in (theirs, {**theirs, "tls_ca_file": ours["tls_ca_file"]}):  # we do not believe them; they do not believe us
        with pytest.raises(taskrun.BackendUnavailableError, match=r"(?i)ssl|certificate|unknown ca") as caught:
            taskrun.Executor("dask", address=guarded.address, connect_timeout=1, **wrong)
        assert guarded.address in str(caught.value)
    assert time.monotonic() - started < 20


def test_no_certificate_is_refused(guarded: Cluster) -> None:
    for address in (guarded.address, guarded.address.replace("tls:", "tcp:")):
        with pytest.raises(taskrun.BackendUnavailableError, match="tls_ca_file"):
            taskrun.Executor("dask", address=address, connect_timeout=1)
    with pytest.raises(taskrun.ConfigError, match=r"tls_ca_file.*no/such\.pem"):
        taskrun.Executor("dask", address=guarded.address, tls_ca_file="no/such.pem", tls_cert="no/such.pem")
