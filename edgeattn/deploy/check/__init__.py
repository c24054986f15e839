"""Will a graph become the engine that is wanted, on a board that is not here?"""
