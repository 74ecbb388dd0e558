"""What a student is asked to match. Every divergence is in nats, a mean over positions, and 0 only where both agree.

forward KL        KL(teacher || student): covers all that the teacher finds likely    Hinton et al. 2015, arXiv:1503.02531
reverse KL        KL(student || teacher): stays where the teacher is sure             Gu et al. 2023, MiniLLM, arXiv:2306.08543
Jensen-Shannon    generalised: both against their mixture, between the two            Agarwal et al. 2023, GKD, arXiv:2306.13649
skew KL           KL(teacher || mixture): forward KL with bounded gradients           Ko et al. 2024, DistiLLM, arXiv:2402.03898
hard labels       cross-entropy with the next token or the class: no teacher needed

With temperature T both distributions are softened and the result is multiplied by T squared, which keeps gradients of
the same size at every temperature.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from effkit.spec.errors import choice


def forward_kl(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Mean over positions of KL(teacher || student) in nats, times temperature squared.

    Logits [..., vocabulary] of equal shape. The factor keeps gradients of the same size at every temperature.
    """
    return _kl(*_both(student, teacher, temperature)) * temperature**2


def reverse_kl(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Mean over positions of KL(student || teacher) in nats, times temperature squared."""
    return forward_kl(teacher, student, temperature)


def jensen_shannon(student: Tensor, teacher: Tensor, temperature: float = 1.0, mix: float = 0.5) -> Tensor:
    """Generalised Jensen-Shannon divergence: mix KL(p || m) + (1 - mix) KL(q || m), m = mix p + (1 - mix) q.

    p is the teacher, q the student, 0 < mix < 1. At mix = 0.5 it is the Jensen-Shannon divergence, at most log 2 (T = 1).
    """
    log_p, log_q = _both(student, teacher, temperature)
    log_m = _mixture(log_p, log_q, mix)
    return (mix * _kl(log_p, log_m) + (1 - mix) * _kl(log_q, log_m)) * temperature**2


def skew_kl(student: Tensor, teacher: Tensor, temperature: float = 1.0, mix: float = 0.1) -> Tensor:
    """KL(p || mix p + (1 - mix) q): forward KL at mix = 0; never above log(1 / mix) (T = 1)."""
    log_p, log_q = _both(student, teacher, temperature)
    return _kl(log_p, _mixture(log_p, log_q, mix)) * temperature**2


def hard_labels(student: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of logits [..., classes] with labels [...] in nats; labels below 0 do not count. 0 where none counts."""
    flat, known = student.float().flatten(0, -2), labels.flatten()
    count = (known >= 0).sum().clamp(min=1)
    return torch.nn.functional.cross_entropy(flat, known, ignore_index=-100, reduction="sum") / count


Objective = Callable[[Tensor, Tensor, float, float], Tensor]
OBJECTIVES: dict[str, Objective] = {
    "forward-kl": lambda student, teacher, temperature, mix: forward_kl(student, teacher, temperature),
    "reverse-kl": lambda student, teacher, temperature, mix: reverse_kl(student, teacher, temperature),
    "jensen-shannon": jensen_shannon,
    "skew-kl": skew_kl,
}


def objective(name: str) -> Objective:
    """The divergence of that name, called with (student logits, teacher logits, temperature, mix)."""
    if name not in OBJECTIVES:
        raise choice("objective", name, OBJECTIVES)
    return OBJECTIVES[name]


def _both(student: Tensor, teacher: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the teacher and of the student."""
    log_q = torch.log_softmax(student.float() / temperature, dim=-1)
    return torch.log_softmax(teacher.float() / temperature, dim=-1), log_q


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q), mean over positions."""
    return (log_p.exp() * (log_p - log_q)).sum(dim=-1).mean()


def _mixture(log_p: Tensor, log_q: Tensor, mix: float) -> Tensor:
    return torch.logaddexp(log_p + math.log(mix), log_q + math.log1p(-mix))
