"""`climax-hpc bench SUITE`: one module per suite, output.py for what they share; `climax_hpc.cli` lists the suites."""
