"""transformers weights to a `Decoder` whose blocks run one by one."""
