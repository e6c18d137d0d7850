"""The spiking network: neuron, quantizer, pruner, compressive convolution, cells, supernet, derived network, costs."""
