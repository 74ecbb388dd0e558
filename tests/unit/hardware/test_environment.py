"""The surroundings of a record: plain JSON, and nothing about who or where."""

from __future__ import annotations

import getpass
import json
import platform

import torch

from effkit.hardware.attached.environment import environment, versions


def test_it_is_json_and_says_what_a_reader_needs():
    found = json.loads(json.dumps(environment()))
    assert found["packages"]["torch"] == torch.__version__
    assert found["threads"] == torch.get_num_threads()
    assert found["devices"][-1].startswith("cpu (")
    assert found["python"] == platform.python_version()
    assert found["load"] >= 0
    assert found["revision"] is None or len(found["revision"].rstrip("+")) == 12


def test_it_names_neither_person_nor_host():
    text = json.dumps(environment()).split()
    assert platform.node() not in text
    assert f"/{getpass.getuser()}/" not in "".join(text)


def test_what_is_not_installed_is_none():
    assert versions(("no-such-package",)) == {"no-such-package": None}
