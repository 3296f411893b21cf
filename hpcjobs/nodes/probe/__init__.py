"""The fabric probe, an MPI program on mpi4py: `python -m hpcjobs.nodes.probe --out FILE` under srun or mpirun."""
