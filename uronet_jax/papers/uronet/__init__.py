"""The paper's experiments: what each measures, as parts that return tidy rows."""
