"""`climax-hpc bench SUITE`: one module per suite, output.py is shared; `climax_hpc.cli` lists the suites."""
