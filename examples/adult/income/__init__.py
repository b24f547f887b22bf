"""Whether a person's income is above 50,000 dollars, from census data: data, network, training."""
