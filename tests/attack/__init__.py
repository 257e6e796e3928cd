"""Files that anybody may have changed, and moments at which anything may die: every command on them, with a judge."""
