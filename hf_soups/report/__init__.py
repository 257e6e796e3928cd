"""What people read: words for differences, and plots."""
