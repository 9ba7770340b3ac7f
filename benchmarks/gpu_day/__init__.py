"""First contact with a GPU: correctness of every kernel, then speed, in stages that cannot stop each other."""
