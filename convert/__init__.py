"""fairseq ⇄ Hugging Face ⇄ native: restricted loading, name tables, the numerical check, the model card."""
