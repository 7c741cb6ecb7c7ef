"""The real fairseq as an engine, in an environment of its own."""
