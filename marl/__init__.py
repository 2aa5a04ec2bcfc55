"""Training, evaluation, inspection and the command line. Loads nothing by itself, so that `marl --help` stays quick."""
