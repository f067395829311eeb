"""The world of upgrades: git, files, venvs, candidates, locks, terminals."""
