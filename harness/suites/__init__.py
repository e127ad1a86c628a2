"""The suites that come with the project, one YAML file each; `harness.suites.suite` reads them."""
