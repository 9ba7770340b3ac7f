"""`python -m climax_hpc VERB …`: the command line, for launchers that start modules (torchrun)."""

from climax_hpc.cli import main

if __name__ == "__main__":
    main()
