"""Runs and measures versions, and records what was found with its protocol.

chosen, subjects                 which versions, opened as models
evaluation, leaderboard          scores on tasks; one table of them
measurement, measurement_cost    metrics of versions, pairs and sets
scores, token_scores, cka        the numbers
recording                        under which names a value is kept
"""
