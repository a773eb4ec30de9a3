"""Protocols of scoring: what a probe reads of an item, which labels it has, and that two are never compared."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from equipoise.data.transforms import center_crop_resize
from equipoise.models.probes import fit_bank
from equipoise.platform.errors import SettingsError
from equipoise.platform.settings.base import parse
from equipoise.platform.settings.plugins import described, plugin_of
from equipoise.platform.settings.preset import ProbeSetting, load_preset
from equipoise.platform.settings.trial import Regime, TrialSettings, load_regime
from equipoise.platform.stats.published import read_csv
from equipoise.platform.stats.table import ResultsError, ResultTable, Score
from equipoise.platform.storage import Paths
from equipoise.platform.trial import evaluation
from equipoise.platform.trial.caches import open_cache
from equipoise.platform.trial.encoders import untrained_encoder
from equipoise.platform.trial.evaluation import labelled, probe, score
from equipoise.platform.trial.features import extract

Make = Callable[..., TrialSettings]
CPU = torch.device("cpu")


def setting(**content: Any) -> ProbeSetting:
    needs = {} if content.get("kind") == "knn" else {"epochs": 20, "batch": 16, "lr": (1e-2,)}
    return parse(ProbeSetting, {**needs, **content}, "a probe")


def separable(count: int, seed: int, *shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Items of three classes: noise around a corner of each class."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    corner = torch.eye(12)[labels].view(count, *[1] * len(shape), 12)
    return 3 * corner + 0.5 * torch.randn(count, *shape, 12, generator=draw), labels


# --- what is read of an item


def test_clips_views_and_levels_are_those_of_items_cut_by_hand(make_trial: Make, paths: Paths) -> None:
    settings = make_trial()
    encoder = untrained_encoder(settings)
    cache = open_cache(settings, paths, "miniature/mini_dive/test.parquet")
    frames, size, clips, views = settings.preset.model.frames, settings.preset.model.size, 2, 3
    asked: dict[str, Any] = {
        "frames": frames,
        "size": size,
        "clips": clips,
        "views": views,
        "rows": [5, 1],
        "device": CPU,
    }
    found = extract(encoder, cache, pooled=False, all_levels=True, **asked)
    pooled = extract(encoder, cache, pooled=True, all_levels=True, **asked)
    levels, width = encoder.config.levels, encoder.config.width
    N = encoder.grid.count
    assert found.shape == (2 * views, levels * clips * N, width)
    for at, (item, view) in enumerate(itertools.product([5, 1], range(views))):
        whole = torch.from_numpy(cache.clip(item).copy())
        # Twice as many segments as a clip has frames: the first clip is the first half of the video.
        middles = ((2 * np.arange(clips * frames) + 1) * len(whole)) // (2 * clips * frames)
        tokens = []
        for clip in range(clips):
            cut = whole[middles[clip * frames : (clip + 1) * frames]][None]
            tokens.append(encoder(*encoder.patches(center_crop_resize(cut, size, view / 2))))
        joined = torch.cat(tokens, dim=1)[0]  # [clips N, levels W]
        by_level = torch.cat(list(joined.split(width, dim=1)))
        torch.testing.assert_close(found[at], by_level, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(pooled[at], joined.mean(0), rtol=1e-4, atol=1e-5)


def test_a_square_lies_where_it_is_asked_for_on_the_longer_side() -> None:
    frames = torch.arange(10, dtype=torch.uint8).view(1, 1, 1, 10, 1).expand(1, 1, 4, 10, 3).contiguous()
    columns = [center_crop_resize(frames, 4, place)[0, 0, 0, 0] for place in (0, 0.5, 1)]
    first = [round(float(c[0] * 0.229 * 255 + 0.485 * 255)) for c in columns]
    assert first == [0, 3, 6]
    upright = frames.transpose(2, 3).contiguous()
    assert torch.equal(center_crop_resize(upright, 4, 1)[0, 0, 0].T, center_crop_resize(frames, 4, 1)[0, 0, 0])


@pytest.mark.parametrize("kind", ["attentive", "linear", "knn"])
def test_every_view_is_fitted_and_an_item_is_predicted_by_all_of_its_views(kind: str) -> None:
    # Every second item shows its class in one view alone.
    shape = (2,) if kind == "attentive" else ()
    x, y = separable(90, 0, *shape)
    test, truth = separable(60, 1, *shape)
    noise = torch.randn(test.shape, generator=torch.Generator().manual_seed(3)) * 0.5
    seen = torch.stack([test, noise], dim=1).flatten(0, 1)
    more = {"heads": 2} if kind == "attentive" else {}
    asked = setting(kind=kind, views=2, **more)
    predicted, _, _ = probe(torch.stack([x, x], dim=1).flatten(0, 1), y, seen, truth, 3, asked, seed=0)
    assert predicted.shape == truth.shape
    assert (predicted == truth).float().mean() > 0.8
    single = torch.stack([x, x], dim=1).flatten(0, 1)
    swapped, _, _ = probe(single, y, torch.stack([noise, test], dim=1).flatten(0, 1), truth, 3, asked, seed=0)
    assert torch.equal(swapped, predicted), "the order of views does not matter"


# --- nearest neighbours, few labels


def test_of_neighbours_the_number_is_chosen_on_select_items() -> None:
    x, y = separable(60, 0)
    y = torch.where(torch.rand(60, generator=torch.Generator().manual_seed(1)) < 0.3, (y + 1) % 3, y)
    select, of_select = separable(60, 1)
    asked = setting(kind="knn", neighbours=[1, 15])
    predicted, winner, records = probe(x, y, select, of_select, 3, asked, seed=0)
    assert [r["neighbours"] for r in records] == [1, 15]
    assert winner["neighbours"] == 15, "one neighbour of three is labelled wrong"
    assert winner["select_accuracy"] == pytest.approx(100 * (predicted == of_select).float().mean().item())


@pytest.mark.parametrize(
    ("change", "counts"), [({"labels_per_class": 4}, [4, 4, 2]), ({"labels_share": 0.1}, [2, 1, 1])]
)
def test_few_labels_are_drawn_from_each_class_alike_for_every_variant(
    change: dict[str, Any], counts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = torch.tensor([0] * 20 + [1] * 8 + [2] * 2)[torch.randperm(30, generator=torch.Generator().manual_seed(0))]
    asked = setting(kind="linear", **change)
    rows = labelled(labels, asked, seed=3)
    assert rows is not None
    assert labels[rows].bincount().tolist() == counts
    assert torch.equal(rows, labelled(labels, asked, seed=3))  # type: ignore[arg-type]
    assert not torch.equal(rows, labelled(labels, asked, seed=4))  # type: ignore[arg-type]
    assert labelled(labels, setting(kind="linear"), seed=3) is None
    # Those are what is fitted, with the features of the same items.
    fitted: list[tuple[torch.Tensor, torch.Tensor]] = []

    def seen(bank: Any, features: torch.Tensor, its: torch.Tensor, **more: Any) -> None:
        fitted.append((features, its))
        fit_bank(bank, features, its, **more)

    monkeypatch.setattr(evaluation, "fit_bank", seen)
    x = torch.randn(30, 5)
    probe(x, labels, x, labels, 3, asked, seed=3)
    ((features, its),) = fitted
    assert torch.equal(its, labels[rows])
    chosen = x[rows]
    torch.testing.assert_close(features, (chosen - chosen.mean(0)) / chosen.std(0).clamp_min(1e-6))


# --- a probe of one's own

CENTROIDS = '''
import torch
from equipoise import ProbeRecord, register_probe

def fit(features, labels, classes, generator, power=1.0):
    """Scores by the distance to the mean of each class."""
    means = torch.stack([features[labels == c].mean(0) for c in range(classes)])
    return lambda items: -torch.cdist(items, means) ** power

register_probe(ProbeRecord("centroids", "distance to the mean of each class", fit))
'''


@pytest.mark.usefixtures("own_objectives")
def test_a_probe_of_ones_own_is_fitted_by_each_of_its_parameters(make_trial: Make, tmp_path: Path) -> None:
    file = tmp_path / "centroids.py"
    file.write_text(CENTROIDS)
    with pytest.raises(SettingsError, match="unknown kind of probe 'centroids'"):
        setting(kind="centroids", epochs=1, batch=256, lr=(1e-3,))
    plugin = plugin_of(file)
    assert "centroids.py" in described("probes")["centroids"]
    assert set(described("probes")) >= {"attentive", "linear", "knn"}
    own = parse(ProbeSetting, {"kind": "centroids", "params": {"power": [0.5, 2.0]}}, "a probe")
    x, y = separable(60, 0)
    select, of_select = separable(45, 1)
    predicted, winner, grid = probe(x, y, select, of_select, 3, own, seed=0)
    means = torch.stack([x[y == c].mean(0) for c in range(3)])
    assert torch.equal(predicted, torch.cdist(select, means).argmin(1))
    assert [g["power"] for g in grid] == [0.5, 2.0]
    assert winner in grid
    with pytest.raises(SettingsError, match="unknown parameter 'pwr' of centroids; known: power"):
        parse(ProbeSetting, {"kind": "centroids", "params": {"pwr": [1]}}, "a probe")
    with pytest.raises(SettingsError, match="epochs 3 cannot take effect on a probe of kind centroids"):
        parse(ProbeSetting, {"kind": "centroids", "epochs": 3}, "a probe")
    # It belongs to the trials that are scored by it, with its text.
    base = make_trial()
    preset = base.preset.model_copy(update={"probes": {**base.preset.probes, "mine": own}})
    trial = parse(TrialSettings, {**base.model_dump(exclude={"plugins"}), "preset": preset}, "a trial")
    assert trial.plugins == (plugin,)
    assert trial.key != base.key
    assert parse(TrialSettings, json.loads(trial.model_dump_json()), "kept") == trial
    # Another text is another protocol, by the same settings.
    scored = {"benchmarks": {b: s.model_copy(update={"probe": "mine"}) for b, s in base.regime.benchmarks.items()}}
    named = trial.model_copy(update={"regime": base.regime.model_copy(update=scored)})
    before = named.protocol("mini_in")
    file.write_text(CENTROIDS + "# changed\n")
    plugin_of(file)
    assert before.startswith("mine ")
    assert named.protocol("mini_in") != before


# --- settings


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"kind": "nearest"}, "unknown kind of probe 'nearest'"),
        ({"kind": "linear", "blocks": 4}, "blocks 4 cannot take effect on a probe of kind linear"),
        ({"kind": "knn", "epochs": 4}, "epochs 4 cannot take effect on a probe of kind knn"),
        ({"kind": "attentive", "neighbours": [3]}, r"neighbours \(3,\) cannot take effect"),
        ({"kind": "knn", "neighbours": [0]}, r"neighbours are \[0\]; expected whole numbers of at least 1"),
        ({"kind": "linear", "labels_per_class": 5, "labels_share": 0.1}, "give one"),
        ({"kind": "linear", "labels_share": 1.0}, "labels_share is 1.0"),
        ({"kind": "linear", "views": 0}, "views is 0"),
    ],
)
def test_what_cannot_take_effect_is_refused(content: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence):
        setting(**content)


def test_a_probe_that_has_to_be_trained_says_how_long() -> None:
    with pytest.raises(SettingsError, match="epochs is missing"):
        parse(ProbeSetting, {"kind": "linear"}, "a probe")
    assert parse(ProbeSetting, {"kind": "knn"}, "a probe").neighbours == (10, 20)


def test_files_of_before_are_read() -> None:
    before = {"pooling": "linear", "epochs": 5}
    assert parse(ProbeSetting, before, "a probe") == setting(kind="linear", epochs=5, batch=256, lr=(1e-3,))
    regime = load_regime("miniature").model_dump()
    for benchmark in regime["benchmarks"].values():
        benchmark["pooling"] = benchmark.pop("probe")
    assert parse(Regime, regime, "a regime") == load_regime("miniature")


def test_a_benchmark_names_a_probe_of_the_preset(make_trial: Make, paths: Paths, tmp_path: Path) -> None:
    base = make_trial()
    probes = {
        "vjepa": setting(kind="attentive", blocks=2, heads=2, clips=2, views=3, levels="all", epochs=2),
        "neighbours": setting(kind="knn", neighbours=[1, 3]),
        "few": setting(kind="linear", labels_per_class=2, epochs=2),
    }
    names = dict(zip(base.regime.benchmarks, probes, strict=True))
    regime = base.regime.model_copy(
        update={"benchmarks": {b: s.model_copy(update={"probe": names[b]}) for b, s in base.regime.benchmarks.items()}}
    )
    settings = parse(
        TrialSettings,
        {
            **base.model_dump(),
            "preset": base.preset.model_copy(update={"probes": {**base.preset.probes, **probes}}),
            "regime": regime,
        },
        "a trial",
    )
    results = score(untrained_encoder(settings), settings, paths, CPU)
    assert [r.benchmark for r in results] == list(names)
    assert {frozenset(r.chosen) for r in results} == {
        frozenset({"lr", "weight_decay", "select_accuracy"}),
        frozenset({"neighbours", "select_accuracy"}),
    }
    assert [settings.protocol(b).split()[0] for b in names] == list(probes)
    content = load_regime("miniature").model_dump()
    content["benchmarks"]["mini_in"]["probe"] = "linera"
    with pytest.raises(SettingsError, match=r"scored by the probe 'linera', .* did you mean 'linear'"):
        parse(TrialSettings, {**base.model_dump(), "regime": content}, "a trial")


# --- two protocols are never compared


def test_a_protocol_is_what_an_accuracy_means() -> None:
    preset = load_preset("nano")
    assert preset.protocol("linear") == load_preset("nano").protocol("linear")
    for change in ("probes.linear.epochs=51", "probes.linear.views=2", "model.frames=16"):
        assert load_preset("nano", [change]).protocol("linear") != preset.protocol("linear"), change
    # What concerns the training alone is no part of it.
    assert load_preset("nano", ["optimisation.steps=7"]).protocol("linear") == preset.protocol("linear")


def test_a_table_of_two_protocols_is_refused(tmp_path: Path) -> None:
    scores = [
        Score(variant=v, seed=0, benchmark="b", accuracy_percent=50, protocol=p)
        for v, p in (("baseline", "linear 1"), ("hw", "linear 2"))
    ]
    with pytest.raises(ResultsError, match=r"b was scored by .*'baseline', seed 0.* and by .*never compared"):
        ResultTable.from_scores(scores)
    assert ResultTable.from_scores(scores[:1]).protocols == {"b": "linear 1"}
    rows = ["regime,variant,seed,benchmark,probe,top1_percent", "r,baseline,0,b,attentive,50", "r,hw,0,b,linear,60"]
    (tmp_path / "own.csv").write_text("\n".join(rows))
    with pytest.raises(ResultsError, match=r"b was scored by .*attentive.* and by linear"):
        read_csv(tmp_path / "own.csv", "r")


def test_settings_of_a_probe_are_written_as_they_are_read() -> None:
    asked = setting(kind="attentive", blocks=4, clips=2, views=3, levels="all", heads=4)
    assert parse(ProbeSetting, yaml.safe_load(yaml.safe_dump(asked.model_dump(mode="json"))), "kept") == asked
    plain = setting(kind="linear").model_dump(mode="json")
    assert set(plain) == {"kind", "epochs", "batch", "lr", "weight_decay", "heads", "holdout"}, "as ever"
