"""The promote stage: evidence, the gate, and a reviewer's decision where one is required."""
