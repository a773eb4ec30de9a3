"""Official layouts in, manifests out; every way a release can be wrong is named."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from equipoise.data.decode import DECODERS, decode
from equipoise.data.importers import RELEASES, ReleaseError, command_for, import_release
from equipoise.data.importers_layouts import register_importer
from equipoise.data.manifest import Manifest

Copy = Callable[[str], Path]
small = pytest.mark.usefixtures("small_counts")


def test_official_numbers() -> None:
    """As the releases' authors state them."""
    assert {name: (r.classes, *r.counts[1]) for name, r in RELEASES.items()} == {
        "ucf101": (101, 9537, 3783),
        "ssv2": (174, 168913, 24777),
        "imagenet100": (100, 126689, 5000),
        "diving48": (48, 15027, 1970),
    }
    assert {sum(counts) for counts in RELEASES["ucf101"].counts.values()} == {13320}


@small
@pytest.mark.parametrize("name", list(RELEASES))
def test_a_release_as_it_lies_on_disk(name: str, small_releases: dict[str, Path], tmp_path: Path) -> None:
    root = small_releases[name]
    before = sorted(root.rglob("*"))
    stages: list[tuple[str, int, int]] = []
    found = import_release(name, root, tmp_path / name, workers=0, progress=lambda *stage: stages.append(stage))
    assert found.differences == []
    assert found.duplicates == []
    assert found.set_aside == ()
    assert sorted(root.rglob("*")) == before, "a release is never written to"
    shape = {"ucf101": (48, 64), "ssv2": (48, 64), "imagenet100": (40, 50), "diving48": (48, 64)}[name]
    for split, count in found.counts.items():
        manifest = Manifest.read(tmp_path / name / f"{split}.parquet")
        assert (manifest.name, manifest.split) == (name, split)
        assert len(manifest) == count.usable == count.listed == count.expected
        assert manifest.classes == found.classes
        assert set(manifest.label.tolist()) == set(range(len(found.classes))), "every class is in both splits"
        assert manifest.root == root
        for row in range(len(manifest)):
            frames = decode(manifest.file(row), str(manifest.kind[row]))
            assert frames.shape == (manifest.frames[row], *shape, 3)
        assert (f"{name}/{split}", len(manifest), len(manifest)) in stages
    report = json.loads((tmp_path / name / "import.json").read_text())
    assert report["written"] is True
    assert report["splits"]["test"]["hash"] == found.manifests["test"].hash


