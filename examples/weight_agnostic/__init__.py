"""Weight agnostic neural networks (Gaier & Ha, NeurIPS 2019): a search for topologies that work at any shared weight.

Plain NumPy, no Keras. `genomes` has the networks and what changes them, `evaluation` computes what they output,
`search` ranks and breeds them, and `tasks` are what they are ranked by. `weight_agnostic_search.py` runs it.
"""
