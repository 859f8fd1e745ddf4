"""The numbers of the paper, and the experiment of this suite that each of its rows is."""
