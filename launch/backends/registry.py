"""All launch back ends, in the order in which `--help` shows them."""

from biomlm.launch.backends import hosts, local, slurm

BACKENDS = {
    backend.name: backend
    for backend in (
        local.BACKEND,
        hosts.BACKEND,
        slurm.BACKEND,
    )
}
