"""JupyterLab 4 and Notebook 7, with the installed ipykernel and with ipykernel 6: a live card runs, answers and cancels; a tab that is
closed and opened again shows the run that went on; a restarted kernel leaves a card that says so, and its run can be taken up again.
"""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig

import pytest
from driving import ROOT, Notebook, comes, live, live_cells, press, state, wait_state

sys.path.insert(0, str(ROOT / "tests" / "unit"))

from widgets.tags import rendered

import effkit as ek

OLD = "6.31.0"
ANSWER_MS = 150
CANCEL_SECONDS = 1.5

pytestmark = pytest.mark.timeout(420)


@pytest.fixture(scope="module")
def old_kernel(server, tmp_path_factory) -> str:
    """The name of a kernel whose ipykernel is version 6, in an environment of its own over this one; skipped without a package index."""
    folder = tmp_path_factory.mktemp("kernel6")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True, timeout=120)
    python = folder / "bin" / "python"
    asked = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", f"ipykernel=={OLD}", "nest-asyncio"]
    try:
        subprocess.run(asked, check=True, timeout=90, capture_output=True, text=True)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"ipykernel {OLD} could not be installed: {str(error.stderr or error)[-200:]}")
    own = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], check=True, capture_output=True, text=True
    ).stdout.strip()
    # behind its own packages come this environment's: all is the same but the kernel
    with open(f"{own}/over.pth", "w") as stream:
        stream.write(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")  # and what its own .pth files name
    spec = server.home / "data" / "kernels" / "ipykernel6"
    spec.mkdir(parents=True)
    words = {
        "argv": [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "ipykernel6",
        "language": "python",
    }
    (spec / "kernel.json").write_text(json.dumps(words))
    return "ipykernel6"


def runs_answers_and_cancels(notebook, version: str) -> None:
    notebook.run_all(timeout=120)
    assert notebook.value("__import__('ipykernel').__version__").startswith(version)
    card = notebook.card("QuantizeLab")
    assert state(card) == "idle"
    for _ in range(3):  # other programs may have had the processor: what is slow by itself is slow every time
        measured = live(notebook, card, answers=8)
        print(json.dumps({"ipykernel": version, **measured}))
        if measured["answers"] < 3 or measured["cancel_seconds"] is None:
            continue
        if measured["answer_ms_median"] < ANSWER_MS and measured["cancel_seconds"] < CANCEL_SECONDS:
            break
    assert measured["moves"] >= 1, "nothing moved while the work ran"
    assert measured["answers"] >= 3, "the work was over before another cell could be asked"
    assert measured["answer_ms_median"] < ANSWER_MS
    assert measured["cancel_seconds"] < CANCEL_SECONDS


def test_notebook_7_with_the_installed_ipykernel(open_notebook):
    runs_answers_and_cancels(open_notebook("front-notebook", live_cells("QuantizeLab"), front="notebooks"), "7.")


def test_a_notebook_saved_with_its_widgets_opens_on_github(open_notebook, server, tmp_path):
    """Saved by JupyterLab with "Save Widget State Automatically"; then put right by ek.share, which finds nothing to put right."""
    notebook = open_notebook("front-saved", live_cells("QuantizeLab"))
    notebook.run_all(timeout=120)
    assert state(notebook.card("QuantizeLab")) == "idle"
    # the entry of the menu Settings
    notebook.page.evaluate("() => window.jupyterapp.commands.execute('@jupyter-widgets/jupyterlab-manager:saveWidgetState')")
    notebook.page.wait_for_timeout(1000)
    notebook.page.evaluate("() => window.jupyterapp.shell.currentWidget.context.save()")
    path = server.folder / "front-saved.ipynb"
    saved = json.loads(path.read_text(encoding="utf-8"))
    assert rendered(saved) == 1
    done = ek.share(path, tmp_path / "copy.ipynb")
    assert rendered(json.loads(done.path.read_text(encoding="utf-8"))) == 1
    assert not [note for note in done.notes if "state" in note]
    page = ek.share(path, tmp_path / "page.html")
    assert page.cards == ("QuantizeLab",)


@pytest.mark.parametrize("front", ["lab/tree", "notebooks"])
def test_ipykernel_6(open_notebook, old_kernel, front):
    name = f"front-old-{front.partition('/')[0]}"
    runs_answers_and_cancels(open_notebook(name, live_cells("QuantizeLab"), kernel=old_kernel, front=front), "6.")


def test_a_closed_tab_costs_nothing_and_a_restarted_kernel_leaves_a_run_to_take_up(open_notebook):
    load, lab = live_cells("DistillLab")
    notebook = open_notebook("closed-tab", [load, lab])
    notebook.run_all(timeout=120)
    card = notebook.card("DistillLab")
    press(card, "start")
    wait_state(card, "running")
    comes(lambda: notebook.value("len(lab.run.events) > 0"), True)
    notebook.answer("lab.run.checkpoint_now()")
    folder, before = notebook.value("str(lab.run.folder)"), notebook.value("len(lab.run.events)")
    notebook.page.evaluate("() => window.jupyterapp.shell.currentWidget.context.save()")
    context = notebook.page.context
    notebook.page.close()

    again = Notebook(context.new_page(), notebook.server, "closed-tab.ipynb")
    comes(lambda: again.value("len(lab.run.events)") > before, True)
    again.page.evaluate("() => window.jupyterapp.shell.currentWidget.content.activeCellIndex = 1")
    again.command("notebook:run-cell")  # the notebook's second cell makes a card; the first run goes on meanwhile
    assert again.value("lab.run is None") or again.value("lab.run.state") == "running"
    again.answer(f"same = ek.attach({folder!r})\nmonitor = widgets.RunMonitor(same)")
    assert again.value("same.state") == "running"

    kernel = "window.jupyterapp.shell.currentWidget.sessionContext.session.kernel"
    again.page.evaluate(f"async () => {{ await {kernel}.restart(); await {kernel}.info; }}")
    again.answer(f"import effkit as ek\nrun = ek.attach({folder!r})")
    assert again.value("run.state") == "interrupted"
    kept = again.value("run._home.load_snapshot()[1]['events']")
    again.answer("run.resume()")
    for _ in range(120):  # the model is loaded again first
        if again.value("len(run.events)") > kept or again.value("run.state") != "running":
            break
        again.page.wait_for_timeout(500)
    assert again.value("run.state") == "running"
    assert again.value("len(run.events)") > kept >= 1, "the run did not go on from its snapshot"
    again.answer("run.cancel()")
    assert not again.outside
