"""Prices: one formula, sums that add up, and what is unknown stays unknown."""

from __future__ import annotations

import tomllib

import pytest

import effkit as ek
from effkit.hardware.projected.price import Service, service_of
from effkit.spec.capability import PRICE_PER_HOUR, PRICE_SOURCE, Capability
from effkit.spec.errors import BadInput
from effkit.spec.intervals import Estimate
from effkit.spec.places import shipped_file
from effkit.spec.prices import default_power, default_price, per_1000_queries, query_rate
from effkit.spec.record import Profile
from effkit.spec.side import Side


def ms(value: float, low: float | None = None, high: float | None = None) -> Estimate:
    return Estimate(value=value, low=low, high=high, unit="ms", n=5)


def service(**changes) -> Service:
    fields = {"prompt": 1000, "new_tokens": 101, "batch": 4, "device": "h100-sxm"}
    return Service(**{**fields, "time_to_first_token": ms(500, 400, 600), "time_per_output_token": ms(15, 14, 16), **changes})


def test_the_formula_by_hand():
    rate = query_rate(ms(500), ms(15), new_tokens=101, batch=4)
    assert rate.value == pytest.approx(4 / (0.5 + 100 * 0.015))
    assert per_1000_queries(0.36, Estimate(value=100.0)).value == pytest.approx(0.001)
    assert per_1000_queries(0.36, Estimate(value=100.0), utilisation=0.5).value == pytest.approx(0.002)
    paid = ek.price(service(), per_hour=7.2)  # 2 queries a second: $7.2 buys 7200 of them
    assert paid.per_1000_queries.value == pytest.approx(1.0)
    assert paid.per_1000_queries.low == pytest.approx(7.2 / 3600 / 4 * (0.4 + 1.4) * 1000)
    assert paid.source == "given"


def test_input_and_output_tokens_make_up_the_price_of_a_query_in_proportion_to_their_time():
    paid = ek.price(service(), per_hour=7.2)
    whole = (1000 * paid.per_million_input.value + 101 * paid.per_million_output.value) / 1e6
    assert whole == pytest.approx(paid.per_1000_queries.value / 1000)
    assert 101 * paid.per_million_output.value == pytest.approx(3 * 1000 * paid.per_million_input.value)  # 1.5 s and 0.5 s
    classifier = ek.price(service(new_tokens=0, time_per_output_token=Estimate.unavailable("ms")), per_hour=7.2)
    assert classifier.per_million_output.value is None
    assert 1000 * classifier.per_million_input.value / 1e6 == pytest.approx(classifier.per_1000_queries.value / 1000)


def test_prompts_read_between_the_tokens_of_others_are_charged_to_input():
    alone, served = (ek.price(service(prefill_part=part), per_hour=7.2) for part in (0.0, 5.0))
    assert served.per_1000_queries == alone.per_1000_queries
    assert (1000 * served.per_million_input.value + 101 * served.per_million_output.value) / 1e6 == pytest.approx(
        served.per_1000_queries.value / 1000
    )
    assert served.per_million_output.value == pytest.approx(alone.per_million_output.value * 10 / 15)
    assert served.per_million_input.value == pytest.approx(alone.per_million_input.value * (500 + 100 * 5) / 500)


def test_the_card_of_costs_uses_the_same_price_and_formula():
    paid = ek.price(service(device="cpu (a processor)"))
    assert (paid.per_hour, paid.source) == (PRICE_PER_HOUR, PRICE_SOURCE) == (default_price().value, str(default_price()))
    rate = service().rate
    side = {"quality": Estimate(value=0.9), "bytes": 10, "throughput": rate}
    card = Capability(teacher=Side(name="a", **side), student=Side(name="b", **side), price_per_hour=7.2, utilisation=0.5)
    assert card.price() == ek.price(service(), per_hour=7.2, utilisation=0.5).per_1000_queries


def test_a_device_without_a_public_price_has_none_and_says_so():
    paid = ek.price(service(device="910b2"))
    assert paid.per_hour is None
    for unknown in (paid.per_1000_queries, paid.per_million_input, paid.per_million_output, paid.energy_cost_per_1000):
        assert (unknown.value, unknown.how) == (None, "unavailable")
    assert "no price per hour is known" in str(paid)
    assert paid.queries_per_second.value == pytest.approx(2)
    assert ek.price(service(device="cuda:0 (NVIDIA H100 80GB HBM3)")).per_hour == default_price("h100-sxm").value
    assert ek.price(service(time_to_first_token=Estimate.unavailable("ms")), per_hour=1).per_1000_queries.value is None


