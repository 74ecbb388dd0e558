"""What a student is asked to match. Forward KL with temperature: Hinton et al. 2015, arXiv:1503.02531."""

from __future__ import annotations

import torch


def forward_kl(student: torch.Tensor, teacher: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Mean over positions of KL(teacher || student) in nats, times temperature squared.

    Logits [..., vocabulary] of equal shape. The factor keeps gradients of the same size at every temperature.
    """
    log_p = torch.log_softmax(teacher.float() / temperature, dim=-1)
    log_q = torch.log_softmax(student.float() / temperature, dim=-1)
    per_position = (log_p.exp() * (log_p - log_q)).sum(dim=-1)
    return per_position.mean() * temperature**2
