"""The one exception that the command line turns into a single clear line."""


class UserError(Exception):
    """Bad input: what is wrong, where (file or key), and the mend, in one line.

    The command line prints it as `climax-hpc: error: …` and exits with 2; library users can catch it.
    """
