"""Mutation testing of the parts that decide which weights are pruned and keep them so."""
