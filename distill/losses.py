"""Distillation losses, each a mean over what it is taken on. Shape suffixes: see `biolm.model.packed`; s student, u teacher width."""

import torch.nn.functional as F
from torch import Tensor


def soft_cross_entropy(student_mv: Tensor, teacher_mv: Tensor, temperature: float) -> Tensor:
    """KL(teacher ‖ student) of softened predictions, × T², summed over the m positions (Hinton et al. 2015, arXiv 1503.02531).

    Args:
        student_mv: Logits.
        teacher_mv: Logits over the same vocabulary.
        temperature: T; the factor T² keeps the gradient's size independent of it.
    """
    student = F.log_softmax(student_mv.float() / temperature, dim=-1)
    teacher = F.log_softmax(teacher_mv.float() / temperature, dim=-1)
    return F.kl_div(student, teacher, reduction="sum", log_target=True) * temperature**2


def cosine_distance(student_tu: Tensor, teacher_tu: Tensor) -> Tensor:
    """1 - cosine of hidden states, summed over the t tokens (DistilBERT's alignment, Sanh et al. 2019, arXiv 1910.01108).

    Args:
        student_tu: The student's states, projected to the teacher's width where they differ.
        teacher_tu: The teacher's states.
    """
    return (1 - F.cosine_similarity(student_tu.float(), teacher_tu.float(), dim=-1)).sum()
