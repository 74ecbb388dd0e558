"""Healthcare: the description of a diagnosis (ICD-10-CM) -> its chapter, from the tabular list in `simple-icd-10-cm`.

The siblings of one three-character category say almost the same, so the category is the group. Injuries have up to
hundreds of siblings: 12 a category are labelled, chosen by hash, so that the largest do not drown the rest. What lies
above that cap, and the headings between category and leaf, is text without labels.
"""

from __future__ import annotations

import hashlib
import re
import xml.etree.ElementTree as ET
from collections import defaultdict

from effkit.models.files.wheels import data_files
from effkit.models.texts.labelled import LabelledSet, made

PACKAGE = "simple-icd-10-cm"
CAP = 12
LEAST = 20  # leaves in a chapter, below which it cannot be learned or tested


def read() -> LabelledSet:
    """12,341 labelled leaf descriptions in 21 chapters, and the other descriptions without labels."""
    files, version = data_files(PACKAGE, ".xml", "the ICD-10-CM tabular list")
    root = ET.parse(files[-1]).getroot()
    leaves: defaultdict[str, defaultdict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    extra: list[tuple[str, str]] = []
    for chapter in root.iter("chapter"):
        title = re.sub(r"\s*\([A-Z0-9]+-[A-Z0-9]+\)$", "", _text(chapter, "desc"))
        for node in chapter.iter("diag"):
            category, words = _text(node, "name")[:3], _text(node, "desc")
            if node.find("diag") is None:
                leaves[title][category].append(words)
            else:
                extra.append((words, category))
    rows, notes = [], []
    for title, categories in leaves.items():
        capped = {category: sorted(words, key=_order) for category, words in categories.items()}
        if sum(len(words[:CAP]) for words in capped.values()) < LEAST:
            notes.append(f"Left out, too few descriptions: {title}.")
            continue
        rows += [(words, title, category) for category, chosen in capped.items() for words in chosen[:CAP]]
        extra += [(words, category) for category, chosen in capped.items() for words in chosen[CAP:]]
    notes.append(f"At most {CAP} descriptions a category are labelled; the others and the headings are text without labels.")
    year = root.findtext("version", "").strip()
    return made(
        "healthcare: ICD-10-CM description to chapter",
        rows,
        source=f"ICD-10-CM {year} tabular list, from the package {PACKAGE} {version}",
        licence="MIT (package); the list itself is by CDC/NCHS, public domain",
        notes=notes,
        grouping="three-character category",
        extra=extra,
    )


def _text(node: ET.Element, tag: str) -> str:
    return " ".join((node.findtext(tag) or "").split())


def _order(words: str) -> str:
    return hashlib.sha256(words.encode()).hexdigest()
