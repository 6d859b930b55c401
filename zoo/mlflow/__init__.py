"""Model registries of MLflow, read without MLflow: never written to, nothing run.

URI -> sql_store | file_store -> records -> artifacts (where the weights are) -> importing
"""
