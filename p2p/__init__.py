"""Links between devices: the libp2p host, membership of the mesh, gossip, lookup and blobs."""
