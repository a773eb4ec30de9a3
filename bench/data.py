"""Clips per second and memory of the data path, each beside a plain decord DataLoader in the same run.

    OMP_NUM_THREADS=1 python bench/data.py decoders
    OMP_NUM_THREADS=1 python bench/data.py damage
    OMP_NUM_THREADS=1 python bench/data.py clips
    OMP_NUM_THREADS=1 python bench/data.py waiting --preset small --batch 8
    OMP_NUM_THREADS=1 python bench/data.py evaluation --preset nano
    OMP_NUM_THREADS=1 python bench/data.py probes

Other work on the machine makes wall times longer and leaves CPU times nearly alone, so both are printed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from equipoise.data.cache import ClipCache
from equipoise.data.decode import _decode_decord, _decode_pyav, decode, uniform_indices
from equipoise.data.loader import ClipStream
from equipoise.data.manifest import Manifest
from equipoise.data.mixture import Mixture, Source
from equipoise.data.transforms import MEAN, STD, Augment
from equipoise.platform.settings.preset import load_preset
from equipoise.platform.settings.trial import Regime, TrialSettings, load_regime
from equipoise.platform.settings.variant import Variant
from equipoise.platform.storage import Paths
from equipoise.platform.trial.caches import open_cache
from equipoise.platform.trial.reporter import LocalReporter
from equipoise.platform.trial.trainer import Trainer

FRAMES, STRIDE, SIZE, CACHED = 16, 4, 112, 128  # those of the preset `small`
BATCH = 32
LENGTH = 100  # frames of a clip
BUILD = f"""
import sys
from equipoise.data.cache import ClipCache
from equipoise.data.manifest import Manifest
manifest, root, storage, workers = sys.argv[1:]
ClipCache.open(Manifest.read(manifest), root, size={CACHED}, frames=64, storage=storage, workers=int(workers))
"""


class Clock:
    """Wall and CPU seconds, of this process and its ended children."""

    def __init__(self) -> None:
        self.wall, self.cpu = time.perf_counter(), self._cpu()

    @staticmethod
    def _cpu() -> float:
        times = os.times()
        return times.user + times.system + times.children_user + times.children_system

    def spent(self) -> tuple[float, float]:
        """Seconds since it was made: wall, CPU."""
        return time.perf_counter() - self.wall, self._cpu() - self.cpu


def row(*cells: object) -> None:
    print("| " + " | ".join(f"{c:,.1f}" if isinstance(c, float) else str(c) for c in cells) + " |", flush=True)


def head(*cells: str) -> None:
    row(*cells)
    print("|---|" + "---:|" * (len(cells) - 1))


def panned(number: int, frames: int, width: int, height: int) -> Iterator[np.ndarray[Any, Any]]:
    """A walk over a photograph with a little noise, so that a codec has something to do."""
    from skimage import data as photographs

    rng = np.random.default_rng(number)
    photograph = np.asarray((photographs.chelsea, photographs.coffee, photographs.rocket)[number % 3]())
    photograph = np.tile(photograph, (4, 4, 1))
    at = rng.uniform(0, 200, 2)
    speed = rng.uniform(-2, 2, 2)
    for t in range(frames):
        y, x = np.abs(at + speed * t).astype(int)
        noise = rng.integers(-6, 7, (height, width, 1))
        yield np.clip(photograph[y : y + height, x : x + width].astype(np.int16) + noise, 0, 255).astype(np.uint8)


def write_video(path: Path, number: int, frames: int, width: int, height: int, codec: str, gop: int) -> None:
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.thread_count = width, height, "yuv420p", 1
        stream.options = {
            "libx264": {"preset": "veryfast", "crf": "23", "g": str(gop)},
            "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8", "g": str(gop)},
            "mpeg4": {"qscale": "5", "g": str(gop)},
        }[codec]
        for picture in panned(number, frames, width, height):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode())


def make_clips(folder: Path, count: int) -> Manifest:
    """``count`` H.264 files of 320x240 px, 100 frames."""
    (folder / "videos").mkdir()
    rows = []
    for number in range(count):
        path = f"videos/{number:03d}.mp4"
        write_video(folder / path, number, LENGTH, 320, 240, "libx264", 12)
        facts = {"kind": "video", "frames": LENGTH, "fps": 25.0, "width": 320, "height": 240, "sha256": ""}
        rows.append({"path": path, "label": number % 2, **facts})
    manifest = Manifest.from_rows("bench", "train", folder, ("a", "b"), rows)
    manifest.write(folder / "train.parquet")
    return manifest


def decoders(folder: Path, _: argparse.Namespace) -> None:
    """CPU milliseconds of a clip, by decoder."""
    kinds = (
        ("H.264 320x240, 100 frames, key every 12", "a.mp4", (100, 320, 240, "libx264", 12)),
        ("H.264 320x240, 200 frames, key every 250", "b.mp4", (200, 320, 240, "libx264", 250)),
        ("MPEG-4 320x240, 100 frames (AVI)", "c.avi", (100, 320, 240, "mpeg4", 12)),
        ("VP9 428x240, 45 frames (WebM)", "d.webm", (45, 428, 240, "libvpx-vp9", 12)),
        ("H.264 1280x720, 60 frames, key every 250", "e.mp4", (60, 1280, 720, "libx264", 250)),
    )
    head("CPU ms a clip", "decord", "PyAV", "largest difference")
    for what, name, (frames, width, height, codec, gop) in kinds:
        path = folder / name
        write_video(path, 0, frames, width, height, codec, gop)
        begin = (frames - FRAMES) // 2
        for part, choice in (
            ("all", np.arange(frames)),
            (f"{min(64, frames)} uniform", uniform_indices(frames, min(64, frames))),
            (f"{FRAMES} in a row", np.arange(begin, begin + FRAMES)),
        ):
            taken = []
            for decoded in (_decode_decord, _decode_pyav):
                decoded(path, choice)
                clock, times = Clock(), 0
                while clock.spent()[1] < 1.0:
                    decoded(path, choice)
                    times += 1
                taken.append(1000 * clock.spent()[1] / times)
            one, two = _decode_decord(path, choice).astype(int), _decode_pyav(path, choice)
            row(f"{what}: {part}", *taken, int(np.abs(one - two).max()))


class PlainVideos(Dataset[tuple[Tensor, int]]):
    """Random clips straight from the files, cropped, mirrored and normalised in the loader: V-JEPA's way."""

    def __init__(self, manifest: Manifest, items: int, whole: bool) -> None:
        self.files = [str(manifest.file(n)) for n in range(len(manifest))]
        self.items, self.whole = items, whole

    def __len__(self) -> int:
        return self.items

    def __getitem__(self, item: int) -> tuple[Tensor, int]:
        import decord

        reader = decord.VideoReader(self.files[item % len(self.files)], num_threads=-1, ctx=decord.cpu(0))
        span = FRAMES * STRIDE
        start = int(np.random.randint(0, max(1, len(reader) - span)))
        numbers = np.clip(np.linspace(start, start + span, num=FRAMES), start, start + span - 1).astype(np.int64)
        reader.seek(0)
        frames = torch.from_numpy(reader.get_batch(numbers.tolist()).asnumpy())
        if not self.whole:
            return frames, 0
        clip = frames.permute(3, 0, 1, 2).float()
        side = int((np.random.uniform(0.3, 1.0) * clip.shape[2] * clip.shape[3]) ** 0.5)
        side = min(side, *clip.shape[2:])
        top, left = (int(np.random.randint(0, n - side + 1)) for n in clip.shape[2:])
        clip = clip[:, :, top : top + side, left : left + side]
        clip = nn.functional.interpolate(clip, (SIZE, SIZE), mode="bilinear", align_corners=False)
        if np.random.random() < 0.5:
            clip = clip.flip(-1)
        mean, std = (torch.tensor(v).view(3, 1, 1, 1) for v in (MEAN, STD))
        return (clip / 255 - mean) / std, 0


