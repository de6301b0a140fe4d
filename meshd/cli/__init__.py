"""The two commands, `meshd` and `meshctl`: one grammar, one table of exit codes."""
