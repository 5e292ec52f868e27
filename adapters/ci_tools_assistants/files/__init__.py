"""Files and uploads: their endpoints, their records, and what the tools take."""
