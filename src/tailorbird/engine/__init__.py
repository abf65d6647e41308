"""Training, scoring and generation over packed rows. Imported lazily: nothing above loads torch before it must."""
