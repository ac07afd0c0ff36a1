"""The command `varve`: one module per verb; `flows.cli.main` puts them together and prints the first line."""
