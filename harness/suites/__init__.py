"""The suites that come with the project, one YAML file each; `harness.config` reads them."""
