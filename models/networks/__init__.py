"""Networks (cnn, resnet9 to resnet50, the user's own) and their layers, and surgery on finished networks.

Public modules: activations, autograph, blocks, cnn, factory, layer_graph, layers, normalize, outputs, resnet, surgery,
users_network.
"""
