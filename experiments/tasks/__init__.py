"""Data and models that several questions share."""
