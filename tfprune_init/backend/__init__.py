"""All that depends on which Keras a model belongs to, and on names of TensorFlow and Keras that are not public."""
