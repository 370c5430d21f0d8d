"""What the pytest plugin's fixture does: lazy estimates, three-valued answers, baselines. Loaded only in a robustness test."""
