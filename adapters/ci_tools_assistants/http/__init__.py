"""The frame of the API: how requests are read, routed and checked, and answers written."""
