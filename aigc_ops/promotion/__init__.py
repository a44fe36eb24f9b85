"""The promote stage: evidence, a gate, a person's decision where the config wants one."""
