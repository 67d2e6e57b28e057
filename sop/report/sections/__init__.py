"""The sections of the report, each made from what one stage or the repository contains."""
