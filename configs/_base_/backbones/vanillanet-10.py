_base_ = './vanillanet-9.py'
peer = dict(arch='10')
