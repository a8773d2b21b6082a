"""Many replicas and a server in one process, under a seed: the real code, over a simulated network, in simulated time."""

from ds_sync.testing.simulator.scenario import Scenario, draw_backups, draw_interruptions, draw_power_cuts, draw_scenario, draw_snapshots
from ds_sync.testing.simulator.world import Outcome, run_seed

__all__ = ["Outcome", "Scenario", "draw_backups", "draw_interruptions", "draw_power_cuts", "draw_scenario", "draw_snapshots", "run_seed"]