def damage(folder: Path, options: argparse.Namespace) -> None:
    """What becomes of a video of which one byte has changed: refused, or decoded to which frames."""
    kinds = {
        "H.264 (MP4)": ("a.mp4", "libx264"),
        "MPEG-4 (AVI)": ("b.avi", "mpeg4"),
        "VP9 (WebM)": ("c.webm", "libvpx-vp9"),
    }
    head("one byte changed", "refused", "same frames", "other frames", "mean error of these, levels", "largest")
    for what, (name, codec) in kinds.items():
        path = folder / name
        write_video(path, 0, 20, 320, 240, codec, 12)
        content, rng = path.read_bytes(), np.random.default_rng(0)
        whole = decode(path, "video").astype(int)
        refused, errors = 0, []
        for _ in range(options.flips):
            changed = bytearray(content)
            changed[rng.integers(len(content))] ^= int(rng.integers(1, 256))
            path.write_bytes(changed)
            try:
                frames = decode(path, "video", frame_indices=range(len(whole)))
                errors.append(float(np.abs(frames - whole).mean()))
            except ValueError:  # a DecodeError, or frames of another shape, which a manifest's row refuses
                refused += 1
        other = [error for error in errors if error > 0]
        shares = [f"{count / options.flips:.0%}" for count in (refused, len(errors) - len(other), len(other))]
        row(what, *shares, float(np.mean(other)) if other else "", max(other, default=0.0))


