"""The world and the wiring: command line, configuration, processes, files, signals, the task tree."""
