"""What operators look at: the scrape config, the alerts, and the dashboard as code."""