def plain(manifest: Manifest, workers: int, batches: int, whole: bool) -> dict[str, float]:
    """Clips per second of wall and CPU time, and memory, of the plain loader."""
    data = PlainVideos(manifest, BATCH * (batches + 4 * workers + 1), whole)
    loader = DataLoader(
        data, batch_size=BATCH, num_workers=workers, multiprocessing_context="spawn" if workers else None
    )
    found = iter(loader)
    for _ in range(2 * workers + 1):  # what the workers have ready by then counts for nothing
        next(found)
    children = [w.pid for w in getattr(found, "_workers", [])]
    clock, before = Clock(), sum(map(cpu_of, children))
    for _ in range(batches):
        next(found)
    wall, cpu = clock.spent()
    cpu += sum(map(cpu_of, children)) - before
    memory = sum(map(proportional, [os.getpid(), *children]))
    return {"wall": BATCH * batches / wall, "cpu": BATCH * batches / cpu, "memory": memory}


def cpu_of(process: int) -> float:
    """CPU seconds of another process."""
    fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def proportional(process: int) -> float:
    """Memory of a process in MB, a page that several processes map divided among them."""
    text = Path(f"/proc/{process}/smaps_rollup").read_text()
    return int(text.split("Pss:")[1].split()[0]) / 1024


def own(process: int) -> float:
    """Memory in MB that a process has for itself, without files that it maps."""
    text = Path(f"/proc/{process}/smaps_rollup").read_text()
    return int(text.split("Pss_Anon:")[1].split()[0]) / 1024


def streamed(cache: ClipCache, batches: int, whole: bool, seed: int = 0) -> dict[str, float]:
    """Clips per second of a warm cache: frames, or crops ready for the encoder."""
    augment = Augment(SIZE)
    draw = torch.Generator().manual_seed(0)
    mixture = Mixture([Source("bench", cache, 1.0)], seed)
    with ClipStream(mixture, frames=FRAMES, stride=STRIDE, batch=BATCH, seed=seed) as stream:
        next(stream)
        clock = Clock()
        for _ in range(batches):
            video = next(stream).video
            assert video is not None
            if whole:
                augment(video, augment.draw(BATCH, draw))
        wall, cpu = clock.spent()
    clips = BATCH * batches
    return {"wall": clips / wall, "cpu": clips / cpu, "memory": proportional(os.getpid()), "own": own(os.getpid())}


