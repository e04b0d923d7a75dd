"""One small file per verb: `SECTIONS`, `add_arguments(parser)`, `run(args, settings) -> exit code`."""
