"""A container image made on the spot: one layer with a static busybox, as an OCI archive that needs no registry."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tarfile
from pathlib import Path
from typing import Any

APPLETS = ("sh", "sleep", "ip", "ping", "httpd", "cat", "ls", "true")
MEDIA = "application/vnd.oci.image."
MANIFEST = "manifest.v1+json"
MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


def _entry(
    archive: tarfile.TarFile, name: str, data: bytes = b"", *, kind: bytes = tarfile.REGTYPE, link: str = ""
) -> None:
    """Add one file, folder or link to an archive."""
    info = tarfile.TarInfo(name)
    info.mode, info.size, info.type, info.linkname = 0o755, len(data), kind, link
    archive.addfile(info, io.BytesIO(data))


def _layer(busybox: bytes) -> bytes:
    """The file system of the image, as a tar."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for folder in ("bin", "etc", "tmp", "proc", "sys", "dev", "www"):
            _entry(archive, folder, kind=tarfile.DIRTYPE)
        _entry(archive, "bin/busybox", busybox)
        for applet in APPLETS:
            _entry(archive, f"bin/{applet}", kind=tarfile.SYMTYPE, link="busybox")
        _entry(archive, "www/index.html", b"page of the pod")
        _entry(archive, "etc/passwd", b"root:x:0:0::/:/bin/sh\n")
    return buffer.getvalue()


def _digest(blob: bytes) -> str:
    """The name that a blob has in an image."""
    return "sha256:" + hashlib.sha256(blob).hexdigest()


def _reference(kind: str, blob: bytes) -> dict[str, Any]:
    """How one blob of an image speaks of another."""
    return {"mediaType": MEDIA + kind, "digest": _digest(blob), "size": len(blob)}


def write(target: Path, name: str, busybox: Path, *command: str) -> Path:
    """Write the archive of an image whose container runs the command."""
    layer = _layer(busybox.read_bytes())
    kind = {"architecture": MACHINES.get(platform.machine(), platform.machine()), "os": "linux"}
    config = json.dumps(
        {
            **kind,
            "config": {"Entrypoint": command, "Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
        }
    ).encode()
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MEDIA + MANIFEST,
            "config": _reference("config.v1+json", config),
            "layers": [_reference("layer.v1.tar", layer)],
        }
    ).encode()
    names = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name}
    entry = {**_reference(MANIFEST, manifest), "annotations": names, "platform": kind}
    with tarfile.open(target, "w") as archive:
        _entry(archive, "oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
        _entry(archive, "index.json", json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode())
        for blob in (layer, config, manifest):
            _entry(archive, f"blobs/sha256/{_digest(blob).removeprefix('sha256:')}", blob)
    return target
