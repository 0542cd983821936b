"""What is to be known of features, heads and routes: doctor, curves, forecast, benchmark, plan."""
