"""Cards with runs: a real Run in its worker thread, a real event loop, messages as the browser would get them."""

from __future__ import annotations

import asyncio
import threading
import time
from array import array

import pytest

import effkit as ek
from effkit.spec.errors import BadInput, Cancelled
from effkit_widgets import RunMonitor
from effkit_widgets._live import PERIOD, Curves

from .records import count, gate


@pytest.fixture(autouse=True)
def closed_gate():
    gate.clear()
    yield
    gate.set()


class Browser:
    """Keeps what a card sends, and draws curves from it as live.js does."""

    def __init__(self, card) -> None:
        self.threads, self.states, self.messages = set(), [], 0
        self.curves = {name: points(card.history, name) for name in card.history["curves"]}
        self.gaps = 0
        self._send = card.send
        card.send = self.receive
        card.observe(self.state, names=["state", "history", "problem"])

    def receive(self, content, buffers=None):
        self.threads.add(threading.current_thread())
        self.messages += 1
        for i, (name, start) in enumerate(content["curves"]):
            x, y = self.curves.setdefault(name, ([], []))
            if start > len(x):
                self.gaps += 1
                continue
            del x[start:], y[start:]
            x.extend(array("d", buffers[2 * i]))
            y.extend(array("d", buffers[2 * i + 1]))
        self._send(content, buffers)

    def state(self, change):
        self.threads.add(threading.current_thread())
        if change["name"] == "state":
            self.states.append(change["new"])


def points(history, name):
    curve = history["curves"][name]
    return list(array("d", curve["x"])), list(array("d", curve["y"]))


async def until(test, seconds=120.0):
    end = time.monotonic() + seconds
    while not test():
        assert time.monotonic() < end, "it never happened"
        await asyncio.sleep(0.02)


def click(card, what, **values):
    """A message of the browser, in a thread that is not the main one, as with a subshell."""
    thread = threading.Thread(target=card._heard, args=(card, {"do": what, **values}, []))
    thread.start()
    thread.join(120)
    assert not thread.is_alive()


def test_a_run_is_followed_to_its_end_in_few_messages():
    async def main():
        card = RunMonitor(ek.start(count, 3000, hold_at=1))
        browser = Browser(card)
        begun = time.monotonic()
        gate.set()
        assert await card == 3000
        return card, browser, time.monotonic() - begun

    card, browser, seconds = asyncio.run(main())
    expected = list(range(1, 3001))
    x, y = points(card.history, "count/loss")
    assert x == expected
    assert y == [1 / i for i in expected]
    assert points(card.history, "count/held_out")[0] == [i for i in expected if i % 5 == 0]
    assert (card.state["name"], card.state["done"], card.state["total"]) == ("done", 3000, 3000)
    assert browser.messages <= 2 * seconds / PERIOD + 3  # two waiters look: the pump and the await
    assert browser.gaps == 0
    assert browser.threads == {threading.main_thread()}


def test_buttons_work_from_any_thread_and_the_end_is_kept():
    async def main():
        run = ek.start(count, 10**6, hold_at=20)
        card = RunMonitor(run)
        browser = Browser(card)
        await until(lambda: card.state.get("done") == 19)
        assert browser.curves["count/loss"][0] == list(range(1, 20))
        click(card, "pause")
        gate.set()
        await until(lambda: card.state["name"] == "paused")
        at = card.state["done"]
        await asyncio.sleep(3 * PERIOD)
        assert card.state["done"] == at
        click(card, "resume")
        click(card, "pause")
        await until(lambda: card.state["name"] == "paused")
        click(card, "cancel")
        await until(lambda: card.state["name"] == "cancelled")
        return card, browser

    card, browser = asyncio.run(main())
    assert card.problem == {}
    assert browser.threads == {threading.main_thread()}
    assert points(card.history, "count/loss")[0] == [e["done"] for e in card.run.events]


def test_cancel_acts_at_once_and_waiting_says_so():
    async def main():
        card = RunMonitor(ek.start(count, 10**6))
        await until(lambda: card.state.get("done", 0) > 10)
        click(card, "cancel")
        with pytest.raises(Cancelled, match=r"count was cancelled\. Its arguments are as they were"):
            await card
        return card

    card = asyncio.run(main())
    assert card.state["name"] == "cancelled"


def test_a_failure_is_told_in_the_card():
    async def main():
        card = RunMonitor(ek.start(count, 10, fail_at=4))
        with pytest.raises(ValueError, match="the toy broke"):
            await card
        return card

    card = asyncio.run(main())
    assert card.state["name"] == "failed"
    assert card.problem["what"] == "ValueError: the toy broke"
    assert "report" in card.problem["next"]
    assert "in count" in card.problem["traceback"]
    assert points(card.history, "count/loss")[0] == [1, 2, 3]


