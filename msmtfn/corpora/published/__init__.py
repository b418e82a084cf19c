"""Importers of published corpora: from each as it is distributed to manifests and recordings of ours."""
