"""Measurements that an operator can repeat: ways to rerank, models, load, simulation."""
