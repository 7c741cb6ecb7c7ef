"""Distillation: a teacher and its losses, as an objective given to pretrain's loop."""
