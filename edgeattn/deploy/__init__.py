"""What it takes to put engines on a device: is it fit, and does it compute what it should?"""
