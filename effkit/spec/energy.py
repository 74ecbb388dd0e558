"""Energy that work took: what each meter said, how it said it, and what it could not say. Unknown is never zero.

A meter sees a part of the machine, whoever uses it (`machine`); what of that this process is answerable for (`process`)
is kept beside it and never put in its place. The device that computed and the host around it are kept apart too.
"""

from __future__ import annotations

from .intervals import Estimate, How, Noun

RANK: tuple[How, ...] = ("counter", "sampled", "measured", "modelled", "unavailable")  # from the surest on


class EnergyReading(Noun):
    """What one meter saw while the work ran, in J.

    source:  "nvml", "rapl" or "npu-smi"; part: what it covers, such as "package-0", "dram" or "NVIDIA H100"
    machine: all that the part drew ("counter": its own energy counter; "sampled": power read again and again)
    process: of that, what this process is answerable for ("modelled" by its share of processor time)
    note:    why a value is unavailable, or how it was shared out
    """

    source: str
    part: str
    machine: Estimate = Estimate.unavailable("J")
    process: Estimate = Estimate.unavailable("J")
    note: str = ""


class Energy(Noun):
    """Energy over `seconds` of work that answered `queries` queries and gave `tokens` tokens.

    device: the readings of the device that computed (of a CPU: its packages and memory); host: of the machine around it
    """

    device: tuple[EnergyReading, ...] = ()
    host: tuple[EnergyReading, ...] = ()
    seconds: float = 0.0
    queries: int = 0
    tokens: int = 0
    simulated: bool = False

    @property
    def machine(self) -> Estimate:
        """J that the device drew, whoever used it; unavailable unless every part of it was metered."""
        return total([reading.machine for reading in self.device])

    @property
    def process(self) -> Estimate:
        """J of the device that this process is answerable for."""
        return total([reading.process for reading in self.device])

    @property
    def per_query(self) -> Estimate:
        """J of the device for each query."""
        return share(self.machine, self.queries)

    @property
    def per_token(self) -> Estimate:
        """J of the device for each token that came out."""
        return share(self.machine, self.tokens)

    @property
    def watts(self) -> Estimate:
        """The device's mean power."""
        value = share(self.machine, self.seconds)
        return value.model_copy(update={"unit": "W"})

    def why_not(self) -> str:
        """Why the device's energy is unavailable, in a sentence or two; empty where it is known."""
        if self.machine.value is not None:
            return ""
        return " ".join(dict.fromkeys(r.note for r in self.device if r.machine.value is None and r.note)) or "Nothing metered this device."


def total(parts: list[Estimate]) -> Estimate:
    """The sum, as sure as the least sure part. One unknown part makes it unknown: leaving it out would count it as zero."""
    values = [part.value for part in parts]
    known = [value for value in values if value is not None]
    if not parts or len(known) < len(values):
        return Estimate.unavailable("J")
    least_sure = RANK[max(RANK.index(part.how) for part in parts)]
    return Estimate(value=sum(known), unit="J", n=min(part.n for part in parts), how=least_sure)


def share(whole: Estimate, among: float) -> Estimate:
    """One of `among` equal shares; unavailable of nothing."""
    if whole.value is None or among <= 0:
        return Estimate.unavailable(whole.unit)
    limits = {name: None if limit is None else limit / among for name, limit in (("low", whole.low), ("high", whole.high))}
    return whole.model_copy(update={"value": whole.value / among, **limits})
