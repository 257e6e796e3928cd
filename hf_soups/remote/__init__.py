"""Remote: the same work on a cluster that Ray holds together; without the extra `ray` nothing here is needed."""