def test_a_fault_of_the_card_itself_is_told_too():
    class Faulty(RunMonitor):
        def _after(self, run):
            raise RuntimeError("the card broke")

    async def main():
        card = Faulty(ek.start(count, 5))
        with pytest.raises(RuntimeError, match="the card broke"):
            await card
        return card

    card = asyncio.run(main())
    assert card.state["name"] == "failed"
    assert card.problem["what"] == "RuntimeError: the card broke"


def test_a_request_that_cannot_be_met_is_told_in_the_card():
    async def main():
        run = ek.start(count, 3)
        card = RunMonitor(run)
        await card
        click(card, "pause")
        await until(lambda: card.problem)
        assert card.problem["what"] == "the run is done"
        click(card, "dance")
        await until(lambda: "dance" in card.problem["what"])
        click(card, "resync")
        card._heard(card, "not a request", [])
        await asyncio.sleep(0)
        assert "dance" in card.problem["what"]

    asyncio.run(main())


def test_a_browser_that_comes_late_gets_everything():
    async def main():
        card = RunMonitor(ek.start(count, 30, hold_at=25))
        await until(lambda: card.state.get("done") == 24)
        late = Browser(card)
        late.curves.clear()  # a view that saw neither the messages nor the history
        gate.set()
        await card
        assert late.gaps > 0
        click(card, "resync")
        await until(lambda: len(late.curves.get("count/loss", ([],))[0]) == 30)
        assert late.threads == {threading.main_thread()}

    asyncio.run(main())


def test_without_a_loop_waiting_does_the_looking():
    card = RunMonitor(ek.start(count, 50))
    assert card.wait(120) == 50
    assert card.state["name"] == "done"
    assert len(points(card.history, "count/loss")[0]) == 50


def test_waiting_has_an_end():
    card = RunMonitor(ek.start(count, 5, hold_at=3))
    with pytest.raises(TimeoutError, match=r"still goes on after 0.1 s"):
        card.wait(0.1)
    gate.set()
    assert card.wait(120) == 5


def test_a_closed_card_lets_the_pump_go_and_the_run_goes_on():
    async def main():
        run = ek.start(count, 30, hold_at=10)
        card = RunMonitor(run)
        await until(lambda: card._pump is not None and card.state.get("done") == 9)
        card.close()
        gate.set()
        assert await run == 30
        await until(card._pump.done)
        assert card.state["done"] == 9

    asyncio.run(main())


def test_the_loop_stays_free_while_a_run_goes_on():
    """Between two steps of the loop nothing of the card takes long: another cell answers."""

    async def main():
        card = RunMonitor(ek.start(count, 20000))
        waits = []
        while card.state["name"] in ("idle", "running"):
            begun = time.perf_counter()
            await asyncio.sleep(0)
            waits.append(time.perf_counter() - begun)
            await asyncio.sleep(0.01)
        return sorted(waits)

    waits = asyncio.run(main())
    assert waits[len(waits) // 2] < 0.1


def test_an_attached_run_is_shown_with_its_story(tmp_path):
    ek.start(count, 12, folder=tmp_path / "run").wait()
    shown = ek.attach(tmp_path / "run")

    async def main():
        card = RunMonitor(shown)
        await card
        return card

    card = asyncio.run(main())
    assert points(card.history, "count/loss")[0] == list(range(1, 13))
    assert repr(card) == "RunMonitor('count')"


def test_curves_tell_only_what_is_new():
    curves = Curves()
    assert curves.news() is None
    curves.add("a", 1, 10)
    curves.add("a", 2, 20)
    message, buffers = curves.news()
    assert message["curves"] == [["a", 0]]
    assert [list(array("d", b)) for b in buffers] == [[1, 2], [10, 20]]
    assert curves.news() is None
    curves.add("a", 3, 30)
    assert curves.news()[0]["curves"] == [["a", 2]]
    assert curves["a"] == ([1, 2, 3], [10, 20, 30])
    epoch = curves.epoch
    curves.clear()
    assert curves.epoch == epoch + 1
    assert curves.history() == {"epoch": epoch + 1, "curves": {}}


def test_only_a_run_that_goes_on_can_be_changed():
    card = RunMonitor(ek.start(count, 2))
    card.wait(120)
    with pytest.raises(BadInput, match=r"the run is done\. Only a run that is going on"):
        card.change(speed=2.0)
