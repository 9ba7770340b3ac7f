"""`python -m climax_hpc COMMAND …`: the command line, for launchers that start modules (torchrun)."""

from climax_hpc.cli import main

if __name__ == "__main__":
    main()
