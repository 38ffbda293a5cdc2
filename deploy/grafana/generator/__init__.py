"""The dashboards as code; `make docs-generate` writes them to deploy/grafana/dashboards."""
