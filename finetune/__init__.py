"""Fine-tuning and scoring."""
