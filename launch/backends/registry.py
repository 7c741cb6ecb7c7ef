"""All launch back ends, in the order in which `--help` shows them: each is a line here and a file with a `BACKEND`."""

import importlib

from biomlm.launch.backends.base import Backend

PLACES = (
    "biomlm.launch.backends.local",
    "biomlm.launch.backends.hosts",
    "biomlm.launch.backends.slurm",
    # a new back end
)
BACKENDS: dict[str, Backend] = {
    backend.name: backend for backend in (importlib.import_module(place).BACKEND for place in PLACES)
}
