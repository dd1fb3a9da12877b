"""Why a network loses in 8 bits: what every layer's values look like, what rounding does to them, what that does to the outputs, and what to do.

`tally` counts what values do, `bench` runs the network in the forms compared, `diagnose` names the fault of a layer, `advice` says
what to do first, `report` holds it all; `page` and `picture` show it, `table` lists it.
"""