def clips(folder: Path, options: argparse.Namespace) -> None:
    """Plain decord, cold cache, warm cache, several trials."""
    manifest = make_clips(folder, options.clips)
    print(f"\n{len(manifest)} H.264 files of 320x240 px, {LENGTH} frames; clips of {FRAMES} frames, {STRIDE} apart\n")
    head("", "clips/s (wall)", "clips/s (CPU)", "times plain decord (CPU)", "memory, MB")
    base: dict[bool, dict[str, float]] = {}
    for whole in (False, True):
        what = "cropped to 112 px, normalised" if whole else "frames"
        for workers in (0, 2):
            found = plain(manifest, workers, options.batches, whole)
            if not workers:
                base[whole] = found
            ratio = found["cpu"] / base[whole]["cpu"]
            row(f"plain decord, {workers} loader workers, {what}", found["wall"], found["cpu"], ratio, found["memory"])
    caches = {}
    for storage in ("raw", "jpeg"):
        for workers in (1, 2):
            root = folder / f"{storage}{workers}"
            clock = Clock()
            # In a process of its own: what starts processes here would have them import all that this file imports.
            words = [sys.executable, "-c", BUILD, str(folder / "train.parquet"), str(root), storage, str(workers)]
            subprocess.run(words, check=True)
            wall, cpu = clock.spent()
            cache = ClipCache.open(manifest, root, size=CACHED, frames=64, storage=storage)
            size = sum(f.stat().st_size for f in cache.folder.iterdir()) / len(cache) / 1e6
            what = f"cold cache, {storage}, {workers} processes: {size:.2f} MB a clip (64 frames kept)"
            row(what, len(cache) / wall, len(cache) / cpu, len(cache) / cpu / base[False]["cpu"], "")
            caches[storage] = cache
    (folder / "videos").rename(folder / "away")  # what follows cannot decode a file
    for storage, cache in caches.items():
        for whole in (False, True):
            found = streamed(cache, 40, whole)
            what = f"warm cache, {storage}, {'cropped to 112 px, normalised' if whole else 'frames'}"
            row(what, found["wall"], found["cpu"], found["cpu"] / base[whole]["cpu"], found["memory"])
    print()
    head(
        "trials that share a raw cache, videos gone",
        "clips/s (wall), all",
        "clips/s (CPU), each",
        "memory, MB, all",
        "of that not shared",
    )
    for trials in (1, 2, 4):
        words = [sys.executable, __file__, "trial", "--cache", str(caches["raw"].folder)]
        running = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(trials)]
        found_ = [json.loads(p.communicate()[0].splitlines()[-1]) for p in running]
        row(
            trials,
            *(
                sum(f["wall"] for f in found_),
                sum(f["cpu"] for f in found_) / trials,
                sum(f["memory"] for f in found_),
                sum(f["own"] for f in found_),
            ),
        )
    print(f"\nThe cache holds {sum(f.stat().st_size for f in caches['raw'].folder.iterdir()) / 1e6:.0f} MB.")


def trial(_: Path, options: argparse.Namespace) -> None:
    """One of several processes that read the same cache."""
    cache = ClipCache(Path(options.cache))
    streamed(cache, 10, False, seed=os.getpid())  # the others have started by then
    print(json.dumps(streamed(cache, 60, False, seed=os.getpid())))


def waiting(folder: Path, options: argparse.Namespace) -> None:
    """Share of the time that the training loop waits for data."""
    make_clips(folder, options.clips)
    regime = {
        "name": "bench",
        "sources": {"bench": {"manifest": "train.parquet", "weight": 1.0}},
        "benchmarks": {"b": {"train": "train.parquet", "test": "train.parquet", "probe": "linear", "title": "b"}},
    }
    head(f"preset {options.preset}, batch {options.batch}", "steps", "ms a step", "waiting for data, %")
    for storage in ("raw", "jpeg", "none"):
        changes = [f"optimisation.batch={options.batch}", f"optimisation.steps={options.steps}", "log_every=1"]
        changes += ["checkpoint_every=100000", f"cache_storage={storage}"]
        settings = TrialSettings(
            variant_name="baseline",
            variant=Variant(),
            preset=load_preset(options.preset, changes),
            regime=Regime.model_validate(regime),
        )
        seen: list[dict[str, float]] = []
        trainer = Trainer(settings, Paths(folder, folder / "cache"), LocalReporter(folder / storage, seen.append))
        trainer.run()
        steps = seen[1:]  # the first waits for its batch, and for everything to warm up
        spent = sum(s["ms_per_step"] for s in steps)
        waited = sum(s["data_wait"] * s["ms_per_step"] for s in steps) / spent
        row(storage, len(steps), spent / len(steps), f"{100 * waited:.3f}")
        cache = trainer.batches.sources[0].cache
        for milliseconds in (25, 50, 100, 200):
            row(
                f"{storage}, batch {BATCH}, a device that takes {milliseconds} ms a step",
                30,
                *paced(cache, milliseconds),
            )


