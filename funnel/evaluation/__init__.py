"""Measuring a funnel: BEIR folders, metrics, significance, TREC runs, evaluation, tuning."""
