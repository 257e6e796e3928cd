"""What people read: model cards, the page of a report, and frontiers as tables."""
