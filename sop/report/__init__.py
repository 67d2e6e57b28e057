"""What people look at: pictures of an experiment."""
