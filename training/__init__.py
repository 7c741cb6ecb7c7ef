"""The one training loop under pretraining, distillation and fine-tuning, and what it needs around it."""
