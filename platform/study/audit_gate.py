"""No study starts before every objective of it was audited."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from equipoise.platform.record.home import Home
from equipoise.platform.record.tracking import Tracker
from equipoise.platform.report.plots.gradients import heatmap
from equipoise.platform.settings.study import StudyBase, SweepDefinition, space_settings
from equipoise.platform.settings.trial import TrialSettings
from equipoise.platform.study.caches import CacheProgress
from equipoise.platform.trial.audit import AuditResult, audit, audit_apart, refuse_dead
from equipoise.platform.trial.device import compute_threads

AUDIT_CLIPS = 8  # enough for every objective to find tokens, small enough for a head node without a GPU

SPACE = "search space"  # key of a sweep's space among the mixes that are audited; no variant can have that name


def audit_study(
    definition: StudyBase, listed: Sequence[TrialSettings], home: Home, progress: CacheProgress | None = None
) -> list[AuditResult]:
    """Audit every distinct mix of a study on one small real batch, before anything starts.

    Raises:
        AuditError: if an objective trains nothing, unless the study reads its variants ``as_published``.
    """
    settings = {s.variant_name: s for s in listed if s.variant.objectives}
    if isinstance(definition, SweepDefinition):
        settings[SPACE] = space_settings(definition)
    found: list[AuditResult] = []
    for name, one in settings.items():
        small = one.preset.optimisation.model_copy(update={"batch": min(AUDIT_CLIPS, one.preset.optimisation.batch)})
        alone = one.resources.model_copy(update={"workers": 1, "launcher": "auto"})
        preset = one.preset.model_copy(update={"optimisation": small})
        with compute_threads(1):
            look = audit_apart if name == SPACE else audit
            result = look(one.model_copy(update={"preset": preset, "resources": alone}), home.paths)
        refuse_dead(result)
        found.append(result)
        if progress is not None:
            progress("audit of the objectives", len(found), len(settings))
    return found


def log_audits(audits: Sequence[AuditResult], tracker: Tracker, parent: str) -> None:
    """Keep audits and their heat maps below ``audit/`` of the study's parent run."""
    with tempfile.TemporaryDirectory() as temporary:
        for result in audits:
            (Path(temporary) / f"{result.variant}.json").write_text(json.dumps(result.to_dict(), indent=1))
            heatmap(result, Path(temporary) / f"{result.variant}.png")
        if audits:
            tracker.artifacts(parent, Path(temporary), "audit")
