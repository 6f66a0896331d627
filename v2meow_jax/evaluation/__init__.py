"""Metrics: token entropies, likelihood under own and foreign conditions, codec reconstruction."""