def packed(frames: int) -> list[bytes]:
    """MPEG-4 chunks as XviD writes them, and as the files of UCF-101 are: a B-frame lies in the chunk of the frame
    before it in the file, and an empty one follows. Frame t is grey, 10 t bright.
    """
    encoder = av.CodecContext.create("mpeg4", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.gop_size = 64, 48, "yuv420p", 12
    encoder.time_base, encoder.framerate = Fraction(1, 25), Fraction(25)
    encoder.options = {"bf": "1", "flags": "+qscale", "global_quality": "236"}
    chunks: list[bytes] = []
    for t in range(frames):
        picture = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 10 * t, np.uint8), format="rgb24")
        picture.pts = t
        chunks += [bytes(packet) for packet in encoder.encode(picture)]
    chunks += [bytes(packet) for packet in encoder.encode(None)]
    start, mark, group = b"\x00\x00\x01\xb6", b"\x00\x00\x01\xb2", b"\x00\x00\x01\xb3"

    def is_b(chunk: bytes) -> bool:
        return chunk[chunk.index(start) + 4] >> 6 == 2

    def empty(chunk: bytes) -> bytes:
        """A frame at the time of ``chunk``'s, of which nothing is coded."""
        bits = "".join(f"{byte:08b}" for byte in chunk[chunk.index(start) + 4 :][:8])
        seconds = bits.index("0", 2) + 1  # a predicted frame's two bits, one bit a second passed, and a zero
        header = "01" + bits[2 : seconds + 7] + "0"  # a one, 5 bits of time, a one; not coded
        header += "0" + "1" * (7 - len(header) % 8)
        return start + int(header, 2).to_bytes(len(header) // 8, "big")

    first = chunks[0]
    chunks[0] = first[: first.index(mark)] + mark + b"DivX503b1393p" + first[first.index(group) :]
    out: list[bytes] = []
    while chunks:
        chunk = chunks.pop(0)
        out += [chunk + chunks.pop(0), empty(chunk)] if chunks and is_b(chunks[0]) else [chunk]
    return out


@small
@pytest.mark.parametrize("decoder", DECODERS)
def test_the_packed_frames_of_ucf101_come_in_order(
    release: Copy, tmp_path: Path, decoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if decoder == "decord":
        pytest.importorskip("decord")
    monkeypatch.setenv("EQUIPOISE_DECODER", decoder)
    root = release("ucf101")
    file = "UCF-101/YoYo/v_YoYo_g08_c01.avi"
    with av.open(str(root / file), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.codec_tag = "XVID"
        for t, chunk in enumerate(packed(21)):
            packet = av.Packet(chunk)
            packet.stream, packet.time_base, packet.dts, packet.pts = stream, Fraction(1, 25), t, t
            container.mux(packet)
    found = import_release("ucf101", root, tmp_path / "out", workers=0)
    manifest = found.manifests["train"]
    row = manifest.path.tolist().index(file)
    assert manifest.frames[row] == 21
    for choice in (None, [3, 7, 15], [20], [1, 4, 6, 9, 12, 14, 17, 20]):
        frames = decode(manifest.file(row), "video", frame_indices=choice)
        shown = frames[..., 0].mean((1, 2)) / 10
        np.testing.assert_allclose(shown, range(21) if choice is None else choice, atol=0.4)


def labels_of(manifest: Manifest) -> dict[str, str]:
    return dict(zip(manifest.path.tolist(), manifest.label_name.tolist(), strict=True))


@small
def test_labels_are_the_lists_own(small_releases: dict[str, Path], tmp_path: Path) -> None:
    found = {name: import_release(name, small_releases[name], tmp_path / name, workers=0) for name in list(RELEASES)}
    assert found["ucf101"].classes == ("ApplyEyeMakeup", "HandstandPushups", "YoYo"), "classInd.txt's order"
    ucf = labels_of(found["ucf101"].manifests["test"])
    assert ucf["UCF-101/HandstandPushups/v_HandStandPushups_g01_c01.avi"] == "HandstandPushups"
    assert all("_g01_" in path for path in ucf)

    # labels.json numbers the templates 2, 1, 0.
    assert found["ssv2"].classes == (
        "Opening something",
        "Turning something upside down",
        "Holding something next to something",
    )
    train = labels_of(found["ssv2"].manifests["train"])
    assert train["20bn-something-something-v2/78687.webm"] == "Holding something next to something"
    assert train["20bn-something-something-v2/78689.webm"] == "Opening something"
    held_out = labels_of(found["ssv2"].manifests["test"])
    assert sorted(held_out) == [f"20bn-something-something-v2/{78693 + i}.webm" for i in range(3)], "validation.json"

    assert found["imagenet100"].classes == (
        "n01749939 green mamba",
        "n02107142 Doberman",
        "n02488291 langur",
        "n02869837 bonnet, poke bonnet",
    )
    images = labels_of(found["imagenet100"].manifests["train"])
    assert images["train.X3/n02488291/n02488291_0.JPEG"] == "n02488291 langur"
    assert labels_of(found["imagenet100"].manifests["test"])["val.X/n01749939/ILSVRC2012_val_20000000.JPEG"].endswith(
        "green mamba"
    )

    assert found["diving48"].classes[2] == "Reverse Dive NoTwis PIKE"
    assert labels_of(found["diving48"].manifests["train"])["rgb/-mmq0PT-u8k_00005.mp4"] == "Reverse Dive NoTwis PIKE"


@small
def test_the_other_splits_of_ucf101(release: Copy, tmp_path: Path) -> None:
    root = release("ucf101")
    lists = root / "ucfTrainTestlist"
    train, test = ((lists / f"{part}list02.txt").read_text().split("\n") for part in ("train", "test"))
    moved = train.pop(0)
    test[0], replaced = moved.rpartition(" ")[0], test[0]
    train.insert(0, f"{replaced.strip()} 1")
    (lists / "trainlist02.txt").write_text("\n".join(train))
    (lists / "testlist02.txt").write_text("\n".join(test))
    first, second = (import_release("ucf101", root, tmp_path / str(s), split=s, workers=0) for s in (1, 2))
    assert set(second.manifests["test"].path) - set(first.manifests["test"].path) == {
        f"UCF-101/{moved.rpartition(' ')[0]}"
    }


@small
def test_lists_named_as_in_the_first_ssv2_release(release: Copy, tmp_path: Path) -> None:
    root = release("ssv2")
    for path in (root / "labels").iterdir():
        path.rename(path.with_name(f"something-something-v2-{path.name}"))
    assert import_release("ssv2", root, tmp_path / "ssv2", workers=0).counts["train"].usable == 6


def plain(root: Path) -> Path:
    """The Kaggle release's images as ``train`` and ``val``."""
    for part in sorted(root.glob("train.X*")):
        for folder in part.iterdir():
            (root / "train").mkdir(exist_ok=True)
            folder.rename(root / "train" / folder.name)
        part.rmdir()
    (root / "val.X").rename(root / "val")
    (root / "Labels.json").unlink()
    return root


@small
def test_imagenet_in_plain_folders(release: Copy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = plain(release("imagenet100"))
    found = import_release("imagenet100", root, tmp_path / "all", workers=0)
    assert found.classes == ("n01749939", "n02107142", "n02488291", "n02869837")

    for split in ("train", "val"):
        shutil.copytree(root / split / "n01749939", root / split / "n09999999")
    with pytest.raises(ReleaseError, match=r"train has 5 class folders; expected 4. Say which with --classes"):
        import_release("imagenet100", root, tmp_path / "five", workers=0)
    chosen = tmp_path / "chosen.txt"
    chosen.write_text("n02869837\nn01749939 green mamba\nn02488291\nn02107142\n")
    found = import_release("imagenet100", root, tmp_path / "chosen", classes=chosen, workers=0)
    assert found.classes == ("n01749939 green mamba", "n02107142", "n02488291", "n02869837")
    assert found.counts["train"].usable == 12
    chosen.rename(root / "imagenet100.txt")
    assert import_release("imagenet100", root, tmp_path / "inside", workers=0).classes == found.classes


@small
def test_imagenet_mistakes(release: Copy, tmp_path: Path) -> None:
    root = plain(release("imagenet100"))
    target = tmp_path / "target"
    (root / "classes.txt").write_text("n01749939\nn01749939\n")
    with pytest.raises(ReleaseError, match=r"classes.txt, line 2: n01749939 is listed before"):
        import_release("imagenet100", root, target)
    (root / "classes.txt").write_text("n01749939\nn00000001\n")
    with pytest.raises(ReleaseError, match=r"1 of the 2 classes of .*classes.txt have no folder in train: n00000001"):
        import_release("imagenet100", root, target)
    (root / "classes.txt").unlink()
    shutil.rmtree(root / "val")
    (root / "val").mkdir()
    Image.new("RGB", (8, 8)).save(root / "val" / "ILSVRC2012_val_00000001.JPEG")
    with pytest.raises(ReleaseError, match=r"val has no class folders .*; sort its images into one folder a class"):
        import_release("imagenet100", root, target)
    with pytest.raises(ReleaseError, match=r"The list .*none.txt cannot be read: .*No such file"):
        import_release("imagenet100", root, target, classes=tmp_path / "none.txt")
    assert not target.exists()


@small
def test_files_that_are_no_images_are_set_aside_by_name(release: Copy, tmp_path: Path) -> None:
    root = release("imagenet100")
    (root / "train.X1" / "n02869837" / ".DS_Store").write_bytes(b"x")
    (root / "val.X" / "n02488291" / "notes é.txt").write_text("x")
    with open(os.fsencode(root / "val.X" / "n02488291") + b"/\xff.JPEG", "wb") as f:
        f.write(b"x")
    found = import_release("imagenet100", root, tmp_path / "out", workers=0)
    assert sorted(path for path, _ in found.set_aside) == [
        "train.X1/n02869837/.DS_Store",
        "val.X/n02488291/\\udcff.JPEG",
        "val.X/n02488291/notes é.txt",
    ]
    assert "UTF-8" in dict(found.set_aside)["val.X/n02488291/\\udcff.JPEG"]
    assert json.loads((tmp_path / "out" / "import.json").read_text(encoding="utf-8"))["set_aside"]


@small
@pytest.mark.parametrize("name", list(RELEASES))
def test_a_wrong_root_says_what_was_expected(name: str, small_releases: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match=r"is no folder; --root takes the one in which"):
        import_release(name, tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ReleaseError, match=r"empty has no .* --root takes the folder in which .* lies as .*\.$"):
        import_release(name, tmp_path / "empty", tmp_path / "out")
    root = small_releases[name]
    inside = next(path for path in sorted(root.iterdir()) if path.is_dir())
    with pytest.raises(ReleaseError, match=rf"did you mean --root {root}\?"):
        import_release(name, inside, tmp_path / "out")
    (tmp_path / "above").mkdir()
    (tmp_path / "above" / "release").symlink_to(root)
    with pytest.raises(ReleaseError, match=rf"did you mean --root {tmp_path}/above/release\?"):
        import_release(name, tmp_path / "above", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_release_or_split_that_does_not_exist(small_releases: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match="no release 'ucf11'; use one of ucf101, ssv2, imagenet100, diving48"):
        import_release("ucf11", tmp_path, tmp_path / "out")
    with pytest.raises(ReleaseError, match=r"Diving-48 V2 has no split 2; use one of 1\."):
        import_release("diving48", small_releases["diving48"], tmp_path / "out", split=2)


LISTS = {
    "ucf101": ["ucfTrainTestlist/classInd.txt", "ucfTrainTestlist/trainlist01.txt", "ucfTrainTestlist/testlist01.txt"],
    "ssv2": ["labels/labels.json", "labels/train.json", "labels/validation.json"],
    "imagenet100": ["Labels.json"],
    "diving48": ["Diving48_vocab.json", "Diving48_V2_train.json", "Diving48_V2_test.json"],
}


@small
@pytest.mark.parametrize(("name", "file"), [(name, file) for name, files in LISTS.items() for file in files])
def test_a_missing_or_damaged_list_is_named(name: str, file: str, release: Copy, tmp_path: Path) -> None:
    root = release(name)
    whole = (root / file).read_bytes()
    for content in (b"", b"\xff\xfe\x00", whole[: len(whole) // 2] if file.endswith(".json") else b"\n \n"):
        (root / file).write_bytes(content)
        with pytest.raises(ReleaseError, match=Path(file).name):
            import_release(name, root, tmp_path / "out", workers=0)
    if file != "Labels.json":  # without it, all class folders are taken
        (root / file).unlink()
        with pytest.raises(ReleaseError, match=Path(file).name):
            import_release(name, root, tmp_path / "out", workers=0)


def _edit(path: Path, change: Callable[[Any], Any]) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps(change(content) or content))


@small
@pytest.mark.parametrize(
    ("name", "file", "change", "sentence"),
    [
        ("ssv2", "labels/train.json", lambda c: {"a": 1}, "expected a JSON list"),
        ("ssv2", "labels/labels.json", lambda c: [1], "expected a JSON object"),
        ("ssv2", "labels/labels.json", lambda c: c.update({"Opening something": "7"}), "with gaps or twice"),
        ("ssv2", "labels/labels.json", lambda c: c.update({"Opening something": "1"}), "with gaps or twice"),
        ("ssv2", "labels/train.json", lambda c: c[1].update(template=3), "entry 1: .* has no 'template' that is str"),
        (
            "ssv2",
            "labels/train.json",
            lambda c: c[0].update(template="Eating [soup]"),
            "'Eating \\[soup\\]' is no class",
        ),
        ("ssv2", "labels/train.json", lambda c: c.append(c[0]), "is listed twice in .*train.json"),
        (
            "ssv2",
            "labels/validation.json",
            lambda c: c[0].update(id="78687"),
            "listed in .*train.json and in .*validation",
        ),
        ("diving48", "Diving48_V2_test.json", lambda c: c[0].update(label=3), "has label 3; expected 0 to 2"),
        ("diving48", "Diving48_V2_test.json", lambda c: c[0].update(label="1"), "no 'label' that is int"),
        ("diving48", "Diving48_vocab.json", lambda c: c.append(c[0]), "names a class twice"),
    ],
)
def test_lists_that_contradict_themselves(
    name: str, file: str, change: Callable[[Any], Any], sentence: str, release: Copy, tmp_path: Path
) -> None:
    root = release(name)
    _edit(root / file, change)
    with pytest.raises(ReleaseError, match=sentence):
        import_release(name, root, tmp_path / "out", workers=0)
    assert not (tmp_path / "out").exists()


@small
@pytest.mark.parametrize(
    ("file", "line", "sentence"),
    [
        ("classInd.txt", "one ApplyEyeMakeup", "line 4: 'one ApplyEyeMakeup'; expected a number and a class"),
        ("classInd.txt", "9 Juggling", "numbers its 4 classes with gaps"),
        ("trainlist01.txt", "YoYo/v_YoYo_g10_c01.avi 2", "of class YoYo, but number 2 is HandstandPushups"),
        ("trainlist01.txt", "Juggling/v_Juggling_g10_c01.avi 4", "line 7: .*expected CLASS/FILE.avi"),
        ("testlist01.txt", "v_YoYo_g10_c01.avi", "line 4: .*expected CLASS/FILE.avi"),
        ("testlist01.txt", "YoYo/v_YoYo_g08_c01.avi", "v_YoYo_g08_c01.avi is listed in .*train.* and in .*test"),
    ],
)
def test_ucf_lists_that_contradict_themselves(
    file: str, line: str, sentence: str, release: Copy, tmp_path: Path
) -> None:
    root = release("ucf101")
    with open(root / "ucfTrainTestlist" / file, "a") as f:
        f.write(f"{line}\r\n")
    with pytest.raises(ReleaseError, match=sentence):
        import_release("ucf101", root, tmp_path / "out", workers=0)


@small
def test_the_first_labels_of_diving48_are_refused(release: Copy, tmp_path: Path) -> None:
    root = release("diving48")
    (root / "Diving48_V2_train.json").rename(root / "Diving48_train.json")
    with pytest.raises(ReleaseError, match=r"first labels .* which its authors corrected; get Diving48_V2_train.json"):
        import_release("diving48", root, tmp_path / "out")


def test_other_numbers_are_an_error_unless_accepted(small_releases: dict[str, Path], tmp_path: Path) -> None:
    for name in list(RELEASES):
        folder = tmp_path / name
        official = RELEASES[name]
        with pytest.raises(ReleaseError) as caught:
            import_release(name, small_releases[name], folder, workers=0)
        sentence = str(caught.value)
        assert f"the release has {official.classes}" in sentence
        assert f"of {official.counts[1][0]:,} clips" in sentence
        assert f"of {official.counts[1][1]:,} clips" in sentence
        assert "--allow-incomplete" in sentence
        assert ("Kaggle" in sentence) == (name == "imagenet100")
        assert os.listdir(folder) == ["import.json"], "a report, no manifest"
        found = import_release(name, small_releases[name], folder, workers=0, allow_incomplete=True)
        assert len(found.differences) >= 3
        assert json.loads((folder / "import.json").read_text())["differences"] == found.differences
        assert len(Manifest.read(folder / "train.parquet")) == found.counts["train"].usable


@small
def test_missing_files_are_counted_and_named_before_anything_is_read(release: Copy, tmp_path: Path) -> None:
    root = release("ssv2")
    gone = ["20bn-something-something-v2/78688.webm", "20bn-something-something-v2/78694.webm"]
    for path in gone:
        (root / path).unlink()

    def never(*stage: object) -> None:
        raise AssertionError(f"{stage}: reading began")

    with pytest.raises(ReleaseError, match=r"train has 5 of 6 clips \(6 are listed here, 1 missing\).*78688.webm"):
        import_release("ssv2", root, tmp_path / "out", workers=0, progress=never)
    report = json.loads((tmp_path / "out" / "import.json").read_text())
    assert [f["path"] for split in report["splits"].values() for f in split["failures"]] == gone
    assert report["written"] is False
    found = import_release("ssv2", root, tmp_path / "out", workers=0, allow_incomplete=True)
    assert (found.counts["train"].missing, found.counts["test"].missing) == (1, 1)
    assert not set(gone) & {path for m in found.manifests.values() for path in m.path.tolist()}
    for file in (root / "20bn-something-something-v2").iterdir():
        file.unlink()
    with pytest.raises(ReleaseError, match="None of the 6 listed train clips"):
        import_release("ssv2", root, tmp_path / "out", workers=0, allow_incomplete=True)


@small
def test_unreadable_files_and_duplicates_are_named(release: Copy, tmp_path: Path) -> None:
    root = release("diving48")
    clip = "rgb/-mmq0PT-u8k_{:05d}.mp4".format
    (root / clip(0)).write_bytes(b"")
    (root / clip(1)).write_bytes((root / clip(1)).read_bytes()[:100])
    shutil.copy(root / clip(2), root / clip(3))
    shutil.copy(root / clip(2), root / clip(7))
    shutil.copy(root / clip(4), root / clip(5))
    earlier = import_release("ssv2", release("ssv2"), tmp_path / "out", workers=0)  # stays as it is
    with pytest.raises(ReleaseError, match=r"train has 4 of 6 clips \(6 are listed here, 2 unreadable\)") as caught:
        import_release("diving48", root, tmp_path / "out", workers=0)
    assert clip(0) in str(caught.value)
    assert Manifest.read(tmp_path / "out" / "train.parquet").hash == earlier.manifests["train"].hash
    report = json.loads((tmp_path / "out" / "import.json").read_text())
    assert [f["path"] for f in report["splits"]["train"]["failures"]] == [clip(0), clip(1)]
    found = import_release("diving48", root, tmp_path / "out", workers=2, allow_incomplete=True)
    assert sorted(found.duplicates) == [
        [f"train: {clip(2)}", f"train: {clip(3)}", f"test: {clip(7)}"],
        [f"train: {clip(4)}", f"train: {clip(5)}"],
    ]
    assert found.across == [[f"train: {clip(2)}", f"train: {clip(3)}", f"test: {clip(7)}"]]
    assert report["duplicates"] == found.duplicates
    assert report["duplicates_across_splits"] == 1


@small
def test_names_that_are_not_ascii(release: Copy, tmp_path: Path) -> None:
    root = release("ucf101")
    (root / "UCF-101" / "YoYo").rename(root / "UCF-101" / "Jo Jo é 球")
    for file in (root / "ucfTrainTestlist").iterdir():
        file.write_text(
            file.read_text(encoding="utf-8").replace("YoYo/", "Jo Jo é 球/").replace(" YoYo", " Jo Jo é 球"),
            encoding="utf-8",
        )
    moved = root.rename(tmp_path / ("ü" * 60))
    found = import_release("ucf101", moved, tmp_path / "ünder" / "ucf101", workers=0)
    assert found.classes[2] == "Jo Jo é 球"
    assert found.counts["train"].usable == 6
    again = Manifest.read(tmp_path / "ünder" / "ucf101" / "train.parquet")
    assert np.all([again.file(row).is_file() for row in range(len(again))])


def test_the_command_that_makes_a_manifest() -> None:
    assert command_for("ssv2/train.parquet") == "equipoise data import ssv2 --root FOLDER"
    assert command_for("miniature/mini_in/test.parquet") == "equipoise data build miniature"
    assert command_for("synthetic/train.parquet") == "equipoise data build synthetic"
    assert command_for("own/test.parquet") == "equipoise data manifest own test --list CSV --root FOLDER"


def test_an_importer_of_ones_own_replaces_none_that_ships() -> None:
    for name in ("ucf101", "My set", ""):
        with pytest.raises(ReleaseError, match="An importer is called"):
            register_importer(dataclasses.replace(RELEASES["ssv2"], name=name))
