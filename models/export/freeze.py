"""Freezes a function into a graph without variables, optionally with weights in half the bytes.

logits = freeze(model.evaluation_logits, tf.TensorSpec([None, 32, 32, 3], tf.uint8), float16=True)
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

MIN_FLOAT16_SIZE = 64  # values of a tensor: smaller ones, such as scales and offsets of norms, stay float32


def freeze(function: Callable[[tf.Tensor], tf.Tensor], spec: tf.TensorSpec, float16: bool = False) -> Callable:
    """Returns a function with the same graph, in which constants with the present values replace the variables.

    Args:
      function: takes one tensor.
      spec: shape and dtype of that tensor.
      float16: whether to store weights as float16. They are cast to float32 where they are used: the file has half the
        size, and the arithmetic is the same.
    """
    concrete = convert_variables_to_constants_v2(tf.function(function).get_concrete_function(spec))
    graph = concrete.graph.as_graph_def()
    if float16:
        graph = _store_constants_as_float16(graph)
    input_name, output_name = concrete.inputs[0].name, concrete.outputs[0].name

    def call_graph(tensor: tf.Tensor) -> tf.Tensor:
        return tf.graph_util.import_graph_def(graph, {input_name: tensor}, [output_name], name="model")[0]

    return tf.compat.v1.wrap_function(call_graph, [spec])


def _store_constants_as_float16(graph: tf.compat.v1.GraphDef) -> tf.compat.v1.GraphDef:
    """Replaces each large float32 constant of the graph by a float16 constant and a cast with the constant's name.

    A constant with a value beyond the range of float16 stays float32.
    """
    converted = tf.compat.v1.GraphDef()
    converted.CopyFrom(graph)
    del converted.node[:]
    for node in graph.node:
        if node.op != "Const" or node.attr["dtype"].type != tf.float32.as_datatype_enum:
            converted.node.append(node)
            continue
        value = tf.make_ndarray(node.attr["value"].tensor)
        if value.size < MIN_FLOAT16_SIZE or np.abs(value).max() > np.finfo(np.float16).max:
            converted.node.append(node)
            continue
        constant = converted.node.add(name=f"{node.name}/half", op="Const")
        constant.attr["dtype"].type = tf.float16.as_datatype_enum
        constant.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value.astype(np.float16)))
        cast = converted.node.add(name=node.name, op="Cast", input=[constant.name])
        cast.attr["SrcT"].type = tf.float16.as_datatype_enum
        cast.attr["DstT"].type = tf.float32.as_datatype_enum
    return converted
