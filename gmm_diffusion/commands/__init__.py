"""What the command line does with a run: training it, and all that a finished one is for."""
