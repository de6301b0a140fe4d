"""The commands of the simulator: `meshctl sim`, or `python -m simulations`."""
