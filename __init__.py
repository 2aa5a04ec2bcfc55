"""teamcredit."""