def paced(cache: ClipCache, milliseconds: int) -> tuple[float, str]:
    """Milliseconds a step and share of waiting where a step leaves the processor alone, as one on a GPU does."""
    mixture = Mixture([Source("bench", cache, 1.0)], 0)
    with ClipStream(mixture, frames=FRAMES, stride=STRIDE, batch=BATCH, seed=0) as stream:
        next(stream)
        clock, waited = Clock(), 0.0
        for _ in range(30):
            time.sleep(milliseconds / 1000)
            before = time.perf_counter()
            batch = next(stream)
            waited += time.perf_counter() - before
            del batch  # giving its memory back is no waiting
        wall, _cpu = clock.spent()
    return 1000 * wall / 30, f"{100 * waited / wall:.3f}"


class PlainProbe(nn.Module):
    """A class token that attends once over all tokens, keys and values formed, then normalisation and a classifier."""

    def __init__(self, width: int, heads: int, classes: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(1, 1, width) * width**-0.5)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm = nn.LayerNorm(width)
        self.classify = nn.Linear(width, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits."""
        query = self.query.expand(len(tokens), -1, -1)
        found = self.attention(query, tokens, tokens, need_weights=False)[0]
        return self.classify(self.norm(query + found)[:, 0])


def one_by_one(encoder: Any, manifest: Manifest, frames: int, size: int, pooled: bool) -> Tensor:
    """Features, clip after clip, each decoded from its file; a still image is shown as so many equal frames."""
    from equipoise.data.transforms import center_crop_resize

    found = []
    with torch.inference_mode():
        for number in range(len(manifest)):
            if manifest.kind[number] == "image":
                pixels = decode(manifest.file(number), "image").repeat(frames, axis=0)
            else:
                chosen = uniform_indices(int(manifest.frames[number]), frames)
                pixels = _decode_decord(manifest.file(number), chosen)
            patches, kind = encoder.patches(center_crop_resize(torch.from_numpy(pixels)[None], size))
            features = encoder(patches, kind, last_only=True)
            found.append(features.mean(1) if pooled else features)
    return torch.cat(found)


def published_way(encoder: Any, sets: dict[str, Manifest], preset: Any, setting: Any) -> tuple[float, float, float]:
    """One probe after the other, each with features of its own.

    Returns the best accuracy on the test items in percent, and the CPU seconds of features and of fitting probes.
    """
    best = features_took = probes_took = 0.0
    labels = {k: torch.tensor(m.label.tolist()) for k, m in sets.items()}
    pooled, classes = setting.pooled, len(sets["train"].classes)
    for rate, decay in itertools.product(setting.lr, setting.weight_decay):
        clock = Clock()
        features = {k: one_by_one(encoder, m, preset.model.frames, preset.model.size, pooled) for k, m in sets.items()}
        features_took += clock.spent()[1]
        clock = Clock()
        axes = tuple(range(features["train"].ndim - 1))
        mean, std = features["train"].mean(axes), features["train"].std(axes)
        features = {k: ((f - mean) / std).clone() for k, f in features.items()}
        torch.manual_seed(0)
        width = features["train"].shape[-1]
        probe = nn.Linear(width, classes) if pooled else PlainProbe(width, setting.heads, classes)
        optimiser = torch.optim.AdamW(probe.parameters(), lr=rate, weight_decay=decay)
        steps = setting.epochs * -(-len(labels["train"]) // setting.batch)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        for _ in range(setting.epochs):
            for chosen in torch.randperm(len(labels["train"])).split(setting.batch):
                loss = nn.functional.cross_entropy(probe(features["train"][chosen]), labels["train"][chosen])
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                optimiser.step()
                schedule.step()
        with torch.inference_mode():
            right = (probe(features["test"]).argmax(1) == labels["test"]).float().mean()
        best = max(best, 100 * float(right))
        probes_took += clock.spent()[1]
    return best, features_took, probes_took


def compared(folder: Path, settings: TrialSettings, built: dict[str, dict[str, Manifest]]) -> None:
    """Rows of what a trial's evaluation takes the published way and as a study does it, a benchmark a row, then all."""
    from equipoise.platform.trial.encoders import untrained_encoder
    from equipoise.platform.trial.evaluation import score

    paths = Paths(folder / "data", Path(tempfile.mkdtemp(dir=folder)))
    encoder = untrained_encoder(settings)
    totals = [0.0] * 4
    probes_of_all = 0
    for name in settings.scored:
        benchmark = settings.regime.benchmarks[name]
        setting = settings.preset.probes[benchmark.probe]
        probes_here = len(setting.lr) * len(setting.weight_decay)
        slow, features, fitting = published_way(encoder, built[name], settings.preset, setting)
        clock = Clock()
        for split in (benchmark.train, benchmark.select or benchmark.train, benchmark.test):
            open_cache(settings, paths, split)
        cold = clock.spent()[1]
        clock = Clock()
        fast = score(
            encoder, settings.model_copy(update={"benchmarks": (name,)}), paths, torch.device("cpu"), part="test"
        )[0]
        ours = clock.spent()[1]
        kept = features / probes_here + fitting
        took = [features + fitting, kept, ours, cold]
        totals = [total + more for total, more in zip(totals, took, strict=True)]
        probes_of_all += probes_here
        what = f"{name}, {benchmark.probe}: {' + '.join(f'{len(m):,}' for m in built[name].values())} items"
        comparison(what, probes_here, took, f"{slow:.1f}", f"{fast.accuracy:.1f}")
    comparison("**all**", probes_of_all, totals, "", "")


def comparison(what: str, count: int, took: list[float], slow: str, fast: str) -> None:
    published, kept, ours, cold = took
    row(what, count, published, ours, f"**{published / ours:.1f}**", f"{kept / ours:.1f}", slow, fast, cold)


COLUMNS = (
    "probes",
    "published way, CPU s",
    "study's, CPU s",
    "times",
    "times, had it kept features between probes",
    "published way, %",
    "study's, %",
    "cache built, once for all trials, CPU s",
)


def evaluation(folder: Path, options: argparse.Namespace) -> None:
    """The evaluation a study runs, all benchmarks and probes of a preset as it ships, beside the published way."""
    from equipoise.data import miniature

    sizes = miniature.Sizes(
        train_clips=options.train, test_clips=options.test, train_stills=options.train, test_stills=options.test
    )
    built = miniature.build(folder / "data" / "miniature", seed=0, workers=2, sizes=sizes)
    settings = TrialSettings(
        variant_name="random_init",
        variant=Variant(untrained=True),
        preset=load_preset(options.preset, [f"cache_size={load_preset(options.preset).model.size}"]),
        regime=load_regime("miniature"),
    )
    head(f"preset {options.preset}", *COLUMNS)
    compared(folder, settings, built)


def probes(folder: Path, options: argparse.Namespace) -> None:
    """Features and attentive probes of one benchmark, for grids of three sizes."""
    from equipoise.data import miniature

    sizes = miniature.Sizes(train_clips=options.train, test_clips=options.test, train_stills=20, test_stills=20)
    built = miniature.build(folder / "data" / "miniature", seed=0, workers=2, sizes=sizes)
    head("preset nano", *COLUMNS)
    for rates, decays in (
        ((3e-3,), (0.01,)),
        ((3e-3, 1e-2), (0.01, 0.1)),
        ((1e-3, 3e-3, 1e-2), (0.001, 0.01, 0.05, 0.1)),
    ):
        usual = "pooling: attentive, epochs: 40, batch: 64, heads: 4"
        change = f"probes.attentive={{{usual}, lr: {list(rates)}, weight_decay: {list(decays)}}}"
        settings = TrialSettings(
            variant_name="random_init",
            variant=Variant(untrained=True),
            preset=load_preset("nano", [change]),
            regime=load_regime("miniature"),
            benchmarks=("mini_ssv2",),
        )
        compared(folder, settings, built)


def main() -> None:
    parts: dict[str, Callable[[Path, argparse.Namespace], None]] = {
        f.__name__: f for f in (decoders, damage, clips, waiting, evaluation, probes, trial)
    }
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=list(parts))
    parser.add_argument("--flips", type=int, default=500, help="of one byte each, for each kind of file")
    parser.add_argument("--clips", type=int, default=64, help="video files")
    parser.add_argument("--batches", type=int, default=4, help="of 32 clips, from plain decord")
    parser.add_argument("--preset", default="small")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--train", type=int, default=480, help="clips the probes are trained on")
    parser.add_argument("--test", type=int, default=240)
    parser.add_argument("--cache", help="of a trial that shares it")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        parts[options.part](Path(folder), options)


if __name__ == "__main__":
    main()
