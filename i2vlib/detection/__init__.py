"""Which actions the people in given boxes do: AVA's annotations, clips with boxes, a head on boxes, training, mean AP."""
