"""Many images: the plan of an audit, the work on it, its ledger, what is counted, and the summary."""
