"""Maintenance: an FAA service difficulty report -> the hazard that experts saw in it, from `sdr-hazards-classification`.

Each hazard has a CSV of reports that experts labelled Yes or No. Labelled here are the reports with Yes for exactly one
hazard. Two files are labelled otherwise (Corrosion_Limit: how much; Non_Hazards: No) and one is an example of new
reports: they, and the reports with no or several hazards, are text without labels. Fleets report the same fault many
times in nearly the same words, so near-copies are one group (MinHash: Broder 1997, Compression and Complexity of
Sequences, 21).
"""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

from effkit.models.files.wheels import data_files
from effkit.models.texts.labelled import LabelledSet, made
from effkit.models.texts.near import near_copies

PACKAGE = "sdr-hazards-classification"
UNLABELLED = ("Corrosion_Limit", "Non_Hazards", "SDR_Example")
LEAST = 20  # reports of a hazard, below which it cannot be learned or tested


def read() -> LabelledSet:
    """About 3,370 reports of 13 hazards, and some 17,000 other reports without labels."""
    files, version = data_files(PACKAGE, ".csv", "the FAA service difficulty reports")
    hazards: defaultdict[str, set[str]] = defaultdict(set)
    for path in files:
        for words, label in _reports(path):
            hazards[words] |= {path.stem} if label == "yes" and path.stem not in UNLABELLED else set()
    counts: defaultdict[str, int] = defaultdict(int)
    for found in hazards.values():
        if len(found) == 1:
            counts[next(iter(found))] += 1
    kept = {hazard for hazard, count in counts.items() if count >= LEAST}
    reports = sorted(hazards)
    groups = dict(zip(reports, near_copies(reports), strict=True))
    rows, extra = [], []
    for words in reports:
        hazard = next(iter(hazards[words])) if len(hazards[words]) == 1 else None
        if hazard in kept:
            rows.append((words, hazard.replace("_", " "), groups[words]))
        else:
            extra.append((words, groups[words]))
    rare = ", ".join(f"{hazard.replace('_', ' ')} ({counts[hazard]})" for hazard in sorted(set(counts) - kept))
    notes = ["In lower case, because one hazard's reports came in capitals; each report stands once."]
    notes += [f"Left out, too few reports: {rare}."] if rare else []
    return made(
        "maintenance: FAA service difficulty report to hazard",
        rows,
        source=f"FAA Service Difficulty Reports labelled by experts, from the package {PACKAGE} {version}",
        licence="MIT",
        notes=notes,
        grouping="near-copies of a report",
        extra=extra,
    )


def _reports(path: Path) -> list[tuple[str, str]]:
    """(report, label) of each row, both in lower case with single spaces; some files have columns without a name."""
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as stream:
        rows = [(" ".join(row["Text"].lower().split()), " ".join(row["Label"].lower().split())) for row in csv.DictReader(stream)]
    return [(words, label) for words, label in rows if words]
