"""Stores: records in SQL and bytes in an object store.

Nothing is imported here: SQLAlchemy and obstore load when the service opens its stores, so that
`import ci_tools` stays quick. `ci_tools.stores.nouns` and `.codec` need neither.
"""