def test_power_is_added_only_where_its_price_is_given_and_counts_the_building():
    free = ek.price(service(), per_hour=7.2, watts=500, pue=1.2, carbon=400)
    assert free.energy_per_query.value == pytest.approx(250)  # 500 W at 2 queries a second
    assert free.energy_cost_per_1000.value is None
    assert free.carbon_per_1000.value == pytest.approx(250 * 1000 * 1.2 / 3.6e6 * 400)
    own = ek.price(service(), per_hour=7.2, watts=500, pue=1.2, energy_price=0.1)
    assert own.energy_cost_per_1000.value == pytest.approx(250 * 1000 * 1.2 / 3.6e6 * 0.1)
    assert own.per_1000_queries.value == pytest.approx(free.per_1000_queries.value + own.energy_cost_per_1000.value)
    assert own.per_1000_queries.how == "modelled"
    assert own.per_million_input.value > free.per_million_input.value
    assert ek.price(service(), per_hour=7.2).energy_per_query.value == pytest.approx(700 / 2)  # the limit of its data sheet
    measured = ek.price(service(energy_per_query=Estimate(value=90.0, unit="J", how="counter")), per_hour=7.2)
    assert (measured.energy_per_query.value, measured.energy_per_query.how) == (90, "counter")
    assert ek.price(service(device="910b3"), per_hour=1, energy_price=0.1).per_1000_queries.value is None  # no power limit is known


def test_more_devices_a_replica_cost_more():
    one, two = (ek.price(service(devices=n), per_hour=7.2) for n in (1, 2))
    assert two.per_1000_queries.value == pytest.approx(2 * one.per_1000_queries.value)
    assert two.energy_per_query.value == pytest.approx(2 * one.energy_per_query.value)


@pytest.mark.parametrize("power", [{}, {"energy_price": 0.12, "pue": 1.3}])
def test_at_the_break_even_price_both_cost_the_same(power):
    here, there = service(), service(device="b200", batch=8, time_per_output_token=ms(7, 6.5, 7.5), devices=2)
    even = ek.break_even_price(here, there, per_hour=3.0, utilisation=0.6, other_utilisation=0.4, **power)
    assert even.low < even.value < even.high
    a = ek.price(here, per_hour=3.0, utilisation=0.6, **power).per_1000_queries.value
    b = ek.price(there, per_hour=even.value, utilisation=0.4, **power).per_1000_queries.value
    assert a == pytest.approx(b)


def test_twice_as_fast_is_worth_twice_the_price_and_dear_power_never_pays():
    fast = service(time_to_first_token=ms(250), time_per_output_token=ms(7.5))
    assert ek.break_even_price(service(), fast, per_hour=3.0).value == pytest.approx(6.0)
    slow = service(time_to_first_token=ms(50_000), time_per_output_token=ms(1500), device="b300")
    assert ek.break_even_price(service(), slow, per_hour=0.01, energy_price=5.0) == "never"
    assert ek.break_even_price(service(device="910b2"), fast).value is None
    with pytest.raises(BadInput, match="the queries differ"):
        ek.break_even_price(service(), service(prompt=10), per_hour=1)


@pytest.mark.parametrize(
    "wrong",
    [{"per_hour": 0}, {"per_hour": -1}, {"per_hour": True}, {"utilisation": 0}, {"utilisation": 1.1}, {"pue": 0.5}, {"energy_price": "1"}],
)
def test_a_number_that_cannot_be_is_refused(wrong):
    with pytest.raises(BadInput, match=f"{next(iter(wrong))} is .* Allowed: a number above"):
        ek.price(service(), **{"per_hour": 1.0, **wrong})


def test_profiles_and_records_are_services_and_other_things_are_not():
    figures = {"time_to_first_token": ms(500), "time_per_output_token": ms(15), "prefill": Estimate(value=1), "decode": Estimate(value=1)}
    fields = {"device": "cpu (x)", "device_type": "cpu", "dtype": "float32", "prompt": 8, "new_tokens": 4, "batch": 2}
    made = service_of(Profile(**fields, **figures, repeats=3, warmup=1))
    assert (made.device, made.prompt, made.batch, made.devices) == ("cpu (x)", 8, 2, 1)
    with pytest.raises(BadInput, match="what is a str"):
        ek.price("h100")


def test_what_was_timed_on_a_simulated_device_says_so_and_draws_no_power():
    paid = ek.price(service(simulated=True), per_hour=7.2)
    assert paid.simulated
    assert "h100-sxm (simulated)" in str(paid)
    assert (paid.energy_per_query.how, paid.carbon_per_1000.value) == ("unavailable", None)
    assert ek.price(service(), per_hour=7.2).energy_per_query.value is not None
    assert "h100-sxm (simulated)" in str(ek.fleet(service(simulated=True), 1e4, latency_ms=9000, seeds=2))


def test_every_price_has_a_source_and_a_device():
    told = tomllib.loads(shipped_file("prices.toml").read_text(encoding="utf-8"))
    for name in told["devices"]:
        figure = default_price(name)
        assert figure.value > 0
        assert figure.source
        assert figure.address.startswith("https://")
        assert name == told["usual"] or ek.accelerator(name).name == name
        assert not name.startswith(("ascend", "atlas"))  # no public price was found
    assert default_power("pue").value > 1
    assert 0 < default_power("carbon").value < 1000
