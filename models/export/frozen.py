"""A model as one graph without variables, its numbers in half the bytes if that is wanted.

logits = frozen(model.evaluated_logits, tf.TensorSpec([None, 32, 32, 3], tf.uint8), halved=True)
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

SMALLEST = 64  # numbers of a tensor that is worth halving: scales and shifts of norms stay as they are


def frozen(function: Callable[[tf.Tensor], tf.Tensor], of: tf.TensorSpec, halved: bool = False) -> Callable:
    """`function` of one tensor with the present values of its variables in it; `halved`: weights kept as float16.

    Halved weights are turned into float32 where they are used: the file is half as large, the arithmetic the same.
    """
    concrete = convert_variables_to_constants_v2(tf.function(function).get_concrete_function(of))
    graph = concrete.graph.as_graph_def()
    if halved:
        graph = _halved(graph)
    source, result = concrete.inputs[0].name, concrete.outputs[0].name

    def imported(tensor: tf.Tensor) -> tf.Tensor:
        return tf.graph_util.import_graph_def(graph, {source: tensor}, [result], name="model")[0]

    return tf.compat.v1.wrap_function(imported, [of])


def _halved(graph: tf.compat.v1.GraphDef) -> tf.compat.v1.GraphDef:
    """`graph` with each large float32 constant as float16 and a cast behind it, under the constant's name."""
    new = tf.compat.v1.GraphDef()
    new.CopyFrom(graph)
    del new.node[:]
    for node in graph.node:
        if node.op != "Const" or node.attr["dtype"].type != tf.float32.as_datatype_enum:
            new.node.append(node)
            continue
        value = tf.make_ndarray(node.attr["value"].tensor)
        if value.size < SMALLEST or np.abs(value).max() > np.finfo(np.float16).max:
            new.node.append(node)
            continue
        half = new.node.add(name=f"{node.name}/half", op="Const")
        half.attr["dtype"].type = tf.float16.as_datatype_enum
        half.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value.astype(np.float16)))
        cast = new.node.add(name=node.name, op="Cast", input=[half.name])
        cast.attr["SrcT"].type = tf.float16.as_datatype_enum
        cast.attr["DstT"].type = tf.float32.as_datatype_enum
    return new
