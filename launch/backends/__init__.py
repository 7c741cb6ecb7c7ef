"""Where a recipe's stages run: this machine, a list of hosts, SLURM."""
