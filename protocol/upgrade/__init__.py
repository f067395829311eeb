"""What is true of upgrades, backups and rollbacks: plans, steps, journals, evidence, file formats."""
