"""The page that DVC fills with plots."""
