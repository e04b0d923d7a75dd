"""Everything that turns tables into tables: Beam pipelines, importers, the simulator, the jobs of the daily run."""
