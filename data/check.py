"""Whether every file of a manifest can still be decoded, and is the file the manifest describes."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from equipoise.data._files import Progress, run_jobs, sha256_of, write_json
from equipoise.data.decode import DecodeError, check_workers, decode, decoder_name, handled, scaled_shape
from equipoise.data.decode_report import DecodeReport
from equipoise.data.manifest import Manifest
from equipoise.data.pieces import piece_of

Fault = Literal["missing", "changed", "undecodable", "different"]
"""Not there; other content than the manifest's sha256; not decodable; fewer frames or another shape than it says."""

_CHUNK = 16  # files a process checks at a time
_SIDE = 64  # px, shorter side that frames are scaled to as they are decoded: a long clip takes little memory


@dataclass(frozen=True)
class _File:
    path: str
    file: str
    kind: str
    frames: int
    width: int
    height: int
    sha256: str


@dataclass(frozen=True)
class _Outcome:
    frames: int = 0
    size: int = 0  # bytes on disk
    fault: Fault | None = None
    reason: str = ""


def _look(file: _File) -> _Outcome:
    """Hashes and decodes one file."""
    path = Path(file.file)
    try:
        piece = piece_of(path)
        size = path.stat().st_size if piece is None else piece.size
        with handled(path):
            digest = sha256_of(path)
    except DecodeError as error:  # a process died on it
        return _Outcome(fault="undecodable", reason=error.reason)
    except (FileNotFoundError, NotADirectoryError):
        return _Outcome(fault="missing", reason="no such file")
    except OSError as error:
        return _Outcome(fault="undecodable", reason=f"it cannot be read: {error.strerror}")
    if file.sha256 and digest != file.sha256:
        reason = f"the file has changed since the manifest was written (sha256 {digest[:12]}…, was {file.sha256[:12]}…)"
        return _Outcome(size=size, fault="changed", reason=reason)
    try:
        frames = decode(path, file.kind, short_side=_SIDE)
    except DecodeError as error:
        return _Outcome(size=size, fault="undecodable", reason=error.reason)
    count, height, width = frames.shape[:3]
    if (width, height) != scaled_shape(file.width, file.height, _SIDE):
        reason = f"its frames have another shape than the manifest's {file.width}x{file.height} px"
        return _Outcome(count, size, "different", reason)
    if count < file.frames:
        return _Outcome(count, size, "different", f"it has {count} frames, the manifest says {file.frames}")
    return _Outcome(count, size)


def _look_at_all(files: list[_File]) -> list[_Outcome]:
    return [_look(file) for file in files]


@dataclass(kw_only=True)
class CheckReport(DecodeReport):
    """What a check found; what is inherited says how many files were tried and which failed.

    Attributes:
        name: Data set.
        split: Its split.
        root: Folder that the paths are relative to.
        manifest_hash: `Manifest.hash`.
        faults: How many files have which fault.
        unhashed: Files of which the manifest has no sha256: a change of them cannot be seen.
        frames: Frames decoded.
        size: Bytes read.
        seconds: Wall time.
        workers: Processes.
        decoder: What decoded the videos.
    """

    name: str
    split: str
    root: Path
    manifest_hash: str
    faults: dict[str, int] = field(default_factory=dict)
    unhashed: int = 0
    frames: int = 0
    size: int = 0
    seconds: float = 0.0
    workers: int = 1
    decoder: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON-able record."""
        seconds = max(self.seconds, 1e-9)
        return {
            "manifest": f"{self.name}/{self.split}",
            "hash": self.manifest_hash,
            "root": str(self.root),
            "total": self.total,
            "decoded": self.total - len(self.failures),
            "failed": len(self.failures),
            "faults": self.faults,
            "without_sha256": self.unhashed,
            "frames": self.frames,
            "bytes": self.size,
            "seconds": round(self.seconds, 3),
            "workers": self.workers,
            "decoder": self.decoder,
            "clips_per_second": round(self.total / seconds, 1),
            "frames_per_second": round(self.frames / seconds, 1),
            "failures": [{"path": path, "reason": reason} for path, reason in self.failures],
        }

    def write(self, path: Path | str) -> None:
        """Writes the report as JSON, atomically."""
        self.path = Path(path)
        write_json(self.path, self.to_dict())


def check_manifest(manifest: Manifest, *, workers: int = 2, progress: Progress | None = None) -> CheckReport:
    """Hashes and decodes every file of a manifest, every frame of it.

    Args:
        manifest: What to check.
        workers: Processes. One that dies, or hangs for five minutes, is replaced, and the file it was at counted as not
            decodable. 0 decodes in this process, without that protection; decord always needs one.
        progress: Called with what, files done and files in all.

    Returns:
        What was found; `DecodeReport.check` refuses it past a budget.

    Raises:
        ValueError: If there are fewer ``workers`` than the decoder needs, or the environment names no known decoder.
        equipoise.data._files.WorkerError: If processes keep dying, and not at a file.
    """
    columns = (manifest.path, manifest.kind, manifest.frames, manifest.width, manifest.height, manifest.sha256)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    files = [_File(path, str(manifest.root / path), *facts) for path, *facts in rows]
    jobs = [files[start : start + _CHUNK] for start in range(0, len(files), _CHUNK)]
    parts: dict[int, list[_Outcome]] = {}
    began, done = time.monotonic(), 0
    decoder = decoder_name()
    check_workers(workers)
    for number, part in run_jobs(_look_at_all, jobs, workers):
        parts[number] = part
        done += len(part)
        if progress is not None:
            progress(f"{manifest.name}/{manifest.split}", done, len(files))
    outcomes = [outcome for number in sorted(parts) for outcome in parts[number]]
    return CheckReport(
        total=len(files),
        failures=[(file.path, o.reason) for file, o in zip(files, outcomes, strict=True) if o.fault is not None],
        name=manifest.name,
        split=manifest.split,
        root=manifest.root,
        manifest_hash=manifest.hash,
        faults=dict(Counter(o.fault for o in outcomes if o.fault is not None)),
        unhashed=sum(not file.sha256 for file in files),
        frames=sum(o.frames for o in outcomes),
        size=sum(o.size for o in outcomes),
        seconds=time.monotonic() - began,
        workers=workers,
        decoder=decoder,
    )
