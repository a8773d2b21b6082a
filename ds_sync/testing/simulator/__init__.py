"""Many replicas and a server in one process, under a seed: the real code, over a simulated network, in simulated time."""

from ds_sync.testing.simulator.world import Outcome, Scenario, draw_backups, draw_scenario, run_seed

__all__ = ["Outcome", "Scenario", "draw_backups", "draw_scenario", "run_seed"]
