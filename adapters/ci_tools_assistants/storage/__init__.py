"""The API's objects in the core's database."""
