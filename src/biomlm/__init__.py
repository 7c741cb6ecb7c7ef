"""From raw biomedical and clinical text to a language model that loads in Hugging Face."""

__version__ = "0.2.0"
